//! How long to wait before trying again. Pure: the random number comes from outside.

use std::time::Duration;

/// A row of waits that double from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub last: Duration,
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row (from 1), shortened by up to a half as
    /// `draw` (from 0 to below 1) says, so that hosts that failed together do not return together.
    #[must_use]
    pub fn wait(self, failures: u32, draw: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let doubled = self.first.saturating_mul(2u32.saturating_pow(doublings));
        doubled.min(self.last).mul_f64(1.0 - 0.5 * draw.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_last() {
        let waits = Backoff { first: Duration::from_millis(100), last: Duration::from_secs(8) };
        let table = [
            (0, 0.0, 100),
            (1, 0.0, 100),
            (2, 0.0, 200),
            (7, 0.0, 6400),
            (8, 0.0, 8000),
            (u32::MAX, 0.0, 8000),
            (1, 1.0, 50),
            (8, 0.5, 6000),
            (1, 9.0, 50),
        ];
        for (failures, draw, expected) in table {
            let wait = waits.wait(failures, draw);
            assert_eq!(wait, Duration::from_millis(expected), "{failures} {draw}");
        }
    }
}
