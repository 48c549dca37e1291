//! A node as the scheduler sees it while it places tasks.

use std::time::Duration;

use shoal_manager_state::{ClusterState, NodeUsage};
use shoal_types::id::ServiceId;
use shoal_types::object::Node;
use shoal_types::time::Timestamp;

/// A service that failed so often on a node within [`FAILURE_WINDOW`] is placed there last.
const FAILURES_MAX: usize = 5;

/// See [`FAILURES_MAX`].
const FAILURE_WINDOW: Duration = Duration::from_secs(300);

/// How much a node already does, the least first: nodes that keep failing the service last, then
/// by tasks of the same service, then by all tasks.
pub(super) type Load = (bool, u64, u64);

pub(super) struct NodeInfo<'a> {
    pub(super) node: &'a Node,
    /// What its tasks hold there, those that are placed but not yet written down among them.
    pub(super) usage: &'a NodeUsage,
}

impl NodeInfo<'_> {
    pub(super) fn tasks_of(&self, service: ServiceId) -> u64 {
        self.usage.wanted_of(service)
    }

    /// What the node does, and until when it counts as one that keeps failing the service.
    pub(super) fn load(
        &self,
        view: &ClusterState,
        service: ServiceId,
        now: Timestamp,
    ) -> (Load, Option<Timestamp>) {
        let failing = failing_until(view, self.node, service, now);
        ((failing.is_some(), self.tasks_of(service), self.usage.wanted), failing)
    }
}

fn failing_until(
    view: &ClusterState,
    node: &Node,
    service: ServiceId,
    now: Timestamp,
) -> Option<Timestamp> {
    let newest = view.failures(node.id, service).rev();
    let recent = newest.take_while(|at| now.since(*at) < FAILURE_WINDOW);
    let decides = recent.take(FAILURES_MAX).enumerate().last();
    decides.filter(|(n, _)| n + 1 == FAILURES_MAX).map(|(_, at)| at + FAILURE_WINDOW)
}
