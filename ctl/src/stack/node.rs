//! A YAML tree in which every node knows where it stands.

use super::problem::Pos;

/// One node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Pos,
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A text as it stands in the file. `plain` tells that it had no quotes, so that `true` or
    /// `3` may be meant as more than text.
    Scalar {
        text: String,
        plain: bool,
    },
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Pos,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn null(at: Pos) -> Self {
        Self { at, value: Value::Null }
    }

    pub(crate) fn text(at: Pos, text: impl Into<String>) -> Self {
        Self { at, value: Value::Scalar { text: text.into(), plain: false } }
    }

    /// A number or a boolean, which is printed without quotes.
    pub(crate) fn bare(at: Pos, text: impl Into<String>) -> Self {
        Self { at, value: Value::Scalar { text: text.into(), plain: true } }
    }

    pub(crate) fn seq(at: Pos, items: Vec<Self>) -> Self {
        Self { at, value: Value::Seq(items) }
    }

    pub(crate) fn map(at: Pos, entries: Vec<Entry>) -> Self {
        Self { at, value: Value::Map(entries) }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The text of a scalar.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::Seq(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn items_mut(&mut self) -> &mut [Self] {
        match &mut self.value {
            Value::Seq(items) => items,
            _ => &mut [],
        }
    }

    pub(crate) fn entries_mut(&mut self) -> &mut [Entry] {
        match &mut self.value {
            Value::Map(entries) => entries,
            _ => &mut [],
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|e| e.key == key)
    }

    /// The value under a key, unless it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|e| &e.value).filter(|n| !n.is_null())
    }

    /// As [`Node::get`].
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let entry = self.entries_mut().iter_mut().find(|e| e.key == key);
        entry.map(|e| &mut e.value).filter(|n| !n.is_null())
    }

    /// The value under a path of keys.
    pub(crate) fn at_path(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    /// What kind of node it is, for error messages.
    pub(crate) fn kind(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("{:?}", shorten(text)),
            Value::Seq(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

impl Entry {
    pub(crate) fn new(key: impl Into<String>, key_at: Pos, value: Node) -> Self {
        Self { key: key.into(), key_at, value }
    }
}

/// At most 60 characters of a text, for error messages.
pub(crate) fn shorten(text: &str) -> String {
    const LEN_MAX: usize = 60;
    if text.chars().count() <= LEN_MAX {
        return text.to_owned();
    }
    text.chars().take(LEN_MAX).chain(['…']).collect()
}
