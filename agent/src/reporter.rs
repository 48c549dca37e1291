//! What managers still have to be told: the latest status of every task.
//!
//! The worker writes, the session reads. Nothing is lost: a status stays until a newer one takes its
//! place or the task is forgotten, and every new session is told all of them again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_types::id::TaskId;
use shoal_types::object::TaskStatus;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Most statuses in one batch.
pub const BATCH_MAX: usize = 1000;
/// Shortest time from one batch to the next, unless it is full.
pub const BATCH_INTERVAL: Duration = Duration::from_millis(100);
/// What comes so soon after the first status goes with it.
const LINGER: Duration = Duration::from_millis(10);

/// A handle; clones share the queue. One reader at a time.
#[derive(Debug, Clone, Default)]
pub struct Reporter {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    latest: BTreeMap<TaskId, TaskStatus>,
    unsent: BTreeSet<TaskId>,
    last_batch: Option<Instant>,
}

impl Reporter {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status of a task now; the same one again is not sent again.
    pub fn report(&self, id: TaskId, status: &TaskStatus) {
        let mut queue = self.queue();
        if queue.latest.get(&id) == Some(status) {
            return;
        }
        queue.latest.insert(id, status.clone());
        queue.unsent.insert(id);
        drop(queue);
        self.shared.arrived.notify_one();
    }

    /// Nobody will ask for the task again.
    pub fn forget(&self, id: TaskId) {
        let mut queue = self.queue();
        queue.latest.remove(&id);
        queue.unsent.remove(&id);
    }

    /// A new session began: everything is news to it.
    pub fn resend_all(&self) {
        let mut queue = self.queue();
        queue.unsent = queue.latest.keys().copied().collect();
        drop(queue);
        self.shared.arrived.notify_one();
    }

    /// Waits for something to send. What is in the answer counts as sent until the caller says that
    /// the call which carried it [failed](Reporter::failed), or a new session
    /// [begins](Reporter::resend_all). Dropping the future loses nothing.
    pub async fn next_batch(&self) -> Vec<(TaskId, TaskStatus)> {
        loop {
            let arrived = self.shared.arrived.notified();
            let due = {
                let queue = self.queue();
                match queue.unsent.len() {
                    0 => None,
                    BATCH_MAX.. => Some(Instant::now()),
                    _ => {
                        let soon = Instant::now() + LINGER;
                        Some(queue.last_batch.map_or(soon, |l| soon.max(l + BATCH_INTERVAL)))
                    }
                }
            };
            let Some(due) = due else {
                arrived.await;
                continue;
            };
            self.wait_until(due).await;
            let batch = self.take();
            if !batch.is_empty() {
                return batch;
            }
        }
    }

    async fn wait_until(&self, due: Instant) {
        loop {
            let arrived = self.shared.arrived.notified();
            if self.queue().unsent.len() >= BATCH_MAX {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(due) => return,
                () = arrived => {}
            }
        }
    }

    fn take(&self) -> Vec<(TaskId, TaskStatus)> {
        let mut queue = self.queue();
        queue.last_batch = Some(Instant::now());
        let ids: Vec<TaskId> = queue.unsent.iter().copied().take(BATCH_MAX).collect();
        let mut batch = Vec::with_capacity(ids.len());
        for id in ids {
            queue.unsent.remove(&id);
            batch.extend(queue.latest.get(&id).map(|status| (id, status.clone())));
        }
        batch
    }

    /// The managers may not have it: it is to be sent again.
    pub fn failed(&self, batch: &[(TaskId, TaskStatus)]) {
        let mut queue = self.queue();
        for (id, _) in batch {
            if queue.latest.contains_key(id) {
                queue.unsent.insert(*id);
            }
        }
        drop(queue);
        self.shared.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use shoal_types::task_state::TaskState;
    use shoal_types::time::Timestamp;

    use super::*;

    fn status(message: &str) -> TaskStatus {
        TaskStatus::new(TaskState::Running, Timestamp::ZERO, message)
    }

    fn texts(batch: &[(TaskId, TaskStatus)]) -> Vec<&str> {
        batch.iter().map(|(_, status)| status.message.as_str()).collect()
    }

    #[tokio::test]
    async fn only_the_latest_is_told_and_only_once() {
        let reporter = Reporter::default();
        reporter.report(1.into(), &status("a"));
        reporter.report(1.into(), &status("b"));
        reporter.report(2.into(), &status("c"));
        assert_eq!(texts(&reporter.next_batch().await), ["b", "c"]);
        reporter.report(1.into(), &status("b"));
        let more = tokio::time::timeout(BATCH_INTERVAL * 3, reporter.next_batch()).await;
        assert!(more.is_err(), "nothing is new");
    }

    #[tokio::test]
    async fn a_failed_batch_is_sent_again_with_what_is_true_then() {
        let reporter = Reporter::default();
        reporter.report(1.into(), &status("a"));
        reporter.report(2.into(), &status("b"));
        reporter.report(3.into(), &status("c"));
        let batch = reporter.next_batch().await;
        reporter.report(1.into(), &status("newer"));
        reporter.forget(3.into());
        reporter.failed(&batch);
        assert_eq!(texts(&reporter.next_batch().await), ["newer", "b"]);
        reporter.resend_all();
        assert_eq!(texts(&reporter.next_batch().await), ["newer", "b"]);
    }

    #[tokio::test]
    async fn batches_are_bounded_and_paced() {
        let reporter = Reporter::default();
        for id in 0..2500 {
            reporter.report(id.into(), &status("x"));
        }
        let begin = Instant::now();
        for expected in [1000, 1000, 500] {
            assert_eq!(reporter.next_batch().await.len(), expected);
        }
        assert!(begin.elapsed() >= BATCH_INTERVAL, "the last one is not full");
    }

    #[tokio::test]
    async fn dropping_the_wait_loses_nothing() {
        let reporter = Reporter::default();
        reporter.report(1.into(), &status("a"));
        assert!(reporter.next_batch().now_or_never().is_none(), "others may follow soon");
        assert_eq!(texts(&reporter.next_batch().await), ["a"]);
    }
}
