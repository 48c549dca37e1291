//! Putting ledger and host together again after the agent was restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_agent_planning::node::holdings::{self as node, Assigned};
use shoal_agent_planning::task::{Found, Machine, Step, TaskRecord};
use shoal_agent_runtime::{Observed, ObservedState};
use shoal_types::error_chain::chain;
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::object::Network;

use super::ops::{Context, Volumes};
use super::state::Entry;
use super::{WorkerError, holdings, task_id};

/// Decides where every accepted task is, removes what belongs to none, and makes networks and volumes
/// agree with what lives. Of the container of a task whose record is `lost` the log stays.
pub(super) async fn resume(
    context: &Arc<Context>,
    records: BTreeMap<TaskId, TaskRecord>,
    lost: &BTreeSet<TaskId>,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
) -> Result<BTreeMap<TaskId, Entry>, WorkerError> {
    let found = context.drivers.runtime.adopt().await.map_err(WorkerError::Adopt)?;
    let containers = found.iter().map(|one| one.id.as_str().to_owned()).collect();
    let now = context.drivers.clock.now();
    let mut found: BTreeMap<TaskId, Observed> =
        found.into_iter().filter_map(|one| Some((task_id(&one.id)?, one))).collect();
    let mut entries = BTreeMap::new();
    for (id, record) in records {
        let seen = found.remove(&id).map_or(Found::Absent, |one| classify(one.state));
        let machine = Machine::resume(&record, seen, &context.config.boot, now);
        let image = machine.preparation().and_then(|found| found.image.parse().ok());
        if let Some(image) = image.filter(|_| machine.holds_resources()) {
            context.chooser.keep_known(id, image);
        }
        entries.insert(id, Entry::resumed(record, machine));
    }
    // Whatever is to be cleaned up first holds nothing that has to be kept for it.
    let doomed = |entry: &Entry| matches!(entry.machine.next(now.steady), Step::Cleanup { .. });
    let assigned = holdings::assigned(&entries, networks, lost, doomed);
    put_in_order(context, &assigned, containers, &entries, networks).await?;
    Ok(entries)
}

/// Strays go first, then the host is looked at, and what has lost its links is connected again.
async fn put_in_order(
    context: &Context,
    assigned: &Assigned,
    containers: BTreeSet<String>,
    entries: &BTreeMap<TaskId, Entry>,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
) -> Result<(), WorkerError> {
    let drivers = &context.drivers;
    // What volumes have mounted for nobody, also such as cannot be described.
    let users = assigned.holders.keys().cloned().collect();
    drivers.volumes.collect(users).await.map_err(WorkerError::Volumes)?;
    for (id, entry) in entries.iter().filter(|(id, _)| assigned.holds(&id.to_string())) {
        for network in &assigned.holders[&id.to_string()].networks {
            context.keeper.adopt(*id, network).await;
        }
        if let Err(error) = Volumes::new(context, *id).adopt(&entry.task).await {
            tracing::error!(task = %id, error = %chain(&error), "cannot take over volumes");
        }
    }
    let mut observed = holdings::observe(context).await?;
    observed.containers.extend(containers);
    let put_in_order = async |observed: &node::Observed| {
        let actions = holdings::planned(assigned, observed);
        let joins = holdings::joins(entries, networks, &actions);
        holdings::perform(context, actions, joins).await;
    };
    put_in_order(&observed).await;
    let repaired = drivers.networks.repair().await.map_err(WorkerError::Networks)?;
    if !repaired.is_clean() {
        tracing::info!(?repaired, "networks were put in order");
    }
    let lost = drivers.networks.lost().borrow().clone();
    let observed = node::Observed { lost, ..node::Observed::default() };
    put_in_order(&observed).await;
    Ok(())
}

fn classify(state: ObservedState) -> Found {
    match state {
        ObservedState::Prepared(_) => Found::Prepared,
        ObservedState::Running { pid, .. } => {
            Found::Running { pid: u32::try_from(pid).unwrap_or(0) }
        }
        ObservedState::Exited(status) => Found::Exited(status),
        ObservedState::Broken { reason } => Found::Broken { reason },
    }
}
