//! What the tasks of a node have set aside there, and what is left.

use serde::Serialize;
use shoal_types::object::{Node, Task};
use shoal_types::resources::Resources;
use shoal_types::task_state::TaskState;

/// What is taken and what is free, as the scheduler counts it: by reservations, not by use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Usage {
    /// Tasks that were assigned and have not ended.
    pub(crate) tasks: u64,
    pub(crate) reserved: Resources,
    pub(crate) free: Resources,
}

impl Usage {
    /// Of a node with all tasks that are known of it.
    pub(crate) fn of(node: &Node, tasks: &[Task]) -> Self {
        let mut usage = Self::default();
        let held = tasks.iter().filter(|task| {
            task.node_id == Some(node.id)
                && task.status.state >= TaskState::Assigned
                && !task.status.state.is_terminal()
        });
        for task in held {
            usage.tasks += 1;
            let wanted = task.spec.resources.as_ref().and_then(|r| r.reservations.as_ref());
            if let Some(wanted) = wanted {
                usage.reserved.add(wanted);
            }
        }
        usage.free = node.description.resources.saturating_sub(&usage.reserved);
        usage
    }
}
