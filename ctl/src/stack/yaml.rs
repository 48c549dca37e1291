//! Text to tree: anchors, aliases and merge keys resolved, duplicate keys refused, all within
//! limits that hold no matter how the aliases multiply.

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag, options};

use super::node::{Entry, Node, Value, shorten};
use super::problem::{Findings, Pos};
use super::refused;

/// Bytes of one file at the most.
pub(crate) const TEXT_BYTES_MAX: usize = 4 << 20;
/// Nodes of one file at the most, with aliases replaced by what they stand for.
const NODES_MAX: usize = 200_000;
/// Bytes of all scalars at the most, with aliases replaced by what they stand for.
const SCALAR_BYTES_MAX: usize = 16 << 20;
/// Levels of nesting at the most, with aliases replaced by what they stand for.
const DEPTH_MAX: usize = 100;

/// Parses one file into its tree. `None` when there is none; the findings then say why.
pub(crate) fn parse(source: usize, text: &str, findings: &mut Findings) -> Option<Node> {
    let start = Pos { source, line: 1, column: 1 };
    if text.len() > TEXT_BYTES_MAX {
        findings.wrong(start, "", format!("the file is larger than {TEXT_BYTES_MAX} bytes"));
        return None;
    }
    let options = options! { emit_comments: false, emit_unresolved_aliases: true };
    let mut composer = Composer {
        source,
        findings,
        events: Parser::new_from_str_with_options(text, options),
        anchors: BTreeMap::new(),
        total: Weight::default(),
    };
    let root = composer.stream().ok()?;
    if root.as_ref().is_none_or(Node::is_null) {
        findings.wrong(start, "", "the file is empty");
        return None;
    }
    root
}

/// Parsing cannot go on; the finding is noted.
struct Stop;

/// What a node costs with everything below it.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

impl Weight {
    fn add(&mut self, part: Self) {
        self.nodes = self.nodes.saturating_add(part.nodes);
        self.bytes = self.bytes.saturating_add(part.bytes);
        self.depth = self.depth.max(part.depth + 1);
    }
}

type Weighed = (Node, Weight);

struct Composer<'a, 'f> {
    source: usize,
    findings: &'f mut Findings,
    events: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Weighed>,
    /// Everything made so far, aliases included.
    total: Weight,
}

impl<'a> Composer<'a, '_> {
    fn next(&mut self) -> Result<(Event<'a>, Pos), Stop> {
        match self.events.next_event() {
            Some(Ok((event, span))) => Ok((event, self.pos(&span))),
            Some(Err(error)) => {
                let mark = error.marker();
                let at =
                    Pos { source: self.source, line: mark.line().max(1), column: mark.col() + 1 };
                self.findings.wrong(at, "", format!("this is not YAML: {}", error.info()));
                Err(Stop)
            }
            None => Ok((Event::StreamEnd, Pos { source: self.source, line: 1, column: 1 })),
        }
    }

    fn pos(&self, span: &Span) -> Pos {
        Pos { source: self.source, line: span.start.line().max(1), column: span.start.col() + 1 }
    }

    fn stream(&mut self) -> Result<Option<Node>, Stop> {
        let mut root = None;
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(..) if root.is_some() => {
                    self.findings.wrong(at, "", "the file holds more than one document");
                    return Err(Stop);
                }
                event if event.is_node() => root = Some(self.node(event, at, 0)?.0),
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, at: Pos, depth: usize) -> Result<Weighed, Stop> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(at, Weight { nodes: 1, bytes: text.len(), depth: 0 }, depth)?;
                let value = self.scalar(at, &text, style, tag.as_deref());
                let weight = Weight { nodes: 1, bytes: text.len(), depth: 0 };
                self.remember(anchor, Node { at, value }, weight)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.spend(at, Weight { nodes: 1, ..Weight::default() }, depth)?;
                self.check_tag(at, tag.as_deref());
                let (items, weight) = self.sequence(depth)?;
                self.remember(anchor, Node::seq(at, items), weight)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.spend(at, Weight { nodes: 1, ..Weight::default() }, depth)?;
                self.check_tag(at, tag.as_deref());
                let (entries, weight) = self.mapping(depth)?;
                self.remember(anchor, Node::map(at, entries), weight)
            }
            Event::Alias(id) => self.alias(id, at, depth),
            Event::UnresolvedAlias(name) => {
                let text = format!("alias *{name} refers to no anchor above it");
                self.findings.wrong(at, "", text);
                Ok((Node::null(at), Weight { nodes: 1, ..Weight::default() }))
            }
            _ => {
                self.findings.wrong(at, "", "the document ends in the middle");
                Err(Stop)
            }
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<(Vec<Node>, Weight), Stop> {
        let mut items = Vec::new();
        let mut weight = Weight { nodes: 1, ..Weight::default() };
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok((items, weight));
            }
            let (item, cost) = self.node(event, at, depth + 1)?;
            weight.add(cost);
            items.push(item);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<(Vec<Entry>, Weight), Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merges = Vec::new();
        let mut seen: BTreeMap<String, Pos> = BTreeMap::new();
        let mut weight = Weight { nodes: 1, ..Weight::default() };
        loop {
            let (event, key_at) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let (key, cost) = self.node(event, key_at, depth + 1)?;
            weight.add(cost);
            let (event, at) = self.next()?;
            let (value, cost) = self.node(event, at, depth + 1)?;
            weight.add(cost);
            let (key, plain) = match key.value {
                Value::Scalar { text, plain } => (text, plain),
                Value::Null => ("null".to_owned(), false),
                Value::Seq(_) | Value::Map(_) => {
                    self.findings.wrong(key_at, "", "a key is a list or a mapping: expected text");
                    continue;
                }
            };
            if plain && key == "<<" {
                merges.push(value);
            } else if let Some(first) = seen.get(&key) {
                let text = format!(
                    "duplicate key {:?}: it is already given at line {} column {}",
                    shorten(&key),
                    first.line,
                    first.column
                );
                self.findings.wrong(key_at, "", text);
            } else {
                seen.insert(key.clone(), key_at);
                entries.push(Entry { key, key_at, value });
            }
        }
        for merge in merges {
            self.merge(&mut entries, &mut seen, &merge);
        }
        Ok((entries, weight))
    }

    /// A merge key: what is there already wins over what comes by `<<`, and an earlier mapping of
    /// a list over a later one (<https://yaml.org/type/merge.html>).
    fn merge(&mut self, entries: &mut Vec<Entry>, seen: &mut BTreeMap<String, Pos>, from: &Node) {
        match &from.value {
            Value::Map(merged) => {
                for entry in merged {
                    if !seen.contains_key(&entry.key) {
                        seen.insert(entry.key.clone(), entry.key_at);
                        entries.push(entry.clone());
                    }
                }
            }
            Value::Seq(items) if items.iter().all(|i| matches!(i.value, Value::Map(_))) => {
                for item in items {
                    self.merge(entries, seen, item);
                }
            }
            _ => {
                let text =
                    format!("<< merges {}: expected a mapping or a list of mappings", from.kind());
                self.findings.wrong(from.at, "", text);
            }
        }
    }

    fn alias(&mut self, id: usize, at: Pos, depth: usize) -> Result<Weighed, Stop> {
        let Some((_, weight)) = self.anchors.get(&id) else {
            self.findings.wrong(at, "", "an alias refers to the node that contains it");
            return Err(Stop);
        };
        let weight = *weight;
        self.spend(at, weight, depth + weight.depth)?;
        let node = self.anchors.get(&id).map(|(node, _)| node.clone());
        Ok((node.unwrap_or_else(|| Node::null(at)), weight))
    }

    fn remember(&mut self, anchor: usize, node: Node, weight: Weight) -> Result<Weighed, Stop> {
        if anchor != 0 {
            // A copy is kept, and anchors inside of anchors have copies of their own.
            self.spend(node.at, weight, 0)?;
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        Ok((node, weight))
    }

    /// Counts what is about to be made, before it is made.
    fn spend(&mut self, at: Pos, cost: Weight, depth: usize) -> Result<(), Stop> {
        self.total.nodes = self.total.nodes.saturating_add(cost.nodes);
        self.total.bytes = self.total.bytes.saturating_add(cost.bytes);
        let text = if self.total.nodes > NODES_MAX {
            format!("the file grows beyond {NODES_MAX} nodes when its aliases are replaced")
        } else if self.total.bytes > SCALAR_BYTES_MAX {
            format!("the file grows beyond {SCALAR_BYTES_MAX} bytes when its aliases are replaced")
        } else if depth > DEPTH_MAX {
            format!("nesting is deeper than {DEPTH_MAX} levels")
        } else {
            return Ok(());
        };
        self.findings.wrong(at, "", text);
        Err(Stop)
    }

    fn check_tag(&mut self, at: Pos, tag: Option<&Tag>) {
        if let Some(tag) = tag.filter(|t| !t.is_yaml_core_schema()) {
            let given = format!("tag {}", shorten(&tag.original()));
            self.findings.wrong(at, "", refused::TAG.said(&given));
        }
    }

    fn scalar(&mut self, at: Pos, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
        self.check_tag(at, tag);
        let text_tag = tag.is_some_and(|t| t.core_suffix() == Some("str"));
        let plain = style == ScalarStyle::Plain && !text_tag;
        if plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
            return Value::Null;
        }
        Value::Scalar { text: text.to_owned(), plain }
    }
}
