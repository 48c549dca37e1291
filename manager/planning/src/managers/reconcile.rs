//! From Raft's members to the managers that there are to be, one step at a time.
//!
//! A node is to be a member while its role is that of a manager, under the id that its manager has announced:
//! a manager that lost its log has another one, and its former self goes first. A learner becomes a voter
//! when it has caught up, so that no majority ever waits for one that has still to receive the state. What
//! there is to do follows from state and membership alone, so the next leader goes on where one has died.

use shoal_manager_state::ClusterState;
use shoal_types::id::NodeId;
use shoal_types::object::ManagerStatus;
use shoal_types::spec::NodeRole;

use super::{Member, majority, name_of};

/// A learner that lacks no more entries than this has caught up: the rest comes with the next message.
const LAG_MAX: u64 = 100;

/// One change, for the leader to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The leader is to go: another one leads, and goes on.
    HandOver {
        /// Id in Raft of who is to lead.
        to: u64,
    },
    /// Takes a member out.
    Remove {
        /// Its id in Raft.
        raft_id: u64,
    },
    /// Tells all members where one of them is reached.
    Move {
        /// Its id in Raft.
        raft_id: u64,
        /// `host:port`.
        addr: String,
    },
    /// Takes a member in, as a learner.
    Add {
        /// Its id in Raft.
        raft_id: u64,
        /// Its node.
        node: NodeId,
        /// `host:port`.
        addr: String,
    },
    /// Makes a learner a voter.
    Promote {
        /// Its id in Raft.
        raft_id: u64,
    },
    /// Forgets that a node had a manager.
    Forget {
        /// Which node.
        node: NodeId,
    },
}

/// What there is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Next {
    /// The next change; nothing if all is as it is to be, or has to wait.
    pub step: Option<Step>,
    /// What else there is that cannot be done now. It may be possible without anything of the state changing.
    pub waits: Vec<String>,
}

/// Looks at all of it. `own` is the id in Raft of the leader, whose view this is.
#[must_use]
pub fn next(view: &ClusterState, members: &[Member], own: u64) -> Next {
    let mut waits = Vec::new();
    let step = going(view, members, own, &mut waits)
        .or_else(|| moved(view, members))
        .or_else(|| coming(view, members))
        .or_else(|| caught_up(view, members, &mut waits))
        .or_else(|| gone(view, members));
    Next { step, waits }
}

/// What a node's manager has announced, if it is to take part.
fn wanted(view: &ClusterState, node: NodeId) -> Option<&ManagerStatus> {
    let node = view.node(node).filter(|node| node.spec.role == NodeRole::Manager)?;
    node.manager_status.as_ref()
}

fn is_wanted(view: &ClusterState, member: &Member) -> bool {
    wanted(view, member.node).is_some_and(|status| status.raft_id == member.raft_id)
}

/// Who is to go: those who do not answer first, since without them fewer are needed; the leader last.
fn going(
    view: &ClusterState,
    members: &[Member],
    own: u64,
    waits: &mut Vec<String>,
) -> Option<Step> {
    let mut unwanted: Vec<&Member> = members.iter().filter(|m| !is_wanted(view, m)).collect();
    unwanted.sort_by_key(|member| (member.raft_id == own, member.answers()));
    for member in unwanted {
        let raft_id = member.raft_id;
        if !member.voter {
            return Some(Step::Remove { raft_id });
        }
        let rest = || members.iter().filter(|m| m.voter && m.raft_id != raft_id);
        let (left, answering) = (rest().count(), rest().filter(|m| m.answers()).count());
        if answering < majority(left) {
            waits.push(format!(
                "the manager of {} is to go, and of the {left} others {answering} answer",
                name_of(view, member.node)
            ));
            continue;
        }
        if raft_id != own {
            return Some(Step::Remove { raft_id });
        }
        match heir(view, members, own) {
            Some(to) => return Some(Step::HandOver { to }),
            None => waits.push(format!(
                "the manager of {} is to go, and nobody is there who could lead",
                name_of(view, member.node)
            )),
        }
    }
    None
}

/// Who is to lead after this one: who answers, stays, and has the most of the log.
#[must_use]
pub fn heir(view: &ClusterState, members: &[Member], own: u64) -> Option<u64> {
    let able = |m: &&Member| m.voter && m.raft_id != own && m.answers() && is_wanted(view, m);
    let heirs = members.iter().filter(able);
    heirs.min_by_key(|m| (m.lag.unwrap_or(u64::MAX), m.raft_id)).map(|m| m.raft_id)
}

/// Who is reached elsewhere now.
fn moved(view: &ClusterState, members: &[Member]) -> Option<Step> {
    members.iter().filter(|member| is_wanted(view, member)).find_map(|member| {
        let status = wanted(view, member.node)?;
        let (raft_id, addr) = (member.raft_id, status.addr.clone());
        (addr != member.addr).then_some(Step::Move { raft_id, addr })
    })
}

/// Who is to be a member and is none.
fn coming(view: &ClusterState, members: &[Member]) -> Option<Step> {
    view.nodes().find_map(|node| {
        let status = wanted(view, node.id)?;
        let is_member = members.iter().any(|member| member.raft_id == status.raft_id);
        let (raft_id, addr) = (status.raft_id, status.addr.clone());
        (!is_member).then_some(Step::Add { raft_id, node: node.id, addr })
    })
}

/// Who may vote from now on.
fn caught_up(view: &ClusterState, members: &[Member], waits: &mut Vec<String>) -> Option<Step> {
    let learners = members.iter().filter(|member| !member.voter && is_wanted(view, member));
    let mut ready = None;
    for member in learners {
        if member.answers() && member.lag.is_some_and(|lag| lag <= LAG_MAX) {
            ready = ready.or(Some(Step::Promote { raft_id: member.raft_id }));
            continue;
        }
        let name = name_of(view, member.node);
        waits.push(match (member.answers(), member.lag) {
            (true, Some(lag)) => format!("the manager of {name} still lacks {lag} entries"),
            _ => format!("the manager of {name} does not answer at {}", member.addr),
        });
    }
    ready
}

/// Who takes no part any more.
fn gone(view: &ClusterState, members: &[Member]) -> Option<Step> {
    let is_gone = |status: &ManagerStatus| !members.iter().any(|m| m.raft_id == status.raft_id);
    let mut nodes = view.nodes().filter(|node| node.spec.role != NodeRole::Manager);
    let node = nodes.find(|node| node.manager_status.as_ref().is_some_and(is_gone))?;
    Some(Step::Forget { node: node.id })
}
