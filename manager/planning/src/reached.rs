//! Which managers agents and users are told of.

use shoal_manager_state::ClusterState;
use shoal_types::id::NodeId;

/// Managers of which anybody is told.
pub const TOLD_MAX: usize = 16;

/// Where managers are reached: of no more than [`TOLD_MAX`].
pub fn reached(view: &ClusterState) -> impl Iterator<Item = (NodeId, &str)> {
    let managers =
        view.nodes().filter_map(|node| Some((node.id, &*node.manager_status.as_ref()?.addr)));
    managers.take(TOLD_MAX)
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::Command;
    use shoal_manager_state::testing::cluster_with_nodes;
    use shoal_types::level::Level;
    use shoal_types::object::ManagerStatus;

    use super::*;

    #[test]
    fn managers_are_told_and_never_too_many() {
        let (mut cluster, nodes) = cluster_with_nodes(TOLD_MAX + 3);
        assert_eq!(reached(&cluster.state).count(), 0);
        for (at, id) in nodes.iter().skip(1).enumerate() {
            let addr = format!("10.0.0.{at}:4242");
            let status = Some(ManagerStatus { raft_id: at as u64, addr, level: Level::FIRST });
            cluster.apply(Command::SetManagerStatus { id: *id, status });
            let told: Vec<_> = reached(&cluster.state).collect();
            assert_eq!(told.len(), (at + 1).min(TOLD_MAX));
            assert!(!told.iter().any(|(id, _)| *id == nodes[0]), "an agent is none");
        }
    }
}
