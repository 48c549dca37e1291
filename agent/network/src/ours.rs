//! Which processes are our own: what they change in the packet filter need not be looked at.
//!
//! The kernel tells a transaction's process by its number, and gives numbers to others again once their
//! processes have ended. What a process has changed is heard before its end can be, unless whoever
//! listens is late; then there is one look that finds nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a process is remembered after its end. No machine has used up all numbers by then.
const MEMORY: Duration = Duration::from_secs(1);

static OURS: Mutex<Ours> = Mutex::new(Ours(VecDeque::new()));

/// Processes, with their ends.
struct Ours(VecDeque<(u32, Option<Instant>)>);

impl Ours {
    fn begin(&mut self, process: u32, now: Instant) {
        self.0.retain(|(_, end)| is_remembered(*end, now));
        self.0.push_back((process, None));
    }

    fn end(&mut self, process: u32, now: Instant) {
        let lives = |one: &&mut (u32, Option<Instant>)| one.0 == process && one.1.is_none();
        if let Some((_, end)) = self.0.iter_mut().find(lives) {
            *end = Some(now);
        }
    }

    fn contains(&self, process: u32, now: Instant) -> bool {
        self.0.iter().any(|(one, end)| *one == process && is_remembered(*end, now))
    }
}

fn is_remembered(end: Option<Instant>, now: Instant) -> bool {
    end.is_none_or(|end| now.saturating_duration_since(end) < MEMORY)
}

/// A process of ours, until it has ended.
#[derive(Debug)]
pub(super) struct Own(u32);

impl Own {
    /// Remembers one before it changes anything.
    pub(super) fn begin(process: u32) -> Self {
        with(|ours| ours.begin(process, Instant::now()));
        Self(process)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        with(|ours| ours.end(self.0, Instant::now()));
    }
}

/// Whether a process that has just changed something is one of ours.
pub(super) fn is_ours(process: u32) -> bool {
    with(|ours| ours.contains(process, Instant::now()))
}

fn with<T>(act: impl FnOnce(&mut Ours) -> T) -> T {
    act(&mut OURS.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host's own nft once went unheard for half a minute when its process had the number of one of our
    /// last sixty-four.
    #[test]
    fn who_has_the_number_of_one_that_ended_is_somebody_else() {
        let (mut ours, start) = (Ours(VecDeque::new()), Instant::now());
        ours.begin(7, start);
        assert!(ours.contains(7, start + 100 * MEMORY), "it lives");
        assert!(!ours.contains(8, start));
        ours.end(7, start);
        assert!(ours.contains(7, start + MEMORY / 2), "what it did is still being told");
        assert!(!ours.contains(7, start + MEMORY));
        ours.begin(7, start + MEMORY);
        assert!(ours.contains(7, start + 100 * MEMORY));
        assert_eq!(ours.0.len(), 1, "what is over is forgotten");
    }
}
