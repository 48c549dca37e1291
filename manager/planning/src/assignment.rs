//! What one node must hold.

use std::sync::Arc;

use shoal_manager_state::ClusterState;
use shoal_types::assignment::{AssignedTask, NodeAssignment};
use shoal_types::id::NodeId;

/// Everything the node must hold: all tasks placed on it, ended ones too as long as they are
/// remembered, because their logs are; and the networks that the live ones need.
#[must_use]
pub fn assignment(view: &ClusterState, node: NodeId) -> NodeAssignment {
    let mut wanted = NodeAssignment::default();
    for task in view.tasks_on_node(node) {
        if !task.status.state.is_placed() {
            continue;
        }
        let Some(assigned) = AssignedTask::of(task) else { continue };
        if task.is_live() {
            for network in &task.networks {
                if let Some(network) = view.network(network.network_id) {
                    wanted.networks.insert(network.id, Arc::clone(network));
                }
            }
        }
        wanted.tasks.insert(task.id, assigned);
    }
    wanted
}
