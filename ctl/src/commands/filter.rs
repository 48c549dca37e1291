//! `--filter KEY=VALUE`: values of one key are alternatives, different keys must all hold.

use std::collections::BTreeMap;

use shoal_types::spec::Labels;

use crate::error::CommandError;

/// Filters by key.
#[derive(Debug, Default)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads filters; other keys than the known ones are refused.
    pub(crate) fn parse(given: &[String], known: &[&str]) -> Result<Self, CommandError> {
        let mut filters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in given {
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| CommandError::usage(format!("filter {text:?} is not KEY=VALUE")))?;
            if !known.contains(&key) {
                let known = known.join(", ");
                return Err(CommandError::usage(format!(
                    "filter {key:?} is unknown here: expected {known}"
                )));
            }
            filters.entry(key.to_owned()).or_default().push(value.to_owned());
        }
        Ok(Self(filters))
    }

    /// Whether some value of a key, if any is given, is accepted.
    pub(crate) fn allows(&self, key: &str, accept: impl Fn(&str) -> bool) -> bool {
        self.0.get(key).is_none_or(|values| values.iter().any(|v| accept(v)))
    }

    /// Whether labels hold what `label=KEY` or `label=KEY=VALUE` ask for; all of them must.
    pub(crate) fn allows_labels(&self, key: &str, labels: &Labels) -> bool {
        self.0.get(key).is_none_or(|values| {
            values.iter().all(|value| match value.split_once('=') {
                Some((name, value)) => labels.get(name).is_some_and(|v| v == value),
                None => labels.contains_key(value),
            })
        })
    }

    /// The values of a key.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(given: &[&str]) -> Filters {
        let given: Vec<String> = given.iter().map(|s| (*s).to_owned()).collect();
        Filters::parse(&given, &["name", "label"]).unwrap()
    }

    #[test]
    fn filtering() {
        let labels: Labels = [("a".to_owned(), "1".to_owned())].into();
        let starts =
            |given: &[&str], name: &str| filters(given).allows("name", |v| name.starts_with(v));
        assert!(starts(&[], "x"));
        assert!(starts(&["name=a", "name=x"], "xy"));
        assert!(!starts(&["name=a"], "x"));
        assert!(filters(&["label=a", "label=a=1"]).allows_labels("label", &labels));
        assert!(!filters(&["label=a", "label=b"]).allows_labels("label", &labels));
        assert!(!filters(&["label=a=2"]).allows_labels("label", &labels));
        for bad in ["name", "nope=1"] {
            assert!(Filters::parse(&[bad.to_owned()], &["name"]).is_err());
        }
    }
}
