//! JSON for programs.

use serde::Serialize;

use super::{block, clean};
use crate::error::CommandError;

/// One document, indented.
pub(crate) fn document(value: &impl Serialize) -> Result<(), CommandError> {
    block(&clean::json(&serde_json::to_string_pretty(value).map_err(not_json)?))
}

/// One document on one line.
pub(crate) fn record(value: &impl Serialize) -> Result<(), CommandError> {
    block(&clean::json(&serde_json::to_string(value).map_err(not_json)?))
}

#[expect(clippy::needless_pass_by_value, reason = "handed to map_err")]
pub(crate) fn not_json(error: serde_json::Error) -> CommandError {
    CommandError::failed("the result has no JSON form").because(error.to_string())
}
