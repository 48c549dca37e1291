//! Choosing by labels.

use std::str::FromStr;

use crate::spec::Labels;

/// What labels must say: `KEY`, `KEY=VALUE`, or with `!` in front of the sign, the opposite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFilter {
    /// Which label.
    pub key: String,
    /// What it must be; anything if absent.
    pub value: Option<String>,
    /// Whether it must not be so.
    pub negated: bool,
}

/// A text that says nothing about labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "filter {0:?} is none of labels: expected label=KEY, label=KEY=VALUE or the same with label!="
)]
pub struct InvalidLabelFilter(String);

/// Filters, all of which must hold.
pub type LabelFilters = Vec<LabelFilter>;

impl FromStr for LabelFilter {
    type Err = InvalidLabelFilter;

    /// As Docker writes it: `label=KEY[=VALUE]` or `label!=KEY[=VALUE]`.
    fn from_str(text: &str) -> Result<Self, InvalidLabelFilter> {
        let invalid = || InvalidLabelFilter(text.to_owned());
        let (negated, rest) = match (text.strip_prefix("label!="), text.strip_prefix("label=")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(invalid()),
        };
        let (key, value) = match rest.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (rest, None),
        };
        if key.is_empty() {
            return Err(invalid());
        }
        Ok(Self { key: key.to_owned(), value, negated })
    }
}

impl LabelFilter {
    /// Whether labels are as it says.
    #[must_use]
    pub fn allows(&self, labels: &Labels) -> bool {
        let found = labels.get(&self.key);
        let is_so = match &self.value {
            None => found.is_some(),
            Some(value) => found == Some(value),
        };
        is_so != self.negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_as_docker_writes_them() {
        let labels: Labels = [("a".to_owned(), "1".to_owned())].into();
        let cases = [
            ("label=a", true),
            ("label=a=1", true),
            ("label=a=2", false),
            ("label=b", false),
            ("label!=a", false),
            ("label!=a=1", false),
            ("label!=a=2", true),
            ("label!=b", true),
            ("label=a=", false),
        ];
        for (text, expected) in cases {
            let filter: LabelFilter = text.parse().expect(text);
            assert_eq!(filter.allows(&labels), expected, "{text}");
        }
        for text in ["", "a", "label", "label=", "label!=", "name=x", "label==x"] {
            assert!(text.parse::<LabelFilter>().is_err(), "{text}");
        }
    }
}
