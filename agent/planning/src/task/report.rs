//! From facts to what people and managers read.

use shoal_types::object::{ContainerStatus, TaskStatus};
use shoal_types::signal;
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use super::Exit;

/// The end of a task, once decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub state: TaskState,
    pub at: Timestamp,
    pub message: &'static str,
    pub err: String,
    pub exit: Option<Exit>,
}

impl Outcome {
    /// It was told to stop and did.
    pub(super) fn stopped(at: Timestamp, exit: Option<Exit>) -> Self {
        Self { state: TaskState::Shutdown, at, message: "shutdown", err: String::new(), exit }
    }

    /// It ended by itself.
    pub(super) fn by_itself(at: Timestamp, exit: Exit) -> Self {
        if exit.code == Some(0) {
            let (state, message) = (TaskState::Complete, "finished");
            return Self { state, at, message, err: String::new(), exit: Some(exit) };
        }
        let err = ended(&exit);
        Self { state: TaskState::Failed, at, message: "started", err, exit: Some(exit) }
    }

    pub(super) fn failed(at: Timestamp, err: String, exit: Option<Exit>) -> Self {
        Self { state: TaskState::Failed, at, message: "started", err, exit }
    }
}

/// How a container ended, for people.
#[must_use]
pub fn ended(exit: &Exit) -> String {
    let mut text = match (exit.oom_killed, exit.code, exit.signal) {
        (true, None, _) => "out of memory: the kernel killed it at its memory limit".to_owned(),
        (_, Some(code), _) => format!("exit code {code}"),
        (false, None, Some(number)) => {
            format!("killed by signal {number} ({})", signal::name(number))
        }
        (false, None, None) => match &exit.message {
            Some(message) => return message.clone(),
            None => "nobody knows how it ended".to_owned(),
        },
    };
    if let Some(message) = &exit.message {
        text.push_str(": ");
        text.push_str(message);
    }
    text
}

/// Writes how a container ended into its status.
pub(super) fn note_exit(container: &mut ContainerStatus, exit: &Exit) {
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
    let climbs = state > status.state;
    if state < status.state || (!climbs && status.message == message && status.err == err) {
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
