//! What a session needs of whoever runs the tasks.

use futures::future::BoxFuture;
use shoal_types::assignment::{AssignmentChange, NodeAssignment};
use shoal_types::id::{ClusterId, TaskId};
use shoal_types::object::{TaskStatus, TroubledLinks, TunnelDescription};
use shoal_types::question::{self, Question};

use shoal_agent_runtime::{ExecSession, ExecSpec, LogQuery, LogStream};

use crate::worker::Mark;

/// Why the workload did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The container does not do it.
    #[error(transparent)]
    Runtime(#[from] shoal_agent_runtime::RuntimeError),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// A call's answer: dyn-compatible.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, WorkloadError>>;

/// Runs what is assigned to this node. Outlives every session.
pub trait Workload: Send + Sync + 'static {
    /// Durably obeys a leader of this term from now on, unless a newer one of the cluster is obeyed
    /// already. The newest term that is obeyed; with zero that is only asked for.
    fn obey(&self, cluster: ClusterId, term: u64) -> Answer<'_, u64>;

    /// Takes over all that is assigned, in place of what was. Passed over if its term is older than
    /// one that is obeyed.
    fn assign_all(&self, assignment: NodeAssignment, mark: Mark);

    /// Takes over changes, in order.
    fn change(&self, changes: Vec<AssignmentChange>, mark: Mark);

    /// Waits until a message of the session after this one is durable, with all before it: the number
    /// of the last such message.
    fn applied<'a>(&'a self, session: &'a str, after: u64) -> BoxFuture<'a, u64>;

    /// From the next [`Workload::next_statuses`] on, reports everything again: a new session may
    /// lead to a manager that has not heard it.
    fn report_everything(&self);

    /// Waits until there is something to report. Dropping the call loses nothing; what it returned
    /// counts as told until [`Workload::report_everything`].
    fn next_statuses(&self) -> BoxFuture<'_, Vec<(TaskId, TaskStatus)>>;

    /// Runs a further process in a task's container.
    fn exec(&self, task: TaskId, spec: ExecSpec) -> Answer<'_, ExecSession>;

    /// Reads a task's log.
    fn logs(&self, task: TaskId, query: LogQuery) -> Answer<'_, LogStream>;

    /// Answers a question about this node.
    fn answer(&self, question: Question) -> Answer<'_, question::Answer>;

    /// This host's end of the tunnel, which is made if need be; nothing where there is none to be had.
    fn tunnel(&self) -> BoxFuture<'_, Option<TunnelDescription>>;

    /// This host's end of the tunnel as it is, once there is one.
    fn tunnel_now(&self) -> tokio::sync::watch::Receiver<Option<TunnelDescription>>;

    /// Waits until this host's end of the tunnel is another one than managers were told, other than by its keys.
    fn tunnel_news(&self, told: Option<TunnelDescription>) -> BoxFuture<'_, ()>;

    /// Links to other nodes that not everything passes, as far as that was found out.
    fn troubled_links(&self) -> TroubledLinks;

    /// Waits until all links to other nodes were tried: how many there are.
    fn tried_links(&self) -> BoxFuture<'_, u32>;

    /// How many tasks this node holds.
    fn task_count(&self) -> Answer<'_, u64>;

    /// Stops what runs in good order, because the host stops, and takes nothing on any more. May be
    /// repeated.
    fn halt(&self) -> Answer<'_, ()>;

    /// Stops and removes all tasks and forgets them. May be repeated.
    fn leave(&self) -> Answer<'_, ()>;
}
