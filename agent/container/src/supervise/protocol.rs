//! What agent and supervisor say to each other: one JSON object per line over a Unix socket.
//!
//! The agent asks, every request is answered once; the end of the container is told to whoever is
//! connected, and again to every agent that connects later, until the supervisor is done.

use serde::{Deserialize, Serialize};

use super::setup::ProcessIdentity;
use crate::{ContainerId, ExitStatus, RuntimeError, TermSize};

/// Longest line in bytes; a longer one ends the connection.
pub const LINE_MAX: usize = 64 * 1024;

/// Asks something of a supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Repeated in the answer.
    pub seq: u32,
    /// What is asked.
    pub op: Op,
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Start the container. Answered when its program runs; at once when it already does.
    Start,
    /// How things stand.
    Status,
    /// Send a signal to the first process.
    Signal(i32),
    /// Set the terminal's size.
    Resize(TermSize),
    /// Kill the container, clean up, and end.
    Quit,
}

/// What a supervisor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The container can be started.
    Prepared,
    /// The container could not be prepared; the supervisor ends.
    NotPrepared(Failure),
    /// An answer.
    Reply {
        /// Of the request.
        seq: u32,
        /// How things stand, or why not.
        result: Result<Status, Failure>,
    },
    /// The container ended and this is on disk.
    Exited(ExitStatus),
}

/// How things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The supervisor.
    pub supervisor: ProcessIdentity,
    /// The container's first process, while it runs.
    pub init: Option<ProcessIdentity>,
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The program is not there.
    CommandNotFound {
        /// As asked for.
        command: String,
    },
    /// The program cannot be executed.
    CommandNotExecutable {
        /// As asked for.
        command: String,
        /// Why.
        reason: String,
    },
    /// The user is not in the image.
    UnknownUser {
        /// As asked for.
        user: String,
        /// What was looked for.
        reason: String,
    },
    /// There is nothing to do it to.
    NotRunning,
    /// There is no terminal.
    NoTerminal,
    /// Anything else.
    Other {
        /// What was being done.
        stage: String,
        /// What was said.
        reason: String,
    },
}

impl Failure {
    /// A failure of some stage, with the error's whole chain.
    pub fn other(stage: &str, error: &dyn std::error::Error) -> Self {
        Self::Other { stage: stage.to_owned(), reason: chain(error) }
    }

    /// As the runtime reports it.
    #[must_use]
    pub fn into_error(self, id: &ContainerId) -> RuntimeError {
        let id = id.clone();
        match self {
            Self::CommandNotFound { command } => RuntimeError::CommandNotFound { command },
            Self::CommandNotExecutable { command, reason } => {
                RuntimeError::CommandNotExecutable { command, reason }
            }
            Self::UnknownUser { user, reason } => RuntimeError::UnknownUser { user, reason },
            Self::NotRunning => RuntimeError::NotRunning { id },
            Self::NoTerminal => RuntimeError::NoTerminal { id },
            Self::Other { stage, reason } => RuntimeError::Failed { id, stage, reason },
        }
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
