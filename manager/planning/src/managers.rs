//! Which nodes take part in Raft, and how their managers fare.
//!
//! - [`next`]: what leads from Raft's members to the managers that there are to be
//! - [`heir`]: who leads when a leader goes
//! - [`may_go`]: whether the others can do without one
//! - [`announced`], [`must_announce`]: where managers are reached, and what they can do

mod announce;
mod going;
mod reconcile;

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_manager_state::ClusterState;
use shoal_types::id::NodeId;
use shoal_types::object::{ManagerHealth, ManagerStatus, Node, Reachability};
use shoal_types::spec::NodeRole;

pub use announce::{NotAnnounced, announced, must_announce};
pub use going::{NotGoing, may_go};
pub use reconcile::{Next, Step, heir, next};

/// A manager that has not answered its leader for so long does not answer. Leaders ask several times a
/// second, and a follower that hears nothing for so long wants another leader.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Who is to be counted on when another one goes has answered within this time: once the change has begun,
/// nothing is decided any more without those who are left.
pub const FRESH: Duration = Duration::from_secs(1);

/// A member of the Raft group as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id in Raft.
    pub raft_id: u64,
    /// The node that it runs on.
    pub node: NodeId,
    /// `host:port` where it is reached.
    pub addr: String,
    /// Whether it takes part in decisions.
    pub voter: bool,
    /// How long ago it has answered, if it ever has.
    pub answered: Option<Duration>,
    /// Entries of the log that it lacks, if that is known.
    pub lag: Option<u64>,
}

impl Member {
    /// Whether it answers, as far as others may depend on it.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.answered.is_some_and(|ago| ago <= FRESH)
    }
}

/// How many of so many voters are needed to decide.
#[must_use]
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// What a node is told that it is: a manager that is to go is one for as long as it takes part, or nobody
/// would run it until the others can do without it.
#[must_use]
pub const fn role_told(node: &Node) -> NodeRole {
    match node.manager_status {
        Some(_) => NodeRole::Manager,
        None => node.spec.role,
    }
}

/// What people call a node.
fn name_of(view: &ClusterState, id: NodeId) -> String {
    let name = view.node(id).map(|node| node.description.hostname.clone()).unwrap_or_default();
    if name.is_empty() { id.to_string() } else { name }
}

/// How a manager fares, by what its leader knows of Raft's voters: how long ago each has answered, if it
/// ever has. Who does not vote yet is not shown as reachable: the cluster cannot do without another one for it.
#[must_use]
pub fn health(
    manager: &ManagerStatus,
    leader: Option<u64>,
    voters: &BTreeMap<u64, Option<Duration>>,
) -> ManagerHealth {
    let reachability = match voters.get(&manager.raft_id) {
        // It is not among those who are asked: on its way in, or out.
        None => Reachability::Unknown,
        Some(Some(ago)) if *ago <= SILENCE_MAX => Reachability::Reachable,
        Some(_) => Reachability::Unreachable,
    };
    ManagerHealth { leader: leader == Some(manager.raft_id), reachability }
}

#[cfg(test)]
mod tests;
