//! A node that gives up being a manager, because it is about to leave.

use shoal_manager_planning::managers::{NotGoing, may_go};
use shoal_manager_state::Command;
use shoal_proto::v1 as pb;
use shoal_types::id::NodeId;
use shoal_types::spec::{NodeRole, NodeSpec};
use tonic::{Code, Status};

use crate::auth::audit;
use crate::cluster::Cluster;

/// How often a spec that somebody else has just changed is looked at again.
const TRIES: usize = 3;

/// Makes the node a worker, if it is not one yet, and says whether its manager takes part no more.
pub(super) async fn step_down(
    cluster: &Cluster,
    id: NodeId,
    force: bool,
) -> Result<pb::StepDownResponse, Status> {
    begin(cluster, id, force).await?;
    let view = cluster.view();
    let done = view.node(id).is_none_or(|node| node.manager_status.is_none());
    Ok(pb::StepDownResponse { done })
}

async fn begin(cluster: &Cluster, id: NodeId, force: bool) -> Result<(), Status> {
    for _ in 0..TRIES {
        let view = cluster.read().await?;
        let gone = || Status::not_found(format!("node {id} was removed"));
        let node = view.node(id).ok_or_else(gone)?;
        if node.spec.role != NodeRole::Manager {
            return Ok(());
        }
        match may_go(&view, &cluster.members(), id) {
            Err(NotGoing::Quorum { .. }) if force => {}
            allowed => allowed.map_err(|why| Status::failed_precondition(why.to_string()))?,
        }
        let spec = NodeSpec { role: NodeRole::Agent, ..node.spec.clone() };
        let command = Command::UpdateNode { id, expected: node.meta.spec_version, spec };
        let entry = audit::Entry::node("/shoal.v1.Dispatcher/StepDown", id);
        let outcome = cluster.propose(command).await.map_err(Status::from);
        entry.ended(&outcome);
        if outcome.as_ref().is_err_and(|status| status.code() == Code::Aborted) {
            continue;
        }
        outcome?;
        tracing::info!(node = %id, "a manager steps down to leave");
        return Ok(());
    }
    Err(Status::aborted("the node's spec changes all the time: try again"))
}
