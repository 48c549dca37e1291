//! Carrying out what is decided about what belongs to which task
//! ([`holdings`](shoal_agent_planning::node::holdings)).

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::sync::Arc;

use futures::StreamExt as _;
use shoal_agent_network::{AttachRequest, Netns};
use shoal_agent_planning::lower::{ANONYMOUS, Joined, asker, connection, made_for};
use shoal_agent_planning::node::holdings::{
    Action, Assigned, Held, Observed, ObservedVolume, plan,
};
use shoal_agent_planning::zone::Asker;
use shoal_agent_runtime::{ContainerId, Trace};
use shoal_types::error_chain::chain;
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::object::Network;

use super::WorkerError;
use super::ops::{self, Context};
use super::state::Entry;

/// How many of a kind are done at the same time.
const PARALLEL: usize = 8;

/// The tasks of the node as the planner knows them. Those that are `doomed` hold nothing that has to be
/// kept for them.
pub(super) fn assigned(
    entries: &BTreeMap<TaskId, Entry>,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
    lost: &BTreeSet<TaskId>,
    doomed: impl Fn(&Entry) -> bool,
) -> Assigned {
    let holds = |(id, entry): (&TaskId, &Entry)| {
        let held = Held {
            networks: made_for(&entry.task, networks),
            connected: entry.machine.is_connected(),
            asks: asker(&entry.task, networks),
            busy: entry.machine.is_busy(),
        };
        (entry.machine.holds_resources() && !doomed(entry)).then(|| (id.to_string(), held))
    };
    Assigned {
        holders: entries.iter().filter_map(holds).collect(),
        known: entries.keys().map(ToString::to_string).collect(),
        lost: lost.iter().map(ToString::to_string).collect(),
    }
}

/// What there is. Something that is being made or removed meanwhile may be among it, so that tasks which
/// are known by the time it is judged count, and not those that were when it was seen.
pub(super) async fn observe(context: &Context) -> Result<Observed, WorkerError> {
    let driver = &context.drivers.networks;
    let described = context.drivers.volumes.describe().await.map_err(WorkerError::Volumes)?;
    let mounted = context.drivers.volumes.mounted().await.map_err(WorkerError::Volumes)?;
    let traces = context.drivers.runtime.traces().await.map_err(WorkerError::Adopt)?;
    let answered = context.drivers.names.served().await;
    let named = |trace: &Trace| trace.id.as_str().to_owned();
    let volume = |volume: shoal_types::question::NodeVolume| {
        let owner = volume.labels.get(ANONYMOUS).cloned();
        let observed = ObservedVolume {
            users: volume.users.into_iter().collect(),
            // Not of this house, whatever is written on it.
            owner: owner.filter(|owner| owner.parse::<TaskId>().is_ok()),
            mounted: mounted.contains(&volume.name),
        };
        (volume.name, observed)
    };
    // A statement of its own: the driver says what is lost with its lock held, and whoever looks at that still
    // when he asks the driver for the next thing waits for ever.
    let lost = driver.lost().borrow().clone();
    Ok(Observed {
        containers: traces.iter().map(named).collect(),
        logs: traces.iter().filter(|trace| trace.only_log).map(named).collect(),
        leases: driver.held(),
        lost,
        answered,
        networks: driver.networks(),
        volumes: described.into_iter().map(volume).collect(),
        files: ops::file_owners(context).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list files of containers");
            BTreeSet::new()
        }),
    })
}

/// What to do about it.
pub(super) fn planned(assigned: &Assigned, observed: &Observed) -> Vec<Action> {
    plan(assigned, observed)
}

/// The task that an action is about, for which nothing else may be done meanwhile.
pub(super) fn task_of(action: &Action) -> Option<TaskId> {
    match action {
        Action::RemoveContainer { container, .. }
        | Action::Release { container }
        | Action::RemoveFiles { container }
        | Action::Connect { container, .. }
        | Action::Disconnect { container, .. }
        | Action::LetGo { container }
        | Action::Answer { container, .. } => container.parse().ok(),
        Action::EndUse { user, .. } => user.parse().ok(),
        Action::RemoveNetwork { .. } | Action::Unmount { .. } | Action::RemoveVolume { .. } => None,
    }
}

/// How containers are to be connected to networks, by both; or why they cannot be.
pub(super) type Joins = BTreeMap<(String, String), Result<Joined, String>>;

/// How the containers are to be connected that shall be.
pub(super) fn joins(
    entries: &BTreeMap<TaskId, Entry>,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
    actions: &[Action],
) -> Joins {
    let join = |action: &Action| {
        let Action::Connect { container, network } = action else { return None };
        let entry = entries.get(&container.parse().ok()?)?;
        let joined =
            connection(&entry.task, networks, network).map_err(|e| said(&e)).transpose()?;
        Some(((container.clone(), network.clone()), joined))
    };
    actions.iter().filter_map(join).collect()
}

/// Does all of it, in order, those of one kind together, but for those about one container: these come one after
/// the other. Goes on after an error. Returns what failed, with why.
pub(super) async fn perform(
    context: &Context,
    actions: Vec<Action>,
    joins: Joins,
) -> Vec<(Action, String)> {
    let (mut failed, joins) = (Vec::new(), &joins);
    for kind in actions.chunk_by(|one, next| discriminant(one) == discriminant(next)) {
        let of_one =
            kind.chunk_by(|one, next| task_of(one).is_some() && task_of(one) == task_of(next));
        let one = |actions: &[Action]| {
            let actions = actions.to_vec();
            async move {
                let mut failed = Vec::new();
                for action in actions {
                    match do_it(context, &action, joins).await {
                        Ok(()) => tracing::warn!(?action, "put in order"),
                        Err(error) => {
                            tracing::error!(?action, %error, "cannot put in order");
                            failed.push((action, error));
                        }
                    }
                }
                failed
            }
        };
        let done: Vec<Vec<(Action, String)>> =
            futures::stream::iter(of_one.map(one)).buffer_unordered(PARALLEL).collect().await;
        failed.extend(done.into_iter().flatten());
    }
    failed
}

fn said(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).to_string()
}

async fn do_it(context: &Context, action: &Action, joins: &Joins) -> Result<(), String> {
    let drivers = &context.drivers;
    match action {
        Action::RemoveContainer { container, keep_log } => {
            let id = ContainerId::new(container.clone()).map_err(|e| said(&e))?;
            let runtime = &drivers.runtime;
            let gone = if *keep_log { runtime.release(&id) } else { runtime.remove(&id) };
            gone.await.map_err(|e| said(&e))
        }
        Action::Release { container } => {
            drivers.networks.release(container.clone()).await.map_err(|e| said(&e))
        }
        Action::RemoveNetwork { network } => {
            context.keeper.remove_unused(network).await.map_err(|e| said(&e))
        }
        Action::EndUse { volume, user } => {
            drivers.volumes.unmount(volume.clone(), user.clone()).await.map_err(|e| said(&e))
        }
        Action::Unmount { volume } => {
            drivers.volumes.unmount(volume.clone(), String::new()).await.map_err(|e| said(&e))
        }
        Action::RemoveVolume { volume } => {
            drivers.volumes.remove(volume.clone()).await.map_err(|e| said(&e))
        }
        Action::RemoveFiles { container } => {
            ops::remove_files(context, container).await.map_err(|e| said(&e))
        }
        Action::Connect { container, network } => connect(context, container, network, joins).await,
        // Where its way out was there, the network that has that now counts as lost, and is connected again.
        Action::Disconnect { container, network } => {
            let task = container.parse::<TaskId>().map_err(|e| said(&e))?;
            leave(context, task, network).await
        }
        Action::LetGo { container } => {
            drivers.names.let_go(container.clone()).await.map_err(|e| said(&e))
        }
        Action::Answer { asker, .. } => answer(context, asker).await,
    }
}

/// Connects a container: again as its lease says, or to a network that it has not got yet.
async fn connect(
    context: &Context,
    container: &str,
    network: &str,
    joins: &Joins,
) -> Result<(), String> {
    let drivers = &context.drivers;
    let task = container.parse::<TaskId>().map_err(|e| said(&e))?;
    let leases = drivers.networks.attachments(container);
    let netns = netns(context, &task.into()).await?;
    let Some(lease) = leases.into_iter().find(|lease| lease.network == network) else {
        return match joins.get(&(container.to_owned(), network.to_owned())) {
            Some(Ok(joined)) => join(context, task, joined, netns).await,
            Some(Err(error)) => Err(error.clone()),
            // Its task has lost it meanwhile.
            None => Ok(()),
        };
    };
    let request = AttachRequest {
        container: lease.container,
        network: lease.network,
        aliases: lease.aliases,
        address: lease.v4.as_ref().map(|v4| v4.address.addr()),
        address_v6: lease.v6.as_ref().map(|v6| v6.address.addr()),
        link_index: None,
    };
    drivers.networks.attach(request, netns).await.map(drop).map_err(|e| said(&e))
}

/// Connects a container to a network for the first time. What fails leaves nothing.
async fn join(
    context: &Context,
    task: TaskId,
    joined: &Joined,
    netns: Netns,
) -> Result<(), String> {
    let networks = &context.drivers.networks;
    let Joined { config, request } = joined;
    let attached = match context.keeper.acquire(task, config).await {
        Ok(()) => networks.attach(request.clone(), netns).await,
        Err(error) => Err(error),
    };
    let Err(error) = attached else { return Ok(()) };
    let error = format!("network {}: {}", config.name, said(&error));
    // It counts as connected else, and nobody would try again.
    match leave(context, task, &config.id).await {
        Ok(()) => Err(error),
        Err(also) => Err(format!("{error}; {also}")),
    }
}

/// A container has a network no more; with the last one that is gone, too.
async fn leave(context: &Context, task: TaskId, network: &str) -> Result<(), String> {
    // Of a container that is gone there is none.
    let netns = netns(context, &task.into()).await.ok();
    let detached =
        context.drivers.networks.detach(task.to_string(), network.to_owned(), netns).await;
    detached.map_err(|e| said(&e))?;
    let released = context.keeper.release(task, network).await;
    if released.is_err() {
        context.keeper.forsake(task, network).await;
    }
    released.map_err(|e| said(&e))
}

/// Answers names to a container whose sockets are gone, or which has other networks.
async fn answer(context: &Context, asker: &Asker) -> Result<(), String> {
    let id = asker.container.parse::<TaskId>().map_err(|e| said(&e))?.into();
    let netns = netns(context, &id).await?;
    context.drivers.names.serve(asker.clone(), netns.path()).await.map_err(|e| said(&e))
}

async fn netns(context: &Context, id: &ContainerId) -> Result<Netns, String> {
    let supervisor = context.drivers.runtime.supervisor(id).await.map_err(|e| said(&e))?;
    Ok(Netns::OfProcess(u32::try_from(supervisor.supervisor_pid).unwrap_or_default()))
}
