//! The way of a packet from one place to another, step by step.

use serde::Serialize;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TraceStep {
    /// The name of the node that it is on, if it is on one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What happens.
    pub what: String,
    /// Whether it does.
    pub verdict: Verdict,
    /// Why it does not, or why it may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What is known of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is as planned.
    Passes,
    /// It may not be: something is not known, or not all packets pass.
    Doubtful,
    /// The packet stops there.
    Stops,
}

impl Verdict {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passes => "passes",
            Self::Doubtful => "doubtful",
            Self::Stops => "stops",
        }
    }
}
