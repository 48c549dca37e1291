//! When people are told what a task is doing. Every text becomes a status, which managers write to
//! their log: what is new is told soon, what merely goes on ever more seldom.

use std::time::Duration;

use shoal_types::text::cut_to;
use shoal_types::time::Timestamp;

/// Least time from one text about a task to the next, and before the first.
pub const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time from one text to the next if they say the same with other numbers.
const TELL_INTERVAL_MAX: Duration = Duration::from_secs(16);
/// Most of a text that is told, in bytes.
const TEXT_MAX: usize = 600;

/// What a task is doing, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doing {
    what: String,
    how_far: String,
}

impl Doing {
    /// What it is doing, and how far that is: the latter alone is no news. Either is cut at a bound.
    #[must_use]
    pub fn new(what: impl Into<String>, how_far: impl Into<String>) -> Self {
        let (mut what, mut how_far) = (what.into(), how_far.into());
        cut_to(&mut what, TEXT_MAX);
        cut_to(&mut how_far, TEXT_MAX);
        Self { what, how_far }
    }

    /// Both.
    #[must_use]
    pub fn text(&self) -> String {
        match self.how_far.as_str() {
            "" => self.what.clone(),
            how_far => format!("{}; {how_far}", self.what),
        }
    }
}

/// Whether something is told now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    /// Now.
    Now,
    /// Not before this time.
    Wait(Timestamp),
    /// It was told.
    Nothing,
}

/// What was told of one task, and when.
#[derive(Debug, Clone)]
pub struct Telling {
    told: Option<Doing>,
    at: Timestamp,
    pause: Duration,
}

impl Telling {
    /// Of something that begins now.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self { told: None, at: now, pause: TELL_INTERVAL }
    }

    /// Whether this is told now. Asking twice gives the same answer.
    #[must_use]
    pub fn next(&self, doing: &Doing, now: Timestamp) -> Tell {
        let pause = match &self.told {
            Some(told) if told == doing => return Tell::Nothing,
            Some(told) if told.what == doing.what => self.pause,
            _ => TELL_INTERVAL,
        };
        let due = self.at + pause;
        if now < due { Tell::Wait(due) } else { Tell::Now }
    }

    /// It was told.
    pub fn tell(&mut self, doing: Doing, now: Timestamp) {
        let goes_on = self.told.as_ref().is_some_and(|told| told.what == doing.what);
        self.pause = if goes_on { (self.pause * 2).min(TELL_INTERVAL_MAX) } else { TELL_INTERVAL };
        self.at = now;
        self.told = Some(doing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_secs(1000) + Duration::from_millis(millis)
    }

    /// A pull that goes on for ten minutes, looked at ten times a second.
    #[test]
    fn what_goes_on_is_told_ever_more_seldom() {
        let mut telling = Telling::new(at(0));
        let mut told = Vec::new();
        for tenth in 0..6000_u64 {
            let doing = Doing::new("pulling app:1", format!("{tenth} of 6000 MB"));
            if telling.next(&doing, at(tenth * 100)) == Tell::Now {
                telling.tell(doing, at(tenth * 100));
                told.push(tenth / 10);
            }
        }
        assert_eq!(told[..7], [1, 2, 4, 8, 16, 32, 48]);
        assert!(told.len() < 45, "{told:?}");
    }

    #[test]
    fn what_is_new_is_told_within_a_second_and_never_twice() {
        let mut telling = Telling::new(at(0));
        let pulls = |n: u32| Doing::new("pulling app:1", format!("{n} of 9 MB"));
        assert_eq!(telling.next(&pulls(0), at(999)), Tell::Wait(at(1000)));
        for (n, millis) in [(1, 1000), (2, 2000), (3, 4000)] {
            assert_eq!(telling.next(&pulls(n), at(millis)), Tell::Now);
            telling.tell(pulls(n), at(millis));
        }
        assert_eq!(telling.next(&pulls(3), at(60_000)), Tell::Nothing);
        assert_eq!(telling.next(&pulls(4), at(5000)), Tell::Wait(at(8000)));
        let retries = Doing::new("pulling app:1, trying again: no route to host", "3 of 9 MB");
        assert_eq!(telling.next(&retries, at(4500)), Tell::Wait(at(5000)));
        assert_eq!(telling.next(&retries, at(5000)), Tell::Now);
        telling.tell(retries, at(5000));
        assert_eq!(telling.next(&pulls(3), at(6000)), Tell::Now, "that it goes on again is news");
    }

    /// Checks that fail ten times a second, each with other words.
    #[test]
    fn changing_words_are_told_once_a_second() {
        let mut telling = Telling::new(at(0));
        let mut count = 0;
        for tenth in 0..600_u64 {
            let doing = Doing::new(format!("the check said {tenth}"), "");
            if telling.next(&doing, at(tenth * 100)) == Tell::Now {
                telling.tell(doing, at(tenth * 100));
                count += 1;
            }
        }
        assert_eq!(count, 59);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let long = Doing::new("ä".repeat(5000), "ö".repeat(5000)).text();
        assert!(long.len() <= 2 * TEXT_MAX + 2, "{}", long.len());
        assert_eq!(Doing::new("waiting", "").text(), "waiting");
        assert_eq!(Doing::new("pulling", "1 of 2 MB").text(), "pulling; 1 of 2 MB");
    }
}
