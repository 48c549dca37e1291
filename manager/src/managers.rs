//! Managers beside this one: they make themselves known, become members of the Raft group, move and go.
//!
//! What there is to do is decided in `shoal-manager-planning`; here it is done, by the leader.

mod announcing;
mod service;

use std::time::Duration;

use shoal_manager_planning::managers::{Next, Step, next};
use shoal_manager_state::{Action, Event, ObjectRef};
use shoal_types::error_chain::chain;

pub use announcing::{Own, make_known};
pub use service::ManagersService;

use crate::cluster::Cluster;
use crate::raft::LeaderState;

/// Between two looks at members that are waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Wait before a step that failed is tried again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Keeps Raft's members as the nodes' roles want them, one change at a time, for as long as this manager
/// leads. Never returns.
pub async fn keep(cluster: &Cluster) {
    let mut events = cluster.feed().follow();
    let (mut is_due, mut told) = (true, Vec::new());
    loop {
        is_due |= events.take().is_none_or(|events| events.iter().any(|event| concerns(event)));
        if is_due {
            let Next { step, waits } = next(&cluster.view(), &cluster.members(), cluster.raft_id());
            for wait in waits.iter().filter(|wait| !told.contains(*wait)) {
                tracing::info!(wait, "the managers are not yet what they are to be");
            }
            is_due = step.is_some() || !waits.is_empty();
            told = waits;
            if let Some(step) = step {
                take(cluster, step).await;
                continue;
            }
        }
        tokio::select! {
            () = events.changed() => {}
            () = tokio::time::sleep(LOOK_AGAIN), if is_due => {}
        }
    }
}

/// Whether an event may change what the members are to be.
fn concerns(event: &Event) -> bool {
    match (&event.object, event.action) {
        (ObjectRef::Node(_), _) => true,
        (_, Action::Create | Action::Update | Action::Remove) => false,
    }
}

async fn take(cluster: &Cluster, step: Step) {
    tracing::info!(?step, "changing the managers");
    if let Err(error) = cluster.change_managers(step).await {
        tracing::warn!(error = %chain(&error), "the managers are not changed yet");
        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
    }
}

/// Gives the lead to another manager before this one stops, if it leads and there is one that can.
pub async fn give_lead_away(cluster: &Cluster) {
    if !matches!(*cluster.leadership().borrow(), LeaderState::Leader { .. }) {
        return;
    }
    let members = cluster.members();
    let heir = shoal_manager_planning::managers::heir(&cluster.view(), &members, cluster.raft_id());
    let Some(heir) = heir else { return };
    match cluster.change_managers(Step::HandOver { to: heir }).await {
        Ok(()) => tracing::info!(to = heir, "the lead is handed over"),
        Err(error) => tracing::warn!(error = %chain(&error), "the lead is not handed over"),
    }
}
