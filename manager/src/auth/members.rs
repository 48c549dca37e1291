//! Who is a member, as the replicated state has it.

use std::sync::Arc;

use shoal_manager_state::ClusterState;
use shoal_proto::transport::{PeerId, Role};
use shoal_types::object::Node;
use tokio::sync::watch;

use super::Membership;

/// [`Membership`] over the newest state that this manager has applied.
#[derive(Debug, Clone)]
pub struct StateMembers(watch::Receiver<Arc<ClusterState>>);

impl StateMembers {
    /// `states` carries each state as it is applied.
    #[must_use]
    pub fn new(states: watch::Receiver<Arc<ClusterState>>) -> Self {
        Self(states)
    }
}

impl Membership for StateMembers {
    fn role_of(&self, id: PeerId) -> Option<Role> {
        role_in(&self.0.borrow(), id)
    }
}

/// The role that `state` gives to the holder of an id; `None` if it is no member.
///
/// Users are no objects of the state: whoever has a certificate of this cluster's CA as a user is
/// one until it expires.
#[must_use]
pub fn role_in(state: &ClusterState, id: PeerId) -> Option<Role> {
    match id {
        PeerId::Node(id) => state.node(id).map(|node| role_of_node(node)),
        PeerId::User(_) => Some(Role::User),
    }
}

/// A node that is being demoted stays a manager until Raft has let it go: it may have to send the
/// very entries by which it goes.
fn role_of_node(node: &Node) -> Role {
    match node.manager_status {
        Some(_) => Role::Manager,
        None => node.spec.role.into(),
    }
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::Command;
    use shoal_manager_state::testing::TestCluster;
    use shoal_types::id::{NodeId, UserId};
    use shoal_types::object::{ManagerStatus, Reachability};
    use shoal_types::spec::{NodeRole, NodeSpec};

    use super::*;

    #[test]
    fn roles_follow_the_state() {
        let mut cluster = TestCluster::new();
        cluster.add_node("first, a manager");
        let node = cluster.add_node("second");
        let id = PeerId::Node(node);
        assert_eq!(role_in(&cluster.state, PeerId::Node(NodeId::from(99))), None);
        assert_eq!(role_in(&cluster.state, PeerId::User(UserId::from(1))), Some(Role::User));
        assert_eq!(role_in(&cluster.state, id), Some(Role::Agent));

        let status = ManagerStatus {
            raft_id: 1,
            addr: "10.0.0.1:4242".into(),
            leader: false,
            reachability: Reachability::Unknown,
        };
        let set = |status| Command::SetManagerStatus { id: node, status };
        let become_role = |cluster: &mut TestCluster, role| {
            let old = cluster.state.node(node).expect("there").clone();
            let spec = NodeSpec { role, ..old.spec.clone() };
            let expected = old.meta.spec_version;
            cluster.apply(Command::UpdateNode { id: node, expected, spec });
        };
        become_role(&mut cluster, NodeRole::Manager);
        assert_eq!(role_in(&cluster.state, id), Some(Role::Manager));
        cluster.apply(set(Some(status)));
        become_role(&mut cluster, NodeRole::Agent);
        assert_eq!(role_in(&cluster.state, id), Some(Role::Manager), "still in Raft");
        cluster.apply(set(None));
        assert_eq!(role_in(&cluster.state, id), Some(Role::Agent));
        cluster.apply(Command::RemoveNode { id: node, force: true });
        assert_eq!(role_in(&cluster.state, id), None);
    }
}
