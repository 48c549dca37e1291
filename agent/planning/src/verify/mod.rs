//! What is not as it should be on a node, in words. Nothing is compared here a second time: a difference is an
//! action that repair would take, beside what it was planned from.

mod holdings;
mod host;
mod known;
mod reach;
#[cfg(test)]
mod tests;
mod tunnel;

pub use holdings::differences as of_holdings;
pub use host::differences as of_host;
pub use known::Known;
pub use reach::{Search, Tried, counts, echo, echoed, sample};
pub use tunnel::differences as of_tunnel;

use shoal_types::question::Finding;

/// What came of comparing a part of the node with what it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// What is not right, and since when that is known.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
}

/// Something that is not as it should be, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// What.
    pub subject: String,
    /// How it should be.
    pub expected: String,
    /// How it is.
    pub found: String,
}

impl Difference {
    /// Of these words.
    #[must_use]
    pub fn new(
        subject: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self { subject: subject.into(), expected: expected.into(), found: found.into() }
    }

    /// Something is not there.
    fn missing(subject: impl Into<String>) -> Self {
        Self::new(subject, "present", "missing")
    }

    /// Something is there that should not be.
    fn strange(subject: impl Into<String>) -> Self {
        Self::new(subject, "absent", "present")
    }
}
