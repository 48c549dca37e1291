//! The one place where the manager reads a clock, and draws ids.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use shoal_types::id::IdSource;
use shoal_types::time::Timestamp;

/// The time, as people set it: for what is stored and shown.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The time of a clock that nobody sets, to measure with: comparable only with what else it said
/// in this process. It starts as [`now`] and knows nothing of steps after that.
#[must_use]
pub fn steady() -> Timestamp {
    static START: LazyLock<(Timestamp, Instant)> = LazyLock::new(|| (now(), Instant::now()));
    START.0 + START.1.elapsed()
}

/// Ids from the thread's cryptographic random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    fn next_bits(&mut self) -> u128 {
        rand::random()
    }
}
