//! Putting ledger and host together again after the agent was restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt as _;
use shoal_agent_network::{AttachRequest, Netns, Repaired};
use shoal_agent_planning::lower::ANONYMOUS;
use shoal_agent_planning::task::{Exit, Found, Machine, Step, TaskRecord};
use shoal_types::error_chain::chain;
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::object::Network;
use shoal_types::time::Timestamp;

use super::ops::{self, Context, Volumes, networks_of};
use super::state::Entry;
use super::{WorkerError, task_id};
use shoal_agent_runtime::{ContainerId, ExitStatus, Observed, ObservedState};

/// Strays that are removed at the same time.
const PARALLEL: usize = 8;

/// Decides where every accepted task is, removes what belongs to none, and makes networks and volumes
/// agree with what lives. Of the container of a task whose record is `lost` the log stays.
pub(super) async fn resume(
    context: &Arc<Context>,
    records: BTreeMap<TaskId, TaskRecord>,
    lost: &BTreeSet<TaskId>,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
) -> Result<BTreeMap<TaskId, Entry>, WorkerError> {
    let observed = context.drivers.runtime.adopt().await.map_err(WorkerError::Adopt)?;
    let now = context.drivers.clock.now();
    for one in &observed {
        if let ObservedState::Running { unheard: Some(why), .. } = &one.state {
            tracing::warn!(
                container = %one.id,
                "its supervisor does not help this agent ({why}): it goes on, its log can be read, it can \
                 be stopped; the rest shows when it is asked for"
            );
        }
    }
    let mut found: BTreeMap<TaskId, Observed> = BTreeMap::new();
    let mut strays = Vec::new();
    for one in observed {
        match task_id(&one.id).filter(|id| records.contains_key(id)) {
            Some(id) => {
                found.insert(id, one);
            }
            None => strays.push(one.id),
        }
    }
    remove_strays(context, strays, lost).await;
    let mut entries = BTreeMap::new();
    let mut living = BTreeMap::new();
    for (id, record) in records {
        let observed = found.remove(&id);
        let supervisor = observed.as_ref().and_then(|o| supervisor(&o.state));
        let seen = observed.map_or(Found::Absent, |o| classify(o.state));
        let machine = Machine::resume(&record, seen, now);
        let image = machine.preparation().and_then(|found| found.image.parse().ok());
        if let Some(image) = image.filter(|_| machine.holds_resources()) {
            context.chooser.keep_known(id, image);
        }
        // Whatever is to be cleaned up first holds nothing that has to be kept for it.
        if !matches!(machine.next(now.steady), Step::Cleanup { .. }) && machine.holds_resources() {
            living.insert(id, (record.clone(), supervisor));
        }
        entries.insert(id, Entry::resumed(record, machine));
    }
    order_networks(context, &living, networks).await?;
    order_volumes(context, &living, entries.keys().copied().collect()).await?;
    let names = living.keys().map(ToString::to_string).collect();
    if let Err(error) = ops::remove_strays(context, &names) {
        tracing::warn!(%error, "cannot remove files of containers that are gone");
    }
    Ok(entries)
}

async fn remove_strays(context: &Context, strays: Vec<ContainerId>, lost: &BTreeSet<TaskId>) {
    let runtime = &context.drivers.runtime;
    let remove = |id: ContainerId| async move {
        let keep_log = task_id(&id).is_some_and(|id| lost.contains(&id));
        tracing::warn!(container = %id, keep_log, "removing a container of no task");
        let removed = if keep_log { runtime.release(&id) } else { runtime.remove(&id) };
        if let Err(error) = removed.await {
            tracing::error!(container = %id, error = %chain(&error), "cannot remove it");
        }
    };
    futures::stream::iter(strays).for_each_concurrent(PARALLEL, remove).await;
}

fn supervisor(state: &ObservedState) -> Option<i32> {
    match state {
        ObservedState::Prepared(prepared) => Some(prepared.supervisor_pid),
        ObservedState::Running { supervisor_pid, .. } => Some(*supervisor_pid),
        ObservedState::Exited(_) | ObservedState::Broken { .. } => None,
    }
}

fn classify(state: ObservedState) -> Found {
    match state {
        ObservedState::Prepared(_) => Found::Prepared,
        ObservedState::Running { pid, .. } => {
            Found::Running { pid: u32::try_from(pid).unwrap_or(0) }
        }
        ObservedState::Exited(status) => Found::Exited(exit(status)),
        ObservedState::Broken { reason } => Found::Broken { reason },
    }
}

/// How a container ended, in the words of planning.
pub(super) fn exit(status: ExitStatus) -> Exit {
    Exit {
        code: status.code,
        signal: status.signal,
        oom_killed: status.oom_killed,
        at: Some(status.at_nanos).filter(|at| *at != 0).map(Timestamp::from_nanos),
        message: status.message,
    }
}

type Living = BTreeMap<TaskId, (TaskRecord, Option<i32>)>;

async fn order_networks(
    context: &Context,
    living: &Living,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
) -> Result<(), WorkerError> {
    let mut containers = BTreeSet::new();
    let mut used = BTreeSet::new();
    for (id, (record, _)) in living {
        containers.insert(id.to_string());
        for network in bridges_of(record, networks) {
            context.keeper.adopt(*id, &network).await;
            used.insert(network);
        }
    }
    let driver = &context.drivers.networks;
    let repaired = driver.collect(containers, used).await.map_err(WorkerError::Networks)?;
    if !repaired.is_clean() {
        tracing::info!(?repaired, "networks were put in order");
    }
    reattach(context, living, repaired).await;
    Ok(())
}

/// The networks of a task that exist on a node; the host's own and none do not.
fn bridges_of<'a>(
    record: &'a TaskRecord,
    networks: &'a BTreeMap<NetworkId, Arc<Network>>,
) -> impl Iterator<Item = String> + 'a {
    let bridge = |id: &NetworkId| {
        networks.get(id).is_none_or(|n| matches!(n.spec.driver.name.as_str(), "" | "bridge"))
    };
    let ids = record.task.networks.iter().map(|n| n.network_id);
    ids.filter(move |id| bridge(id)).map(|id| id.to_string())
}

async fn reattach(context: &Context, living: &Living, repaired: Repaired) {
    for (container, network) in repaired.lost_attachments {
        let entry = container.parse().ok().and_then(|id: TaskId| living.get(&id));
        let Some((record, Some(supervisor))) = entry else { continue };
        if !networks_of(record).any(|n| n == network) {
            continue;
        }
        let request = AttachRequest {
            container: container.clone(),
            network: network.clone(),
            ..AttachRequest::default()
        };
        let netns = Netns::OfProcess(u32::try_from(*supervisor).unwrap_or_default());
        match context.drivers.networks.attach(request, netns).await {
            Ok(_) => tracing::warn!(%container, %network, "connected a container again"),
            Err(error) => {
                tracing::error!(%container, %network, error = %chain(&error), "cannot connect again");
            }
        }
    }
}

async fn order_volumes(
    context: &Context,
    living: &Living,
    known: BTreeSet<TaskId>,
) -> Result<(), WorkerError> {
    let driver = &context.drivers.volumes;
    let users = living.keys().map(ToString::to_string).collect();
    driver.collect(users).await.map_err(WorkerError::Volumes)?;
    for (id, (record, _)) in living {
        if let Err(error) = Volumes::new(context, *id).adopt(&record.task).await {
            tracing::error!(task = %id, error = %chain(&error), "cannot take over volumes");
        }
    }
    for volume in driver.list().await.map_err(WorkerError::Volumes)? {
        let owner = volume.labels.get(ANONYMOUS).and_then(|id| id.parse().ok());
        if owner.is_some_and(|id| !known.contains(&id))
            && let Err(error) = driver.remove(volume.name.clone()).await
        {
            tracing::warn!(volume = volume.name, error = %chain(&error), "cannot remove");
        }
    }
    Ok(())
}
