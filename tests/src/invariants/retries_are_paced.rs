//! What a node could not even prepare is not tried again at once: each try asks a registry and
//! writes to the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_types::id::{ServiceId, TaskId};
use shoal_types::object::{Slot, Task};
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use super::Moment;

/// The shortest pause between a rejection and the next try.
const PAUSE: Duration = Duration::from_millis(4900);

/// Remembers when tasks were seen to be rejected, and who came after them.
#[derive(Debug, Default)]
pub struct Judge {
    rejected: BTreeMap<TaskId, Timestamp>,
    seen: BTreeSet<TaskId>,
    /// Successors that were not placed yet when last seen, and when the one before was rejected.
    waiting: BTreeMap<TaskId, Timestamp>,
}

impl Judge {
    /// Looks at one moment; says what is wrong with it.
    pub fn look(&mut self, moment: &Moment<'_>) -> Vec<String> {
        let mut newest: BTreeMap<(ServiceId, Slot), &Task> = BTreeMap::new();
        for task in moment.state.tasks().filter(|t| self.seen.contains(&t.id)) {
            let last = newest.entry((task.service_id, task.slot)).or_insert(task);
            if task.meta.created_at > last.meta.created_at {
                *last = task;
            }
            if task.status.state == TaskState::Rejected {
                self.rejected.entry(task.id).or_insert(moment.now);
            }
        }
        let mut wrong = Vec::new();
        for task in moment.state.tasks() {
            if self.seen.insert(task.id)
                && let Some(before) = newest.get(&(task.service_id, task.slot))
                && before.spec_version == task.spec_version
                && before.desired_state.is_kept()
                && let Some(at) = self.rejected.get(&before.id)
            {
                self.waiting.insert(task.id, *at);
            }
            // One of a global service has its node while it waits, and may be stopped or lose it then.
            let state = task.status.state;
            let begun = state.holds_its_node();
            let placed = task.node_id.is_some() && (begun || state == TaskState::Rejected);
            if placed
                && let Some(at) = self.waiting.remove(&task.id)
                && moment.now.since(at) < PAUSE
            {
                let pause = moment.now.since(at);
                wrong.push(format!("task {} is tried {pause:?} after a rejection", task.id));
            }
        }
        wrong
    }
}
