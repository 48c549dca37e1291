//! The words of the runtime's contract.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;

use bytes::Bytes;
use futures::Stream as FuturesStream;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use shoal_agent_ground::disk::Measured;
use shoal_types::id::TaskId;
use shoal_types::question::NetworkUsed;
use tokio::sync::mpsc;

use super::RuntimeError;

/// Names a container on this host: a task's id in production. 1 to 64 of `a-z`, `0-9`, `-`, `_`,
/// starting with a letter or digit, so that it is a file name and a control group name as it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// Why a text cannot name a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is not a container id: expected 1 to 64 of a-z, 0-9, '-' and '_', starting with a \
     letter or digit"
)]
pub struct InvalidContainerId {
    /// The refused text.
    pub value: String,
}

impl ContainerId {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`InvalidContainerId`] for anything that is not a plain name.
    pub fn new(value: impl Into<String>) -> Result<Self, InvalidContainerId> {
        let value = value.into();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ok = (1..=64).contains(&value.len())
            && value.bytes().all(|b| plain(b) || b == b'-' || b == b'_')
            && value.bytes().next().is_some_and(plain);
        if ok { Ok(Self(value)) } else { Err(InvalidContainerId { value }) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Containers of tasks are named after them; the written form of an id is always such a name.
impl From<TaskId> for ContainerId {
    fn from(task: TaskId) -> Self {
        Self(task.to_string())
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidContainerId;
    fn try_from(value: String) -> Result<Self, InvalidContainerId> {
        Self::new(value)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The network a container lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The host's own.
    Host,
    /// A namespace of its own, with the loopback interface up and nothing else.
    Own,
}

/// The read-only layers below a container's own: absolute directories, lowest (the base) first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers(pub Vec<PathBuf>);

/// Bounds of a container's log on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes after which a file is rotated away.
    pub max_bytes: u64,
    /// Files kept, the current one included; at least one.
    pub max_files: u32,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, max_files: 3 }
    }
}

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

/// How a container ended. Exactly one of `code` and `signal` is set, unless the truth is unknown
/// (the supervisor died, the host rebooted), which `message` then says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The exit code, if the first process exited.
    pub code: Option<i32>,
    /// The signal that killed the first process.
    pub signal: Option<i32>,
    /// Whether the kernel killed the first process for want of memory; `signal` is SIGKILL then.
    pub oom_killed: bool,
    /// When, in nanoseconds since the Unix epoch.
    pub at_nanos: u64,
    /// What a person should know beyond the numbers.
    pub message: Option<String>,
}

impl ExitStatus {
    /// Whether it ended as a job should.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The code a shell or `docker ps` would show: 128 + signal for a killed process. `None` when
    /// unknown.
    #[must_use]
    pub fn shell_code(&self) -> Option<i32> {
        self.code.or_else(|| self.signal.map(|s| 128 + s))
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match (self.oom_killed, self.code, self.signal) {
            (true, _, _) => "out of memory: killed at its memory limit".to_owned(),
            (_, Some(code), _) => format!("exit code {code}"),
            (_, _, Some(signal)) => format!("killed by signal {signal}"),
            (_, None, None) => "exit status unknown".to_owned(),
        };
        f.write_str(&text)?;
        self.message.as_ref().map_or(Ok(()), |m| write!(f, " ({m})"))
    }
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

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
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

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
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

/// How much of the disk a container takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerDisk {
    /// What it has written beside its image.
    pub written: Measured,
    /// Its log.
    pub log: Measured,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// Processor time used so far, in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory charged now, in bytes, page cache included.
    pub memory_bytes: u64,
    /// As much of it as the kernel gives back first, in bytes: files that have not been used for long.
    pub inactive_file_bytes: u64,
    /// The memory limit in bytes; `None` without one.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// What went over its network; nothing where that is the host's, or no process is left.
    pub network: Option<NetworkUsed>,
}
