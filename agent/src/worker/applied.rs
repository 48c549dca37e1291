//! How much of the assignment is on this node's disk, and done about its networks, for the managers to know.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use shoal_types::id::{NodeId, TaskId};
use tokio::sync::watch;

/// Messages that are told apart while they wait; further ones count with the last.
const WAITING_MAX: usize = 64;

/// A message of a stream of assignments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The node that it is for.
    pub node: Option<NodeId>,
    /// The session that brought it.
    pub session: Arc<str>,
    /// The term of that session's leader.
    pub term: u64,
    /// What the message results in.
    pub sequence: u64,
}

/// A message, and what of it is not on disk.
#[derive(Debug)]
struct Waiting {
    mark: Mark,
    tasks: BTreeSet<TaskId>,
    /// The count of changes of the networks that has to be on disk.
    networks: u64,
    /// The revision of what is known of overlay networks up to which it has to be followed.
    overlay: u64,
}

/// Remembers what is to be written down and done before a message is applied. A message is applied when all
/// before it are.
#[derive(Debug)]
pub(super) struct Applied {
    waiting: VecDeque<Waiting>,
    /// Changes of the networks so far.
    networks: u64,
    networks_written: u64,
    overlay: u64,
    overlay_followed: u64,
    told: watch::Sender<Option<Mark>>,
}

impl Applied {
    pub(super) fn new(told: watch::Sender<Option<Mark>>) -> Self {
        let waiting = VecDeque::new();
        Self { waiting, networks: 0, networks_written: 0, overlay: 0, overlay_followed: 0, told }
    }

    /// The networks are being written down; the count to give back when they are.
    pub(super) fn networks_change(&mut self) -> u64 {
        self.networks += 1;
        self.networks
    }

    /// Whether they have not changed since this count, so that nobody else writes them down.
    pub(super) fn networks_are_at(&self, count: u64) -> bool {
        self.networks == count
    }

    /// They are on disk.
    pub(super) fn networks_are_written(&mut self, count: u64) {
        self.networks_written = self.networks_written.max(count);
        self.settle();
    }

    /// This is known of overlay networks from now on.
    pub(super) fn overlay_changes(&mut self, revision: u64) {
        self.overlay = revision;
    }

    /// All that follows from what was known of them up to this revision is done.
    pub(super) fn overlay_is_followed(&mut self, revision: u64) {
        self.overlay_followed = self.overlay_followed.max(revision);
        self.settle();
    }

    /// A message was taken; `tasks` are those that it brought and that are not accepted.
    pub(super) fn take(&mut self, mark: Mark, tasks: BTreeSet<TaskId>) {
        let (networks, overlay) = (self.networks, self.overlay);
        let full = self.waiting.len() >= WAITING_MAX;
        match self.waiting.back_mut() {
            Some(last) if full => {
                last.tasks.extend(tasks);
                last.networks = networks;
                last.overlay = overlay;
                last.mark = mark;
            }
            _ => self.waiting.push_back(Waiting { mark, tasks, networks, overlay }),
        }
        self.settle();
    }

    /// A task is accepted, or it is not there any more.
    pub(super) fn is_accepted(&mut self, task: TaskId) {
        for waiting in &mut self.waiting {
            waiting.tasks.remove(&task);
        }
        self.settle();
    }

    fn settle(&mut self) {
        let done = |w: &Waiting| {
            let (written, followed) = (self.networks_written, self.overlay_followed);
            w.tasks.is_empty() && w.networks <= written && w.overlay <= followed
        };
        let mut last = None;
        while self.waiting.front().is_some_and(done) {
            last = self.waiting.pop_front();
        }
        if let Some(Waiting { mark, .. }) = last {
            self.told.send_replace(Some(mark));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: u64) -> Mark {
        Mark { node: None, session: "s".into(), term: 1, sequence }
    }

    fn told(watch: &watch::Receiver<Option<Mark>>) -> u64 {
        watch.borrow().as_ref().map_or(0, |mark| mark.sequence)
    }

    #[test]
    fn a_message_is_applied_when_all_of_it_and_all_before_it_is_on_disk() {
        let (tell, watch) = watch::channel(None);
        let mut applied = Applied::new(tell);
        let tasks = |ids: &[u128]| ids.iter().map(|id| TaskId::from(*id)).collect();
        applied.take(mark(1), tasks(&[]));
        assert_eq!(told(&watch), 1, "nothing to wait for");
        applied.take(mark(2), tasks(&[1, 2]));
        let first = applied.networks_change();
        applied.take(mark(3), tasks(&[]));
        let second = applied.networks_change();
        applied.take(mark(4), tasks(&[2, 3]));
        applied.is_accepted(2.into());
        applied.networks_are_written(first);
        assert_eq!(told(&watch), 1);
        applied.is_accepted(1.into());
        assert_eq!(told(&watch), 3);
        applied.is_accepted(3.into());
        assert_eq!(told(&watch), 3);
        applied.networks_are_written(second);
        assert_eq!(told(&watch), 4);
        applied.overlay_changes(7);
        applied.take(mark(5), tasks(&[]));
        applied.overlay_is_followed(6);
        assert_eq!(told(&watch), 4);
        applied.overlay_is_followed(7);
        assert_eq!(told(&watch), 5);
    }

    #[test]
    fn what_waits_is_bounded() {
        let (tell, watch) = watch::channel(None);
        let mut applied = Applied::new(tell);
        for n in 1..=1000_u64 {
            applied.take(mark(n), [TaskId::from(u128::from(n))].into());
        }
        assert_eq!(applied.waiting.len(), WAITING_MAX);
        for n in 1..=999_u64 {
            applied.is_accepted(u128::from(n).into());
        }
        assert_eq!(told(&watch), 63, "the last one stands for all after it");
        applied.is_accepted(1000.into());
        assert_eq!(told(&watch), 1000);
    }
}
