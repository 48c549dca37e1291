//! The scheduler as one would write it first: for each task it looks at every node.

use std::sync::Arc;

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::NodeId;
use shoal_types::object::Task;
use shoal_types::time::Timestamp;

use super::class::Look;
use super::filter::{Need, first_refusal};
use super::order::Order;
use super::sharing::{partner, shares};
use crate::orchestrator::held_until;

/// What is to be placed where.
pub(crate) fn assignments(view: &ClusterState, now: Timestamp) -> Vec<Command> {
    let mut look = Look::new(view, now, Order::default());
    let bound: Vec<_> = view.awaited_nodes().flat_map(|node| view.pending_on_node(node)).collect();
    let groups = view.pending_groups();
    let free = groups.flat_map(|(service, version)| view.pending_of(service, version));
    let free: Vec<_> = free.collect();
    let mut shared: Vec<_> =
        bound.iter().copied().chain(free.iter().copied()).filter(|task| shares(task)).collect();
    shared.sort_by_key(|task| task.id);
    let own = |task: &&Arc<Task>| !shares(task);
    let tasks = bound.into_iter().filter(own).chain(shared).chain(free.into_iter().filter(own));
    let mut commands = Vec::new();
    for task in tasks.filter(|task| held_until(task, now).is_none()) {
        let beside = shares(task).then(|| partner(view, task));
        let beside = match beside {
            Some(Err(_)) => continue,
            Some(Ok(found)) => Some(found),
            None => None,
        };
        if let Some(node) = best(&look, task, beside.and_then(|found| found.node_id)) {
            look.take(node, task);
            let (id, partner) = (task.id, beside.map(|found| found.id));
            commands.push(Command::AssignTask { id, node_id: node, partner });
        }
    }
    commands
}

fn best(look: &Look<'_>, task: &Task, only: Option<NodeId>) -> Option<NodeId> {
    let need = Need::of(look.view, task);
    let nodes =
        look.view.nodes().filter(|node| task.node_id.or(only).is_none_or(|id| id == node.id));
    let infos = nodes.filter_map(|node| look.node(node.id));
    let fitting = infos.filter(|info| first_refusal(&need, info).is_none());
    let loaded = fitting.map(|info| (info.load(look.view, need.service, look.now).0, info.node.id));
    loaded.min().map(|(_, node)| node)
}
