//! The words of a container, as its supervisor and whoever talks to it use them.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shoal_types::id::TaskId;
use shoal_types::question::NetworkUsed;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The host's own.
    Host,
    /// A namespace of its own, with the loopback interface up and nothing else.
    Own,
    /// The namespace of another container of this host, which is there.
    Of(ContainerId),
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

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
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
