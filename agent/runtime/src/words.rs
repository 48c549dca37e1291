//! The words of the runtime's contract.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream as FuturesStream;
use futures::future::BoxFuture;
use shoal_agent_ground::disk::Measured;
use tokio::sync::mpsc;

use crate::{
    ContainerId, ExitStatus, Layers, LogLimits, NetworkMode, RuntimeError, Stream, TermSize,
};

/// Everything needed to make a container.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// What runs and how it is confined. Root path and control group path are set by the runtime.
    pub oci: oci_spec::runtime::Spec,
    /// The image's layers.
    pub layers: Layers,
    /// Which network namespace it lives in.
    pub network: NetworkMode,
    /// Whether its stdin stays open and can be written; without, it reads end of file at once.
    pub open_stdin: bool,
    /// Bounds of its log.
    pub log: LogLimits,
    /// The user as the image or service names it, `user[:group]`, looked up in the container's own
    /// files at start; empty is user 0. Home follows from it where the environment names none.
    pub user: String,
    /// Labels kept for people who look at the host; not interpreted.
    pub labels: BTreeMap<String, String>,
}

/// A container that could be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// The supervisor, as this process sees it; its network namespace is the container's.
    pub supervisor_pid: i32,
}

/// A container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Its first process, as this process sees it.
    pub pid: i32,
}

/// The end of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Which.
    pub id: ContainerId,
    /// How.
    pub status: ExitStatus,
}

/// A container found by [`super::Runtime::adopt`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Which.
    pub id: ContainerId,
    /// In what state.
    pub state: ObservedState,
}

/// The state of a container that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedState {
    /// Prepared, never started.
    Prepared(Prepared),
    /// Running, with its supervisor.
    Running {
        /// Its first process.
        pid: i32,
        /// Its supervisor.
        supervisor_pid: i32,
        /// Why its supervisor cannot be talked to, if so. The container goes on, its log can be read,
        /// it can be stopped and removed; what else can be done shows when it is asked for.
        unheard: Option<String>,
    },
    /// Ended; its log and directories are still there. The same status is *not* repeated on the
    /// exit stream.
    Exited(ExitStatus),
    /// Half made, or its supervisor died before it started: nothing runs, remove it.
    Broken {
        /// What is known.
        reason: String,
    },
}

/// A further process in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments; the program is looked up in the container's `PATH`.
    pub argv: Vec<String>,
    /// Variables over those of the container, `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`; the container's own user by default.
    pub user: Option<String>,
    /// Working directory; the container's own by default.
    pub cwd: Option<PathBuf>,
    /// The size of the terminal to run it on; none for pipes.
    pub tty: Option<TermSize>,
    /// Whether its stdin can be written; without, it reads end of file at once.
    pub stdin: bool,
    /// Whether what it has left running is killed at its end. Otherwise it lives on in the container,
    /// as with Docker.
    pub sweep: bool,
}

/// A process started by exec. Dropping it kills the process and whatever it has started, also what has
/// changed its user, its session or its parent.
pub struct ExecSession {
    /// Its first process, as this process sees it.
    pub pid: i32,
    /// Bytes for its stdin or terminal; closing the sender closes its stdin.
    pub stdin: mpsc::Sender<Bytes>,
    /// What it writes, in chunks of at most 64 KiB; with a terminal everything is stdout. Ends when
    /// all output has been read; soon after the process has ended, whoever still could write.
    pub output: mpsc::Receiver<(Stream, Bytes)>,
    /// Sets the size of its terminal; ignored without one.
    pub resize: mpsc::Sender<TermSize>,
    /// Its end.
    pub wait: BoxFuture<'static, Result<ExitStatus, RuntimeError>>,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Which lines of a log are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuery {
    /// Go on with new lines until the container has ended.
    pub follow: bool,
    /// Only lines at or after this time, in nanoseconds since the Unix epoch.
    pub since_nanos: Option<u64>,
    /// Only lines before this time, in nanoseconds since the Unix epoch.
    pub until_nanos: Option<u64>,
    /// Only the last so many lines there are now.
    pub tail: Option<usize>,
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
}

impl Default for LogQuery {
    fn default() -> Self {
        Self {
            follow: false,
            since_nanos: None,
            until_nanos: None,
            tail: None,
            stdout: true,
            stderr: true,
        }
    }
}

/// Bytes of a line that stay together, at most; a longer one arrives as several.
pub const LINE_MAX: usize = 1 << 20;

/// One line of a container's output, or a piece of a very long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When the supervisor read it, in nanoseconds since the Unix epoch.
    pub at_nanos: u64,
    /// Where it was written.
    pub stream: Stream,
    /// The bytes as they were written, with the final newline, which is missing when the line is one of
    /// more than [`LINE_MAX`] and goes on in the next, or was never finished.
    pub text: Vec<u8>,
}

/// Lines as they are asked for.
pub type LogStream = Pin<Box<dyn FuturesStream<Item = Result<LogLine, RuntimeError>> + Send>>;

/// A container of which something is on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trace {
    /// Whose.
    pub id: ContainerId,
    /// It is its log, and how it ended, and nothing else.
    pub only_log: bool,
}

/// How much of the disk a container takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerDisk {
    /// What it has written beside its image.
    pub written: Measured,
    /// Its log.
    pub log: Measured,
}
