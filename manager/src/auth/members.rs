//! Who is a member, as the replicated state has it.

use std::sync::Arc;

use shoal_manager_state::ClusterState;
use shoal_transport::{Identity, PeerId, Role};
use shoal_types::object::{Node, User};
use shoal_types::spec::{UserRole, UserSpec};
use shoal_types::time::Timestamp;
use tokio::sync::watch;

use super::Membership;
use crate::ca::BACKDATING;
use crate::raft::LeaderState;

/// What the cluster gives to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is a node, with this role.
    Node(Role),
    /// It is a user.
    User(Arc<User>),
    /// It is a user of a cluster from before users were objects of the state: as there is none, any
    /// certificate that the authority has issued to a user is an admin's, as it was then. The first
    /// user that is made ends that.
    Unlisted,
}

impl Standing {
    /// Which kind of certificate it is for.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::Node(role) => *role,
            Self::User(_) | Self::Unlisted => Role::User,
        }
    }

    /// Its role for people.
    #[must_use]
    pub fn role_name(&self) -> &'static str {
        match self {
            Self::Node(role) => role.noun(),
            Self::User(user) => user.spec.role.as_str(),
            Self::Unlisted => UserRole::Admin.as_str(),
        }
    }

    /// Whether it lets its holder do what the other one does, and for as long: a user that is called
    /// otherwise now, or has another label, is the same one.
    #[must_use]
    pub fn gives_as(&self, other: &Self) -> bool {
        // A manager may do whatever an agent may.
        if matches!((self, other), (Self::Node(Role::Manager), Self::Node(Role::Agent))) {
            return true;
        }
        let (Self::User(one), Self::User(other)) = (self, other) else { return self == other };
        let rights = |user: &User| {
            let UserSpec { name: _, labels: _, role, stacks, host_access, expires_at } =
                user.spec.clone();
            (user.id, role, stacks, host_access, expires_at)
        };
        rights(one) == rights(other)
    }

    /// Whether its time is over.
    #[must_use]
    pub fn has_ended(&self, now: Timestamp) -> bool {
        match self {
            Self::User(user) => user.has_expired(now),
            Self::Node(_) | Self::Unlisted => false,
        }
    }

    /// When it ends, if that is known.
    #[must_use]
    pub fn ends(&self) -> Option<Timestamp> {
        match self {
            Self::User(user) => user.spec.expires_at,
            Self::Node(_) | Self::Unlisted => None,
        }
    }

    /// What it is called for people: `user NAME`, else by its id.
    #[must_use]
    pub fn title(&self, id: PeerId) -> String {
        match self {
            Self::User(user) => format!("user {}", user.spec.name),
            Self::Node(_) | Self::Unlisted => id.to_string(),
        }
    }
}

/// [`Membership`] over the newest state that this manager has applied.
#[derive(Debug, Clone)]
pub struct StateMembers {
    states: watch::Receiver<Arc<ClusterState>>,
    changes: watch::Receiver<u64>,
    leadership: watch::Receiver<LeaderState>,
}

impl StateMembers {
    /// `states` carries each state as it is applied, `leadership` who leads. Must be called within a
    /// runtime.
    #[must_use]
    pub fn new(
        states: watch::Receiver<Arc<ClusterState>>,
        leadership: watch::Receiver<LeaderState>,
    ) -> Self {
        let (changed, changes) = watch::channel(0);
        tokio::spawn(tell_changes(states.clone(), changed));
        Self { states, changes, leadership }
    }
}

/// Most states differ in tasks alone: those who wait for members are not woken for them.
async fn tell_changes(mut states: watch::Receiver<Arc<ClusterState>>, to: watch::Sender<u64>) {
    let mut last = Arc::clone(&states.borrow_and_update());
    // Also what was applied before the receiver was taken.
    to.send_modify(|count| *count += 1);
    while states.changed().await.is_ok() {
        let new = Arc::clone(&states.borrow_and_update());
        if !new.shares_members_with(&last) {
            to.send_modify(|count| *count += 1);
        }
        last = new;
    }
}

impl Membership for StateMembers {
    fn standing_of(&self, id: PeerId) -> Option<Standing> {
        standing_in(&self.states.borrow(), id)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    fn may_be_behind(&self, identity: &Identity) -> bool {
        let may_lead = match &*self.leadership.borrow() {
            LeaderState::Unknown => true,
            LeaderState::Follower(leader) => PeerId::Node(leader.node) == identity.id,
            LeaderState::Leader { .. } => false,
        };
        may_lead && !is_former(&self.states.borrow(), identity)
    }
}

/// What `state` gives to the holder of an id; `None` if it is no member.
#[must_use]
pub fn standing_in(state: &ClusterState, id: PeerId) -> Option<Standing> {
    match id {
        PeerId::Node(id) => state.node(id).map(|node| Standing::Node(role_of_node(node))),
        PeerId::User(id) => match state.user(id) {
            Some(user) => Some(Standing::User(Arc::clone(user))),
            None => (state.users().len() == 0).then_some(Standing::Unlisted),
        },
    }
}

/// Whether a certificate is that of a manager which is none any more, from the time before. One that became
/// a manager again after that has another certificate.
fn is_former(state: &ClusterState, identity: &Identity) -> bool {
    let PeerId::Node(node) = identity.id else { return false };
    let dismissed = state.cluster().and_then(|cluster| cluster.dismissed(node));
    dismissed.is_some_and(|since| since.since(identity.not_before) >= BACKDATING)
}

/// The role that `state` gives to the holder of an id; `None` if it is no member.
#[must_use]
pub fn role_in(state: &ClusterState, id: PeerId) -> Option<Role> {
    standing_in(state, id).map(|standing| standing.role())
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
    use std::time::Duration;

    use shoal_manager_state::Command;
    use shoal_manager_state::testing::TestCluster;
    use shoal_types::id::{NodeId, UserId};
    use shoal_types::level::Level;
    use shoal_types::object::{ManagerStatus, NodeState};
    use shoal_types::spec::{NodeRole, NodeSpec};

    use super::*;

    /// A cluster from before there were users must not lock its admins out; and once there are
    /// users, nobody else is one.
    #[test]
    fn without_users_every_certificate_of_a_user_is_an_admins_and_with_them_none() {
        let mut cluster = TestCluster::new();
        let (old, known) = (PeerId::User(UserId::from(1)), UserId::from(2));
        assert_eq!(standing_in(&cluster.state, old), Some(Standing::Unlisted));
        let spec = UserSpec { name: "admin".into(), role: UserRole::Admin, ..UserSpec::default() };
        cluster.apply(Command::CreateUser { id: known, spec });
        assert_eq!(standing_in(&cluster.state, old), None);
        let standing = standing_in(&cluster.state, PeerId::User(known)).expect("known");
        assert_eq!((standing.role_name(), standing.role()), ("admin", Role::User));
    }

    #[test]
    fn roles_follow_the_state() {
        let mut cluster = TestCluster::new();
        cluster.add_node("first, a manager");
        let node = cluster.add_node("second");
        let id = PeerId::Node(node);
        assert_eq!(role_in(&cluster.state, PeerId::Node(NodeId::from(99))), None);
        assert_eq!(role_in(&cluster.state, PeerId::User(UserId::from(1))), Some(Role::User));
        assert_eq!(role_in(&cluster.state, id), Some(Role::Agent));

        let status =
            ManagerStatus { raft_id: 1, addr: "10.0.0.1:4242".into(), level: Level::FIRST };
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

    #[tokio::test]
    async fn certificates_of_former_managers_count_no_more_where_their_end_is_known() {
        let mut cluster = TestCluster::at(Level::MANAGERS);
        cluster.advance(2 * BACKDATING);
        cluster.add_node("first, a manager");
        let [demoted, removed] = ["second", "third"].map(|name| cluster.add_node(name));
        let set_role = |cluster: &mut TestCluster, id, role| {
            let old = cluster.state.node(id).expect("there").clone();
            let spec = NodeSpec { role, ..old.spec.clone() };
            cluster.apply(Command::UpdateNode { id, expected: old.meta.spec_version, spec });
        };
        let issued = |cluster: &TestCluster, node| Identity {
            id: PeerId::Node(node),
            role: Role::Manager,
            cluster: cluster.state.cluster().expect("there").id,
            not_before: Timestamp::from_nanos(
                cluster.now.as_nanos() - u64::try_from(BACKDATING.as_nanos()).expect("short"),
            ),
            not_after: Timestamp::from_secs(9_000_000_000),
        };
        for id in [demoted, removed] {
            set_role(&mut cluster, id, NodeRole::Manager);
        }
        let before = [demoted, removed].map(|id| issued(&cluster, id));
        let (leads, leadership) = watch::channel(LeaderState::Unknown);
        let behind = |cluster: &TestCluster, identity: &Identity| {
            let (_, states) = watch::channel(Arc::new(cluster.state.clone()));
            StateMembers::new(states, leadership.clone()).may_be_behind(identity)
        };
        assert!(before.iter().all(|identity| behind(&cluster, identity)));
        set_role(&mut cluster, demoted, NodeRole::Agent);
        cluster.set_node(removed, NodeState::Down);
        cluster.apply(Command::RemoveNode { id: removed, force: true });
        assert!(before.iter().all(|identity| !behind(&cluster, identity)));
        let unheard = issued(&cluster, NodeId::from(99));
        assert!(behind(&cluster, &unheard), "perhaps it came later");

        // What makes it a manager again is not known yet where its new certificate is seen.
        cluster.advance(Duration::from_nanos(1));
        assert!(behind(&cluster, &issued(&cluster, demoted)));
        leads.send_replace(LeaderState::Leader { term: 1 });
        assert!(!behind(&cluster, &issued(&cluster, demoted)));
        leads.send_replace(LeaderState::Unknown);
        set_role(&mut cluster, demoted, NodeRole::Manager);
        assert!(behind(&cluster, &before[0]) && !behind(&cluster, &before[1]));
    }
}
