//! The directory of snapshots: at most one that counts, and what is being written or received.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use shoal_proto::v1;

use super::file::preamble;
use super::{FORMAT, MAX_DATA_BYTES, SnapshotError, SnapshotFile};
use crate::convert;
use crate::types::SnapshotMeta;

const COMPLETE: &str = "snapshot";
const PARTIAL: &str = "partial";
const DAMAGED: &str = "damaged";
/// File names begin with the index of the last entry, in this many digits.
const INDEX_DIGITS: usize = 20;

/// Where the snapshots of one member are.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotDir {
    dir: PathBuf,
    current: Arc<Mutex<Option<SnapshotFile>>>,
}

impl SnapshotDir {
    /// Uses this directory, which exists; removes what an interrupted run left half written.
    pub(crate) fn open(dir: &Path) -> Result<Self, SnapshotError> {
        let this = Self { dir: dir.to_owned(), current: Arc::default() };
        for path in this.files(PARTIAL)? {
            fs::remove_file(&path).map_err(|source| io("remove", &path, source))?;
        }
        Ok(this)
    }

    /// The newest snapshot that is intact. Damaged ones are set aside under another name.
    pub(crate) fn newest(&self) -> Result<Option<SnapshotFile>, SnapshotError> {
        let mut newest: Option<SnapshotFile> = None;
        for path in self.files(COMPLETE)? {
            match SnapshotFile::open(&path) {
                Ok(snapshot) => {
                    let newer = newest
                        .as_ref()
                        .is_none_or(|n| n.meta().last_log_id < snapshot.meta().last_log_id);
                    if newer {
                        newest = Some(snapshot);
                    }
                }
                // Whole, and not for us: it stays where it is.
                Err(error @ (SnapshotError::Format { .. } | SnapshotError::Version { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::error!(%error, "setting a damaged snapshot aside");
                    let aside = path.with_extension(DAMAGED);
                    fs::rename(&path, &aside).map_err(|source| io("rename", &path, source))?;
                }
            }
        }
        *self.lock() = newest.clone();
        Ok(newest)
    }

    /// The snapshot that counts, as it was when it was found or installed.
    pub(crate) fn current(&self) -> Option<SnapshotFile> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<SnapshotFile>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a new snapshot and removes the older ones. Durable when it returns.
    pub(crate) fn write(
        &self,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<SnapshotFile, SnapshotError> {
        let header = v1::SnapshotHeader {
            format: FORMAT,
            snapshot_id: meta.snapshot_id.clone(),
            last_log_id: meta.last_log_id.as_ref().map(convert::log_id_to_proto),
            last_membership: Some(convert::stored_membership_to_proto(&meta.last_membership)),
            data_bytes: data.len() as u64,
            data_sha256: Sha256::digest(data).to_vec(),
        };
        let mut incoming = self.receive(header)?;
        incoming.write(data)?;
        self.install(incoming.finish()?)
    }

    /// Starts to take a snapshot whose data comes in pieces.
    pub(crate) fn receive(&self, header: v1::SnapshotHeader) -> Result<Incoming, SnapshotError> {
        if header.data_bytes > MAX_DATA_BYTES {
            return Err(SnapshotError::TooLarge { announced: header.data_bytes });
        }
        let index = header.last_log_id.map_or(0, |id| id.index);
        let name = format!("{index:0INDEX_DIGITS$}-{:016x}.{PARTIAL}", rand::random::<u64>());
        let path = self.dir.join(name);
        let mut incoming = Incoming { file: create(&path)?, path, left: header.data_bytes, header };
        let preamble = preamble(&incoming.header);
        incoming.append(&preamble)?;
        Ok(incoming)
    }

    /// Makes a finished snapshot count, durably, and removes the older ones. One that was built
    /// while a newer one arrived takes nothing away from that.
    pub(crate) fn install(&self, snapshot: SnapshotFile) -> Result<SnapshotFile, SnapshotError> {
        if snapshot.path.parent() != Some(&self.dir) {
            let mut copy = self.receive(snapshot.header().clone())?;
            copy.write(&snapshot.data()?)?;
            return self.install(copy.finish()?);
        }
        let path = snapshot.path.with_extension(COMPLETE);
        if path != snapshot.path {
            fs::rename(&snapshot.path, &path).map_err(|source| io("rename", &path, source))?;
        }
        self.sync()?;
        let snapshot = SnapshotFile { path, ..snapshot };
        let mut current = self.lock();
        if current.as_ref().is_none_or(|c| c.meta().last_log_id <= snapshot.meta().last_log_id) {
            *current = Some(snapshot.clone());
            drop(current);
            self.remove_all_but(&snapshot.path)?;
        }
        Ok(snapshot)
    }

    fn remove_all_but(&self, newest: &Path) -> Result<(), SnapshotError> {
        let key = |path: &Path| {
            path.file_name().and_then(|name| name.to_str()?.get(..INDEX_DIGITS).map(str::to_owned))
        };
        for old in self.files(COMPLETE)? {
            if old == newest || key(&old) > key(newest) {
                continue;
            }
            // One that stays costs space only; a newer one is chosen at the next start.
            if let Err(error) = fs::remove_file(&old) {
                tracing::warn!(path = %old.display(), %error, "cannot remove an old snapshot");
            }
        }
        Ok(())
    }

    /// A handle to nothing.
    pub(crate) fn blank(&self) -> Result<SnapshotFile, SnapshotError> {
        let path = self.dir.join(format!("{:016x}.{PARTIAL}", rand::random::<u64>()));
        let file = create(&path)?;
        fs::remove_file(&path).map_err(|source| io("remove", &path, source))?;
        Ok(SnapshotFile::blank(file, path))
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| io("flush", &self.dir, source))
    }

    fn files(&self, extension: &str) -> Result<Vec<PathBuf>, SnapshotError> {
        let read = |source| io("list", &self.dir, source);
        let mut files = Vec::new();
        for item in fs::read_dir(&self.dir).map_err(read)? {
            let path = item.map_err(read)?.path();
            if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

fn io(attempt: &'static str, path: &Path, source: std::io::Error) -> SnapshotError {
    SnapshotError::Io { attempt, path: path.to_owned(), source }
}

fn create(path: &Path) -> Result<File, SnapshotError> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| io("create", path, source))
}

/// A snapshot that is being written. Removed when dropped unfinished.
#[derive(Debug)]
pub(crate) struct Incoming {
    file: File,
    path: PathBuf,
    header: v1::SnapshotHeader,
    left: u64,
}

impl Incoming {
    /// Appends a piece of the data.
    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        self.left = self
            .left
            .checked_sub(piece.len() as u64)
            .ok_or(SnapshotError::TooLarge { announced: self.header.data_bytes })?;
        self.append(piece)
    }

    /// Flushes the file and checks that it is whole. It does not count before it is installed.
    pub(crate) fn finish(mut self) -> Result<SnapshotFile, SnapshotError> {
        self.file.sync_all().map_err(|source| io("flush", &self.path, source))?;
        let snapshot = SnapshotFile::open(&self.path)?;
        // Nothing is left to clean up.
        self.path = PathBuf::new();
        Ok(snapshot)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_all(bytes).map_err(|source| io("write", &self.path, source))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What stays is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}
