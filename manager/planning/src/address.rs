//! Where managers are reached, and what they can do.

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::NodeId;
use shoal_types::level::Level;
use shoal_types::object::ManagerStatus;

/// Notes that the leader, which is this node, is now reached at `addr` and has this level; nothing if
/// that is known.
#[must_use]
pub fn changed(view: &ClusterState, leader: NodeId, addr: &str, level: Level) -> Option<Command> {
    let known = view.node(leader)?.manager_status.as_ref()?;
    let status = ManagerStatus { addr: addr.to_owned(), level, ..known.clone() };
    (*known != status).then_some(Command::SetManagerStatus { id: leader, status: Some(status) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_manager_state::testing::{TestCluster, cluster_with_nodes};

    #[test]
    fn a_leader_that_has_moved_or_was_upgraded_says_so_once() {
        let (mut cluster, nodes) = cluster_with_nodes(2);
        let status =
            ManagerStatus { raft_id: 7, addr: "10.0.0.1:4242".to_owned(), level: Level::FIRST };
        cluster.apply(Command::SetManagerStatus { id: nodes[0], status: Some(status.clone()) });
        let own = |cluster: &TestCluster, addr, level| {
            changed(&cluster.state, nodes[0], addr, Level::new(level))
        };
        assert_eq!(own(&cluster, "10.0.0.1:4242", 1), None);
        let mut expected = status;
        for (addr, level) in [("10.0.0.9:1", 1), ("10.0.0.9:1", 2), ("10.0.0.9:2", 1)] {
            let command = own(&cluster, addr, level).expect("something is new");
            cluster.apply(command);
            expected =
                ManagerStatus { addr: addr.to_owned(), level: Level::new(level), ..expected };
            let known = cluster.state.node(nodes[0]).expect("there").manager_status.clone();
            assert_eq!(known.as_ref(), Some(&expected));
            assert_eq!(own(&cluster, addr, level), None);
        }
        // No manager, and no node.
        assert_eq!(changed(&cluster.state, nodes[1], "10.0.0.9:1", Level::FIRST), None);
        assert_eq!(changed(&cluster.state, 99.into(), "10.0.0.9:1", Level::FIRST), None);
    }
}
