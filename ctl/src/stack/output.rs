//! The merged tree as a document that can be loaded again.

use serde_saphyr::{ser_options, to_string_with_options};
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

/// A document as YAML, so that readers of YAML 1.1 take it as those of 1.2 do: what they would turn into
/// a truth value, a time or a number of base 60 (`yes`, `2024-05-06`, `12:30`) is in quotes.
///
/// # Errors
/// What has no YAML form.
pub fn yaml(document: &Yaml) -> Result<String, String> {
    // Without a limit on their width texts are never folded.
    let options = ser_options! { folded_wrap_chars: usize::MAX };
    to_string_with_options(document, options).map_err(|e| e.to_string())
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
