//! Leaving a cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_proto::v1::{DrainResponse, LeaveRequest, LeaveResponse};
use tonic::Status;

use super::internal;
use crate::node::Node;
use crate::session::{self, Member, NotDown, drain, farewell};

/// For the other managers to go on without the one of this host.
const STEP_DOWN_PATIENCE: Duration = Duration::from_secs(30);
/// The same where it is forced: they may be unable to.
const FORCED_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at how far they are.
const LOOK: Duration = Duration::from_millis(250);

/// Whether this host has a manager, which goes with it.
fn has_manager(node: &Node) -> Result<bool, Status> {
    if node.store().credentials().map_err(|error| internal(&error))?.is_none() {
        return Err(Status::failed_precondition("this host belongs to no cluster"));
    }
    let cluster = node.store().cluster().map_err(|error| internal(&error))?;
    Ok(cluster.manager.is_some())
}

/// What others hear whose cluster would lose something.
fn needed(not: NotDown) -> Status {
    match not {
        NotDown::Needed(why) => Status::failed_precondition(format!(
            "this host runs a manager that the cluster needs: {why}; force it if the cluster, its state and \
             its certificate authority may be lost for good"
        )),
        NotDown::Unheard(why) => Status::unavailable(format!(
            "this host runs a manager, and none that leads could be told that it goes: {why}; try again, or \
             force it"
        )),
    }
}

/// What the cluster is without the manager of this host.
enum Without {
    /// The others go on, and this node is a worker.
    Whole,
    /// The others cannot go on, or have not been heard in time: it goes by force.
    Unknown,
    /// Nothing is left of it.
    Nothing,
}

/// Waits until the other managers go on without the one of this host.
async fn step_down(member: &Member, force: bool) -> Result<Without, Status> {
    let patience = if force { FORCED_PATIENCE } else { STEP_DOWN_PATIENCE };
    let deadline = Instant::now() + patience;
    loop {
        let late = Instant::now() > deadline;
        match session::step_down(member, force).await {
            Ok(true) => return Ok(Without::Whole),
            // What else would be needed is not asked for where it is forced.
            Err(NotDown::Needed(why)) if force => {
                tracing::warn!(why, "leaving by force");
                return Ok(Without::Nothing);
            }
            Ok(false) | Err(NotDown::Unheard(_)) if force && late => return Ok(Without::Unknown),
            Ok(false) if late => {
                return Err(Status::deadline_exceeded(format!(
                    "the other managers do not go on without the one of this host within {patience:?}: \
                     try again, or force it"
                )));
            }
            Err(not @ NotDown::Needed(_)) => return Err(needed(not)),
            Err(not @ NotDown::Unheard(_)) if late => return Err(needed(not)),
            Ok(false) | Err(NotDown::Unheard(_)) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// What comes before leaving in good order. Sessions go on, so that the tasks end as they are told and
/// the managers hear of it.
pub(super) async fn prepare(node: &Arc<Node>) -> Result<DrainResponse, Status> {
    let has_manager = has_manager(node)?;
    let Some(member) = node.member() else {
        return Err(Status::unavailable("another change of the membership is under way"));
    };
    if has_manager {
        // Before anything is drained: it may have to stay.
        session::step_down(&member, false).await.map_err(needed)?;
    }
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
    let has_manager = has_manager(node)?;
    let member = node.member();
    let without = match &member {
        Some(member) if has_manager => step_down(member, request.force).await?,
        _ => Without::Whole,
    };
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
    let not_told = match (&member, without) {
        (Some(member), Without::Whole) => farewell(member).await.err().unwrap_or_default(),
        // With the last manager the cluster goes: there is nobody to tell.
        (_, Without::Nothing) | (None, Without::Whole) => String::new(),
        (_, Without::Unknown) => "the other managers do not go on without its one".to_owned(),
    };
    let identity = member.map(|member| *member.credentials.current().identity());
    let node_id = identity.and_then(|identity| identity.node()).map(|id| id.to_string());
    node.store().forget().map_err(|error| internal(&error))?;
    tracing::info!(not_told, "left the cluster");
    Ok(LeaveResponse { not_told, node_id: node_id.unwrap_or_default() })
}
