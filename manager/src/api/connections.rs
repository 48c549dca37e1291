//! Connections of single tasks to networks.

use shoal_manager_state::{ClusterState, Command};
use shoal_proto::convert::field::{Kind as _, TextList};
use shoal_proto::v1 as pb;
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::spec::NetworkAttachmentConfig;
use tonic::Status;

use super::asked::Asker;
use super::error::{invalid, vanished};
use super::{ControlService, unresolved, violations};

/// Which task and which network are meant, in the state in which the caller was permitted.
fn found(view: &ClusterState, task: &str, network: &str) -> Result<(TaskId, NetworkId), Status> {
    let task = view.resolve_task(task).map_err(|e| unresolved(&e))?.id;
    let network = view.resolve_network(network).map_err(|e| unresolved(&e))?.id;
    Ok((task, network))
}

fn written(api: &ControlService, id: TaskId) -> Result<pb::Task, Status> {
    let view = api.written();
    let task = view.task(id).ok_or_else(|| vanished("task"))?;
    Ok((&**task).into())
}

pub(super) async fn connect_task(
    api: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::ConnectTaskRequest,
) -> Result<pb::ConnectTaskResponse, Status> {
    let (id, network_id) = found(view, &request.task, &request.network)?;
    let addresses = TextList::read("addresses", request.addresses).map_err(|e| invalid(&e))?;
    let (target, aliases) = (request.network, request.aliases);
    let wanted = NetworkAttachmentConfig { target, aliases, addresses, ..Default::default() };
    wanted.validate().map_err(|e| violations(&e))?;
    let NetworkAttachmentConfig { aliases, addresses, .. } = wanted;
    api.cluster.propose(Command::ConnectTask { id, network_id, aliases, addresses }).await?;
    Ok(pb::ConnectTaskResponse { task: Some(written(api, id)?) })
}

pub(super) async fn disconnect_task(
    api: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::DisconnectTaskRequest,
) -> Result<pb::DisconnectTaskResponse, Status> {
    let (id, network_id) = found(view, &request.task, &request.network)?;
    let force = request.force;
    api.cluster.propose(Command::DisconnectTask { id, network_id, force }).await?;
    Ok(pb::DisconnectTaskResponse { task: Some(written(api, id)?) })
}
