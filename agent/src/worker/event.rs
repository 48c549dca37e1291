//! Everything that the loop can hear of.

use shoal_agent_planning::health::Probe;
use shoal_agent_planning::node::holdings;
use shoal_agent_planning::prune::Holding;
use shoal_agent_planning::task::{Fact, Operation};
use shoal_types::assignment::{AssignmentChange, NodeAssignment};
use shoal_types::id::TaskId;
use tokio::sync::oneshot;

use super::applied::Mark;
use super::{TaskSummary, WorkerError};
use crate::ledger::{LedgerError, Term};

/// Everything that the loop can hear of, besides exits and the passing of time.
#[derive(Debug)]
pub(super) enum Event {
    /// All that the node is to hold.
    AssignAll(NodeAssignment, Mark),
    /// What changed in that.
    Change(Vec<AssignmentChange>, Mark),
    /// Asks to obey a leader from now on; the answer is the newest term that is obeyed.
    Obey(Term, oneshot::Sender<Result<u64, WorkerError>>),
    /// This term of the ledger is on disk, or it could not be written; and who waits for that.
    TermWritten(Term, Result<(), LedgerError>, oneshot::Sender<Result<u64, WorkerError>>),
    /// The networks were written down, as they were at this count of their changes.
    NetworksWritten(u64),
    /// They could not be written down as they were at this count, some time ago.
    NetworksRefused(u64),
    /// All that follows from what is known of overlay networks up to this revision is done.
    OverlayFollowed(u64),
    /// An operation ended, or says how far it is.
    Fact(TaskId, Fact),
    /// An operation was carried out that leaves nothing of the task.
    Forgotten(TaskId),
    /// An operation was lost: its code panicked.
    Lost(TaskId, Operation),
    /// A health check ended.
    Probed(TaskId, Probe),
    /// A round before its time.
    #[cfg(test)]
    Round,
    /// What there is on the node besides tasks.
    Seen(holdings::Observed),
    /// What was to be put in order is done, but for what failed, with why.
    InOrder(Vec<holdings::Action>, Vec<(holdings::Action, String)>),
    /// Asks for every task.
    Summary(oneshot::Sender<Vec<TaskSummary>>),
    /// Asks what every task holds.
    Holdings(oneshot::Sender<Vec<Holding>>),
    /// Asks what is not as it should be about what tasks hold.
    Differing(oneshot::Sender<Result<Vec<holdings::Action>, WorkerError>>),
    /// End, and leave everything as it is.
    ShutDown(oneshot::Sender<()>),
    /// Stop what runs in good order, and start nothing any more: the host stops.
    Halt(oneshot::Sender<()>),
    /// Stop and forget everything.
    Leave(oneshot::Sender<Result<(), WorkerError>>),
}
