//! The merged tree as a document that can be loaded again.

use serde_yaml::{Mapping, Value as Yaml};

use super::interpolate::escape;
use super::node::{Node, Value};

/// The whole stack in long form; dollar signs are doubled, so that loading it again gives the
/// same.
pub(crate) fn config(root: &Node, name: Option<&str>) -> Yaml {
    let mut out = Mapping::new();
    if let Some(name) = name {
        out.insert("name".into(), escape(name).into());
    }
    for entry in root.entries().iter().filter(|e| e.key != "name") {
        out.insert(entry.key.as_str().into(), value(&entry.value));
    }
    Yaml::Mapping(out)
}

fn value(node: &Node) -> Yaml {
    match &node.value {
        Value::Null => Yaml::Null,
        Value::Scalar { text, plain: true } => match text.as_str() {
            "true" => true.into(),
            "false" => false.into(),
            _ => text.parse::<u64>().map_or_else(|_| escape(text).into(), Into::into),
        },
        Value::Scalar { text, plain: false } => escape(text).into(),
        Value::Seq(items) => items.iter().map(value).collect::<Vec<_>>().into(),
        Value::Map(entries) => Yaml::Mapping(
            entries.iter().map(|e| (e.key.as_str().into(), value(&e.value))).collect(),
        ),
    }
}
