//! Waiting until nobody is led to a task any more, before it is stopped.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use shoal_manager_planning::assignment::{is_reachable, listeners};
use shoal_manager_state::ClusterState;
use shoal_types::assignment::TaskEndpoint;
use shoal_types::id::{NodeId, TaskId};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::wakers::Wakers;
use crate::cluster::Cluster;

/// For all of it. A node that does not answer must not keep a task from being stopped.
const PATIENCE: Duration = Duration::from_secs(4);
/// How soon a node that has no stream is looked at again.
const AGAIN: Duration = Duration::from_millis(50);

/// Waits until all other nodes that were told of a task of `node` have applied that it does not serve, or cannot
/// be reached. How many have not, when that takes too long.
pub(super) async fn awaited(
    cluster: &Cluster,
    wakers: &Wakers,
    node: NodeId,
    task: TaskId,
) -> Result<usize, Status> {
    let until = Instant::now() + PATIENCE;
    let own = |view: &ClusterState| view.task(task).filter(|t| t.node_id == Some(node)).cloned();
    if own(&cluster.view()).is_none() {
        return Err(Status::not_found(format!("node {node} has no task {task}")));
    }
    let mut changes = cluster.changes();
    let stopped =
        |view: &Arc<ClusterState>| own(view).is_none_or(|task| !TaskEndpoint::is_serving(&task));
    let view = match timeout_at(until, changes.wait_for(stopped)).await {
        Ok(Ok(view)) => Arc::clone(&view),
        // Nobody has been told yet, and the agent would not ask if it could wait for ever.
        Ok(Err(_)) | Err(_) => return Ok(listeners(&cluster.view(), task).len()),
    };
    let Some(stopped) = own(&view) else { return Ok(0) };
    let listeners = listeners(&view, task);
    drop(view);
    let told = timeout_at(until, wakers.have_seen(stopped.meta.version)).await;
    if told.is_err() {
        return Ok(listeners.len());
    }
    let waits = listeners.into_iter().map(|listener| async move {
        timeout_at(until, applied(cluster, wakers, listener)).await.is_err()
    });
    Ok(join_all(waits).await.into_iter().filter(|missing| *missing).count())
}

/// Waits until a node has applied all that there is to tell it now, or cannot be reached. One that is between two
/// sessions goes on leading as it was told, and is back soon.
async fn applied(cluster: &Cluster, wakers: &Wakers, node: NodeId) {
    while is_reachable(&cluster.view(), node) {
        if let Some(telling) = wakers.telling(node)
            && telling.applied().await
        {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}
