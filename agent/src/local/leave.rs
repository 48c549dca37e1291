//! Leaving a cluster.

use std::sync::Arc;

use shoal_proto::v1::{DrainResponse, LeaveRequest, LeaveResponse};
use tonic::Status;

use super::internal;
use crate::node::Node;
use crate::session::{drain, farewell};

/// Whether this host has a manager that goes with it.
fn may_leave(node: &Node, force: bool) -> Result<bool, Status> {
    if node.store().credentials().map_err(|error| internal(&error))?.is_none() {
        return Err(Status::failed_precondition("this host belongs to no cluster"));
    }
    let cluster = node.store().cluster().map_err(|error| internal(&error))?;
    let has_manager = cluster.manager.is_some();
    if has_manager && !force {
        return Err(Status::failed_precondition(
            "this host runs the cluster's manager: leaving removes the cluster's state and its \
             certificate authority for good; force it if that is wanted",
        ));
    }
    Ok(has_manager)
}

/// What comes before leaving in good order. Sessions go on, so that the tasks end as they are told and
/// the managers hear of it.
pub(super) async fn prepare(node: &Arc<Node>) -> Result<DrainResponse, Status> {
    may_leave(node, false)?;
    let Some(member) = node.member() else {
        return Err(Status::unavailable("another change of the membership is under way"));
    };
    let (drained, not_told) = match drain(&member).await {
        Ok(drained) => (drained, String::new()),
        Err(why) => (None, why),
    };
    let identity = *member.credentials.current().identity();
    let node_id = identity.node().map(|id| id.to_string()).unwrap_or_default();
    Ok(DrainResponse { drained, not_told, node_id })
}

/// Sessions end first, so that nothing new is assigned; then everything stops, and only then the
/// managers are told; the credentials go last, so that a repeat after a failure goes on.
pub(super) async fn leave(
    node: &Arc<Node>,
    request: LeaveRequest,
) -> Result<LeaveResponse, Status> {
    let _alone = node.change().await;
    let has_manager = may_leave(node, request.force)?;
    let member = node.member();
    node.suspend().await;
    if let Err(error) = node.workload().leave().await {
        node.resume();
        return Err(internal(&error));
    }
    if has_manager {
        node.manager().stop().await;
        let dir = node.manager().config().state_dir.clone();
        let removed = tokio::fs::remove_dir_all(&dir).await;
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            let why = format!("cannot remove {}: {error}", dir.display());
            node.resume();
            return Err(Status::internal(why));
        }
    }
    // With the last manager the cluster goes: there is nobody to tell.
    let not_told = match &member {
        Some(member) if !has_manager => farewell(member).await.err().unwrap_or_default(),
        _ => String::new(),
    };
    let identity = member.map(|member| *member.credentials.current().identity());
    let node_id = identity.and_then(|identity| identity.node()).map(|id| id.to_string());
    node.store().forget().map_err(|error| internal(&error))?;
    tracing::info!(not_told, "left the cluster");
    Ok(LeaveResponse { not_told, node_id: node_id.unwrap_or_default() })
}
