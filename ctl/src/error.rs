//! How a command ends when it does not end well: what happened, why, what to do, exit code.

use std::error::Error;
use std::fmt;
use std::io;

use shoal_client::ClientError;
use shoal_client::context::ContextError;
use shoal_client::portable::PortableError;
use shoal_types::error_chain::chain;
use tonic::Code;

const OTHER_VERSION: &str = "the other side may be of another version: compare shoalctl version";

/// What helps whoever has no usable credentials.
pub(crate) const RECOVERY: &str = "on a host that runs a manager, root gets new credentials without old ones: shoalctl context \
     create --local";

const WHICH_CERTIFICATE: &str = "shoalctl context show tells which certificate was used";

/// What an exit code means. These are documented in `shoalctl --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something went wrong, or was refused.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// A deployment failed, and at least a part of it is still in force.
    DeploymentFailed,
    /// A deployment failed, and what ran before runs again.
    RolledBack,
    /// What was to be put back did not come up again.
    RollbackFailed,
    /// Something newer took the place of a deployment.
    Superseded,
    /// What was deployed was removed before it had converged.
    Removed,
    /// It did not get done in the time given.
    TimedOut,
    /// What was looked at is not as it should be.
    Found,
    /// The user pressed Ctrl-C.
    Interrupted,
    /// Somebody asked the program to end.
    Terminated,
    /// Whoever read the output went away; nothing is said about it.
    BrokenPipe,
    /// A program that was run for the user ended with this code; nothing is said about it.
    Exit(u8),
}

impl Kind {
    /// The exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::DeploymentFailed => 3,
            Self::RolledBack => 4,
            Self::TimedOut => 5,
            Self::RollbackFailed => 6,
            Self::Superseded => 7,
            Self::Removed => 8,
            Self::Found => 9,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::BrokenPipe => 141,
            Self::Exit(code) => code,
        }
    }

    /// The word for it in the last record of a stream.
    #[must_use]
    pub const fn outcome(self) -> &'static str {
        match self {
            Self::Failed | Self::BrokenPipe => "error",
            Self::Usage => "usage-error",
            Self::DeploymentFailed => "failed",
            Self::RolledBack => "rolled-back",
            Self::RollbackFailed => "rollback-failed",
            Self::Superseded => "superseded",
            Self::Removed => "removed-meanwhile",
            Self::TimedOut => "timed-out",
            Self::Found => "found",
            Self::Interrupted | Self::Exit(130) => "interrupted",
            Self::Terminated => "terminated",
            Self::Exit(_) => "ended",
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub struct CommandError {
    kind: Kind,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    details: Vec<String>,
    hints: Vec<String>,
    answer: Answer,
}

/// What came of asking the other side, as far as it decides what is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Nobody was asked, or it was refused for good: asking again changes nothing.
    Final,
    /// What was asked for does not exist.
    NotFound,
    /// There was no answer, or none for now.
    Away,
}

impl CommandError {
    /// An error of a kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
            details: Vec::new(),
            hints: Vec::new(),
            answer: Answer::Final,
        }
    }

    /// Something went wrong, or was refused.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// What it came from.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// One more line of what happened.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// What could be done about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the other side said that what was asked for does not exist.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self.answer, Answer::NotFound)
    }

    /// Whether the other side gave no answer, or none for now, so that asking again may help.
    #[must_use]
    pub const fn is_away(&self) -> bool {
        matches!(self.answer, Answer::Away)
    }

    /// What could be done about it, one thing each.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The message with everything that it came from; empty if nothing is to be said.
    #[must_use]
    pub fn reason(&self) -> String {
        if matches!(self.kind, Kind::BrokenPipe | Kind::Exit(_)) {
            return String::new();
        }
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        text
    }

    /// The message with everything that it came from, details, then the hints, each on a line of its own;
    /// empty if nothing is to be said.
    #[must_use]
    pub fn report(&self) -> String {
        if matches!(self.kind, Kind::BrokenPipe | Kind::Exit(_)) {
            return String::new();
        }
        // Further lines are set in: none that others wrote passes for one of this program.
        let mut text = format!("error: {}", self.reason().replace('\n', "\n    "));
        for detail in &self.details {
            text.push_str(&format!("\n  {}", detail.replace('\n', "\n      ")));
        }
        for hint in &self.hints {
            text.push_str(&format!("\nhint: {hint}"));
        }
        text.push('\n');
        text
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for CommandError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn Error + 'static))
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        let answer = match &error {
            error if error.is_not_found() => Answer::NotFound,
            error if error.is_away() => Answer::Away,
            _ => Answer::Final,
        };
        let mut out = Self::failed(error.to_string());
        out.answer = answer;
        out.hints = hints(&error).iter().map(|hint| (*hint).to_owned()).collect();
        // The words of a refusal are all that it says; that an agent is not there is said better than
        // by the kernel.
        match error {
            ClientError::Manager(_) | ClientError::Agent(_) => out,
            ClientError::NoAgent { source, .. } if is_down(&source) => {
                out.because("it does not run")
            }
            error => {
                out.source = error.source().map(|source| chain(source).to_string().into());
                out
            }
        }
    }
}

/// What could be done about it, one thing each.
fn hints(error: &ClientError) -> &'static [&'static str] {
    match error {
        ClientError::Manager(status) => match status.code() {
            Code::Unavailable => {
                &["is the manager running? shoalctl context show tells which one was asked"]
            }
            Code::Aborted => &["somebody else changed it in the meantime: try again"],
            Code::Unauthenticated => &[WHICH_CERTIFICATE, RECOVERY],
            Code::PermissionDenied => &[WHICH_CERTIFICATE],
            Code::Unimplemented => &[OTHER_VERSION],
            _ => &[],
        },
        ClientError::NoAgent { source, .. } if is_down(source) => {
            &["start it: systemctl start shoal-agent"]
        }
        ClientError::NoAgent { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            &["only root may talk to the agent: use sudo"]
        }
        ClientError::Garbled(_) => &[OTHER_VERSION],
        ClientError::TooLong { .. } => {
            &["ask for less at once: of one service, one stack or one node"]
        }
        ClientError::NoContext => &[
            "shoalctl init makes a cluster on this host",
            "shoalctl context import FILE takes one that somebody else has exported",
            RECOVERY,
        ],
        ClientError::Context(error) => match error {
            ContextError::NoHome => &["set SHOAL_CONFIG to a directory"],
            ContextError::Unknown { .. } => &["shoalctl context ls lists them"],
            ContextError::Taken { .. } | ContextError::Exists(_) => {
                &["give it another name with --name"]
            }
            ContextError::Selected(_) => {
                &["shoalctl context use selects another one; --force removes it all the same"]
            }
            ContextError::Credentials { .. } | ContextError::NoCredentials { .. } => &[RECOVERY],
            _ => &[],
        },
        ClientError::Portable(PortableError::Unreadable { .. }) => {
            &["shoalctl context export writes one"]
        }
        ClientError::Portable(PortableError::Newer { .. }) => {
            &["use a shoalctl of that version, or export the context with this one"]
        }
        _ => &[],
    }
}

/// Whether nobody listens.
fn is_down(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

impl From<ContextError> for CommandError {
    fn from(error: ContextError) -> Self {
        ClientError::from(error).into()
    }
}

impl From<PortableError> for CommandError {
    fn from(error: PortableError) -> Self {
        ClientError::from(error).into()
    }
}

impl From<tonic::Status> for CommandError {
    /// What the other side refused, in its own words.
    fn from(status: tonic::Status) -> Self {
        ClientError::from(status).into()
    }
}

impl From<shoal_proto::convert::InvalidMessage> for CommandError {
    fn from(error: shoal_proto::convert::InvalidMessage) -> Self {
        ClientError::from(error).into()
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Kind::BrokenPipe, "");
        }
        Self::failed("cannot write the output").because(error)
    }
}

impl From<crate::stack::Problems> for CommandError {
    fn from(problems: crate::stack::Problems) -> Self {
        let n = problems.list.len();
        let what = if n == 1 { "a problem".to_owned() } else { format!("{n} problems") };
        Self::failed(format!("the stack file has {what}:\n{problems}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_the_whole_story_and_hints_apart() {
        let inner = io::Error::other("disk on fire");
        let error = CommandError::failed("cannot save").because(inner).hint("call somebody");
        assert_eq!(error.report(), "error: cannot save: disk on fire\nhint: call somebody\n");
        assert_eq!(CommandError::new(Kind::Exit(7), "").report(), "");
    }

    #[test]
    fn what_the_manager_says_is_passed_on() {
        let error = CommandError::from(tonic::Status::not_found("no service \"x\""));
        assert_eq!(error.report(), "error: no service \"x\"\n");
        assert_eq!(error.kind().exit_code(), 1);
    }
}
