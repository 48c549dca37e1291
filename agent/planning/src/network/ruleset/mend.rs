//! The way from what the packet filter shows to what it should hold, whoever has made it.
//!
//! Tables that are put in place anew are judged by neither the old chains nor the new ones for the moment in which the
//! kernel turns from one to the other: a packet that is between two of them then gets lost, though it belongs to
//! somebody. So what is right stays, and what is not is changed alone. A table as a whole is the last resort, where
//! nobody knows what of it is right.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chains::sets;
use super::compare::chains;
use super::element::{Element, Elements};
use super::{
    EGRESS, FAMILY, FRAMES, Ruleset, change, elements_of, elements_text, frame, remove_table,
};

/// How the packet filter shows tables that were made of a text, seen right after it got that. It outlives the agent: the
/// next one knows by it whether rules are those that the filter was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// The text, without elements.
    made_of: String,
    /// The declarations and rules.
    frame: Vec<Value>,
}

impl Shown {
    /// The declarations and rules.
    #[must_use]
    pub fn frame(&self) -> &[Value] {
        &self.frame
    }
}

/// What makes the tables that are there the wanted ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mend {
    /// They are.
    Nothing,
    /// A script for `nft -f`, which changes what differs.
    Parts(String),
    /// Nobody can tell what of them is right: they are to be replaced.
    Whole,
}

impl Ruleset {
    /// How the packet filter shows tables that it was just given.
    #[must_use]
    pub fn shown(&self, table: &str, listed: &Value) -> Shown {
        Shown { made_of: self.structure(table), frame: frame(listed) }
    }

    /// What makes the tables as `nft -j list table` shows them these, where `shown` are those that some agent was shown
    /// last when it had made them. Those of another version, and all where there are none, are replaced.
    #[must_use]
    pub fn mend(&self, table: &str, listed: Option<&Value>, shown: Option<&Shown>) -> Mend {
        let now = listed.map(frame).unwrap_or_default();
        let Some(listed) = listed.filter(|_| !now.is_empty()) else {
            return if self.is_empty() { Mend::Nothing } else { Mend::Whole };
        };
        let known = shown.filter(|shown| shown.made_of == self.structure(table));
        let Some(known) = known.filter(|_| !self.is_empty()) else { return Mend::Whole };
        let (now, known) = (by_family(&now), by_family(&known.frame));
        let (elements, none) = (self.elements(), Vec::new());
        let wanted: Vec<&str> = self.wanted_families().collect();
        let mut script = String::new();
        for family in [FAMILY, FRAMES, EGRESS] {
            let found = now.get(family);
            if !wanted.contains(&family) {
                found.into_iter().for_each(|_| remove_table(&mut script, family, table));
                continue;
            }
            let known = known.get(family).unwrap_or(&none);
            let text = found.and_then(|found| {
                let text = self.mend_chains(family, table, found, known)?;
                Some(text + &self.mend_elements(family, table, listed, &elements)?)
            });
            script += &text.unwrap_or_else(|| self.anew(family, table, &elements));
        }
        if script.is_empty() { Mend::Nothing } else { Mend::Parts(script) }
    }

    /// One table in the place of what there is.
    fn anew(&self, family: &str, table: &str, elements: &Elements) -> String {
        let mut text = String::new();
        remove_table(&mut text, family, table);
        text += &self.declaration(family, table);
        text + &elements_text(table, elements, |set| set.family() == family)
    }

    /// Gives the chains of one table their rules where they have others; `None` where other sets or chains are declared.
    fn mend_chains(
        &self,
        family: &str,
        table: &str,
        found: &[Value],
        known: &[Value],
    ) -> Option<String> {
        if declared(found) != declared(known) {
            return None;
        }
        let (found, known) = (chains(found), chains(known));
        let all = self.chains_text(family);
        let mut text = String::new();
        for (name, _) in found.iter().filter(|(name, rules)| known.get(*name) != Some(*rules)) {
            let name = name.strip_prefix(family)?.trim_start();
            let block = block(&all, name)?;
            // Writing to a String cannot fail.
            let _ = writeln!(text, "flush chain {family} {table} {name}");
            let _ = writeln!(text, "table {family} {table} {{\n{block}}}");
        }
        Some(text)
    }

    /// Takes away the elements of one table that are strange, and adds those that are missing; `None` where it cannot be
    /// said what the strange ones are.
    fn mend_elements(
        &self,
        family: &str,
        table: &str,
        listed: &Value,
        wanted: &Elements,
    ) -> Option<String> {
        let none = BTreeSet::new();
        let (mut gone, mut new) = (String::new(), String::new());
        for (set, of, _) in sets(self.shape.v6).filter(|(set, _, _)| set.family() == family) {
            let found = elements_of(listed, &set.name(of))?;
            let wanted = wanted.get(&(set, of)).unwrap_or(&none).iter();
            let mut missing: BTreeMap<String, &Element> =
                wanted.map(|element| (element.json().to_string(), element)).collect();
            let strange = found.iter().filter(|one| missing.remove(&one.to_string()).is_none());
            let strange = strange.map(key_of).collect::<Option<Vec<String>>>()?;
            change::write_elements(&mut gone, "delete", table, (set, of), strange.into_iter());
            let missing = missing.into_values().map(Element::text);
            change::write_elements(&mut new, "add", table, (set, of), missing);
        }
        Some(gone + &new)
    }
}

fn by_family(frame: &[Value]) -> BTreeMap<&str, Vec<Value>> {
    let mut all: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for object in frame {
        let body = object.as_object().and_then(|object| object.values().next());
        if let Some(family) = body.and_then(|body| body["family"].as_str()) {
            all.entry(family).or_default().push(object.clone());
        }
    }
    all
}

/// All but rules, in whatever order.
fn declared(frame: &[Value]) -> BTreeSet<String> {
    let objects = frame.iter().filter(|object| object.get("rule").is_none());
    objects.map(ToString::to_string).collect()
}

/// What declares one chain.
fn block(chains: &str, name: &str) -> Option<String> {
    let first = format!("  chain {name} {{\n");
    let text = chains.get(chains.find(&first)?..)?;
    let end = "  }\n";
    Some(text.get(..text.find(&format!("\n{end}"))? + 1 + end.len())?.to_owned())
}

/// The key of a listed element, as it is written in scripts; `None` where it is of no kind that is known.
fn key_of(element: &Value) -> Option<String> {
    match element {
        Value::Array(pair) => match pair.as_slice() {
            [key, _] => key_of(key),
            _ => None,
        },
        // One of a map has what it leads to beside it.
        Value::Object(object) if object.contains_key("elem") => key_of(&object["elem"]["val"]),
        other => word_of(other),
    }
}

fn word_of(word: &Value) -> Option<String> {
    // Nothing that ends a quotation, or has another meaning in one.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".:-_/@+%".contains(c);
    match word {
        Value::String(text) if !text.is_empty() && text.chars().all(is_plain) => {
            Some(format!("\"{text}\""))
        }
        Value::Number(number) => Some(number.to_string()),
        Value::Object(object) => match object.iter().next()? {
            (kind, Value::Array(words)) if kind == "concat" || kind == "range" => {
                let words: Vec<String> = words.iter().map(word_of).collect::<Option<_>>()?;
                Some(words.join(if kind == "range" { "-" } else { " . " }))
            }
            (kind, prefix) if kind == "prefix" => {
                let (address, length) = (word_of(&prefix["addr"])?, prefix["len"].as_u64()?);
                Some(format!("{address}/{length}"))
            }
            _ => None,
        },
        _ => None,
    }
}
