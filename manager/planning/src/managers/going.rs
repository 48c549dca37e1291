//! Whether the other managers can do without one.

use shoal_manager_state::ClusterState;
use shoal_types::id::NodeId;
use shoal_types::spec::NodeRole;

use super::{Member, majority, name_of};

/// Why a manager has to stay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotGoing {
    /// With it the cluster would go.
    #[error(
        "{name} is the last manager that takes part: make another node one first (shoalctl node \
         promote, or join with the token of managers), and wait until shoalctl node ls shows it as \
         reachable"
    )]
    Last {
        /// Of the node.
        name: String,
    },
    /// Those who are left could not decide anything.
    #[error(
        "without {name} the cluster would lose its quorum: {needed} of the {left} other managers are \
         needed, and {} not answer: bring back, or remove first, who does not (shoalctl node ls)",
        silent_words(.silent)
    )]
    Quorum {
        /// Of the node.
        name: String,
        /// Managers without it.
        left: usize,
        /// How many of those have to answer.
        needed: usize,
        /// Who of them does not.
        silent: Vec<String>,
    },
}

fn silent_words(silent: &[String]) -> String {
    let verb = if silent.len() == 1 { "does" } else { "do" };
    format!("{} {verb}", silent.join(", "))
}

/// Whether a node may be a manager no more. It may, if it takes no part. Those who are on their way out
/// already are not counted on.
///
/// # Errors
/// [`NotGoing`].
pub fn may_go(view: &ClusterState, members: &[Member], node: NodeId) -> Result<(), NotGoing> {
    if !members.iter().any(|member| member.voter && member.node == node) {
        return Ok(());
    }
    let stays = |member: &&Member| {
        let wanted = view.node(member.node).is_some_and(|n| n.spec.role == NodeRole::Manager);
        member.voter && member.node != node && wanted
    };
    let rest: Vec<&Member> = members.iter().filter(stays).collect();
    if rest.is_empty() {
        return Err(NotGoing::Last { name: name_of(view, node) });
    }
    let silent: Vec<&&Member> = rest.iter().filter(|member| !member.answers()).collect();
    let needed = majority(rest.len());
    if rest.len() - silent.len() < needed {
        return Err(NotGoing::Quorum {
            name: name_of(view, node),
            left: rest.len(),
            needed,
            silent: silent.iter().map(|member| name_of(view, member.node)).collect(),
        });
    }
    Ok(())
}
