//! Watches a running member: who leads, whether it still lives, whether something is left to do.

use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::metrics::RaftMetrics;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::node::{LeaderState, leader_of};
use super::store::LogStore;
use super::types::{Answer, Member, Raft, RaftId};

type Metrics = RaftMetrics<RaftId, Member>;

pub(super) struct Supervisor<A: Answer> {
    pub(super) id: RaftId,
    pub(super) raft: Raft<A>,
    pub(super) store: LogStore<A>,
    pub(super) leader: watch::Sender<LeaderState>,
    pub(super) failure: watch::Sender<Option<String>>,
    pub(super) snapshot_after_bytes: u64,
    /// How long a confirmation of leadership may take before it is asked for again.
    pub(super) patience: Duration,
    /// A leader that no majority has answered for so long is not shown as one any more.
    pub(super) silence_max: Duration,
    /// Held by whoever changes the membership.
    pub(super) changing: Arc<Mutex<()>>,
}

impl<A: Answer> Supervisor<A> {
    /// Runs until the member is stopped or fails.
    pub(super) async fn run(self, stop: CancellationToken) {
        let watching = self.watch();
        tokio::select! {
            () = stop.cancelled() => {}
            () = watching => {}
        }
        self.leader.send_replace(LeaderState::Unknown);
    }

    async fn watch(&self) {
        let mut metrics = self.raft.metrics();
        let mut snapshot_mark = 0;
        let mut elected = false;
        loop {
            let now = metrics.borrow_and_update().clone();
            if let Err(fatal) = &now.running_state {
                tracing::error!(error = %fatal, "raft has failed");
                return self.fail(fatal.to_string());
            }
            if !elected {
                elected = self.elect_sole_voter(&now).await;
            }
            let settled = self.report(&now).await;
            self.finish_membership_change(&now).await;
            let appended = self.store.appended_bytes();
            if appended - snapshot_mark > self.snapshot_after_bytes {
                snapshot_mark = appended;
                // A failure to take it shows in the metrics.
                let _ = self.raft.trigger().snapshot().await;
            }
            let changed = if settled {
                metrics.changed().await
            } else {
                tokio::time::timeout(self.patience, metrics.changed()).await.unwrap_or(Ok(()))
            };
            if changed.is_err() {
                return self.fail("raft ended without a word".to_owned());
            }
        }
    }

    fn fail(&self, reason: String) {
        self.leader.send_replace(LeaderState::Unknown);
        self.failure.send_replace(Some(reason));
    }

    /// A group of one needs no election timeout after a start: nobody else can lead. True when
    /// there is nothing more to do about it.
    async fn elect_sole_voter(&self, metrics: &Metrics) -> bool {
        let mut voters = metrics.membership_config.membership().voter_ids();
        match (voters.next(), voters.next()) {
            // Not known yet, or not initialised.
            (None, _) => false,
            (Some(id), None) if id == self.id && metrics.state == ServerState::Follower => {
                // A failure shows in the metrics.
                let _ = self.raft.trigger().elect().await;
                true
            }
            (Some(_), _) => true,
        }
    }

    /// Shows who leads; false when that must be looked at again soon.
    async fn report(&self, metrics: &Metrics) -> bool {
        let state = match (metrics.state, metrics.current_leader) {
            (ServerState::Leader, _) => {
                let state = LeaderState::Leader { term: metrics.current_term };
                let silence = metrics.millis_since_quorum_ack.map(Duration::from_millis);
                if *self.leader.borrow() == state && silence < Some(self.silence_max) {
                    return true;
                }
                // Nobody may act as leader before a majority has agreed and the state is whole.
                let confirmation = self.raft.ensure_linearizable();
                match tokio::time::timeout(self.patience, confirmation).await {
                    Ok(Ok(_)) => state,
                    Ok(Err(_)) | Err(_) => LeaderState::Unknown,
                }
            }
            (ServerState::Shutdown, _) | (_, None) => LeaderState::Unknown,
            (_, Some(id)) => {
                let membership = metrics.membership_config.membership();
                leader_of(Some(id), membership.get_node(&id).cloned())
                    .map_or(LeaderState::Unknown, LeaderState::Follower)
            }
        };
        let settled = state != LeaderState::Unknown || metrics.state != ServerState::Leader;
        self.leader.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
        settled
    }

    /// A leader that died in the middle of a membership change leaves two voter sets that must
    /// both agree, until somebody finishes the change.
    async fn finish_membership_change(&self, metrics: &Metrics) {
        let configs = metrics.membership_config.membership().get_joint_config();
        let (true, Some(target)) = (configs.len() > 1, configs.last()) else { return };
        if !matches!(*self.leader.borrow(), LeaderState::Leader { .. }) {
            return;
        }
        let Ok(_alone) = self.changing.try_lock() else { return };
        let change = self.raft.change_membership(target.clone(), false);
        match tokio::time::timeout(self.patience, change).await {
            Ok(Ok(_)) => tracing::info!("finished a membership change that was under way"),
            // The next look tries again.
            Ok(Err(error)) => tracing::debug!(%error, "membership change is still under way"),
            Err(_) => tracing::debug!("membership change takes long"),
        }
    }
}
