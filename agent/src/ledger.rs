//! What this node has durably accepted: one file per task, one for the networks, and one for the
//! leader that it obeys.
//!
//! ```text
//! <dir>/tasks/<task id>     LedgerTask of ledger.proto
//! <dir>/networks            LedgerNetworks
//! <dir>/term                LedgerTerm
//! <dir>/*.new               being written; removed when the ledger is opened
//! ```
//!
//! A file is replaced whole (written beside, synced, renamed), and the answer comes after the
//! directory is synced too. One thread does it for everybody, so that writers who come at the same
//! time share the last barrier.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use prost::Message as _;
use shoal_agent_planning::task::{Boot, Preparation, TaskRecord};
use shoal_proto::convert::InvalidMessage;
use shoal_proto::convert::field::{self, Kind as _};
use shoal_proto::v1 as pb;
use shoal_types::id::{ClusterId, NetworkId, TaskId};
use shoal_types::object::Network;
use tokio::sync::oneshot;

/// How files are to be read: what is written, and the newest that is read. It grows with every field that
/// an older agent must not pass over: it would drop it when it writes the file again. 0 is from before
/// there were any, and is read as 1.
const VERSION: u32 = 1;
/// Changes that share one barrier at most.
const BATCH_MAX: usize = 256;
/// Largest file that is read, in bytes; a task's is a few kilobytes.
const FILE_MAX: u64 = 16 << 20;
/// Files that are written at the same time.
const THREADS: usize = 32;
const NETWORKS: &str = "networks";
const TASKS: &str = "tasks";
const TERM: &str = "term";

/// Why the ledger could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// A file operation failed.
    #[error("{action} ledger file {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// A file is larger than anything that was ever written.
    #[error("ledger file {} has {size} bytes, at most {FILE_MAX} are read", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// A file is no message.
    #[error("decode ledger file {}", path.display())]
    Decode {
        /// Which file.
        path: PathBuf,
        /// Where it breaks.
        #[source]
        source: prost::DecodeError,
    },
    /// A file is a message that makes no sense.
    #[error("read ledger file {}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Which field.
        #[source]
        source: InvalidMessage,
    },
    /// A newer agent wrote it. Its tasks go on without an agent that does not know what they are.
    #[error(
        "ledger file {} has version {version}, this agent reads up to {VERSION}: start the agent that \
         wrote it, or a newer one", path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The writing thread is gone.
    #[error("the ledger is closed")]
    Closed,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Io { action, path, source: Arc::new(source) }
}

/// A leader: terms are those of its cluster's managers, each leader has a higher one than all before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Whose.
    pub cluster: ClusterId,
    /// Its number.
    pub number: u64,
}

/// Everything in a ledger.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Accepted tasks.
    pub tasks: BTreeMap<TaskId, TaskRecord>,
    /// Networks that the node was told to hold.
    pub networks: BTreeMap<NetworkId, Arc<Network>>,
    /// The newest leader that the node has obeyed.
    pub term: Option<Term>,
    /// Files that cannot be understood. They are left alone, for people to look at.
    pub damaged: Vec<LedgerError>,
    /// The tasks among them. They were accepted, and whatever became of them, they are over.
    pub lost: BTreeSet<TaskId>,
}

/// Resolves when a change is on disk. Changes are made in the order of the calls, whether or not
/// anybody waits.
pub type Written = BoxFuture<'static, Result<(), LedgerError>>;

/// A handle; clones share the disk and its thread.
#[derive(Debug, Clone)]
pub struct Ledger {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
}

/// Where changes go to.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Makes a change after those before it.
    fn change(&self, path: PathBuf, what: What) -> Written;
}

/// What becomes of a file.
#[derive(Debug)]
pub(crate) enum What {
    /// It is replaced by this.
    Write(Vec<u8>),
    Remove,
    /// Nothing: the answer comes after all that came before.
    Flush,
}

/// The thread that makes the changes, which ends when nobody can ask for any more.
#[derive(Debug)]
struct Writer(mpsc::Sender<Change>);

impl Disk for Writer {
    fn change(&self, path: PathBuf, what: What) -> Written {
        let (answer, done) = oneshot::channel();
        let sent = self.0.send(Change { path, what, answer });
        async move {
            sent.map_err(|_| LedgerError::Closed)?;
            done.await.map_err(|_| LedgerError::Closed)?
        }
        .boxed()
    }
}

#[derive(Debug)]
struct Change {
    path: PathBuf,
    what: What,
    answer: oneshot::Sender<Result<(), LedgerError>>,
}

impl Ledger {
    /// Opens or makes the ledger in `dir` and reads everything. Blocks.
    ///
    /// # Errors
    /// The directory cannot be made, it or a file in it cannot be read, or a newer agent has written in
    /// it: then nothing is touched. A damaged file is no error: see [`Loaded::damaged`].
    pub fn open(dir: &Path) -> Result<(Self, Loaded), LedgerError> {
        let tasks = dir.join(TASKS);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&tasks)
            .map_err(failed("make", &tasks))?;
        let (mut loaded, mut unfinished) = (Loaded::default(), Vec::new());
        for path in files(&tasks)?.into_iter().chain(files(dir)?) {
            if path.extension().is_some_and(|e| e == "new") {
                unfinished.push(path);
                continue;
            }
            match loaded.take(&path) {
                Ok(()) => {}
                // Who cannot look (no descriptor left, no memory, a disk that fails) knows nothing: a task
                // is not over for that.
                Err(error @ (LedgerError::Newer { .. } | LedgerError::Io { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    let name = path.file_name().and_then(|name| name.to_str());
                    loaded.lost.extend(name.and_then(|name| name.parse::<TaskId>().ok()));
                    loaded.damaged.push(error);
                }
            }
        }
        for path in unfinished {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        let (writer, changes) = mpsc::channel();
        std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || write_all(&changes))
            .map_err(failed("start the writer of", dir))?;
        Ok((Self { dir: dir.to_owned(), disk: Arc::new(Writer(writer)) }, loaded))
    }

    /// Writes a task down.
    ///
    /// # Errors
    /// The disk refuses; what was written before stays.
    pub fn save(&self, record: &TaskRecord) -> Written {
        let path = self.dir.join(TASKS).join(record.task.id.to_string());
        self.change(path, What::Write(encode(record).encode_to_vec()))
    }

    /// Forgets a task; fine if it is not there.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove(&self, id: TaskId) -> Written {
        self.change(self.dir.join(TASKS).join(id.to_string()), What::Remove)
    }

    /// Writes down which networks there are.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_networks(&self, networks: &BTreeMap<NetworkId, Arc<Network>>) -> Written {
        let networks = networks.values().map(|n| pb::Network::from(&**n)).collect();
        let bytes = pb::LedgerNetworks { networks, version: VERSION }.encode_to_vec();
        self.change(self.dir.join(NETWORKS), What::Write(bytes))
    }

    /// Writes down whom the node obeys from now on.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_term(&self, term: Term) -> Written {
        let Term { cluster, number } = term;
        let cluster_id = cluster.to_string();
        let message = pb::LedgerTerm { cluster_id, term: number, version: VERSION };
        self.change(self.dir.join(TERM), What::Write(message.encode_to_vec()))
    }

    /// Forgets whom the node has obeyed; fine if that was nobody.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove_term(&self) -> Written {
        self.change(self.dir.join(TERM), What::Remove)
    }

    /// Waits for every change before it.
    ///
    /// # Errors
    /// [`LedgerError::Closed`].
    pub fn flush(&self) -> Written {
        self.change(self.dir.clone(), What::Flush)
    }

    fn change(&self, path: PathBuf, what: What) -> Written {
        self.disk.change(path, what)
    }

    /// The same ledger, whose changes go through something else.
    #[cfg(test)]
    pub(crate) fn through(self, around: impl FnOnce(Arc<dyn Disk>) -> Arc<dyn Disk>) -> Self {
        Self { disk: around(self.disk), ..self }
    }
}

#[cfg(test)]
impl What {
    /// What is written down of a task, if it is that.
    pub(crate) fn record(&self) -> Option<TaskRecord> {
        let Self::Write(bytes) = self else { return None };
        read(pb::LedgerTask::decode(bytes.as_slice()).ok()?).ok()
    }
}

impl Loaded {
    fn take(&mut self, path: &Path) -> Result<(), LedgerError> {
        let size = fs::metadata(path).map_err(failed("look at", path))?.len();
        if size > FILE_MAX {
            return Err(LedgerError::TooLarge { path: path.to_owned(), size });
        }
        let bytes = fs::read(path).map_err(failed("read", path))?;
        let decode = |source| LedgerError::Decode { path: path.to_owned(), source };
        let invalid = |source| LedgerError::Invalid { path: path.to_owned(), source };
        let known = |version| match version {
            0..=VERSION => Ok(()),
            version => Err(LedgerError::Newer { path: path.to_owned(), version }),
        };
        if path.file_name().is_some_and(|name| name == TERM) {
            let wire = pb::LedgerTerm::decode(bytes.as_slice()).map_err(decode)?;
            known(wire.version)?;
            let cluster = field::Text::read("cluster_id", wire.cluster_id).map_err(invalid)?;
            self.term = Some(Term { cluster, number: wire.term });
            return Ok(());
        }
        if path.file_name().is_some_and(|name| name == NETWORKS) {
            let wire = pb::LedgerNetworks::decode(bytes.as_slice()).map_err(decode)?;
            known(wire.version)?;
            for network in wire.networks {
                let network = Network::try_from(network).map_err(invalid)?;
                self.networks.insert(network.id, Arc::new(network));
            }
            return Ok(());
        }
        let wire = pb::LedgerTask::decode(bytes.as_slice()).map_err(decode)?;
        known(wire.version)?;
        let record = read(wire).map_err(invalid)?;
        self.tasks.insert(record.task.id, record);
        Ok(())
    }
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, LedgerError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        match fs::metadata(&path) {
            Ok(file) if file.is_file() => files.push(path),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("look at", &path)(e)),
        }
    }
    Ok(files)
}

/// Until the last handle is gone.
fn write_all(changes: &mpsc::Receiver<Change>) {
    while let Ok(first) = changes.recv() {
        let mut batch = vec![first];
        batch.extend(changes.try_iter().take(BATCH_MAX - 1));
        // Tasks are of use only with their networks, which are on disk before them.
        let is_networks = |c: &Change| c.path.file_name().is_some_and(|name| name == NETWORKS);
        let parts = batch.chunk_by(|one, next| is_networks(one) == is_networks(next));
        let results: Vec<_> = parts.flat_map(write_together).collect();
        for (change, result) in batch.into_iter().zip(results) {
            // Whoever asked may have gone.
            let _ = change.answer.send(result);
        }
    }
}

/// All of it side by side, up to the barrier that it shares.
fn write_together(batch: &[Change]) -> Vec<Result<(), LedgerError>> {
    let mut results = apply_all(batch);
    let mut synced: BTreeMap<PathBuf, Result<(), LedgerError>> = BTreeMap::new();
    for (change, result) in batch.iter().zip(&mut results) {
        let Some(dir) = change.path.parent().filter(|_| result.is_ok()) else { continue };
        if matches!(change.what, What::Flush) {
            continue;
        }
        let sync =
            || File::open(dir).and_then(|d| d.sync_all()).map_err(failed("sync directory of", dir));
        result.clone_from(synced.entry(dir.to_owned()).or_insert_with(sync));
    }
    results
}

/// Files are synced side by side, because the file system then does it in one go; changes of one
/// file one after the other.
fn apply_all(batch: &[Change]) -> Vec<Result<(), LedgerError>> {
    let mut files: BTreeMap<&Path, Vec<usize>> = BTreeMap::new();
    for (i, change) in batch.iter().enumerate() {
        files.entry(&change.path).or_default().push(i);
    }
    if let [change] = batch {
        return vec![apply(change)];
    }
    let files: Vec<Vec<usize>> = files.into_values().collect();
    let share = files.len().div_ceil(THREADS).max(1);
    let mut results: Vec<_> = batch.iter().map(|_| Err(LedgerError::Closed)).collect();
    let one = |files: &[Vec<usize>]| -> Vec<(usize, Result<(), LedgerError>)> {
        files.iter().flatten().map(|i| (*i, apply(&batch[*i]))).collect()
    };
    let one = &one;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            files.chunks(share).map(|files| scope.spawn(move || one(files))).collect();
        for thread in threads {
            // What a thread that panicked did not answer stays refused.
            for (i, result) in thread.join().unwrap_or_default() {
                results[i] = result;
            }
        }
    });
    results
}

fn apply(change: &Change) -> Result<(), LedgerError> {
    let path = &change.path;
    let bytes = match &change.what {
        What::Write(bytes) => bytes,
        What::Remove => {
            return match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
                _ => Ok(()),
            };
        }
        What::Flush => return Ok(()),
    };
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&new, path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&new);
        failed("write", path)(source)
    })
}

fn encode(record: &TaskRecord) -> pb::LedgerTask {
    let preparation = record.preparation.as_ref().map(|p| pb::LedgerPreparation {
        image: p.image.clone(),
        stop_signal: p.stop_signal,
        healthcheck: p.healthcheck.as_ref().map(Into::into),
        note: p.note.clone(),
    });
    pb::LedgerTask {
        task: Some((&record.task).into()),
        status: Some((&record.status).into()),
        started: record.started.is_some(),
        preparation,
        boot: record.started.as_ref().map(|boot| boot.as_str().to_owned()).unwrap_or_default(),
        interrupted: record.interrupted,
        version: VERSION,
    }
}

fn read(wire: pb::LedgerTask) -> Result<TaskRecord, InvalidMessage> {
    let pb::LedgerTask { task, status, started, preparation, boot, interrupted, version: _ } = wire;
    let task = task.ok_or_else(|| InvalidMessage::missing("task"))?;
    let status = status.ok_or_else(|| InvalidMessage::missing("status"))?;
    let preparation = preparation.map(|p| -> Result<Preparation, InvalidMessage> {
        let healthcheck = p.healthcheck.map(TryInto::try_into).transpose();
        Ok(Preparation {
            image: p.image,
            stop_signal: p.stop_signal,
            healthcheck: healthcheck
                .map_err(|e: InvalidMessage| e.under("preparation.healthcheck"))?,
            note: p.note,
        })
    });
    Ok(TaskRecord {
        task: task.try_into().map_err(|e: InvalidMessage| e.under("task"))?,
        status: status.try_into().map_err(|e: InvalidMessage| e.under("status"))?,
        started: started.then(|| Boot::new(boot)),
        interrupted,
        preparation: preparation.transpose()?,
    })
}

#[cfg(test)]
mod tests;
