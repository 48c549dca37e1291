//! What can go wrong with a container.

use std::io;
use std::path::PathBuf;

use crate::ContainerId;

/// Why a call to the runtime failed.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The id is already in use.
    #[error("container {id} exists already")]
    AlreadyExists {
        /// The container.
        id: ContainerId,
    },
    /// No such container.
    #[error("no container {id}")]
    NotFound {
        /// The container.
        id: ContainerId,
    },
    /// The container is not running, so it cannot be signalled or joined.
    #[error("container {id} is not running")]
    NotRunning {
        /// The container.
        id: ContainerId,
    },
    /// The program is not in the container (a shell's 127).
    #[error("command {command:?} not found in the container")]
    CommandNotFound {
        /// As it was asked for.
        command: String,
    },
    /// The program is there but cannot be executed (a shell's 126).
    #[error("command {command:?} cannot be executed: {reason}")]
    CommandNotExecutable {
        /// As it was asked for.
        command: String,
        /// The kernel's answer.
        reason: String,
    },
    /// The user or group asked for is not in the container's files.
    #[error("user {user:?} is not usable in the container: {reason}")]
    UnknownUser {
        /// As it was asked for.
        user: String,
        /// What was looked for and where.
        reason: String,
    },
    /// A field of the specification cannot be honoured.
    #[error("{field} cannot be honoured: {reason}")]
    Unsupported {
        /// The field.
        field: String,
        /// Why.
        reason: String,
    },
    /// Another version of shoal has made the container, in a way that this one does not understand.
    #[error("container {id} is of another version of shoal: {reason}")]
    OtherVersion {
        /// The container.
        id: ContainerId,
        /// What is not understood.
        reason: String,
    },
    /// This host cannot confine containers; none is started.
    #[error("this host cannot confine containers: {reason}")]
    CannotConfine {
        /// What is missing.
        reason: String,
    },
    /// The container could not be made or started.
    #[error("container {id}: {stage}: {reason}")]
    Failed {
        /// The container.
        id: ContainerId,
        /// What was being done.
        stage: String,
        /// What was said.
        reason: String,
    },
    /// The supervisor of the container is gone or does not answer.
    #[error("supervisor of container {id}: {reason}")]
    Supervisor {
        /// The container.
        id: ContainerId,
        /// What happened.
        reason: String,
    },
    /// Removal met errors; what could be removed is gone.
    #[error("container {id} not wholly removed: {}", .errors.join("; "))]
    NotRemoved {
        /// The container.
        id: ContainerId,
        /// Each step that failed.
        errors: Vec<String>,
    },
    /// An operation on a file or socket failed.
    #[error("{action} {}", .path.display())]
    Io {
        /// What was attempted, such as `read`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl RuntimeError {
    /// Shorthand for [`RuntimeError::Io`], for `map_err`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// The exit code a shell would give for a command that could not be started: 127 when it was not
    /// found, 126 when it could not be executed.
    #[must_use]
    pub fn shell_code(&self) -> Option<i32> {
        match self {
            Self::CommandNotFound { .. } => Some(127),
            Self::CommandNotExecutable { .. } => Some(126),
            _ => None,
        }
    }
}
