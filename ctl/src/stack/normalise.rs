//! One file's tree against the table of keys: unknown and refused keys become findings, short
//! forms become long ones, so that files can be merged and lowered without asking again.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{Entry, Node, Value, shorten};
use super::problem::{Findings, Pos};
use super::schema::{self, Key, Rule, Shape};
use super::{mount, payload, port, scalar};

/// Checks a tree and rewrites it in long form. What is wrong is noted and left out.
pub(crate) fn file(root: &Node, findings: &mut Findings) -> Option<Node> {
    let mut normaliser = Normaliser { findings };
    normaliser.node(root, Shape::Object(schema::ROOT), "")
}

pub(super) struct Normaliser<'a> {
    pub(super) findings: &'a mut Findings,
}

/// Joins a path and a key of it.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl Normaliser<'_> {
    pub(super) fn node(&mut self, node: &Node, shape: Shape, path: &str) -> Option<Node> {
        if node.is_null() {
            return Some(Node::null(node.at));
        }
        match shape {
            Shape::Text => self.text(node, path).map(|t| Node::text(node.at, t)),
            Shape::Flag => self.flag(node, path).map(|b| Node::bare(node.at, b.to_string())),
            Shape::Whole => {
                self.scalar(node, path, scalar::whole).map(|n| Node::bare(node.at, n.to_string()))
            }
            Shape::Number => self.number(node, path).map(|n| Node::text(node.at, n)),
            Shape::FileMode => self.file_mode(node, path),
            Shape::Decimal => self.checked(node, path, scalar::nano_cpus),
            Shape::Time => self.checked(node, path, scalar::duration),
            Shape::Size => self.checked(node, path, scalar::bytes),
            Shape::Texts => self.texts(node, path),
            Shape::Command => self.command(node, path),
            Shape::HealthTest => self.health_test(node, path),
            Shape::TextMap => self.text_map(node, path),
            Shape::EnvFiles => self.env_files(node, path),
            Shape::Ports => self.expanded(node, path, port::normalise),
            Shape::Mounts => self.expanded(node, path, mount::normalise),
            Shape::Payloads => self.expanded(node, path, payload::normalise),
            Shape::Attachments => self.attachments(node, path),
            Shape::Ulimit => self.ulimit(node, path),
            Shape::Hosts => self.hosts(node, path),
            Shape::Integer => self.integer(node, path),
            Shape::External => self.external(node, path),
            Shape::Object(keys) => self.object(node, keys, path),
            Shape::MapOf(shape) => self.map_of(node, *shape, path),
            Shape::ListOf(shape) => self.list_of(node, *shape, path),
        }
    }

    pub(super) fn expected(&mut self, node: &Node, path: &str, what: &str) {
        self.findings.wrong(node.at, path, format!("is {}: expected {what}", node.kind()));
    }

    pub(super) fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        let text = node.as_text().map(str::to_owned);
        if text.is_none() {
            self.expected(node, path, "a text");
        }
        text
    }

    /// YAML 1.1 has more words for it, and compose files are full of them.
    pub(super) fn flag(&mut self, node: &Node, path: &str) -> Option<bool> {
        let flag = match node.as_text().map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "yes" | "on" | "y") => Some(true),
            Some("false" | "no" | "off" | "n") => Some(false),
            _ => None,
        };
        if flag.is_none() {
            self.expected(node, path, "true or false");
        }
        flag
    }

    /// A number, or a text with a number in it.
    pub(super) fn scalar<T>(
        &mut self,
        node: &Node,
        path: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match read(&self.number(node, path)?) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.findings.wrong(node.at, path, problem);
                None
            }
        }
    }

    /// A number, or a text with one, that only has to be readable; it stays as it is.
    fn checked<T>(
        &mut self,
        node: &Node,
        path: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Node> {
        self.scalar(node, path, read)?;
        self.number(node, path).map(|text| Node::text(node.at, text))
    }

    fn texts(&mut self, node: &Node, path: &str) -> Option<Node> {
        if let Some(text) = node.as_text() {
            return Some(Node::seq(node.at, vec![Node::text(node.at, text)]));
        }
        self.list_of(node, Shape::Text, path)
    }

    fn command(&mut self, node: &Node, path: &str) -> Option<Node> {
        let Some(line) = node.as_text() else { return self.list_of(node, Shape::Text, path) };
        match scalar::words(line) {
            Ok(words) => {
                let words = words.into_iter().map(|w| Node::text(node.at, w)).collect();
                Some(Node::seq(node.at, words))
            }
            Err(problem) => {
                let text = format!("{:?} is not a command line: {problem}", shorten(line));
                self.findings.wrong(node.at, path, text);
                None
            }
        }
    }

    fn health_test(&mut self, node: &Node, path: &str) -> Option<Node> {
        if let Some(line) = node.as_text() {
            let test = vec![Node::text(node.at, "CMD-SHELL"), Node::text(node.at, line)];
            return Some(Node::seq(node.at, test));
        }
        self.list_of(node, Shape::Text, path)
    }

    fn text_map(&mut self, node: &Node, path: &str) -> Option<Node> {
        let mut entries = Vec::new();
        match &node.value {
            Value::Map(given) => {
                for entry in given {
                    let value = self.node(&entry.value, Shape::Text, &join(path, &entry.key));
                    entries.extend(value.map(|v| Entry::new(&entry.key, entry.key_at, v)));
                }
            }
            Value::Seq(items) => {
                let mut places = BTreeMap::new();
                for (i, item) in items.iter().enumerate() {
                    let Some(text) = self.text(item, &format!("{path}[{i}]")) else { continue };
                    let entry = match text.split_once('=') {
                        Some((key, value)) => Entry::new(key, item.at, Node::text(item.at, value)),
                        None => Entry::new(text, item.at, Node::null(item.at)),
                    };
                    // As in Docker, the last one of a list counts.
                    match places.get(&entry.key) {
                        Some(place) => entries[*place] = entry,
                        None => {
                            places.insert(entry.key.clone(), entries.len());
                            entries.push(entry);
                        }
                    }
                }
            }
            Value::Scalar { .. } | Value::Null => {
                self.expected(node, path, "a mapping or a list of KEY=VALUE");
                return None;
            }
        }
        for entry in entries.iter().filter(|e| e.key.is_empty()) {
            self.findings.wrong(entry.key_at, path, "an entry has no name: expected KEY=VALUE");
        }
        Some(Node::map(node.at, entries))
    }

    fn env_files(&mut self, node: &Node, path: &str) -> Option<Node> {
        let given = match &node.value {
            Value::Seq(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut files = Vec::new();
        for (i, item) in given.iter().enumerate() {
            let path = format!("{path}[{i}]");
            match &item.value {
                Value::Scalar { text, .. } => {
                    let entry = Entry::new("path", item.at, Node::text(item.at, text.as_str()));
                    files.push(Node::map(item.at, vec![entry]));
                }
                Value::Map(_) => {
                    let Some(file) = self.object(item, schema::ENV_FILE, &path) else { continue };
                    if file.get("path").is_none() {
                        self.findings.wrong(item.at, &path, "has no path");
                    }
                    files.push(file);
                }
                Value::Null | Value::Seq(_) => self.expected(item, &path, "a path or a mapping"),
            }
        }
        Some(Node::seq(node.at, files))
    }

    /// A list of which each element becomes some elements in long form.
    fn expanded(
        &mut self,
        node: &Node,
        path: &str,
        each: fn(&mut Self, &Node, &str) -> Vec<Node>,
    ) -> Option<Node> {
        let Value::Seq(items) = &node.value else {
            self.expected(node, path, "a list");
            return None;
        };
        let mut out = Vec::new();
        for (i, item) in items.iter().enumerate() {
            out.extend(each(self, item, &format!("{path}[{i}]")));
        }
        Some(Node::seq(node.at, out))
    }

    fn attachments(&mut self, node: &Node, path: &str) -> Option<Node> {
        let Value::Seq(items) = &node.value else {
            return self.map_of(node, Shape::Object(schema::ATTACHMENT), path);
        };
        let mut entries: Vec<Entry> = Vec::new();
        let mut names = BTreeSet::new();
        for (i, item) in items.iter().enumerate() {
            let Some(name) = self.text(item, &format!("{path}[{i}]")) else { continue };
            if !names.insert(name.clone()) {
                self.findings.wrong(item.at, path, format!("network {name:?} is listed twice"));
            } else {
                entries.push(Entry::new(name, item.at, Node::null(item.at)));
            }
        }
        Some(Node::map(node.at, entries))
    }

    /// `external: {name: N}` was written before networks and volumes had a `name` of their own.
    fn external(&mut self, node: &Node, path: &str) -> Option<Node> {
        if !matches!(node.value, Value::Map(_)) {
            return self.flag(node, path).map(|b| Node::bare(node.at, b.to_string()));
        }
        const KEYS: &[Key] = &[Key { name: "name", rule: Rule::Is(Shape::Text) }];
        self.object(node, KEYS, path)
    }

    pub(super) fn object(&mut self, node: &Node, keys: &'static [Key], path: &str) -> Option<Node> {
        let Value::Map(given) = &node.value else {
            self.expected(node, path, "a mapping");
            return None;
        };
        let mut entries = Vec::new();
        for entry in given.iter().filter(|e| !e.key.starts_with("x-")) {
            let path = join(path, &entry.key);
            let Some(key) = keys.iter().find(|k| k.name == entry.key) else {
                if self.findings.is_full() {
                    continue;
                }
                let near = schema::nearest(keys, &entry.key);
                let near = near.map(|n| format!(": did you mean {n:?}?")).unwrap_or_default();
                self.findings.wrong(entry.key_at, &path, format!("unknown key{near}"));
                continue;
            };
            match self.ruled(entry, key.rule, &path) {
                Some(value) if value.is_null() => {}
                Some(value) => entries.push(Entry::new(key.name, entry.key_at, value)),
                // The key stays, so that nobody complains that it is missing, too.
                None => entries.push(Entry::new(key.name, entry.key_at, Node::null(entry.key_at))),
            }
        }
        Some(Node::map(node.at, entries))
    }

    fn ruled(&mut self, entry: &Entry, rule: Rule, path: &str) -> Option<Node> {
        match rule {
            Rule::Is(shape) => self.node(&entry.value, shape, path),
            Rule::Obsolete => Some(Node::null(entry.key_at)),
            Rule::Refused { reason, hint } => {
                let hint = if hint.is_empty() { String::new() } else { format!("; {hint}") };
                self.findings.wrong(entry.key_at, path, format!("{reason}{hint}"));
                None
            }
            Rule::OnlyFalse { reason } => {
                if !entry.value.is_null() && self.flag(&entry.value, path)? {
                    self.findings.wrong(entry.key_at, path, reason);
                }
                Some(Node::null(entry.key_at))
            }
        }
    }

    fn map_of(&mut self, node: &Node, shape: Shape, path: &str) -> Option<Node> {
        let Value::Map(given) = &node.value else {
            self.expected(node, path, "a mapping");
            return None;
        };
        let mut entries = Vec::new();
        for entry in given {
            let value = self.node(&entry.value, shape, &join(path, &entry.key));
            entries.extend(value.map(|v| Entry::new(&entry.key, entry.key_at, v)));
        }
        Some(Node::map(node.at, entries))
    }

    fn list_of(&mut self, node: &Node, shape: Shape, path: &str) -> Option<Node> {
        let Value::Seq(items) = &node.value else {
            self.expected(node, path, "a list");
            return None;
        };
        let mut out = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let path = format!("{path}[{i}]");
            if item.is_null() {
                self.expected(item, &path, "a value");
            } else {
                out.extend(self.node(item, shape, &path));
            }
        }
        Some(Node::seq(node.at, out))
    }

    pub(super) fn wrong(&mut self, at: Pos, path: &str, text: impl Into<String>) {
        self.findings.wrong(at, path, text);
    }
}
