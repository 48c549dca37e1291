//! The state machine's side of openraft: apply in order, snapshot, restore.

use std::sync::{Mutex, PoisonError};

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, ErrorSubject, ErrorVerb, RaftSnapshotBuilder, Snapshot, StorageIOError};

use super::snapshot::{SnapshotDir, SnapshotError, SnapshotFile};
use super::types::{
    Answer, Entry, LogId, Payload, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
};

/// Any error, with its chain.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Encodes a state that is fixed, or says why it cannot: half a state must never become a snapshot,
/// as the log before it is removed.
pub type SnapshotEncoder = Box<dyn FnOnce() -> Result<Vec<u8>, BoxError> + Send>;

/// The replicated state. Deterministic: equal commands in equal order give equal states on every
/// member, today and after an upgrade.
pub trait Machine: Send + Sync + 'static {
    /// What came of a command. Never leaves the process.
    type Answer: Answer;

    /// Applies one command. `index` is the position of its log entry; commands of one entry share
    /// it. What is returned goes to the command's proposer and nowhere else: a command that the
    /// state refuses is answered here, not by an error.
    ///
    /// # Errors
    ///
    /// The command cannot be understood. The member stops: skipping what other members may have
    /// applied would make its state another one than theirs.
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Self::Answer, BoxError>;

    /// Called after a run of commands was applied, before their proposers are answered: the place
    /// to show the new state to readers.
    fn publish(&mut self) {}

    /// Fixes the state as it is now, cheaply, and returns what encodes it. The encoding runs on
    /// another thread while later commands are applied.
    fn snapshot(&self) -> SnapshotEncoder;

    /// Replaces the state by an encoded one.
    ///
    /// # Errors
    ///
    /// The data makes no sense. The member stops: it must not go on with another state.
    fn restore(&mut self, data: &[u8]) -> Result<(), BoxError>;
}

/// A [`Machine`] with its place in the log and its snapshots.
pub(crate) struct Applier<M> {
    machine: M,
    dir: SnapshotDir,
    last_applied: Option<LogId>,
    last_membership: StoredMembership,
}

impl<M: Machine> Applier<M> {
    /// Starts from a snapshot, or from the machine as it is.
    pub(crate) fn new(
        machine: M,
        dir: SnapshotDir,
        newest: Option<SnapshotFile>,
    ) -> Result<Self, SnapshotError> {
        let mut this =
            Self { machine, dir, last_applied: None, last_membership: StoredMembership::default() };
        if let Some(snapshot) = newest {
            let data = snapshot.data()?;
            this.adopt(snapshot.meta(), &data)?;
        }
        Ok(this)
    }

    fn adopt(&mut self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), SnapshotError> {
        self.machine.restore(data).map_err(SnapshotError::Restore)?;
        self.last_applied = meta.last_log_id;
        self.last_membership = meta.last_membership.clone();
        self.machine.publish();
        Ok(())
    }

    fn apply_entry(&mut self, entry: Entry) -> Result<Vec<M::Answer>, (LogId, BoxError)> {
        let Entry { log_id, payload } = entry;
        let mut answers = Vec::new();
        match payload {
            Payload::Blank => {}
            Payload::Commands(batch) => {
                for command in batch.commands() {
                    let answer = self
                        .machine
                        .apply(log_id.index, command)
                        .map_err(|error| (log_id, error))?;
                    answers.push(answer);
                }
            }
            Payload::Membership(membership) => {
                self.last_membership = StoredMembership::new(Some(log_id), membership);
            }
        }
        self.last_applied = Some(log_id);
        Ok(answers)
    }
}

fn storage_error(verb: ErrorVerb, error: &SnapshotError) -> StorageError {
    StorageIOError::new(ErrorSubject::Snapshot(None), verb, AnyError::new(error)).into()
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(SnapshotError::Interrupted(error.into())))
}

impl<M: Machine> RaftStateMachine<TypeConfig<M::Answer>> for Applier<M> {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last_applied, self.last_membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Vec<M::Answer>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let results: Result<_, _> =
            entries.into_iter().map(|entry| self.apply_entry(entry)).collect();
        self.machine.publish();
        results.map_err(|(log_id, error)| {
            StorageIOError::apply(log_id, AnyError::from_dyn(error.as_ref(), None)).into()
        })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let node = self.last_applied.map(|id| (id.leader_id.term, id.index)).unwrap_or_default();
        Builder {
            encode: Mutex::new(Some(self.machine.snapshot())),
            dir: self.dir.clone(),
            meta: SnapshotMeta {
                last_log_id: self.last_applied,
                last_membership: self.last_membership.clone(),
                snapshot_id: format!("{}-{}-{:08x}", node.0, node.1, rand::random::<u32>()),
            },
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        self.dir.blank().map(Box::new).map_err(|error| storage_error(ErrorVerb::Write, &error))
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: Box<SnapshotFile>,
    ) -> Result<(), StorageError> {
        let dir = self.dir.clone();
        // On disk first: what was applied must never be newer than what a restart finds.
        let (snapshot, data) = blocking(move || {
            let snapshot = dir.install(*snapshot)?;
            let data = snapshot.data()?;
            Ok((snapshot, data))
        })
        .await
        .map_err(|error| storage_error(ErrorVerb::Write, &error))?;
        self.adopt(snapshot.meta(), &data).map_err(|error| storage_error(ErrorVerb::Read, &error))
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<TypeConfig<M::Answer>>>, StorageError> {
        Ok(self.dir.current().map(|snapshot| Snapshot {
            meta: snapshot.meta().clone(),
            snapshot: Box::new(snapshot),
        }))
    }
}

/// Encodes and writes one snapshot, away from the apply path.
pub(crate) struct Builder {
    /// Taken by the one build. The lock only makes it shareable, which openraft wants.
    encode: Mutex<Option<SnapshotEncoder>>,
    dir: SnapshotDir,
    meta: SnapshotMeta,
}

impl<A: Answer> RaftSnapshotBuilder<TypeConfig<A>> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig<A>>, StorageError> {
        let encode = self.encode.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let (dir, meta) = (self.dir.clone(), self.meta.clone());
        let built = blocking(move || match encode {
            Some(encode) => dir.write(&meta, &encode().map_err(SnapshotError::Encode)?),
            None => Err(SnapshotError::Interrupted("a builder builds one snapshot".into())),
        });
        let snapshot = built.await.map_err(|error| storage_error(ErrorVerb::Write, &error))?;
        Ok(Snapshot { meta: snapshot.meta().clone(), snapshot: Box::new(snapshot) })
    }
}
