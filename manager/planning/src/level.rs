//! What a node must be able to do to run a task.

use shoal_manager_state::ClusterState;
use shoal_types::level::{Level, Leveled as _};
use shoal_types::object::Service;

/// The highest level of all that the node is told of a task of this service.
#[must_use]
pub fn of_task(view: &ClusterState, service: &Service) -> Level {
    let networks = service.networks.iter().filter_map(|n| view.network(n.network_id));
    let networks = networks.map(|network| network.spec.level()).max().unwrap_or_default();
    let spec = &service.spec;
    networks.max(spec.task_template.level()).max(spec.endpoint_spec.level())
}
