//! What the log store needs from a database: a durable, ordered map with atomic batches.

use std::path::PathBuf;

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Writes a value, replacing an older one.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key; one that is absent is no error.
    Remove(Vec<u8>),
}

/// A durable, ordered map.
///
/// One writer at a time; readers at any time.
pub(crate) trait Kv: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Shows every key and its value, in byte order of the keys, and checks that [`Kv::get`]
    /// gives the same.
    fn for_each(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), KvError>;

    /// Applies all changes in order, or none. When this returns `Ok` they survive a power cut.
    ///
    /// After an error nothing is known about the disk: the caller must not use the map again.
    fn commit(&self, changes: Vec<Change>) -> Result<(), KvError>;
}

/// A failure of the database below the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KvError {
    /// The file could not be opened or created.
    #[error("open the log database {}", path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Reading failed, or what was read is damaged.
    #[error("read the log database")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Writing failed: what is on disk is now unknown.
    #[error("write the log database")]
    Write(#[source] Box<dyn std::error::Error + Send + Sync>),
}
