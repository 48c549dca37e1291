//! Why something did not get done.

use std::io;
use std::path::PathBuf;

use shoal_proto::convert::InvalidMessage;
use shoal_transport::InvalidAddress;
use tonic::{Code, Status};

use crate::context::ContextError;
use crate::portable::PortableError;

/// Why something did not get done. What a user could do about it is not said here: that depends on the
/// program.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A manager refused it, or gave no answer, in its own words.
    #[error("{}", words(.0))]
    Manager(Box<Status>),
    /// The agent of this host did.
    #[error("{}", words(.0))]
    Agent(Box<Status>),
    /// The agent of this host cannot be reached.
    #[error("cannot reach the agent at {}", socket.display())]
    NoAgent {
        /// Where it should listen.
        socket: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The answer is of another version, or damaged.
    #[error("the answer cannot be understood")]
    Garbled(#[from] InvalidMessage),
    /// A list is larger than what is taken.
    #[error("the list takes more than {most} bytes, which is the most")]
    TooLong {
        /// Bytes that all of its parts together may take.
        most: usize,
    },
    /// No cluster is known.
    #[error("there is no context: no cluster is known here")]
    NoContext,
    /// The context leads nowhere.
    #[error("context {0:?} has no endpoint")]
    NoEndpoint(String),
    /// An endpoint that is none.
    #[error(transparent)]
    Endpoint(#[from] InvalidAddress),
    /// The contexts cannot be used.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A context in a file of its own cannot.
    #[error(transparent)]
    Portable(#[from] PortableError),
}

impl ClientError {
    /// Whether the other side said that what was asked for does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    /// Whether the other side gave no answer, or none for now, so that asking again may help. See the
    /// list of codes in gRPC's "Status codes and their use": which of them a client may try again.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self {
            Self::Manager(status) => match status.code() {
                Code::Ok
                | Code::NotFound
                | Code::InvalidArgument
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::Unauthenticated => false,
                Code::Cancelled
                | Code::Unknown
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss => true,
            },
            _ => false,
        }
    }

    /// What a manager's refusal is, if it is one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Manager(status) => Some(status.code()),
            _ => None,
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Manager(Box::new(status))
    }
}

/// What was said; else what it is called.
fn words(status: &Status) -> String {
    match status.message() {
        "" => format!("{:?}", status.code()).to_lowercase(),
        message => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_manager_says_is_passed_on() {
        let error = ClientError::from(Status::not_found("no service \"x\""));
        assert_eq!(error.to_string(), "no service \"x\"");
        assert!(error.is_not_found() && !error.is_away());
        let error = ClientError::from(Status::unavailable(""));
        assert_eq!(error.to_string(), "unavailable");
        assert!(error.is_away() && !error.is_not_found());
    }
}
