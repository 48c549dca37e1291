//! Snapshots as ordinary files: written aside, flushed, renamed; checked whole before use.
//!
//! Layout: magic, length of the header (4 bytes, big endian), header (`SnapshotHeader`), SHA-256
//! of all that, data. The header carries the length and the SHA-256 of the data.

mod directory;
mod file;

use std::path::PathBuf;

pub(crate) use directory::{Incoming, SnapshotDir};
pub use file::SnapshotFile;

/// The layout of snapshot data that this program writes, and the only one it reads.
pub(crate) const FORMAT: u32 = 1;
/// A snapshot that claims more is refused.
pub(crate) const MAX_DATA_BYTES: u64 = 16 << 30;

/// Why a snapshot cannot be written, read or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file operation failed.
    #[error("{attempt} {}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what was written.
    #[error("snapshot {} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// A newer program wrote the snapshot.
    #[error("snapshot {} has format {found}, this program reads format {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format it has.
        found: u32,
    },
    /// A newer program wrote the file in another way.
    #[error(
        "snapshot {} is a file of version {found} and was written by a newer version of shoal; this \
         one reads version 1: start this manager with the version that wrote it, or a newer one",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version that it has.
        found: u8,
    },
    /// The state machine cannot use the data.
    #[error("restore the state from a snapshot")]
    Restore(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The state machine cannot write its state down.
    #[error("write the state to a snapshot")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The work on a snapshot was not done.
    #[error("work on a snapshot was interrupted")]
    Interrupted(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More data arrived than was announced, or an impossible amount was announced.
    #[error(
        "snapshot announces {announced} bytes; at most {MAX_DATA_BYTES} and no more than announced are taken"
    )]
    TooLarge {
        /// Length of the data by its header.
        announced: u64,
    },
}

#[cfg(test)]
mod tests;
