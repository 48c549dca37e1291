//! How fast one node may report: what it says goes through a log that all share.

use std::time::Duration;

use shoal_types::time::Timestamp;

/// Reports of one node that are written down a second, in the long run. What comes together travels
/// together, so that one that has more to say has to say more at once.
const REPORTS_PER_SECOND: u64 = 20;
/// Reports that may come at any speed after a while of silence.
const REPORTS_BURST: u64 = 100;

/// Bytes of them a second, in the long run: some thousand statuses.
const BYTES_PER_SECOND: u64 = 512 << 10;
/// Bytes that may come at any speed: what a node says that has begun anew with a thousand tasks.
const BYTES_BURST: u64 = 8 << 20;

const NANOS: u64 = 1_000_000_000;

/// What one node has been allowed so far, by a clock that nobody sets.
///
/// A report is never refused for coming too fast. It is let through, and the next one is looked at
/// only when the time has come by which it is within the rate: a node that is held up so cannot hold
/// up another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    reports: Bucket,
    bytes: Bucket,
}

impl Pace {
    /// Counts a report of so many bytes; how long it has to wait.
    #[must_use]
    pub fn take(&mut self, bytes: usize, now: Timestamp) -> Duration {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let reports = self.reports.take(1, REPORTS_PER_SECOND, REPORTS_BURST, now);
        reports.max(self.bytes.take(bytes, BYTES_PER_SECOND, BYTES_BURST, now))
    }
}

/// What is taken of an even flow, told by when the flow has made up for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bucket {
    made_up_at: Timestamp,
}

impl Bucket {
    /// Takes `amount`; how long until no more than `burst` is missing.
    fn take(&mut self, amount: u64, per_second: u64, burst: u64, now: Timestamp) -> Duration {
        let nanos = |amount: u64| {
            let nanos = u128::from(amount) * u128::from(NANOS) / u128::from(per_second);
            u64::try_from(nanos).unwrap_or(u64::MAX)
        };
        let begin = self.made_up_at.max(now).as_nanos();
        self.made_up_at = Timestamp::from_nanos(begin.saturating_add(nanos(amount)));
        let allowed = Timestamp::from_nanos(now.as_nanos().saturating_add(nanos(burst)));
        self.made_up_at.since(allowed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_secs(1000);

    fn at(after: Duration) -> Timestamp {
        Timestamp::from_nanos(START.as_nanos() + u64::try_from(after.as_nanos()).expect("short"))
    }

    /// What a node gets through in so much time that sends reports of so many bytes without a pause.
    fn passed(bytes: usize, time: Duration) -> u64 {
        let (mut pace, mut now, mut passed) = (Pace::default(), Duration::ZERO, 0);
        loop {
            now += pace.take(bytes, at(now));
            if now > time {
                return passed;
            }
            passed += 1;
        }
    }

    #[test]
    fn a_flood_gets_through_at_the_rate() {
        let minute = Duration::from_secs(60);
        assert_eq!(passed(100, Duration::ZERO), REPORTS_BURST);
        assert_eq!(passed(100, minute), REPORTS_BURST + 60 * REPORTS_PER_SECOND);
        assert_eq!(passed(1 << 20, Duration::ZERO), 8);
        assert_eq!(passed(1 << 20, minute), 8 + 30);
    }

    #[test]
    fn who_says_little_never_waits_and_silence_is_made_up_for_once() {
        let mut pace = Pace::default();
        for n in 0..1000 {
            assert_eq!(pace.take(20_000, at(Duration::from_millis(50 * n))), Duration::ZERO);
        }
        // An hour of silence is no more than a burst.
        let later = at(Duration::from_secs(3600));
        let waits: Vec<Duration> = (0..=REPORTS_BURST).map(|_| pace.take(0, later)).collect();
        assert_eq!(waits.iter().filter(|wait| wait.is_zero()).count() as u64, REPORTS_BURST);
    }

    proptest! {
        /// However a node spreads its reports, what gets through by any time is within burst and
        /// rate, but for the report that was the last.
        #[test]
        fn nothing_gets_through_faster(
            reports in prop::collection::vec((0..4_000_000_usize, 0..2_000_u64), 1..200),
        ) {
            let (mut pace, mut now) = (Pace::default(), Duration::ZERO);
            let (mut count, mut sum) = (0_u64, 0_u64);
            for (bytes, pause) in reports {
                now += Duration::from_millis(pause);
                now += pace.take(bytes, at(now));
                count += 1;
                sum += bytes as u64;
                let secs = now.as_secs_f64() + 0.001;
                prop_assert!(count as f64 <= REPORTS_BURST as f64 + secs * REPORTS_PER_SECOND as f64);
                prop_assert!(sum as f64 <= BYTES_BURST as f64 + secs * BYTES_PER_SECOND as f64);
            }
        }
    }
}
