//! Accepting, starting and stopping.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_agent_planning::lower::{Publication, publication};
use shoal_agent_planning::task::{Fact, TaskRecord};
use shoal_types::assignment::AssignedTask;
use shoal_types::error_chain::chain;
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::object::Network;
use shoal_types::spec::{PortConfig, PublishMode};
use shoal_types::task_state::TaskState;
use tokio_util::sync::CancellationToken;

use super::Context;
use shoal_agent_runtime::RuntimeError;

const SIGKILL: i32 = 9;

/// Writes a task down; only then is it accepted.
pub(in crate::worker) async fn accept(context: &Context, record: TaskRecord) -> Fact {
    match context.ledger.save(&record).await {
        Ok(()) => Fact::Accepted,
        Err(error) => {
            let err = chain(&error).to_string();
            tracing::warn!(task = %record.task.id, %err, "cannot accept a task");
            Fact::AcceptFailed { err }
        }
    }
}

/// Publishes the task's ports and starts its container. That it is started is written down before:
/// what may have run is never run again. Can be given up while it waits for its turn and for the
/// container, since those may take for ever.
pub(in crate::worker) async fn start(
    context: &Context,
    mut record: TaskRecord,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
    cancel: &CancellationToken,
) -> Fact {
    let _permit = tokio::select! {
        permit = context.starting.acquire() => permit,
        () = cancel.cancelled() => return Fact::StartAborted,
    };
    let failed = |state, error: &dyn std::error::Error, code| {
        let err = chain(error).to_string();
        Fact::StartFailed { state, err, code }
    };
    let ports = match publish(context, &record.task, networks).await {
        Ok(ports) => ports,
        // The node refuses, and nothing has run.
        Err(error) => return failed(TaskState::Rejected, &*error, None),
    };
    record.status.port_status.clone_from(&ports);
    if let Err(error) = context.ledger.save(&record).await {
        return failed(TaskState::Failed, &error, None);
    }
    let container = record.task.id.into();
    let started = tokio::select! {
        biased;
        () = cancel.cancelled() => return Fact::StartAborted,
        started = context.drivers.runtime.start(&container) => started,
    };
    match started {
        Ok(started) => Fact::Started { pid: u32::try_from(started.pid).unwrap_or(0), ports },
        Err(error) => failed(TaskState::Failed, &error, error.shell_code()),
    }
}

async fn publish(
    context: &Context,
    task: &AssignedTask,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
) -> Result<Vec<PortConfig>, Box<dyn std::error::Error + Send + Sync>> {
    let (own, shared) = match publication(task, networks)? {
        Publication::ByItself(ports) => return Ok(ports),
        Publication::ByNode { own, shared } => (own, shared),
    };
    let driver = &context.drivers.networks;
    if !shared.is_empty() {
        driver.share(task.id.to_string(), shared).await?;
    }
    if own.is_empty() {
        return Ok(Vec::new());
    }
    let published = driver.publish(task.id.to_string(), own).await?;
    // Where a port of every node answers is said by its service.
    let is_own = |port: &&PortConfig| port.publish_mode == PublishMode::Host;
    let names = task.ports.iter().filter(is_own).map(|port| port.name.clone());
    Ok(published.into_iter().zip(names).map(|(port, name)| port.to_spec(name)).collect())
}

/// Waits until other nodes lead nobody to the task any more, and withdraws its ports. That it is being stopped
/// is written down, for a restarted agent; no failure of any of it keeps it from being stopped.
pub(in crate::worker) async fn withdraw(context: &Context, record: TaskRecord) -> Fact {
    let id = record.task.id;
    if let Err(error) = context.ledger.save(&record).await {
        tracing::warn!(task = %id, error = %chain(&error), "cannot note that a task is stopped");
    }
    if record.is_led_to() {
        match context.drivers.credentials.withdrawn(id).await {
            Ok(0) => {}
            Ok(nodes) => {
                tracing::warn!(task = %id, nodes, "stopping a task that nodes still lead to");
            }
            Err(error) => {
                tracing::info!(task = %id, %error, "cannot know who still leads to a task");
            }
        }
    }
    if !record.task.ports.is_empty()
        && let Err(error) = context.drivers.networks.unpublish(id.to_string()).await
    {
        tracing::warn!(task = %id, error = %chain(&error), "cannot withdraw ports");
    }
    Fact::Withdrawn
}

/// Asks the container to stop.
pub(in crate::worker) async fn stop(context: &Context, id: TaskId, signal: i32) -> Fact {
    send(context, id, signal).await;
    Fact::Stopped
}

/// Kills the container.
pub(in crate::worker) async fn kill(context: &Context, id: TaskId) -> Fact {
    send(context, id, SIGKILL).await;
    Fact::Killed
}

/// What cannot be signalled has ended, or is killed when its time is over, or removed by force.
async fn send(context: &Context, id: TaskId, signal: i32) {
    match context.drivers.runtime.signal(&id.into(), signal).await {
        Ok(()) | Err(RuntimeError::NotRunning { .. } | RuntimeError::NotFound { .. }) => {}
        Err(error) => {
            tracing::warn!(task = %id, signal, error = %chain(&error), "cannot signal");
        }
    }
}
