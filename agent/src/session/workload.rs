//! What a session needs of whoever runs the tasks.

use futures::future::BoxFuture;
use shoal_types::assignment::{AssignmentChange, NodeAssignment};
use shoal_types::id::TaskId;
use shoal_types::object::TaskStatus;
use shoal_types::question::{self, Question};

use shoal_agent_runtime::{ExecSession, ExecSpec, LogQuery, LogStream};

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
    /// Takes over all that is assigned, in place of what was.
    fn assign_all(&self, assignment: NodeAssignment);

    /// Takes over changes, in order.
    fn change(&self, changes: Vec<AssignmentChange>);

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

    /// How many tasks this node holds.
    fn task_count(&self) -> Answer<'_, u64>;

    /// Stops what runs in good order, because the host stops, and takes nothing on any more. May be
    /// repeated.
    fn halt(&self) -> Answer<'_, ()>;

    /// Stops and removes all tasks and forgets them. May be repeated.
    fn leave(&self) -> Answer<'_, ()>;
}
