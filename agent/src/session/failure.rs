//! Why a session ended, and when to begin the next. Pure.

use std::time::Duration;

use shoal_transport::is_removed;
use tonic::{Code, Status};

use shoal_agent_ground::backoff::Backoff;

/// Ordinary failures: quickly at first, since a manager that restarts is back within a second.
const AGAIN: Backoff = Backoff { first: Duration::from_millis(100), last: Duration::from_secs(4) };
/// When managers refuse this node: somebody has to do something first.
const REFUSED: Backoff = Backoff { first: Duration::from_secs(10), last: Duration::from_secs(60) };

/// When what is assigned cannot be read: it is large, perhaps, and will be the same next time.
const UNREADABLE: Backoff =
    Backoff { first: Duration::from_millis(100), last: Duration::from_secs(60) };
/// A session that lives so long is not part of a row of failures.
const LASTING: Duration = Duration::from_secs(10);

/// The call by which this node learns what it is to hold.
pub(super) const ASSIGNMENTS: &str = "assignments";

/// Why a session ended or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A call failed.
    #[error("{call}: {}", words(.status))]
    Call {
        /// Which, such as `heartbeat`.
        call: &'static str,
        /// The answer.
        status: Box<Status>,
    },
    /// No answer in time.
    #[error("{call}: no answer within {after:?}")]
    Silent {
        /// Which call.
        call: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// A stream that lasts as long as the session has ended.
    #[error("the manager ended the {0} stream")]
    Ended(&'static str),
    /// A message that breaks the rules.
    #[error("the manager's {call} message is unusable: {why}")]
    Message {
        /// Which call.
        call: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The manager was a leader once, and another one has been obeyed since.
    #[error("the manager leads in term {term}, and this node has obeyed a leader of term {obeyed}")]
    Stale {
        /// Of the manager.
        term: u64,
        /// The newest one.
        obeyed: u64,
    },
    /// What has to be on disk before anything is obeyed cannot be written.
    #[error("cannot obey the manager")]
    Obey(#[source] super::WorkloadError),
    /// No connection can be set up.
    #[error("cannot set up a connection")]
    Credentials(#[source] shoal_transport::CredentialsError),
    /// What the session's beginning said of this host is not so any more.
    #[error("this host has news of its tunnel")]
    News,
    /// There is nobody to talk to.
    #[error("no manager's address is known")]
    NoManager,
}

impl Failure {
    pub(super) fn call(call: &'static str) -> impl FnOnce(Status) -> Self {
        move |status| Self::Call { call, status: Box::new(status) }
    }

    /// Whether managers do not want this node: its certificate is refused, or it was removed.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let Self::Call { status, .. } = self else { return false };
        matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
    }

    /// Whether the cluster itself says that this node was removed from it. Nothing else says so: not a
    /// refusal by a manager that may not know better, and no failure of a connection.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        matches!(self, Self::Call { status, .. } if is_removed(status))
    }

    /// Whether the session ended only so that the next one says what is new.
    #[must_use]
    pub const fn is_news(&self) -> bool {
        matches!(self, Self::News)
    }

    /// Whether what is assigned to the node cannot be read, and asking for it once more may be all
    /// that helps: the connection is not at fault.
    #[must_use]
    pub fn is_of_assignment(&self) -> bool {
        match self {
            Self::Message { call, .. } => *call == ASSIGNMENTS,
            Self::Call { call, status } => {
                // Too large, not a message, damaged.
                let unreadable = [Code::OutOfRange, Code::Internal, Code::DataLoss];
                *call == ASSIGNMENTS && unreadable.contains(&status.code())
            }
            _ => false,
        }
    }

    /// How long to wait after the `failures`-th failure in a row (from 1).
    #[must_use]
    pub fn wait(&self, failures: u32, draw: f64) -> Duration {
        let waits = match self {
            _ if self.is_refusal() => REFUSED,
            _ if self.is_of_assignment() => UNREADABLE,
            _ => AGAIN,
        };
        waits.wait(failures, draw)
    }
}

/// The place of a failure in its row, after `before` others. A session that lasted begins a new
/// row; one that breaks as soon as it has begun is a failure like any other, or it would be begun
/// again at once, for ever.
#[must_use]
pub(super) fn place(before: u32, lasted: Option<Duration>) -> u32 {
    match lasted {
        Some(lasted) if lasted >= LASTING => 1,
        _ => before.saturating_add(1),
    }
}

/// What a manager, or the transport for it, said.
fn words(status: &Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

/// When to send the next heartbeat: a little before the period is over, by up to a tenth as `draw`
/// (from 0 to below 1) says. Periods that make no sense are bent into ones that do.
#[must_use]
pub fn heartbeat_wait(period: Duration, draw: f64) -> Duration {
    let period = period.clamp(Duration::from_millis(50), Duration::from_secs(300));
    period.mul_f64(1.0 - 0.1 * draw.clamp(0.0, 1.0))
}

/// How long a heartbeat may go without an answer: a leader that is busy is not a leader that is
/// gone.
#[must_use]
pub fn heartbeat_patience(period: Duration) -> Duration {
    period.saturating_mul(2).clamp(Duration::from_secs(1), Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(status: Status) -> Failure {
        Failure::call("session")(status)
    }

    #[test]
    fn refusals_wait_longer() {
        let table = [
            (failed(Status::unavailable("gone")), false, 100),
            (failed(Status::not_found("session")), false, 100),
            (Failure::Ended("session"), false, 100),
            (failed(Status::permission_denied("removed")), true, 10_000),
            (failed(Status::unauthenticated("expired")), true, 10_000),
        ];
        for (failure, refusal, millis) in table {
            assert_eq!(failure.is_refusal(), refusal, "{failure}");
            assert_eq!(failure.wait(1, 0.0), Duration::from_millis(millis), "{failure}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_asked_for_ever_less_often() {
        let of = |call, status: Status| Failure::call(call)(status);
        let why = || "no such change".to_owned();
        let table = [
            (of(ASSIGNMENTS, Status::out_of_range("too large")), true, 60),
            (of(ASSIGNMENTS, Status::internal("no message")), true, 60),
            (Failure::Message { call: ASSIGNMENTS, why: why() }, true, 60),
            (of(ASSIGNMENTS, Status::unavailable("gone")), false, 4),
            (of(ASSIGNMENTS, Status::aborted("another stream")), false, 4),
            (of("session", Status::out_of_range("too large")), false, 4),
            (Failure::Message { call: "session", why: why() }, false, 4),
            (Failure::Ended(ASSIGNMENTS), false, 4),
        ];
        for (failure, unreadable, last) in table {
            assert_eq!(failure.is_of_assignment(), unreadable, "{failure}");
            assert_eq!(failure.wait(1, 0.0), Duration::from_millis(100), "{failure}");
            assert_eq!(failure.wait(99, 0.0), Duration::from_secs(last), "{failure}");
        }
    }

    #[test]
    fn a_session_that_breaks_at_once_is_one_more_failure() {
        let secs = Duration::from_secs;
        let table = [
            (0, None, 1),
            (7, None, 8),
            (7, Some(secs(0)), 8),
            (7, Some(secs(9)), 8),
            (7, Some(secs(10)), 1),
            (u32::MAX, None, u32::MAX),
        ];
        for (before, lasted, expected) in table {
            assert_eq!(place(before, lasted), expected, "{before} {lasted:?}");
        }
    }

    #[test]
    fn the_reason_is_the_managers_own_word() {
        let failure = failed(Status::permission_denied("node x was removed"));
        assert_eq!(failure.to_string(), "session: node x was removed");
        let failure = failed(Status::new(Code::Unavailable, ""));
        assert_eq!(failure.to_string(), "session: The service is currently unavailable");
    }

    #[test]
    fn heartbeats_come_a_little_early() {
        let secs = Duration::from_secs;
        assert_eq!(heartbeat_wait(secs(10), 0.0), secs(10));
        assert_eq!(heartbeat_wait(secs(10), 1.0), secs(9));
        assert_eq!(heartbeat_wait(Duration::ZERO, 0.0), Duration::from_millis(50));
        assert_eq!(heartbeat_wait(Duration::MAX, 0.0), secs(300));
        assert_eq!(heartbeat_patience(Duration::MAX), secs(30));
    }
}
