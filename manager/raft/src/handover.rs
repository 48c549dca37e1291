//! A leader gives its lead to another member, in milliseconds instead of the seconds in which an election
//! comes by itself.
//!
//! openraft has no such operation, and members that have just heard of a leader vote for nobody else while
//! its lease lasts. So the leader first sees to it that the other one has its whole log, then votes for it in
//! the next term, shows that vote to all others, and has the other one stand for election. A member that is
//! shown a vote that is not committed yet follows nobody, and so keeps no lease; whether it gives its vote to
//! the candidate is decided when that asks for it, by the candidate's log, as in any election. If the other
//! one does not win, or is gone, an election comes by itself.
//!
//! What shows the vote is a call to append nothing behind an entry that nobody has: it is refused, as any that
//! does not fit, after the vote was looked at.

use std::time::Duration;

use openraft::CommittedLeaderId;
use openraft::raft::AppendEntriesRequest;
use tokio::time::{Instant, timeout, timeout_at};

use super::node::{LeaderState, RaftCallError, RaftNode};
use super::types::{Answer, LogId, RaftId, Vote};

/// For everything together: until then nobody writes.
const PATIENCE: Duration = Duration::from_secs(5);
/// For one member to be shown the vote. One that is away is not waited for.
const SHOWN_WITHIN: Duration = Duration::from_millis(500);

fn late(what: &str) -> RaftCallError {
    RaftCallError::Unavailable(format!("{what} within {} s", PATIENCE.as_secs()))
}

/// The vote for a member in the term after this one, and a place in the log that nobody will ever have.
fn next_vote(term: u64, to: RaftId) -> (Vote, LogId) {
    let term = term + 1;
    (Vote::new(term, to), LogId::new(CommittedLeaderId::new(term, to), u64::MAX / 2))
}

impl<A: Answer> RaftNode<A> {
    /// Gives the lead to this voter, and returns when it leads. What is being written is finished before;
    /// what waits to be written is not begun.
    ///
    /// # Errors
    ///
    /// This member does not lead, the other one is no voter, or it does not lead in time. Somebody else may
    /// lead by then.
    pub async fn hand_over(&self, to: RaftId) -> Result<(), RaftCallError> {
        let this = self.clone();
        // Who asks for it may be dropped when this member leads no more: half way.
        let given = tokio::spawn(async move { this.give_away(to).await });
        given.await.unwrap_or_else(|error| Err(RaftCallError::Unavailable(error.to_string())))
    }

    async fn give_away(&self, to: RaftId) -> Result<(), RaftCallError> {
        let deadline = Instant::now() + PATIENCE;
        let _alone = timeout_at(deadline, self.inner.changing.lock())
            .await
            .map_err(|_| late("the membership does not come to rest"))?;
        let _quiet = timeout_at(deadline, self.inner.writes.write())
            .await
            .map_err(|_| late("what is being written is not confirmed"))?;
        let members = self.members();
        let Some(next) = members.iter().find(|m| m.id == to && m.voter && m.id != self.id()) else {
            let why = format!("raft member {to} is no other voter");
            return Err(RaftCallError::NotAllowed(why));
        };
        let term = timeout_at(deadline, self.caught_up(to))
            .await
            .map_err(|_| late(&format!("raft member {to} has not the whole log")))??;
        let (vote, nowhere) = next_vote(term, to);
        self.step_back(vote, nowhere).await?;
        let others = members.iter().filter(|m| m.id != to && m.id != self.id());
        let shown = others.map(|other| {
            let mut peer = self.inner.network.peer(other.id, other.node, &other.address);
            async move {
                if let Ok(Err(error)) = timeout(SHOWN_WITHIN, peer.show_vote(&vote, &nowhere)).await {
                    tracing::debug!(%error, "a member does not hear of the vote for the next leader");
                }
            }
        });
        futures::future::join_all(shown).await;
        let mut peer = self.inner.network.peer(next.id, next.node, &next.address);
        timeout_at(deadline, peer.take_over())
            .await
            .map_err(|_| late("the next leader does not answer"))?
            .map_err(|error| RaftCallError::Unavailable(error.to_string()))?;
        let mut leader = self.leader();
        let leads = |state: &LeaderState| matches!(state, LeaderState::Follower(l) if l.id == to);
        match timeout_at(deadline, leader.wait_for(leads)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(late(&format!("raft member {to} does not lead"))),
        }
    }

    /// Waits until a member has all that is in this one's log: the term in which this one leads.
    async fn caught_up(&self, to: RaftId) -> Result<u64, RaftCallError> {
        let mut metrics = self.inner.raft.metrics();
        loop {
            let (term, has_all) = {
                let now = metrics.borrow_and_update();
                let Some(reached) = now.replication.as_ref().and_then(|r| r.get(&to)) else {
                    return Err(RaftCallError::NotLeader { leader: None });
                };
                (now.current_term, reached.map(|log_id| log_id.index) >= now.last_log_index)
            };
            if has_all {
                return Ok(term);
            }
            if metrics.changed().await.is_err() {
                return Err(RaftCallError::Unavailable("raft has stopped".to_owned()));
            }
        }
    }

    /// Votes for another member: this one leads no more.
    async fn step_back(&self, vote: Vote, nowhere: LogId) -> Result<(), RaftCallError> {
        let request = AppendEntriesRequest {
            vote,
            prev_log_id: Some(nowhere),
            entries: Vec::new(),
            leader_commit: None,
        };
        let stepped = self.inner.raft.append_entries(request).await;
        stepped.map(drop).map_err(|error| RaftCallError::Unavailable(error.to_string()))
    }
}
