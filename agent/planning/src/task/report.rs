//! From facts to what people and managers read.

use shoal_types::object::{ContainerStatus, TaskStatus};
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use super::ExitStatus;

/// The end of a task, once decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub state: TaskState,
    pub at: Timestamp,
    pub message: &'static str,
    pub err: String,
    pub exit: Option<ExitStatus>,
}

impl Outcome {
    /// It was told to stop and did, for this reason if it is none of its own.
    pub(super) fn stopped(at: Timestamp, why: Option<String>, exit: Option<ExitStatus>) -> Self {
        let err = why.unwrap_or_default();
        Self { state: TaskState::Shutdown, at, message: "shutdown", err, exit }
    }

    /// It ended by itself.
    pub(super) fn by_itself(at: Timestamp, exit: ExitStatus) -> Self {
        if exit.is_success() {
            let (state, message) = (TaskState::Complete, "finished");
            return Self { state, at, message, err: String::new(), exit: Some(exit) };
        }
        let err = exit.to_string();
        Self { state: TaskState::Failed, at, message: "started", err, exit: Some(exit) }
    }

    pub(super) fn failed(at: Timestamp, err: String, exit: Option<ExitStatus>) -> Self {
        Self { state: TaskState::Failed, at, message: "started", err, exit }
    }
}

/// Writes how a container ended into its status.
pub(super) fn note_exit(container: &mut ContainerStatus, exit: &ExitStatus) {
    container.exit_code = exit.shell_code();
    container.signal = exit.signal;
    container.oom_killed = exit.oom_killed;
}

/// Moves a status up the ladder, or rewrites what it says on the same rung. Says whether anything
/// changed. Every change has a later time, since managers take nothing else for news; when the task
/// got to the state they know themselves. An end keeps its time.
pub(super) fn climb(
    status: &mut TaskStatus,
    state: TaskState,
    at: Timestamp,
    message: String,
    err: String,
) -> bool {
    let climbs = status.state.may_become(state);
    let tells = status.message != message || status.err != err;
    if !(climbs || state == status.state && tells) {
        return false;
    }
    if climbs {
        status.state = state;
        status.timestamp = at;
    }
    status.timestamp = status.timestamp.max(at);
    status.message = message;
    status.err = err;
    true
}
