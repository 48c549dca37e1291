//! The change feed: the newest events, for those who watch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_manager_state::{Event, ObjectRef};
use shoal_types::time::Timestamp;
use tokio::sync::watch;

/// Events kept for watchers that come late or are slow. One that falls further behind is told so.
const EVENTS_MAX: usize = 16_384;

/// The same in bytes, roughly: what the feed alone keeps alive.
const BYTES_MAX: usize = 64 << 20;

/// What an event takes beside what its command brought: an object without its texts.
const EVENT_BYTES: usize = 1 << 10;

/// A bounded log of events, shared by all who watch.
#[derive(Debug, Clone)]
pub struct Feed {
    inner: Arc<Mutex<Inner>>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Kept>,
    /// What all of them take.
    bytes: usize,
    /// Events up to this index may be missing.
    forgotten: u64,
    /// All events up to this index are in.
    newest: u64,
    /// Of the newest event: clocks may go back, what is told does not.
    time: Timestamp,
    /// Of the newest event that is missing.
    forgotten_time: Timestamp,
}

#[derive(Debug)]
struct Kept {
    event: Arc<Event>,
    bytes: usize,
}

/// About what an object takes that shares nothing with others. Specs are shared between the
/// versions of an object and with the state: the command that brought one is counted for it.
fn own_bytes(object: &ObjectRef) -> usize {
    let texts = match object {
        ObjectRef::Task(task) => task.status.message.len() + task.status.err.len(),
        _ => 0,
    };
    EVENT_BYTES + texts
}

/// The events asked for are not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "events after index {after} are not kept any more: the oldest kept ones come after {oldest}"
)]
pub struct Forgotten {
    /// What was asked for.
    pub after: u64,
    /// From where on events are kept.
    pub oldest: u64,
}

impl Default for Feed {
    fn default() -> Self {
        Self { inner: Arc::default(), newest: watch::Sender::new(0) }
    }
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the events of everything applied up to `index`, by commands of `bytes` in all.
    pub fn append(&self, index: u64, events: Vec<Event>, bytes: usize) {
        let mut inner = self.lock();
        let mut brought = bytes;
        for mut event in events {
            event.time = event.time.max(inner.time);
            inner.time = event.time;
            let bytes = own_bytes(&event.object) + std::mem::take(&mut brought);
            inner.bytes += bytes;
            inner.events.push_back(Kept { event: Arc::new(event), bytes });
        }
        while inner.events.len() > EVENTS_MAX || inner.bytes > BYTES_MAX {
            let Some(Kept { event, bytes }) = inner.events.pop_front() else { break };
            inner.forgotten = event.index;
            inner.forgotten_time = event.time;
            inner.bytes -= bytes;
        }
        inner.newest = index;
        drop(inner);
        self.newest.send_replace(index);
    }

    /// Begins anew after the state was replaced as a whole: what was before `now` is missing.
    pub fn restart(&self, index: u64, now: Timestamp) {
        let inner =
            Inner { forgotten: index, newest: index, forgotten_time: now, ..Inner::default() };
        *self.lock() = inner;
        self.newest.send_replace(index);
    }

    /// Tells when there is something new: the index of the newest applied entry.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Follows the feed from here on.
    #[must_use]
    pub fn follow(&self) -> Follower {
        let mut newest = self.newest();
        let heard = *newest.borrow_and_update();
        Follower { feed: self.clone(), newest, heard }
    }

    /// An index after which are the events of a time and of those after it, and whether some of them
    /// are forgotten. Events that were written together have one index: some that follow it may be older
    /// than the time.
    #[must_use]
    pub fn begins(&self, time: Timestamp) -> (u64, bool) {
        let inner = self.lock();
        let start = inner.events.partition_point(|kept| kept.event.time < time);
        let first = inner.events.get(start).map(|kept| kept.event.index);
        let after = first.map_or(inner.newest, |first| first - 1).max(inner.forgotten);
        // Of those that were written together, the first ones may be the ones that are forgotten.
        let is_cut = first.is_some_and(|first| first <= after);
        (after, is_cut || inner.forgotten > 0 && start == 0 && inner.forgotten_time >= time)
    }

    /// The next events after `after`, and the index up to which they are complete. About `most` of
    /// them: what was written together is not taken apart.
    ///
    /// # Errors
    /// Some of them are forgotten.
    pub fn since(&self, after: u64, most: usize) -> Result<(Vec<Arc<Event>>, u64), Forgotten> {
        let inner = self.lock();
        if after < inner.forgotten {
            return Err(Forgotten { after, oldest: inner.forgotten });
        }
        let start = inner.events.partition_point(|kept| kept.event.index <= after);
        let last =
            inner.events.get(start.saturating_add(most.max(1) - 1)).map(|kept| kept.event.index);
        let complete = last.unwrap_or(inner.newest.max(after));
        let next = inner.events.range(start..).map(|kept| &kept.event);
        let events = next.take_while(|event| event.index <= complete).map(Arc::clone).collect();
        Ok((events, complete))
    }
}

/// One who reads the whole feed, as it is written.
#[derive(Debug)]
pub struct Follower {
    feed: Feed,
    newest: watch::Receiver<u64>,
    heard: u64,
}

impl Follower {
    /// What was written since this was called last; none if some of that is forgotten. It is in every
    /// view that is taken afterwards.
    pub fn take(&mut self) -> Option<Vec<Arc<Event>>> {
        let newest = *self.newest.borrow_and_update();
        let found = self.feed.since(self.heard, usize::MAX);
        self.heard = found.as_ref().map_or(newest, |(_, complete)| *complete);
        found.ok().map(|(events, _)| events)
    }

    /// Waits until something was written since [`Follower::take`].
    pub async fn changed(&mut self) {
        // It cannot end before this does.
        let _ = self.newest.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::testing::{TestCluster, service_spec};

    use super::*;

    /// An event of a command that made a service.
    fn event(index: u64) -> Event {
        let mut cluster = TestCluster::new();
        cluster.events();
        cluster.add_service(service_spec("web", 1));
        Event { index, ..cluster.events().swap_remove(0) }
    }

    #[test]
    fn a_watcher_that_is_too_far_behind_is_told_so() {
        let feed = Feed::default();
        let indexes = |after| {
            feed.since(after, usize::MAX)
                .map(|(events, _)| events.iter().map(|e| e.index).collect::<Vec<_>>())
        };
        for index in 1..=EVENTS_MAX as u64 {
            feed.append(index, vec![event(index)], 100);
        }
        assert_eq!(indexes(0).unwrap().len(), EVENTS_MAX);
        feed.append(20_000, vec![event(20_000)], 100);
        assert_eq!(indexes(0), Err(Forgotten { after: 0, oldest: 1 }));
        assert_eq!(indexes(1).unwrap().len(), EVENTS_MAX);

        // Few large ones push out many small ones.
        feed.append(20_001, vec![event(20_001), event(20_001)], BYTES_MAX / 2);
        feed.append(20_002, vec![event(20_002)], BYTES_MAX / 2 - 3 * EVENT_BYTES);
        assert_eq!(indexes(19_999), Err(Forgotten { after: 19_999, oldest: 20_000 }));
        assert_eq!(indexes(20_000), Ok(vec![20_001, 20_001, 20_002]));
        // One that is too large alone is not kept, and whoever waits for it is told.
        feed.append(20_003, vec![event(20_003)], BYTES_MAX);
        assert_eq!(indexes(20_002), Err(Forgotten { after: 20_002, oldest: 20_003 }));
        assert_eq!(indexes(20_003), Ok(vec![]));
    }

    #[test]
    fn a_follower_hears_everything_once_or_that_something_is_lost() {
        let feed = Feed::default();
        feed.append(1, vec![event(1)], 0);
        let mut follower = feed.follow();
        let heard = |follower: &mut Follower| -> Option<Vec<u64>> {
            Some(follower.take()?.iter().map(|event| event.index).collect())
        };
        assert_eq!(heard(&mut follower), Some(vec![]), "what was before is in the view");
        feed.append(3, vec![event(2), event(3)], 0);
        assert_eq!(heard(&mut follower), Some(vec![2, 3]));
        feed.append(4, vec![], 0);
        feed.append(5, vec![event(5)], BYTES_MAX);
        assert_eq!(heard(&mut follower), None);
        feed.append(6, vec![event(6)], 0);
        assert_eq!(heard(&mut follower), Some(vec![6]));
        feed.restart(9, Timestamp::from_secs(1));
        assert_eq!(heard(&mut follower), None);
        assert_eq!(heard(&mut follower), Some(vec![]));
    }

    #[test]
    fn times_never_go_back_and_events_are_found_by_them() {
        let feed = Feed::default();
        let at = |index, secs| Event { time: Timestamp::from_secs(secs), ..event(index) };
        // The clock was set back before the third.
        feed.append(3, vec![at(1, 100), at(2, 200), at(3, 150)], 0);
        let (events, _) = feed.since(0, usize::MAX).unwrap();
        let times: Vec<_> = events.iter().map(|e| e.time.as_nanos() / 1_000_000_000).collect();
        assert_eq!(times, [100, 200, 200]);
        let begins = |secs| feed.begins(Timestamp::from_secs(secs));
        assert_eq!(begins(0), (0, false));
        assert_eq!(begins(101), (1, false));
        assert_eq!(begins(200), (1, false));
        assert_eq!(begins(201), (3, false));
        feed.restart(9, Timestamp::from_secs(300));
        assert_eq!(begins(200), (9, true), "what was before is not kept");
        assert_eq!(begins(301), (9, false));
    }

    /// Commands that were proposed together have one index, and a time each.
    #[test]
    fn what_was_written_together_is_neither_skipped_nor_taken_apart() {
        let feed = Feed::default();
        let at = |index, secs| Event { time: Timestamp::from_secs(secs), ..event(index) };
        feed.append(5, vec![at(4, 90), at(5, 100), at(5, 101), at(5, 102)], 0);
        let from = |secs| {
            let (after, incomplete) = feed.begins(Timestamp::from_secs(secs));
            let (events, _) = feed.since(after, usize::MAX).expect("kept");
            let found = events.iter().filter(|e| e.time >= Timestamp::from_secs(secs)).count();
            (found, incomplete)
        };
        assert_eq!(from(101), (2, false), "in the middle of what was written together");
        assert_eq!(from(100), (3, false));
        assert_eq!(from(103), (0, false));

        let next = |after, most| {
            let (events, complete) = feed.since(after, most).expect("kept");
            (events.len(), complete)
        };
        assert_eq!(next(3, 1), (1, 4));
        assert_eq!(next(3, 2), (4, 5), "the second has two beside it");
        assert_eq!(next(4, 1), (3, 5));
        assert_eq!(next(5, 1), (0, 5));

        // Only the first of those of one index is forgotten.
        feed.append(6, vec![at(6, 110), at(6, 111)], 0);
        feed.append(7, vec![at(7, 120)], BYTES_MAX - 2 * EVENT_BYTES);
        let (after, incomplete) = feed.begins(Timestamp::from_secs(111));
        assert_eq!((after, incomplete), (6, true), "one that is kept cannot be told any more");
    }
}
