//! The life of one Raft member: open, initialise or join, serve, stop.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::ConfigError;
use openraft::error::{CheckIsLeaderError, ClientWriteError, Fatal, InitializeError, RaftError};
use shoal_proto::v1::raft_server::RaftServer;
use shoal_types::id::NodeId;
use tokio::sync::{Mutex, RwLock, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::RaftConfig;
use super::machine::{Applier, Machine};
use super::network::{Answered, GrpcNetwork, PeerConnector};
use super::service::RaftService;
use super::snapshot::{SnapshotDir, SnapshotError};
use super::store::{LogStore, LogStoreError, create_dir};
use super::supervise::Supervisor;
use super::types::{Answer, Batch, Member, Raft, RaftId};

const SNAPSHOTS: &str = "snapshots";

/// Where this member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaderState {
    /// Nobody is known to lead: writes and linearizable reads are not possible now.
    Unknown,
    /// Another member leads.
    Follower(Leader),
    /// This member leads, a majority has confirmed it, and everything that was committed before
    /// is applied.
    Leader {
        /// The term: higher than that of any earlier leader.
        term: u64,
    },
}

/// The member that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its Raft id.
    pub id: RaftId,
    /// The node that it runs on.
    pub node: NodeId,
    /// Where it is reached.
    pub address: String,
}

/// One member of the group and its part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its Raft id.
    pub id: RaftId,
    /// The node that it runs on.
    pub node: NodeId,
    /// Where it is reached.
    pub address: String,
    /// Takes part in decisions; otherwise it only receives the log.
    pub voter: bool,
    /// It becomes a voter, or ceases to be one, by a change that is under way: until that has ended,
    /// nothing is decided without a majority of the voters before.
    pub changing: bool,
    /// How long ago it answered this member last; `None` if it never has. Leaders ask all the time.
    pub answered: Option<Duration>,
    /// Entries of the log that it lacks, as far as this member, if it leads, has been told.
    pub lag: Option<u64>,
}

/// Why a member cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log is unusable.
    #[error("open the raft log")]
    Log(#[from] LogStoreError),
    /// The snapshots are unusable.
    #[error("open the raft snapshots")]
    Snapshots(#[from] SnapshotError),
    /// The log begins after the newest intact snapshot: what was between is gone.
    #[error(
        "the raft log begins after entry {purged}, but no intact snapshot in {} reaches that far; \
         do not start this manager with it: move the directory aside and join the cluster again \
         as a new manager, or restore a backup",
        path.display()
    )]
    SnapshotMissing {
        /// The directory of the snapshots.
        path: std::path::PathBuf,
        /// The last entry that only a snapshot holds.
        purged: u64,
    },
    /// The configuration contradicts itself.
    #[error("use the raft configuration")]
    Config(#[from] Box<ConfigError>),
    /// openraft could not start on what was opened.
    #[error("start raft")]
    Start(#[from] Fatal<RaftId>),
}

/// Why the group's membership was not changed, or a read cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum RaftCallError {
    /// Ask the leader instead.
    #[error("this manager is not the leader")]
    NotLeader {
        /// The leader, when one is known.
        leader: Option<Leader>,
    },
    /// A majority does not answer, or another change of the membership is under way.
    #[error("{0}; try again")]
    Unavailable(String),
    /// The member is already initialised, or the request makes no sense for this membership.
    #[error("{0}")]
    NotAllowed(String),
    /// The member has stopped.
    #[error("raft has stopped")]
    Stopped(#[source] Box<Fatal<RaftId>>),
}

/// A running member. Clones are handles to the same member.
pub struct RaftNode<A: Answer> {
    pub(crate) inner: Arc<Inner<A>>,
}

impl<A: Answer> Clone for RaftNode<A> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

pub(crate) struct Inner<A: Answer> {
    pub(crate) id: RaftId,
    pub(crate) raft: Raft<A>,
    store: LogStore<A>,
    snapshots: SnapshotDir,
    pub(crate) leader: watch::Receiver<LeaderState>,
    failure: watch::Receiver<Option<String>>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Held by whoever changes the membership.
    pub(crate) changing: Arc<Mutex<()>>,
    /// Shared by those who write, and held alone by whoever gives the lead away.
    pub(crate) writes: RwLock<()>,
    pub(crate) network: GrpcNetwork,
    pub(crate) answered: Answered,
}

impl<A: Answer> RaftNode<A> {
    /// Opens the member whose log and snapshots are in `dir`, or makes a new one there.
    ///
    /// State is what the newest snapshot holds plus the committed part of the log. A new member
    /// does nothing until it is initialised or added to a group.
    ///
    /// # Errors
    ///
    /// What is on disk is not all that was acknowledged, or cannot be read.
    pub async fn open<M: Machine<Answer = A>>(
        dir: &Path,
        machine: M,
        connector: Arc<dyn PeerConnector>,
        config: &RaftConfig,
    ) -> Result<Self, OpenError> {
        let openraft_config = config.to_openraft()?;
        let store = LogStore::open(dir)?;
        let snapshots_dir = dir.join(SNAPSHOTS);
        create_dir(&snapshots_dir)?;
        let snapshots = SnapshotDir::open(&snapshots_dir)?;
        let newest = snapshots.newest()?;
        let reached = newest.as_ref().and_then(|snapshot| snapshot.meta().last_log_id);
        if let Some(purged) = store.last_purged().filter(|purged| Some(*purged) > reached) {
            let purged = purged.index;
            return Err(OpenError::SnapshotMissing { path: snapshots_dir, purged });
        }
        let applier = Applier::new(machine, snapshots.clone(), newest)?;
        let id = store.raft_id();
        let answered = Answered::default();
        let network = GrpcNetwork::new(connector, answered.clone());
        let raft = Raft::new(id, openraft_config, network.clone(), store.clone(), applier).await?;
        let (leader_sender, leader) = watch::channel(LeaderState::Unknown);
        let (failure_sender, failure) = watch::channel(None);
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let changing = Arc::default();
        let supervisor = Supervisor {
            id,
            raft: raft.clone(),
            store: store.clone(),
            leader: leader_sender,
            failure: failure_sender,
            snapshot_after_bytes: config.snapshot_after_bytes,
            patience: config.heartbeat * 2,
            silence_max: config.election_timeout_max,
            changing: Arc::clone(&changing),
        };
        tasks.spawn(supervisor.run(stop.clone()));
        let writes = RwLock::default();
        let inner = Inner {
            id,
            raft,
            store,
            snapshots,
            leader,
            failure,
            stop,
            tasks,
            changing,
            writes,
            network,
            answered,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// This member's id.
    pub fn id(&self) -> RaftId {
        self.inner.id
    }

    /// True for a member that was neither initialised nor heard from a group yet.
    pub fn is_pristine(&self) -> bool {
        self.inner.store.is_pristine()
    }

    /// Makes this pristine member, which runs on `node`, the only member of a new group.
    ///
    /// # Errors
    ///
    /// `NotAllowed` when it already belongs to a group.
    pub async fn initialize(&self, node: NodeId, address: &str) -> Result<(), RaftCallError> {
        let me = BTreeMap::from([(self.inner.id, Member { node, address: address.to_owned() })]);
        self.inner.raft.initialize(me).await.map_err(|error| match error {
            RaftError::Fatal(fatal) => RaftCallError::Stopped(Box::new(fatal)),
            RaftError::APIError(
                error @ (InitializeError::NotAllowed(_) | InitializeError::NotInMembers(_)),
            ) => RaftCallError::NotAllowed(error.to_string()),
        })
    }

    /// Who leads, as it changes.
    pub fn leader(&self) -> watch::Receiver<LeaderState> {
        self.inner.leader.clone()
    }

    /// Returns when everything acknowledged before this call is applied here, so that a read of
    /// the state now is linearizable.
    ///
    /// # Errors
    ///
    /// Only the leader can promise that, and only while a majority answers.
    pub async fn ensure_linearizable(&self) -> Result<(), RaftCallError> {
        match self.inner.raft.ensure_linearizable().await {
            Ok(_) => Ok(()),
            Err(RaftError::Fatal(fatal)) => Err(RaftCallError::Stopped(Box::new(fatal))),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward))) => {
                let leader = leader_of(forward.leader_id, forward.leader_node);
                Err(RaftCallError::NotLeader { leader })
            }
            Err(RaftError::APIError(error @ CheckIsLeaderError::QuorumNotEnough(_))) => {
                Err(RaftCallError::Unavailable(error.to_string()))
            }
        }
    }

    /// The gRPC service for the other members. Mount it where only managers may call it.
    pub fn service(&self) -> RaftServer<RaftService<A>> {
        let inner = &self.inner;
        RaftService::server(inner.id, inner.raft.clone(), inner.snapshots.clone())
    }

    /// Returns when the member has failed for good, with the reason. The process must then exit:
    /// nothing is known about what the disk holds. Never returns after an orderly [`Self::shutdown`].
    pub async fn failed(&self) -> String {
        let mut failure = self.inner.failure.clone();
        let reason = failure.wait_for(Option::is_some).await.ok().and_then(|r| r.clone());
        match reason {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Stops the member and closes its files. Repeating it is harmless.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "raft did not stop in order");
        }
        match self.inner.store.close().await {
            Ok(()) | Err(LogStoreError::Poisoned) => {}
            Err(error) => tracing::error!(%error, "cannot close the raft log in order"),
        }
    }

    /// Number of durable writes of the log so far, each with a disk barrier of its own.
    #[cfg(test)]
    pub fn log_writes(&self) -> u64 {
        self.inner.store.batches()
    }

    /// Index of the last entry that only a snapshot holds.
    #[cfg(test)]
    pub fn purged(&self) -> Option<u64> {
        self.inner.store.last_purged().map(|log_id| log_id.index)
    }

    /// Writes one entry and waits until it is applied here.
    pub(crate) async fn write(
        &self,
        batch: Batch,
    ) -> Result<Vec<A>, RaftError<RaftId, ClientWriteError<RaftId, Member>>> {
        let _shared = self.inner.writes.read().await;
        self.inner.raft.client_write(batch).await.map(|response| response.data)
    }
}

pub(crate) fn leader_of(id: Option<RaftId>, member: Option<Member>) -> Option<Leader> {
    let Member { node, address } = member?;
    Some(Leader { id: id?, node, address })
}
