//! The cluster as the shells see it: read a view, propose commands.

use std::sync::Arc;

use bytes::Bytes;
use shoal_manager_planning::managers::{self, Step};
use shoal_manager_state::{ClusterState, Command, Outcome, Rejected, RejectedCode};
use shoal_transport::undone;
use shoal_types::error_chain::chain;
use shoal_types::object::{ManagerHealth, ManagerStatus, Node};
use shoal_types::time::Timestamp;
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::clock;
use crate::feed::Feed;
use crate::machine::Answer;
use crate::raft::codec::encode_command;
use crate::raft::{
    LeaderState, Member, MemberStatus, ProposeError, Proposer, RaftCallError, RaftNode,
};

/// A cheap handle on the replicated state.
#[derive(Clone)]
pub struct Cluster {
    raft: RaftNode<Answer>,
    proposer: Proposer<Answer>,
    state: watch::Receiver<Arc<ClusterState>>,
    feed: Feed,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ProposalError {
    /// The state refused it.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// It did not get as far, or nobody knows how far it got.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

/// Why the managers were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Raft does not do it.
    #[error(transparent)]
    Raft(#[from] RaftCallError),
    /// It was not written down.
    #[error(transparent)]
    Proposal(#[from] ProposalError),
}

impl From<ProposalError> for Status {
    fn from(error: ProposalError) -> Self {
        match error {
            ProposalError::Rejected(rejected) => {
                Self::new(status_code(rejected.code()), rejected.to_string())
            }
            ProposalError::Propose(error) => {
                let why = chain(&error).to_string();
                match &error {
                    ProposeError::NotLeader { .. } | ProposeError::Unavailable { .. } => {
                        undone(Self::unavailable(why))
                    }
                    // Whoever repeats what is unavailable must not repeat this blindly.
                    ProposeError::Unknown { .. } => Self::unknown(why),
                    ProposeError::TooLarge { .. } => Self::invalid_argument(why),
                }
            }
        }
    }
}

const fn status_code(code: RejectedCode) -> Code {
    match code {
        RejectedCode::NotFound => Code::NotFound,
        RejectedCode::AlreadyExists => Code::AlreadyExists,
        RejectedCode::FailedPrecondition => Code::FailedPrecondition,
        RejectedCode::Aborted => Code::Aborted,
        RejectedCode::InvalidArgument => Code::InvalidArgument,
    }
}

impl Cluster {
    /// A handle on what these make together.
    #[must_use]
    pub fn new(
        raft: RaftNode<Answer>,
        proposer: Proposer<Answer>,
        state: watch::Receiver<Arc<ClusterState>>,
        feed: Feed,
    ) -> Self {
        Self { raft, proposer, state, feed }
    }

    /// The newest state that this manager knows. May be behind what the leader knows.
    #[must_use]
    pub fn view(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.borrow())
    }

    /// Tells when the state changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.clone()
    }

    /// The change feed.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Who leads.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<LeaderState> {
        self.raft.leader()
    }

    /// Refuses where only the leader can answer.
    ///
    /// The term in which this manager leads.
    ///
    /// # Errors
    /// `UNAVAILABLE` if this manager does not lead.
    pub fn must_lead(&self) -> Result<u64, Status> {
        match &*self.raft.leader().borrow() {
            LeaderState::Leader { term } => Ok(*term),
            LeaderState::Follower(leader) => {
                let address = &leader.address;
                Err(undone(Status::unavailable(format!(
                    "this manager does not lead: ask {address}"
                ))))
            }
            LeaderState::Unknown => Err(undone(Status::unavailable("no manager leads at present"))),
        }
    }

    /// A state that has everything that was acknowledged to anybody before this call.
    ///
    /// # Errors
    /// `UNAVAILABLE` if this manager does not lead, or cannot tell.
    pub async fn read(&self) -> Result<Arc<ClusterState>, Status> {
        self.raft
            .ensure_linearizable()
            .await
            .map_err(|error| undone(Status::unavailable(chain(&error).to_string())))?;
        Ok(self.view())
    }

    /// How a node's manager fares as far as this one, the leader, knows.
    #[must_use]
    pub fn manager_health(&self, node: &Node) -> Option<ManagerHealth> {
        let health = |status: &ManagerStatus| {
            let leader = match &*self.raft.leader().borrow() {
                LeaderState::Leader { .. } => Some(self.raft.id()),
                LeaderState::Follower(leader) => Some(leader.id),
                LeaderState::Unknown => None,
            };
            let members = self.raft.members().into_iter();
            let voters = members.filter(|m| m.voter && !m.changing).map(|m| (m.id, m.answered));
            managers::health(status, leader, &voters.collect())
        };
        node.manager_status.as_ref().map(health)
    }

    /// This manager's id in Raft.
    #[must_use]
    pub fn raft_id(&self) -> u64 {
        self.raft.id()
    }

    /// Raft's members, as this manager knows them.
    #[must_use]
    pub fn members(&self) -> Vec<managers::Member> {
        let member = |status| {
            let MemberStatus { id, node, address, voter, changing: _, answered, lag } = status;
            managers::Member { raft_id: id, node, addr: address, voter, answered, lag }
        };
        self.raft.members().into_iter().map(member).collect()
    }

    /// Makes one change of the managers.
    ///
    /// # Errors
    /// This one does not lead, no majority answers, or another change is under way.
    pub async fn change_managers(&self, step: Step) -> Result<(), ChangeError> {
        match step {
            Step::HandOver { to } => self.raft.hand_over(to).await?,
            Step::Remove { raft_id } => self.raft.remove_member(raft_id).await?,
            Step::Move { raft_id, addr } => self.raft.set_address(raft_id, &addr).await?,
            Step::Add { raft_id, node, addr } => {
                self.raft.add_learner(raft_id, Member { node, address: addr }).await?;
            }
            Step::Promote { raft_id } => self.raft.promote(raft_id).await?,
            Step::Forget { node: id } => {
                self.propose(Command::SetManagerStatus { id, status: None }).await?;
            }
        }
        Ok(())
    }

    /// Carries out one command, durably.
    ///
    /// # Errors
    /// See [`ProposalError`].
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposalError> {
        let mut results = self.propose_all(vec![command]).await?;
        results.pop().unwrap_or(Ok(Outcome::Unchanged)).map_err(Into::into)
    }

    /// Carries out commands in order, each for itself, sharing one disk barrier. What some manager
    /// might not understand is not written, but rejected here.
    ///
    /// # Errors
    /// Nothing, or nobody knows how much, was carried out.
    pub async fn propose_all(&self, commands: Vec<Command>) -> Result<Vec<Answer>, ProposeError> {
        let (now, view) = (clock::now(), self.view());
        // Polled in order, so they stand in the queue in order.
        let answers = commands.iter().map(|command| {
            let entry = loggable(&view, now, command);
            async {
                match entry {
                    Ok(bytes) => self.proposer.propose(bytes).await,
                    Err(rejected) => Ok(Err(rejected)),
                }
            }
        });
        futures::future::try_join_all(answers).await
    }
}

/// What is to be written of a command, if every manager understands it.
fn loggable(view: &ClusterState, now: Timestamp, command: &Command) -> Result<Bytes, Rejected> {
    view.permits(command)?;
    Ok(encode_command(now, command))
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::testing::{TestCluster, service_spec};
    use shoal_types::level::Level;
    use shoal_types::object::Slot;

    use super::*;

    /// What this program knows nothing of.
    const LATER: Level = Level::new(Level::OWN.number() + 1);

    #[test]
    fn what_some_manager_would_not_understand_is_not_written() {
        let mut cluster = TestCluster::new();
        let service = cluster.add_service(service_spec("web", 1));
        let (_, mut command) = cluster.new_task(service, Slot::Replica(1));
        assert!(loggable(&cluster.state, cluster.now, &command).is_ok());
        if let Command::CreateTask { level, .. } = &mut command {
            *level = LATER;
        }
        let refused = loggable(&cluster.state, cluster.now, &command).expect_err("too new");
        assert_eq!(refused.code(), RejectedCode::FailedPrecondition);
        assert!(
            refused
                .to_string()
                .contains(&format!("needs feature level {LATER}, and the cluster has 1")),
            "{refused}"
        );
    }

    #[test]
    fn only_what_may_be_repeated_is_unavailable() {
        let reason = "a reason";
        let cases = [
            (ProposeError::NotLeader { leader: None }, Code::Unavailable),
            (ProposeError::Unavailable { reason }, Code::Unavailable),
            (ProposeError::Unknown { reason }, Code::Unknown),
            (ProposeError::TooLarge { bytes: 3, max: 2 }, Code::InvalidArgument),
        ];
        for (error, code) in cases {
            let status = Status::from(ProposalError::from(error.clone()));
            assert_eq!((status.code(), status.message()), (code, error.to_string().as_str()));
        }
    }
}
