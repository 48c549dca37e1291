//! Several files become one: what a later file says wins, lists grow, mappings are merged key by
//! key, ports and mounts are told apart by what they occupy (as `docker stack deploy` does).

use std::collections::BTreeMap;

use super::node::{Entry, Node, Value};
use super::schema::{Key, ROOT, Rule, Shape};

/// Merges a later file in long form into an earlier one.
pub(crate) fn files(base: Node, over: Node) -> Node {
    merge(base, over, Shape::Object(ROOT))
}

fn merge(base: Node, over: Node, shape: Shape) -> Node {
    if base.is_null() {
        return over;
    }
    match shape {
        Shape::Object(keys) => by_key(base, over, |key| shape_of(keys, key)),
        Shape::MapOf(shape) => by_key(base, over, |_| *shape),
        Shape::TextMap => {
            let at = over.at;
            let mut merged = into_entries(base);
            let places = places(&merged);
            for entry in into_entries(over) {
                match places.get(&entry.key) {
                    Some(place) => merged[*place] = entry,
                    None => merged.push(entry),
                }
            }
            Node::map(at, merged)
        }
        Shape::Attachments => by_key(base, over, |_| Shape::Object(&[])),
        Shape::Ports => by_identity(base, over, port_identity),
        Shape::Mounts => by_identity(base, over, |n| text_at(n, "target")),
        Shape::Payloads => by_identity(base, over, |n| {
            let places = ["env", "target", "source"].map(|key| text_at(n, key));
            places.into_iter().find(|place| !place.is_empty()).unwrap_or_default()
        }),
        Shape::EnvFiles => by_identity(base, over, |n| text_at(n, "path")),
        Shape::Texts | Shape::Hosts | Shape::ListOf(_) => {
            by_identity(base, over, |n| n.as_text().unwrap_or_default().to_owned())
        }
        Shape::Text
        | Shape::Flag
        | Shape::Whole
        | Shape::Number
        | Shape::FileMode
        | Shape::Decimal
        | Shape::Time
        | Shape::Size
        | Shape::Command
        | Shape::HealthTest
        | Shape::Integer
        | Shape::Ulimit
        | Shape::External => over,
    }
}

fn shape_of(keys: &'static [Key], key: &str) -> Shape {
    match keys.iter().find(|k| k.name == key).map(|k| k.rule) {
        Some(Rule::Is(shape)) => shape,
        // Nothing else survives normalisation.
        _ => Shape::Text,
    }
}

fn into_entries(node: Node) -> Vec<Entry> {
    match node.value {
        Value::Map(entries) => entries,
        _ => Vec::new(),
    }
}

fn into_items(node: Node) -> Vec<Node> {
    match node.value {
        Value::Seq(items) => items,
        _ => Vec::new(),
    }
}

/// Where each key is; no key is there twice.
fn places(entries: &[Entry]) -> BTreeMap<String, usize> {
    entries.iter().enumerate().map(|(place, entry)| (entry.key.clone(), place)).collect()
}

/// A null of the later file changes nothing.
fn by_key(base: Node, over: Node, shape: impl Fn(&str) -> Shape) -> Node {
    if over.is_null() {
        return base;
    }
    let at = over.at;
    let mut merged = into_entries(base);
    let places = places(&merged);
    for entry in into_entries(over) {
        match places.get(&entry.key).map(|place| &mut merged[*place]) {
            Some(old) => {
                let before = std::mem::replace(&mut old.value, Node::null(at));
                old.value = if entry.value.is_null() {
                    before
                } else {
                    old.key_at = entry.key_at;
                    merge(before, entry.value, shape(&entry.key))
                };
            }
            None => merged.push(entry),
        }
    }
    Node::map(at, merged)
}

fn by_identity(base: Node, over: Node, identity: impl Fn(&Node) -> String) -> Node {
    if over.is_null() {
        return base;
    }
    let at = over.at;
    let mut merged = into_items(base);
    // Where each is; the first, where some are alike.
    let mut places = BTreeMap::new();
    for (place, item) in merged.iter().enumerate() {
        places.entry(identity(item)).or_insert(place);
    }
    for item in into_items(over) {
        let id = identity(&item);
        match places.get(&id).filter(|_| !id.is_empty()) {
            Some(place) => merged[*place] = item,
            None => {
                places.insert(id, merged.len());
                merged.push(item);
            }
        }
    }
    Node::seq(at, merged)
}

fn text_at(node: &Node, key: &str) -> String {
    node.get(key).and_then(Node::as_text).unwrap_or_default().to_owned()
}

fn port_identity(port: &Node) -> String {
    let protocol = match text_at(port, "protocol").as_str() {
        "" => "tcp".to_owned(),
        other => other.to_owned(),
    };
    let ip = text_at(port, "host_ip");
    match text_at(port, "published").as_str() {
        "" | "0" => format!("target {}/{protocol} {ip}", text_at(port, "target")),
        published => format!("published {published}/{protocol} {ip}"),
    }
}
