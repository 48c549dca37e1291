//! A node as the scheduler sees it while it places tasks.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_manager_state::{ClusterState, NodeUsage};
use shoal_types::id::{NodeId, ServiceId};
use shoal_types::object::{Node, Task};
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

/// A service that failed so often on a node within [`FAILURE_WINDOW`] is placed there last.
const FAILURES_MAX: usize = 5;

/// See [`FAILURES_MAX`].
const FAILURE_WINDOW: Duration = Duration::from_secs(300);

/// How much a node already does, the least first: nodes that keep failing the service last, then
/// by tasks of the same service, then by all tasks.
pub(super) type Load = (bool, usize, usize);

pub(super) struct NodeInfo<'a> {
    pub(super) node: &'a Node,
    pub(super) usage: NodeUsage,
    per_service: BTreeMap<ServiceId, usize>,
    failures: BTreeMap<ServiceId, usize>,
    tasks: usize,
}

impl<'a> NodeInfo<'a> {
    pub(super) fn new(view: &ClusterState, node: &'a Node, now: Timestamp) -> Self {
        let mut info = Self {
            node,
            usage: view.node_usage(node.id).clone(),
            per_service: BTreeMap::new(),
            failures: BTreeMap::new(),
            tasks: 0,
        };
        for task in view.tasks_on_node(node.id) {
            let state = task.status.state;
            if task.is_wanted() {
                // One that is bound to the node and still to be placed is counted when it is.
                if state < TaskState::Assigned {
                    continue;
                }
                info.tasks += 1;
                *info.per_service.entry(task.service_id).or_default() += 1;
            } else if matches!(state, TaskState::Failed | TaskState::Rejected)
                && now.since(task.status.timestamp) < FAILURE_WINDOW
            {
                *info.failures.entry(task.service_id).or_default() += 1;
            }
        }
        info
    }

    pub(super) fn id(&self) -> NodeId {
        self.node.id
    }

    pub(super) fn tasks_of(&self, service: ServiceId) -> usize {
        self.per_service.get(&service).copied().unwrap_or(0)
    }

    pub(super) fn load(&self, service: ServiceId) -> Load {
        let failing = self.failures.get(&service).is_some_and(|n| *n >= FAILURES_MAX);
        (failing, self.tasks_of(service), self.tasks)
    }

    /// Counts one more task.
    pub(super) fn take(&mut self, task: &Task) {
        self.usage.add(task);
        self.tasks += 1;
        *self.per_service.entry(task.service_id).or_default() += 1;
    }
}
