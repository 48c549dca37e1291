//! One line for an error and everything it came from.

use std::error::Error;
use std::fmt;

/// Displays an error followed by its sources, separated by `: `. Our errors never repeat their
/// source, so this is the one place where a whole story is put together.
#[derive(Debug, Clone, Copy)]
pub struct ErrorChain<'a>(pub &'a dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Shorthand for [`ErrorChain`].
#[must_use]
pub fn chain(error: &dyn Error) -> ErrorChain<'_> {
    ErrorChain(error)
}
