//! The Raft log and vote on disk.
//!
//! Everything is written by one thread, one atomic batch per request, and a request is answered
//! after the disk barrier. A failed write is never retried: the store is poisoned, openraft stops,
//! and the process exits, because after a failed `fsync` nobody knows what the disk holds.

pub(super) mod frame;
mod kv;
mod log_store;
mod open;
pub(super) mod records;
mod redb_kv;
mod tail;
mod term;
pub(super) mod watermark;
mod writer;

#[cfg(test)]
mod disk;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use frame::Unreadable;
pub(crate) use kv::KvError;
pub(crate) use log_store::LogStore;
pub(crate) use open::create_dir;
pub use term::{RaiseTermError, raise_term};

/// Why the log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LogStoreError {
    /// The directory of the log could not be prepared or read.
    #[error("prepare {}", path.display())]
    Prepare {
        /// The file or directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// The database below the log failed.
    #[error("use the raft log")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is on disk is not what was acknowledged. Going on could lose acknowledged writes.
    #[error(
        "the raft log in {} is damaged: {what}; do not start this manager with it: move the \
         directory aside and join the cluster again as a new manager, or restore a backup",
        path.display()
    )]
    Damaged {
        /// The directory of the log.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// It is whole, but a newer program has written it.
    #[error(
        "the raft log in {} was written by a newer version of shoal: {what} has format {version}, \
         this version reads formats up to {known}; start this manager with the version that wrote \
         it, or a newer one",
        path.display(),
        known = frame::VERSION
    )]
    Newer {
        /// The directory of the log.
        path: PathBuf,
        /// Which record.
        what: String,
        /// The format that it has.
        version: u8,
    },
    /// The watermark could not be written, so a later loss could go unnoticed.
    #[error("note how far the raft log was written")]
    Watermark(#[source] std::io::Error),
    /// An earlier write failed; nothing may be written after it.
    #[error("the raft log is closed after an earlier failure")]
    Poisoned,
    /// A write does not continue the log.
    #[error("entry {index} does not follow the last entry of the raft log")]
    NotConsecutive {
        /// Position of the entry.
        index: u64,
    },
}

impl LogStoreError {
    /// A record of the log in `path` cannot be read.
    pub(crate) fn unreadable(path: &Path, what: String, why: Unreadable) -> Self {
        let path = path.to_owned();
        match why {
            Unreadable::Damaged => {
                Self::Damaged { path, what: format!("{what} is not what was written") }
            }
            Unreadable::Newer { version } => Self::Newer { path, what, version },
        }
    }
}

impl From<KvError> for LogStoreError {
    fn from(error: KvError) -> Self {
        Self::Database(error.into())
    }
}
