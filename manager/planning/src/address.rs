//! Where managers are reached.

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::NodeId;
use shoal_types::object::ManagerStatus;

/// Notes that the leader, which is this node, is now reached at `addr`; nothing if that is known.
#[must_use]
pub fn moved(view: &ClusterState, leader: NodeId, addr: &str) -> Option<Command> {
    let known = view.node(leader)?.manager_status.as_ref()?;
    let status = || ManagerStatus { addr: addr.to_owned(), ..known.clone() };
    (known.addr != addr).then(|| Command::SetManagerStatus { id: leader, status: Some(status()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_manager_state::testing::cluster_with_nodes;

    #[test]
    fn a_leader_that_has_moved_says_so_once() {
        let (mut cluster, nodes) = cluster_with_nodes(2);
        let status = ManagerStatus { raft_id: 7, addr: "10.0.0.1:4242".to_owned() };
        cluster.apply(Command::SetManagerStatus { id: nodes[0], status: Some(status.clone()) });
        assert_eq!(moved(&cluster.state, nodes[0], "10.0.0.1:4242"), None);
        let command = moved(&cluster.state, nodes[0], "10.0.0.9:1").expect("it has moved");
        cluster.apply(command);
        let expected = ManagerStatus { addr: "10.0.0.9:1".to_owned(), ..status };
        let known = cluster.state.node(nodes[0]).expect("there").manager_status.clone();
        assert_eq!(known, Some(expected));
        assert_eq!(moved(&cluster.state, nodes[0], "10.0.0.9:1"), None);
        // No manager, and no node.
        assert_eq!(moved(&cluster.state, nodes[1], "10.0.0.9:1"), None);
        assert_eq!(moved(&cluster.state, 99.into(), "10.0.0.9:1"), None);
    }
}
