//! What agents and the dispatcher say to each other.

use shoal_types::assignment::{AssignmentChange, NodeAssignment};
use shoal_types::id::TaskId;
use shoal_types::object::{NodeDescription, TaskStatus, TunnelDescription};

/// From an agent to the leader. Sessions are numbered by the leader.
#[derive(Debug, Clone)]
pub(crate) enum Up {
    Open {
        description: Box<NodeDescription>,
    },
    Heartbeat {
        session: u64,
        tunnel: Option<TunnelDescription>,
    },
    Statuses {
        session: u64,
        statuses: Vec<(TaskId, TaskStatus)>,
    },
    /// A gap in the assignments: all of them are asked for again.
    Resync {
        session: u64,
    },
}

/// From the leader to an agent.
#[derive(Debug, Clone)]
pub(crate) enum Down {
    Opened {
        session: u64,
        term: u64,
    },
    /// The session is not, or no longer, known.
    NoSession {
        session: u64,
    },
    /// The node does not belong to the cluster any more.
    Removed,
    Complete {
        session: u64,
        term: u64,
        results_in: u64,
        assignment: NodeAssignment,
    },
    Incremental {
        session: u64,
        term: u64,
        applies_to: u64,
        results_in: u64,
        changes: Vec<AssignmentChange>,
    },
    Acknowledged {
        session: u64,
        statuses: Vec<(TaskId, TaskStatus)>,
    },
}
