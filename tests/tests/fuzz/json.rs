//! JSON, changed as a tree.

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

use super::bytes::one;

/// Changes a document somewhere; `others` give what is put in.
pub(crate) fn mutate(random: &mut StdRng, value: &mut Value, others: &[Value]) {
    let count = nodes(value);
    let mut at = random.random_range(0..count);
    let new = replacement(random, others);
    if let Some(node) = nth(value, &mut at) {
        change(random, node, new);
    }
}

/// Anything: a part of another document, or what a number, a text or a list can be at worst.
fn replacement(random: &mut StdRng, others: &[Value]) -> Value {
    if random.random_bool(0.5) && !others.is_empty() {
        let mut other = one(random, others).clone();
        let mut at = random.random_range(0..nodes(&other));
        return nth(&mut other, &mut at).map(Value::take).unwrap_or_default();
    }
    let any = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(1),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e300),
        json!(""),
        json!("status"),
        json!("\u{0}\u{fffd}é\n"),
        json!("x".repeat(1000)),
        json!([]),
        json!({}),
        json!({"dance": {"how": "slowly"}}),
    ];
    one(random, &any).clone()
}

fn change(random: &mut StdRng, node: &mut Value, new: Value) {
    match node {
        Value::Object(fields) if !fields.is_empty() => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            let key = one(random, &keys).clone();
            match random.random_range(0..5) {
                0 => drop(fields.remove(&key)),
                1 => drop(fields.insert("from_tomorrow".to_owned(), new)),
                2 => drop(fields.insert(key, new)),
                3 => {
                    let value = fields.remove(&key).unwrap_or_default();
                    fields.insert(format!("{key}_"), value);
                }
                _ => {
                    let other = one(random, &keys).clone();
                    let value = fields.get(&other).cloned().unwrap_or_default();
                    fields.insert(key, value);
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let at = random.random_range(0..items.len());
            match random.random_range(0..3) {
                0 => drop(items.remove(at)),
                1 => items.push(new),
                _ => {
                    let copy = items[at].clone();
                    items.extend(std::iter::repeat_n(copy, 1 << random.random_range(0..8)));
                }
            }
        }
        _ if random.random_bool(0.2) => *node = json!([node.take()]),
        _ if random.random_bool(0.2) => {
            let mut fields = Map::new();
            fields.insert("other".to_owned(), node.take());
            *node = Value::Object(fields);
        }
        node => *node = new,
    }
}

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Object(fields) => fields.values().map(nodes).sum(),
        Value::Array(items) => items.iter().map(nodes).sum(),
        _ => 0,
    }
}

/// The node with this number, counted from the top.
fn nth<'a>(value: &'a mut Value, at: &mut usize) -> Option<&'a mut Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Object(fields) => fields.values_mut().find_map(|child| nth(child, at)),
        Value::Array(items) => items.iter_mut().find_map(|child| nth(child, at)),
        _ => None,
    }
}
