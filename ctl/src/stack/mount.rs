//! Mounts: the short form, and checks of the long form.

use super::node::{Entry, Node, Value};
use super::normalise::Normaliser;
use super::problem::Pos;
use super::refused;
use super::schema;

/// One element of `volumes` in long form.
pub(super) fn normalise(n: &mut Normaliser<'_>, node: &Node, path: &str) -> Vec<Node> {
    match &node.value {
        Value::Scalar { text, .. } => match short(node.at, text) {
            Ok(mount) => vec![mount],
            Err(problem) => {
                n.wrong(node.at, path, problem);
                Vec::new()
            }
        },
        Value::Map(_) => n
            .object(node, schema::MOUNT, path)
            .and_then(|map| check(n, map, path))
            .into_iter()
            .collect(),
        Value::Null | Value::Seq(_) => {
            n.wrong(node.at, path, format!("is {}: expected a mount or a mapping", node.kind()));
            Vec::new()
        }
    }
}

/// Whether the source of a short form is a path rather than the name of a volume.
fn is_path(source: &str) -> bool {
    source.starts_with(['/', '.', '~'])
}

/// Reads `[SOURCE:]TARGET[:OPTION,…]`.
fn short(at: Pos, text: &str) -> Result<Node, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(format!("{text:?} is not a mount: expected [SOURCE:]TARGET[:OPTIONS]")),
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) {
        return Err(format!("{text:?} is not a mount: expected [SOURCE:]TARGET[:OPTIONS]"));
    }
    let bind = is_path(source);
    let mut entries = vec![entry(at, "type", if bind { "bind" } else { "volume" })];
    if !source.is_empty() {
        entries.push(entry(at, "source", source));
    }
    entries.push(entry(at, "target", target));
    for option in options.split(',').filter(|o| !o.is_empty()) {
        let inner = |key: &str, name: &str, value: Node| {
            Entry::new(key, at, Node::map(at, vec![Entry::new(name, at, value)]))
        };
        match option {
            "rw" => {}
            "ro" => entries.push(Entry::new("read_only", at, Node::bare(at, "true"))),
            "nocopy" if !bind => entries.push(inner("volume", "nocopy", Node::bare(at, "true"))),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" if bind => {
                entries.push(inner("bind", "propagation", Node::text(at, option)));
            }
            "z" | "Z" => {
                return Err(refused::SELINUX_OPTION.said(&format!("option {option:?} of {text:?}")));
            }
            "cached" | "delegated" | "consistent" => {
                let given = format!("option {option:?} of {text:?}");
                return Err(refused::CONSISTENCY_OPTION.said(&given));
            }
            _ => {
                let known = if bind { "a propagation such as rslave" } else { "nocopy" };
                return Err(format!(
                    "option {option:?} of {text:?} is unknown: expected ro, rw or {known}"
                ));
            }
        }
    }
    Ok(Node::map(at, entries))
}

fn entry(at: Pos, key: &str, value: &str) -> Entry {
    Entry::new(key, at, Node::text(at, value))
}

/// Checks what the table cannot say of the long form.
fn check(n: &mut Normaliser<'_>, map: Node, path: &str) -> Option<Node> {
    let kind = match map.get("type") {
        Some(node) => {
            let kind = node.as_text().unwrap_or_default();
            if !matches!(kind, "bind" | "volume" | "tmpfs") {
                let given = format!("type {kind:?}");
                let text = match kind {
                    "npipe" => refused::PIPE.said(&given),
                    "cluster" | "image" => refused::MOUNT_TYPE.said(&given),
                    _ => format!("{given} is unknown: expected bind, volume or tmpfs"),
                };
                n.wrong(node.at, &format!("{path}.type"), text);
                return None;
            }
            kind.to_owned()
        }
        None => {
            n.wrong(map.at, path, "has no type: expected type: bind, volume or tmpfs");
            return None;
        }
    };
    let mut ok = true;
    if map.get("target").is_none() {
        n.wrong(map.at, path, "has no target: expected the path in the container");
        ok = false;
    }
    if kind == "bind" && map.get("source").is_none() {
        n.wrong(map.at, path, "has no source: expected the path on the host");
        ok = false;
    }
    for other in ["bind", "volume", "tmpfs"].into_iter().filter(|o| *o != kind) {
        if let Some(entry) = map.entry(other) {
            let text = format!("does not go with type: {kind}");
            n.wrong(entry.key_at, &format!("{path}.{other}"), text);
            ok = false;
        }
    }
    ok.then_some(map)
}
