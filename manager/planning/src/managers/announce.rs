//! Where managers are reached, and what they can do.

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::NodeId;
use shoal_types::level::Level;
use shoal_types::object::ManagerStatus;
use shoal_types::spec::NodeRole;

/// Why a manager does not become known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnnounced {
    /// There is no such node.
    #[error("node {0} is no node of this cluster (any more)")]
    Unknown(NodeId),
    /// The node is not to be a manager.
    #[error("node {0} is a worker: promote it first (shoalctl node promote {0})")]
    Role(NodeId),
    /// It would not understand what the others write.
    #[error(
        "the cluster has feature level {cluster}, and the manager of node {node} has {has}: upgrade \
         it first"
    )]
    TooOld {
        /// Whose.
        node: NodeId,
        /// What it can do.
        has: Level,
        /// What is asked of all managers.
        cluster: Level,
    },
    /// Its log is a copy of another one's.
    #[error(
        "raft member {raft_id} is the manager of node {by}: remove what the manager of node {node} \
         keeps, which is a copy of it, so that it joins as a new one"
    )]
    Copy {
        /// Whose.
        node: NodeId,
        /// The id that both have.
        raft_id: u64,
        /// Who is known by it.
        by: NodeId,
    },
}

/// What is to be written down of what a manager says of itself; nothing if that is known.
///
/// # Errors
/// [`NotAnnounced`].
pub fn announced(
    view: &ClusterState,
    node: NodeId,
    said: ManagerStatus,
) -> Result<Option<Command>, NotAnnounced> {
    let known = view.node(node).ok_or(NotAnnounced::Unknown(node))?;
    if known.spec.role != NodeRole::Manager {
        return Err(NotAnnounced::Role(node));
    }
    if said.level < view.level() {
        return Err(NotAnnounced::TooOld { node, has: said.level, cluster: view.level() });
    }
    let has_id = |status: &ManagerStatus| status.raft_id == said.raft_id;
    let same = view.nodes().find(|n| n.id != node && n.manager_status.as_ref().is_some_and(has_id));
    if let Some(by) = same.map(|node| node.id) {
        return Err(NotAnnounced::Copy { node, raft_id: said.raft_id, by });
    }
    let news = known.manager_status.as_ref() != Some(&said);
    Ok(news.then_some(Command::SetManagerStatus { id: node, status: Some(said) }))
}

/// Whether a manager that does not lead has to say what it is, as far as it has heard what is known.
#[must_use]
pub fn must_announce(view: &ClusterState, node: NodeId, own: &ManagerStatus) -> bool {
    match view.node(node) {
        // It has not heard anything yet, or not enough.
        None => true,
        Some(known) => {
            known.spec.role == NodeRole::Manager && known.manager_status.as_ref() != Some(own)
        }
    }
}
