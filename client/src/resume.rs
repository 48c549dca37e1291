//! Where a reader was when its stream broke, so that the next one goes on there: nothing is lost, nothing comes
//! twice.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_types::id::TaskId;
use shoal_types::time::Timestamp;

/// Tasks write into one stream each for itself. What one of them has written so long before the newest line of
/// all and has not come yet is not asked for again.
const LATE_MAX: Duration = Duration::from_secs(60);

/// A place among events. An entry of the log may have several, always in the same order.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// All events up to this index have come.
    done: u64,
    /// The index of the last event.
    index: u64,
    /// Events of that index that have come.
    seen: usize,
    /// How many of them come again.
    again: usize,
}

impl Place {
    /// Before the first event after an index.
    #[must_use]
    pub const fn after(index: u64) -> Self {
        Self { done: index, index, seen: 0, again: 0 }
    }

    /// Takes an event; false if it has come before.
    pub fn takes(&mut self, index: u64) -> bool {
        if index != self.index {
            *self = Self { done: self.index.max(self.done), index, seen: 1, again: 0 };
            return true;
        }
        if self.again > 0 {
            self.again -= 1;
            return false;
        }
        self.seen += 1;
        true
    }

    /// The index after which the next stream has to begin.
    pub fn resume(&mut self) -> u64 {
        self.again = self.seen;
        self.done
    }
}

/// A place among the lines of tasks.
#[derive(Debug, Clone, Default)]
pub struct LogPlace {
    newest: Option<Timestamp>,
    tasks: BTreeMap<TaskId, Line>,
}

/// The last line of a task.
#[derive(Debug, Clone, Copy)]
struct Line {
    time: Timestamp,
    /// Lines of that time that have come.
    seen: usize,
    /// How many of them come again.
    again: usize,
}

impl LogPlace {
    /// Takes a line; false if it has come before.
    pub fn takes(&mut self, task: TaskId, time: Timestamp) -> bool {
        self.newest = self.newest.max(Some(time));
        let Some(last) = self.tasks.get_mut(&task) else {
            self.tasks.insert(task, Line { time, seen: 1, again: 0 });
            return true;
        };
        if last.again > 0 && time <= last.time {
            if time == last.time {
                last.again -= 1;
            }
            return false;
        }
        match time == last.time {
            true => last.seen += 1,
            false => *last = Line { time, seen: 1, again: 0 },
        }
        true
    }

    /// The time from which on the next stream has to have all lines; `None` if there was none yet.
    pub fn resume(&mut self) -> Option<Timestamp> {
        for line in self.tasks.values_mut() {
            line.again = line.seen;
        }
        let oldest = self.tasks.values().map(|line| line.time).min()?;
        let late = self.newest?.as_nanos().saturating_sub(nanos(LATE_MAX));
        let from = oldest.max(Timestamp::from_nanos(late));
        // Of whom nothing comes again, nothing is left out.
        for line in self.tasks.values_mut().filter(|line| line.time < from) {
            line.again = 0;
        }
        Some(from)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_comes_once_wherever_the_stream_breaks() {
        let all = [4, 4, 4, 7, 9, 9];
        for broken in 0..=all.len() {
            for again in 0..=all.len() {
                let mut place = Place::after(3);
                let mut seen = Vec::new();
                for index in &all[..broken] {
                    assert!(place.takes(*index));
                    seen.push(*index);
                }
                // It breaks twice.
                for end in [again, all.len()] {
                    let after = place.resume();
                    let rest = all.iter().filter(|index| **index > after);
                    for index in rest.take(end) {
                        if place.takes(*index) {
                            seen.push(*index);
                        }
                    }
                }
                assert_eq!(seen, all, "{broken} {again}");
            }
        }
    }

    #[test]
    fn a_line_comes_once_wherever_the_stream_breaks() {
        let (one, two) = (TaskId::from(1), TaskId::from(2));
        let at = Timestamp::from_secs;
        let all = [(one, 1), (one, 2), (two, 2), (one, 2), (two, 2), (one, 3), (two, 9)];
        for broken in 0..=all.len() {
            let mut place = LogPlace::default();
            let mut seen = Vec::new();
            for (task, time) in &all[..broken] {
                assert!(place.takes(*task, at(*time)));
                seen.push((*task, *time));
            }
            let from = place.resume().unwrap_or(Timestamp::ZERO);
            for (task, time) in all.iter().filter(|(_, time)| at(*time) >= from) {
                if place.takes(*task, at(*time)) {
                    seen.push((*task, *time));
                }
            }
            seen.sort_unstable();
            let mut expected = all.to_vec();
            expected.sort_unstable();
            assert_eq!(seen, expected, "{broken}");
        }
    }

    #[test]
    fn a_task_that_ended_long_ago_makes_nobody_read_all_again() {
        let mut place = LogPlace::default();
        assert_eq!(place.resume(), None);
        assert!(place.takes(TaskId::from(1), Timestamp::from_secs(10)));
        assert!(place.takes(TaskId::from(2), Timestamp::from_secs(10_000)));
        assert_eq!(place.resume(), Some(Timestamp::from_secs(9_940)));
        assert!(!place.takes(TaskId::from(2), Timestamp::from_secs(10_000)));
        assert!(place.takes(TaskId::from(1), Timestamp::from_secs(9_950)));
    }
}
