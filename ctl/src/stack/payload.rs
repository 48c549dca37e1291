//! Secrets and configs that services are given: the short form, and checks of the long one.

use super::node::{Entry, Node, Value};
use super::normalise::Normaliser;
use super::schema;

/// One element of `secrets` or `configs` of a service in long form.
pub(super) fn normalise(n: &mut Normaliser<'_>, node: &Node, path: &str) -> Vec<Node> {
    match &node.value {
        Value::Scalar { text, .. } => {
            let source = Entry::new("source", node.at, Node::text(node.at, text.as_str()));
            vec![Node::map(node.at, vec![source])]
        }
        Value::Map(_) => {
            let Some(map) = n.object(node, schema::GIVEN, path) else { return Vec::new() };
            if map.get("source").is_none() {
                n.wrong(map.at, path, "has no source: expected its name");
                return Vec::new();
            }
            vec![map]
        }
        Value::Null | Value::Seq(_) => {
            n.wrong(node.at, path, format!("is {}: expected a name or a mapping", node.kind()));
            Vec::new()
        }
    }
}
