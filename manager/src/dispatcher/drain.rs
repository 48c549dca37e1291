//! A node that drains itself, because it is about to leave.

use shoal_manager_planning::departure::departure;
use shoal_manager_state::Command;
use shoal_proto::v1 as pb;
use shoal_types::id::NodeId;
use shoal_types::object::{Node, Task};
use shoal_types::spec::{Availability, NodeSpec};
use tonic::{Code, Status};

use crate::auth::audit;
use crate::cluster::Cluster;

/// How often a spec that somebody else has just changed is looked at again.
const TRIES: usize = 3;

/// Tasks of each kind that are named at the most.
const NAMED_MAX: usize = 5;

/// Drains the node, if it is not so yet, and says how far it is.
pub(super) async fn drain(cluster: &Cluster, id: NodeId) -> Result<pb::DrainNodeResponse, Status> {
    let begun = begin(cluster, id).await?;
    let view = cluster.read().await?;
    let node = view.node(id).ok_or_else(|| gone(id))?;
    let found = departure(&view, id);
    let kinds = [
        (&found.left, pb::DrainedRole::Left),
        (&found.awaited, pb::DrainedRole::Awaited),
        (&found.unplaced, pb::DrainedRole::Unplaced),
    ];
    let named = |(tasks, role): (&Vec<&Task>, pb::DrainedRole)| -> Vec<pb::DrainedTask> {
        tasks.iter().take(NAMED_MAX).map(|task| said(task, role)).collect()
    };
    Ok(pb::DrainNodeResponse {
        begun,
        left: count(&found.left),
        awaited: count(&found.awaited),
        unplaced: count(&found.unplaced),
        tasks: kinds.into_iter().flat_map(named).collect(),
        hostname: node.description.hostname.clone(),
    })
}

/// True if it was not drained before.
async fn begin(cluster: &Cluster, id: NodeId) -> Result<bool, Status> {
    for _ in 0..TRIES {
        let view = cluster.read().await?;
        let Node { meta, spec, .. } = &**view.node(id).ok_or_else(|| gone(id))?;
        if spec.availability == Availability::Drain {
            return Ok(false);
        }
        let spec = NodeSpec { availability: Availability::Drain, ..spec.clone() };
        let command = Command::UpdateNode { id, expected: meta.spec_version, spec };
        let entry = audit::Entry::node("/shoal.v1.Dispatcher/Drain", id);
        let outcome = cluster.propose(command).await.map_err(Status::from);
        entry.ended(&outcome);
        if outcome.as_ref().is_err_and(|status| status.code() == Code::Aborted) {
            continue;
        }
        outcome?;
        tracing::info!(node = %id, "a node drains itself to leave");
        return Ok(true);
    }
    Err(Status::aborted("the node's spec changes all the time: try again"))
}

fn gone(id: NodeId) -> Status {
    Status::not_found(format!("node {id} was removed"))
}

fn count(tasks: &[&Task]) -> u32 {
    u32::try_from(tasks.len()).unwrap_or(u32::MAX)
}

fn said(task: &Task, role: pb::DrainedRole) -> pb::DrainedTask {
    pb::DrainedTask {
        name: task.name(),
        role: role.into(),
        state: pb::TaskState::from(task.status.state).into(),
        reason: task.status.reason().to_owned(),
    }
}
