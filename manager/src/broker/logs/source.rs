//! One node's part of what a reader wants, and how far it has come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_manager_planning::logs;
use shoal_manager_state::ClusterState;
use shoal_proto::v1 as pb;
use shoal_types::id::NodeId;
use shoal_types::object::Task;

/// A node and the tasks whose logs it sends.
pub(super) struct Source {
    pub(super) id: NodeId,
    pub(super) hostname: String,
    pub(super) tasks: BTreeMap<String, Arc<Task>>,
    /// The time of each task's last line that an earlier stream brought.
    after: BTreeMap<String, u64>,
    /// The same with what this stream brings.
    seen: Mutex<BTreeMap<String, u64>>,
}

impl Source {
    /// A node whose earlier streams got as far as `after`.
    pub(super) fn new(
        id: NodeId,
        hostname: String,
        tasks: BTreeMap<String, Arc<Task>>,
        after: BTreeMap<String, u64>,
    ) -> Self {
        let seen = Mutex::new(after.clone());
        Self { id, hostname, tasks, after, seen }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line with whose it is; nothing for tasks that were not asked for, and for lines that an
    /// earlier stream brought.
    pub(super) fn answer(
        &self,
        line: pb::TaskLogLine,
    ) -> Option<pb::service_logs_response::Message> {
        let task = self.tasks.get(&line.task_id)?;
        if self.after.get(&line.task_id).is_some_and(|after| line.time <= *after) {
            return None;
        }
        self.seen()
            .entry(line.task_id.clone())
            .and_modify(|t| *t = line.time.max(*t))
            .or_insert(line.time);
        Some(pb::service_logs_response::Message::Line(pb::ServiceLogLine {
            node_id: self.id.to_string(),
            node_hostname: self.hostname.clone(),
            service_name: task.service_name.to_string(),
            slot: Some((&task.slot).into()),
            line: Some(line),
        }))
    }

    /// What is to be asked for when the stream has ended: the tasks that are still there, `all` of
    /// them or those that may have more to say.
    pub(super) fn rest(&self, view: &ClusterState, all: bool) -> Self {
        let goes_on = |task: &Arc<Task>| logs::goes_on(view, task.id, all);
        let tasks = self.tasks.iter().filter(|(_, task)| goes_on(task));
        let tasks = tasks.map(|(id, task)| (id.clone(), Arc::clone(task))).collect();
        Self::new(self.id, self.hostname.clone(), tasks, self.seen().clone())
    }

    /// How to ask for what has not come yet. One question is for all tasks, so it is asked from
    /// where the first of them broke off.
    pub(super) fn resume(&self, options: pb::LogOptions) -> pb::LogOptions {
        if self.after.is_empty() {
            return options;
        }
        let next = |id| self.after.get(id).map(|last| last.saturating_add(1));
        // `None`, from the beginning, is the least.
        let since = self.tasks.keys().map(next).min().flatten().max(options.since);
        pb::LogOptions { since, tail: None, ..options }
    }
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::testing::{TestCluster, service_spec};
    use shoal_types::id::TaskId;

    use super::*;

    fn task(id: u128) -> TaskId {
        TaskId::from(id)
    }

    /// A node of which nothing but the ids of its tasks matters.
    fn source(ids: &[u128], after: &[(u128, u64)]) -> Source {
        let mut cluster = TestCluster::new();
        cluster.add_node("host-1");
        let web = cluster.add_service(service_spec("web", 9));
        let one = cluster.add_task(web, 1);
        let one = cluster.state.task(one).expect("there");
        let tasks = ids.iter().map(|id| (task(*id).to_string(), Arc::clone(one))).collect();
        let after = after.iter().map(|(id, at)| (task(*id).to_string(), *at)).collect();
        Source::new(NodeId::from(1), "host-1".to_owned(), tasks, after)
    }

    #[test]
    fn a_broken_stream_is_resumed_after_the_last_line_of_the_task_that_is_least_far() {
        let options = pb::LogOptions { follow: true, tail: Some(3), ..Default::default() };
        let both: &[_] = &[(1, 70), (2, 40)];
        let table = [
            (&both[..0], None, None, Some(3)),
            (&both[..0], Some(5), Some(5), Some(3)),
            (both, Some(5), Some(41), None),
            (&both[..1], Some(5), Some(5), None),
            (&both[..1], None, None, None),
        ];
        for (after, since, expected, tail) in table {
            let options = pb::LogOptions { since, ..options };
            let asked = source(&[1, 2], after).resume(options);
            assert_eq!((asked.since, asked.tail), (expected, tail), "{after:?} {since:?}");
            assert!(asked.follow);
        }
    }

    #[test]
    fn a_line_is_shown_once() {
        let source = source(&[1, 2], &[(1, 70)]);
        let shown = |id: u128, time| {
            let task_id = task(id).to_string();
            source.answer(pb::TaskLogLine { task_id, time, ..Default::default() }).is_some()
        };
        assert!(!shown(1, 69) && !shown(1, 70) && shown(1, 71) && shown(1, 71));
        assert!(shown(2, 1) && !shown(3, 1));
        let seen = BTreeMap::from([(task(1).to_string(), 71), (task(2).to_string(), 1)]);
        assert_eq!(*source.seen(), seen);
    }
}
