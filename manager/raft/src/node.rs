//! The life of one Raft member: open, initialise or join, serve, stop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{CheckIsLeaderError, ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::{ChangeMembers, ConfigError};
use shoal_proto::v1::raft_server::RaftServer;
use shoal_types::id::NodeId;
use tokio::sync::{Mutex, watch};
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
/// How long a step of a membership change may take before the caller is told.
const MEMBERSHIP_PATIENCE: Duration = Duration::from_secs(60);

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
    /// How long ago it answered this member last; `None` if it never has. Leaders ask all the time.
    pub answered: Option<Duration>,
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
    inner: Arc<Inner<A>>,
}

impl<A: Answer> Clone for RaftNode<A> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<A: Answer> {
    id: RaftId,
    raft: Raft<A>,
    store: LogStore<A>,
    snapshots: SnapshotDir,
    leader: watch::Receiver<LeaderState>,
    failure: watch::Receiver<Option<String>>,
    stop: CancellationToken,
    tasks: TaskTracker,
    changing: Arc<Mutex<()>>,
    answered: Answered,
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
        let raft = Raft::new(id, openraft_config, network, store.clone(), applier).await?;
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
        let inner =
            Inner { id, raft, store, snapshots, leader, failure, stop, tasks, changing, answered };
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

    /// Adds a member that receives the log but does not vote, and waits until it has caught up.
    /// Repeating it changes nothing. Waits, as the two below, for hosts that join as managers.
    ///
    /// # Errors
    ///
    /// Only the leader can do it.
    pub async fn add_learner(&self, id: RaftId, member: Member) -> Result<(), RaftCallError> {
        let address = member.address.clone();
        let adding = self.inner.raft.add_learner(id, member, true);
        match tokio::time::timeout(MEMBERSHIP_PATIENCE, adding).await {
            Ok(added) => added.map(|_| ()).map_err(call_error),
            Err(_) => Err(RaftCallError::Unavailable(format!(
                "raft member {id} at {address} has not caught up within {} s, and goes on trying",
                MEMBERSHIP_PATIENCE.as_secs()
            ))),
        }
    }

    /// Adds a member that votes: first as a learner, so that the group keeps its majority while
    /// the new member catches up.
    ///
    /// # Errors
    ///
    /// Only the leader can do it.
    pub async fn add_voter(&self, id: RaftId, member: Member) -> Result<(), RaftCallError> {
        self.add_learner(id, member).await?;
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    /// Removes a member, voter or learner. One that is absent is no error. The removed member
    /// must be stopped afterwards: it would go on asking for votes.
    ///
    /// # Errors
    ///
    /// Only the leader can do it, and not to the last voter.
    pub async fn remove_member(&self, id: RaftId) -> Result<(), RaftCallError> {
        match self.members().iter().find(|member| member.id == id) {
            Some(member) if member.voter => {
                self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await
            }
            Some(_) => self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await,
            None => Ok(()),
        }
    }

    /// Tells the group that a member moved. Messages carry the member's id, so one that reaches
    /// another member at the address is refused.
    ///
    /// # Errors
    ///
    /// Only the leader can do it, for a member that exists.
    pub async fn set_address(&self, id: RaftId, address: &str) -> Result<(), RaftCallError> {
        self.set_member(id, None, address).await
    }

    /// As [`Self::set_address`], of a member that turned out to run on another node than was said when
    /// the group was made.
    ///
    /// # Errors
    ///
    /// Only the leader can do it, for a member that exists.
    pub async fn set_node(
        &self,
        id: RaftId,
        node: NodeId,
        address: &str,
    ) -> Result<(), RaftCallError> {
        self.set_member(id, Some(node), address).await
    }

    async fn set_member(
        &self,
        id: RaftId,
        node: Option<NodeId>,
        address: &str,
    ) -> Result<(), RaftCallError> {
        let members = self.members();
        let known = members
            .iter()
            .find(|member| member.id == id)
            .ok_or_else(|| RaftCallError::NotAllowed(format!("raft member {id} does not exist")))?;
        let node = node.unwrap_or(known.node);
        if known.node == node && known.address == address {
            return Ok(());
        }
        let member = Member { node, address: address.to_owned() };
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, member)]))).await
    }

    async fn change(&self, change: ChangeMembers<RaftId, Member>) -> Result<(), RaftCallError> {
        let _alone = self.inner.changing.lock().await;
        let changing = self.inner.raft.change_membership(change, false);
        match tokio::time::timeout(MEMBERSHIP_PATIENCE, changing).await {
            Ok(changed) => changed.map(|_| ()).map_err(call_error),
            Err(_) => Err(RaftCallError::Unavailable(format!(
                "no majority has confirmed the membership change within {} s; it may still happen",
                MEMBERSHIP_PATIENCE.as_secs()
            ))),
        }
    }

    /// The members of the group as this member knows them, by id.
    pub fn members(&self) -> Vec<MemberStatus> {
        let metrics = self.inner.raft.metrics();
        let stored = Arc::clone(&metrics.borrow().membership_config);
        let voters: BTreeSet<_> = stored.membership().voter_ids().collect();
        let ids = stored.membership().nodes().map(|(id, _)| *id).collect();
        let mut ago = self.inner.answered.ago(&ids);
        ago.insert(self.inner.id, Duration::ZERO);
        stored
            .membership()
            .nodes()
            .map(|(id, member)| MemberStatus {
                id: *id,
                node: member.node,
                address: member.address.clone(),
                voter: voters.contains(id),
                answered: ago.get(id).copied(),
            })
            .collect()
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
        self.inner.raft.client_write(batch).await.map(|response| response.data)
    }
}

pub(crate) fn leader_of(id: Option<RaftId>, member: Option<Member>) -> Option<Leader> {
    let Member { node, address } = member?;
    Some(Leader { id: id?, node, address })
}

fn call_error(error: RaftError<RaftId, ClientWriteError<RaftId, Member>>) -> RaftCallError {
    use openraft::error::ChangeMembershipError as Change;
    match error {
        RaftError::Fatal(fatal) => RaftCallError::Stopped(Box::new(fatal)),
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            RaftCallError::NotLeader { leader: leader_of(forward.leader_id, forward.leader_node) }
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(change)) => match change {
            Change::InProgress(_) => RaftCallError::Unavailable(change.to_string()),
            Change::EmptyMembership(_) | Change::LearnerNotFound(_) => {
                RaftCallError::NotAllowed(change.to_string())
            }
        },
    }
}
