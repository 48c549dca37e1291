//! The scheduler as one would write it first: for each task it looks at every node.

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::NodeId;
use shoal_types::object::Task;
use shoal_types::time::Timestamp;

use super::class::Look;
use super::filter::{Need, first_refusal};
use super::order::Order;
use crate::orchestrator::held_until;

/// What is to be placed where.
pub(crate) fn assignments(view: &ClusterState, now: Timestamp) -> Vec<Command> {
    let mut look = Look::new(view, now, Order::default());
    let bound: Vec<_> = view.awaited_nodes().flat_map(|node| view.pending_on_node(node)).collect();
    let groups = view.pending_groups();
    let free = groups.flat_map(|(service, version)| view.pending_of(service, version));
    let tasks = bound.into_iter().chain(free).filter(|task| held_until(task, now).is_none());
    let mut commands = Vec::new();
    for task in tasks {
        if let Some(node) = best(&look, task) {
            look.take(node, task);
            commands.push(Command::AssignTask { id: task.id, node_id: node });
        }
    }
    commands
}

fn best(look: &Look<'_>, task: &Task) -> Option<NodeId> {
    let need = Need::of(look.view, task);
    let nodes = look.view.nodes().filter(|node| task.node_id.is_none_or(|id| id == node.id));
    let infos = nodes.filter_map(|node| look.node(node.id));
    let fitting = infos.filter(|info| first_refusal(&need, info).is_none());
    let loaded = fitting.map(|info| (info.load(look.view, need.service, look.now).0, info.node.id));
    loaded.min().map(|(_, node)| node)
}
