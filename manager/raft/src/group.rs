//! Who belongs to the group, and how that changes: one step at a time, each by its leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError};
use shoal_types::id::NodeId;

use super::node::{MemberStatus, RaftCallError, RaftNode, leader_of};
use super::types::{Answer, Member, RaftId};

/// How long a step of a membership change may take before the caller is told.
const MEMBERSHIP_PATIENCE: Duration = Duration::from_secs(60);

async fn in_time(
    step: impl Future<Output = Result<(), RaftCallError>>,
) -> Result<(), RaftCallError> {
    let late = |_| {
        Err(RaftCallError::Unavailable(format!(
            "no majority has confirmed the membership change within {} s; it may still happen",
            MEMBERSHIP_PATIENCE.as_secs()
        )))
    };
    tokio::time::timeout(MEMBERSHIP_PATIENCE, step).await.unwrap_or_else(late)
}

impl<A: Answer> RaftNode<A> {
    /// Adds a member that receives the log but does not vote. Repeating it changes nothing.
    ///
    /// # Errors
    ///
    /// Only the leader can do it.
    pub async fn add_learner(&self, id: RaftId, member: Member) -> Result<(), RaftCallError> {
        let _alone = self.inner.changing.lock().await;
        let adding = self.inner.raft.add_learner(id, member, false);
        in_time(async { adding.await.map(|_| ()).map_err(call_error) }).await
    }

    /// Lets a learner vote. It should have caught up: until then it confirms nothing, and a majority
    /// of more members is needed.
    ///
    /// # Errors
    ///
    /// Only the leader can do it, for a member that exists.
    pub async fn promote(&self, id: RaftId) -> Result<(), RaftCallError> {
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
        in_time(async { changing.await.map(|_| ()).map_err(call_error) }).await
    }

    /// The members of the group as this member knows them, by id.
    pub fn members(&self) -> Vec<MemberStatus> {
        let metrics = self.inner.raft.metrics();
        let stored = Arc::clone(&metrics.borrow().membership_config);
        let sets = stored.membership().get_joint_config();
        let votes = |id: &RaftId| sets.iter().filter(|set| set.contains(id)).count();
        let ids = stored.membership().nodes().map(|(id, _)| *id).collect();
        let mut ago = self.inner.answered.ago(&ids);
        ago.insert(self.inner.id, Duration::ZERO);
        let (reached, last) = {
            let metrics = metrics.borrow();
            (metrics.replication.clone().unwrap_or_default(), metrics.last_log_index)
        };
        let lag = |id| {
            let has = reached.get(id)?.map_or(0, |log_id| log_id.index + 1);
            Some(last.map_or(0, |last| last + 1).saturating_sub(has))
        };
        stored
            .membership()
            .nodes()
            .map(|(id, member)| MemberStatus {
                id: *id,
                node: member.node,
                address: member.address.clone(),
                voter: votes(id) > 0,
                changing: (1..sets.len()).contains(&votes(id)),
                answered: ago.get(id).copied(),
                lag: lag(id),
            })
            .collect()
    }
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
