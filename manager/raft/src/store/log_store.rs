//! openraft's view of the log.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};

use openraft::storage::{LogFlushed, LogState as OpenraftLogState, RaftLogStorage};
use openraft::{AnyError, RaftLogReader, StorageIOError};
use tokio::sync::oneshot;

use crate::types::{Answer, Entry, LogId, Payload, RaftId, StorageError, TypeConfig, Vote};

use super::LogStoreError;
use super::kv::{Kv, KvError};
use super::records::{LogState, decode_entry, entry_key};
use super::tail::Tail;
use super::writer::{Job, Work};

/// A reader may return fewer entries than asked for, so that a message stays small.
const MAX_READ_BYTES: usize = 2 << 20;

/// The log, vote and commit position of one member. Clones share one log.
pub(crate) struct LogStore<A> {
    pub(super) shared: Arc<Shared>,
    pub(super) jobs: mpsc::Sender<Job>,
    /// The log has no answers; openraft wants to know which ones the state machine gives.
    pub(super) answers: PhantomData<fn() -> A>,
}

impl<A> Clone for LogStore<A> {
    fn clone(&self) -> Self {
        let Self { shared, jobs, answers } = self;
        Self { shared: Arc::clone(shared), jobs: jobs.clone(), answers: *answers }
    }
}

/// What readers and the writer thread share.
pub(crate) struct Shared {
    pub(super) path: PathBuf,
    /// Gone once the log is closed, so that its file can be opened again.
    pub(super) kv: RwLock<Option<Box<dyn Kv>>>,
    pub(super) view: Mutex<View>,
    pub(super) appended_bytes: AtomicU64,
}

/// The log as it is on disk.
pub(crate) struct View {
    pub(super) state: LogState,
    pub(super) tail: Tail,
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        // Nothing that can panic runs under this lock between two changes that belong together.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses the database, while the log is open.
    pub(super) fn with_kv<T>(
        &self,
        work: impl FnOnce(&dyn Kv) -> Result<T, KvError>,
    ) -> Result<T, LogStoreError> {
        let kv = self.kv.read().unwrap_or_else(PoisonError::into_inner);
        Ok(work(kv.as_deref().ok_or(LogStoreError::Poisoned)?)?)
    }

    pub(super) fn close(&self) {
        *self.kv.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The state to write with the next batch.
    pub(super) fn next_state(&self) -> LogState {
        let mut state = self.view().state;
        state.sequence += 1;
        state
    }

    pub(super) fn written(&self, state: LogState) {
        let mut view = self.view();
        // The commit position may have moved while the batch was on its way to the disk.
        let committed = view.state.committed.max(state.committed);
        view.state = LogState { committed, ..state };
    }

    pub(super) fn appended(&self, entries: Vec<(Entry, usize)>) {
        let mut view = self.view();
        for (entry, bytes) in entries {
            self.appended_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            if let Payload::Commands(batch) = &entry.payload {
                batch.appended().set();
            }
            view.tail.push(entry, bytes);
        }
    }

    pub(super) fn truncated(&self, from: u64) {
        self.view().tail.truncate(from);
    }

    pub(super) fn purged(&self, upto: u64) {
        self.view().tail.purge(upto);
    }

    /// One entry that is in the log.
    pub(super) fn entry(&self, index: u64) -> Result<Entry, LogStoreError> {
        if let Some(entry) = self.view().tail.get(index) {
            return Ok(entry.clone());
        }
        let damaged = |what| LogStoreError::Damaged { path: self.path.clone(), what };
        let value = self
            .with_kv(|kv| kv.get(&entry_key(index)))?
            .ok_or_else(|| damaged(format!("entry {index} is missing")))?;
        decode_entry(index, &value)
            .map_err(|why| LogStoreError::unreadable(&self.path, format!("entry {index}"), why))
    }

    fn read(&self, range: &std::ops::Range<u64>, max: usize) -> Result<Vec<Entry>, LogStoreError> {
        let present = self.view().state.indexes();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in range.start.max(present.start)..range.end.min(present.end) {
            let entry = self.entry(index)?;
            bytes += payload_bytes(&entry);
            if bytes > max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn payload_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Commands(batch) => batch.commands().iter().map(|command| command.len() + 8).sum(),
        Payload::Blank | Payload::Membership(_) => 64,
    }
}

impl<A> LogStore<A> {
    /// Bytes of all entries ever appended since the log was opened, and of those it held then.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.shared.appended_bytes.load(Ordering::Relaxed)
    }

    /// The member's id, chosen when the log was created.
    pub(crate) fn raft_id(&self) -> RaftId {
        self.shared.view().state.raft_id
    }

    /// Number of batches written so far; each has passed a disk barrier of its own.
    #[cfg(test)]
    pub(crate) fn batches(&self) -> u64 {
        self.shared.view().state.sequence
    }

    /// The newest entry that was removed because a snapshot holds its effect.
    pub(crate) fn last_purged(&self) -> Option<LogId> {
        self.shared.view().state.purged
    }

    /// True when nothing was ever written: a member that has not been initialised nor joined.
    pub(crate) fn is_pristine(&self) -> bool {
        let view = self.shared.view();
        view.state.vote.is_none() && view.state.last.is_none()
    }

    /// Writes what is pending and closes the log; later requests fail.
    pub(crate) async fn close(&self) -> Result<(), LogStoreError> {
        self.perform(Work::Close).await
    }

    pub(super) async fn perform(&self, work: Work) -> Result<(), LogStoreError> {
        let (done, result) = oneshot::channel();
        self.jobs.send(Job { work, done }).map_err(|_| LogStoreError::Poisoned)?;
        result.await.unwrap_or(Err(LogStoreError::Poisoned))
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> std::ops::Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

fn read_error(error: &LogStoreError) -> StorageError {
    StorageIOError::read_logs(AnyError::new(error)).into()
}

fn write_error(error: &LogStoreError) -> StorageError {
    StorageIOError::write_logs(AnyError::new(error)).into()
}

impl<A: Answer> RaftLogReader<TypeConfig<A>> for LogStore<A> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.shared.read(&half_open(&range), usize::MAX).map_err(|error| read_error(&error))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.shared.read(&(start..end), MAX_READ_BYTES).map_err(|error| read_error(&error))
    }
}

impl<A: Answer> RaftLogStorage<TypeConfig<A>> for LogStore<A> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<OpenraftLogState<TypeConfig<A>>, StorageError> {
        let view = self.shared.view();
        Ok(OpenraftLogState { last_purged_log_id: view.state.purged, last_log_id: view.state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.perform(Work::Vote(*vote))
            .await
            .map_err(|error| StorageIOError::write_vote(AnyError::new(&error)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.shared.view().state.vote)
    }

    /// Kept in memory and written with the next batch: a member that lost it only has to learn
    /// again what is committed, and a barrier per commit would double the cost of every write.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.shared.view().state.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.shared.view().state.committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig<A>>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        // openraft 0.9 waits for the callback before it does anything else, so nothing is gained
        // by returning earlier.
        match self.perform(Work::Append(entries.into_iter().collect())).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(std::io::Error::other(error.to_string())));
                Err(write_error(&error))
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.perform(Work::Truncate(log_id)).await.map_err(|error| write_error(&error))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.perform(Work::Purge(log_id)).await.map_err(|error| write_error(&error))
    }
}
