//! Small values of flags.

use std::convert::Infallible;
use std::str::FromStr;
use std::time::Duration;

use crate::stack::scalar;

/// `KEY` or `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyValue {
    pub(crate) key: String,
    /// Empty without `=`.
    pub(crate) value: String,
}

impl FromStr for KeyValue {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    scalar::duration(text)
}

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    scalar::bytes(text)
}

pub(super) fn nano_cpus(text: &str) -> Result<u64, String> {
    scalar::nano_cpus(text)
}

/// The parts of `KEY=VALUE,KEY,…`.
pub(super) fn fields(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split(',').filter(|f| !f.is_empty()).map(|field| match field.split_once('=') {
        Some((key, value)) => (key.trim(), Some(value)),
        None => (field.trim(), None),
    })
}

/// A boolean field: its name alone means yes.
pub(super) fn flag(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("{key}={other:?}: expected true or false")),
    }
}

/// The value of a field that needs one.
pub(super) fn needed<'a>(key: &str, value: Option<&'a str>) -> Result<&'a str, String> {
    value.filter(|v| !v.is_empty()).ok_or_else(|| format!("{key} has no value"))
}
