//! Which boot of the host something happened in.

use std::fmt;
use std::sync::Arc;

/// One boot of a host. What was started in another one does not run any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(Arc<str>);

impl Boot {
    /// The boot of this name; an empty one is unknown.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Some boot, nobody knows which.
    #[must_use]
    pub fn unknown() -> Self {
        Self::new("")
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the two are known to be different, so that nothing of the one lives in the other.
    #[must_use]
    pub fn is_other_than(&self, other: &Self) -> bool {
        !self.0.is_empty() && !other.0.is_empty() && self != other
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_known_to_differ() {
        let (a, b, unknown) = (Boot::new("a"), Boot::new("b"), Boot::unknown());
        assert!(a.is_other_than(&b) && b.is_other_than(&a));
        for (one, other) in [(&a, &a), (&a, &unknown), (&unknown, &a), (&unknown, &unknown)] {
            assert!(!one.is_other_than(other), "{one} {other}");
        }
    }
}
