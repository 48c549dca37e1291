//! The one place where the manager reads a clock, and draws ids.

use std::time::{SystemTime, UNIX_EPOCH};

use shoal_types::id::IdSource;
use shoal_types::time::Timestamp;

/// The time.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Ids from the thread's cryptographic random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    fn next_bits(&mut self) -> u128 {
        rand::random()
    }
}
