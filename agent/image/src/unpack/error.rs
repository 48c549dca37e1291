//! Why a layer cannot be unpacked.

use std::io;

use super::super::tar_stream::TarError;

/// Why a layer cannot be unpacked. Everything that is the layer's own fault names the entry.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The packed stream is not what it claims to be, or reading it failed.
    #[error("the layer is corrupt")]
    Corrupt(#[source] io::Error),
    /// The archive inside is not one we accept.
    #[error("the layer's archive cannot be read")]
    Archive(#[source] TarError),
    /// A path with `..`, an empty name, a NUL byte, or one that is too long or too deep.
    #[error("entry {entry:?} is refused: {fault}")]
    Name {
        /// The path as the archive has it.
        entry: String,
        /// What is wrong with it.
        fault: NameFault,
    },
    /// The path leads through symbolic links of the layer, and these in circles or too far.
    #[error("entry {entry:?} is refused: it leads through too many symbolic links")]
    TooManyLinks {
        /// The path as the archive has it.
        entry: String,
    },
    /// The path leads through something that is no directory.
    #[error("entry {entry:?} is refused: {parent:?} is not a directory")]
    ParentNotDirectory {
        /// The path as the archive has it.
        entry: String,
        /// The part that is no directory.
        parent: String,
    },
    /// A hard link to something that the layer does not hold.
    #[error("entry {entry:?} is refused: it links to {target:?}, which is not in the layer")]
    LinkTarget {
        /// The path as the archive has it.
        entry: String,
        /// The path it links to.
        target: String,
    },
    /// A bound of [`Limits`](crate::Limits) was passed.
    #[error("the layer has more than {limit} {what}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many are accepted.
        limit: u64,
    },
    /// The file system is full (space, inodes or quota).
    #[error("no space left for entry {entry:?}")]
    NoSpace {
        /// What was being written.
        entry: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action} {entry:?}")]
    Write {
        /// What was attempted.
        action: &'static str,
        /// The entry's path.
        entry: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with an entry's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// One element is `..`.
    #[error("its path has the element \"..\"")]
    DotDot,
    /// Nothing is left of it.
    #[error("its path is empty")]
    Empty,
    /// A NUL byte inside.
    #[error("its path has a NUL byte")]
    Nul,
    /// Longer than a path may be.
    #[error("its path is longer than {0} bytes")]
    TooLong(usize),
    /// More elements than accepted.
    #[error("its path has more than {0} elements")]
    TooDeep(usize),
    /// One element longer than the kernel's 255 bytes.
    #[error("an element of its path is longer than 255 bytes")]
    ElementTooLong,
    /// `.wh.` with no name behind it, or a whiteout of `.` or `..`.
    #[error("it is a whiteout of nothing")]
    Whiteout,
}

impl UnpackError {
    /// Whether the layer's bytes, rather than this host, are to blame.
    #[must_use]
    pub fn is_layers_fault(&self) -> bool {
        !matches!(self, Self::NoSpace { .. } | Self::Write { .. })
    }

    /// A failed system call, with a full disk told apart.
    pub(super) fn write(action: &'static str, entry: &[u8], errno: rustix::io::Errno) -> Self {
        let source = io::Error::from(errno);
        Self::from_io(action, entry, source)
    }

    pub(super) fn from_io(action: &'static str, entry: &[u8], source: io::Error) -> Self {
        let entry = lossy(entry);
        if is_full(&source) {
            return Self::NoSpace { entry, source };
        }
        Self::Write { action, entry, source }
    }
}

/// Whether an error says that the disk, the inodes or the quota are used up.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
