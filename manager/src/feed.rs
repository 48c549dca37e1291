//! The change feed: the newest events, for those who watch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_manager_state::Event;
use tokio::sync::watch;

/// Events kept for watchers that come late or are slow. One that falls further behind is told so.
const EVENTS_MAX: usize = 16_384;

/// A bounded log of events, shared by all who watch.
#[derive(Debug, Clone)]
pub struct Feed {
    inner: Arc<Mutex<Inner>>,
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Arc<Event>>,
    /// Events up to this index may be missing.
    forgotten: u64,
    /// All events up to this index are in.
    newest: u64,
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

    /// Adds the events of everything applied up to `index`.
    pub fn append(&self, index: u64, events: Vec<Event>) {
        let mut inner = self.lock();
        inner.events.extend(events.into_iter().map(Arc::new));
        while inner.events.len() > EVENTS_MAX {
            if let Some(event) = inner.events.pop_front() {
                inner.forgotten = event.index;
            }
        }
        inner.newest = index;
        drop(inner);
        self.newest.send_replace(index);
    }

    /// Begins anew after the state was replaced as a whole.
    pub fn restart(&self, index: u64) {
        *self.lock() = Inner { events: VecDeque::new(), forgotten: index, newest: index };
        self.newest.send_replace(index);
    }

    /// Tells when there is something new: the index of the newest applied entry.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Events after `after`, and the index up to which they are complete.
    ///
    /// # Errors
    /// Some of them are forgotten.
    pub fn since(&self, after: u64) -> Result<(Vec<Arc<Event>>, u64), Forgotten> {
        let inner = self.lock();
        if after < inner.forgotten {
            return Err(Forgotten { after, oldest: inner.forgotten });
        }
        let start = inner.events.partition_point(|event| event.index <= after);
        Ok((inner.events.range(start..).cloned().collect(), inner.newest.max(after)))
    }
}
