//! Files that are either there and whole, or not there.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use shoal_agent_ground::blocking::STORE;

use super::error::StoreError;

/// Writes a file under another name, makes it durable, and gives it its name.
pub(super) fn write_atomically(tmp: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let draft = Scratch::name(tmp);
    let result = File::create(&draft)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&draft, path));
    if let Err(error) = result {
        // Best effort: the next start clears the directory.
        let _ = fs::remove_file(&draft);
        return Err(StoreError::io("write", path)(error));
    }
    sync_parent(path)
}

/// Makes a rename or removal in the parent directory durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::io("make durable", parent))
}

/// A directory under construction; removed unless it is kept.
#[derive(Debug)]
pub(super) struct Scratch {
    path: Option<PathBuf>,
}

static COUNTER: AtomicU64 = AtomicU64::new(0);

impl Scratch {
    /// A name in `tmp` that nobody else of this process uses; the store's lock keeps others away.
    pub(super) fn name(tmp: &Path) -> PathBuf {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        tmp.join(format!("{}-{number}", std::process::id()))
    }

    /// A new empty directory in `tmp`.
    pub(super) fn create(tmp: &Path) -> Result<Self, StoreError> {
        let path = Self::name(tmp);
        fs::create_dir(&path).map_err(StoreError::io("create", &path))?;
        Ok(Self { path: Some(path) })
    }

    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Gives the directory its final name; one that is there already stays. Not durable until
    /// [`sync_parent`].
    pub(super) fn keep_as(mut self, path: &Path) -> Result<(), StoreError> {
        let Some(draft) = self.path.take() else { return Ok(()) };
        match fs::rename(&draft, path) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.path = Some(draft);
                if path.is_dir() {
                    return Ok(());
                }
                Err(StoreError::io("rename to", path)(error))
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let remove = move || {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a temporary directory");
            }
        };
        // A layer may have a million files: not on a thread that drives connections.
        STORE.leave(remove);
    }
}

/// Makes everything written so far durable, for many callers at the price of few.
///
/// `syncfs` rather than an `fsync` per file: a layer has thousands of small files, and each
/// `fsync` is a journal commit of its own. Layers that end at the same time share one call.
#[derive(Debug)]
pub(super) struct GroupSync {
    dir: File,
    /// Callers so far.
    tickets: AtomicU64,
    /// Callers whose writes are durable.
    done: Mutex<u64>,
}

impl GroupSync {
    pub(super) fn new(dir: &Path) -> Result<Self, StoreError> {
        let file = File::open(dir).map_err(StoreError::io("open", dir))?;
        Ok(Self { dir: file, tickets: AtomicU64::new(0), done: Mutex::new(0) })
    }

    /// Returns when all that the caller wrote before is on the disk.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        let ticket = self.tickets.fetch_add(1, Ordering::SeqCst) + 1;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if *done >= ticket {
            return Ok(());
        }
        let covered = self.tickets.load(Ordering::SeqCst);
        rustix::fs::syncfs(&self.dir)?;
        *done = covered;
        Ok(())
    }
}

/// Runs the store's own work on one of its threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    STORE.run(work).await.map_err(|_| StoreError::Worker)?
}
