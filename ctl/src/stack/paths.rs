//! Paths of a file, made absolute, so that what is printed means the same wherever it is read.

use super::Input;
use super::node::{Node, Value};

/// Makes the sources of binds and the names of environment files absolute.
pub(super) fn absolute(root: &mut Node, input: &Input<'_>) {
    payloads(root, input);
    let services = root.get_mut("services").map_or(&mut [][..], Node::entries_mut);
    for service in services.iter_mut().map(|e| &mut e.value) {
        for mount in service.get_mut("volumes").map_or(&mut [][..], Node::items_mut) {
            if mount.get("type").and_then(Node::as_text) == Some("bind") {
                mount.get_mut("source").into_iter().for_each(|n| make_absolute(n, input));
            }
        }
        for file in service.get_mut("env_file").map_or(&mut [][..], Node::items_mut) {
            file.get_mut("path").into_iter().for_each(|n| make_absolute(n, input));
        }
    }
}

/// Makes the files of secrets and configs absolute.
fn payloads(root: &mut Node, input: &Input<'_>) {
    for kind in ["secrets", "configs"] {
        for entry in root.get_mut(kind).map_or(&mut [][..], Node::entries_mut) {
            entry.value.get_mut("file").into_iter().for_each(|n| make_absolute(n, input));
        }
    }
}

fn make_absolute(node: &mut Node, input: &Input<'_>) {
    if let Value::Scalar { text, .. } = &mut node.value {
        *text = resolve(text, input);
    }
}

/// Without asking the file system.
fn resolve(path: &str, input: &Input<'_>) -> String {
    let home = input.variables.get("HOME");
    let joined = match (path.strip_prefix('~'), home) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            format!("{home}{rest}")
        }
        _ if path.starts_with('/') => path.to_owned(),
        _ => format!("{}/{path}", input.dir),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
