//! Tasks.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use shoal_manager_state::{ClusterState, permission};
use shoal_proto::v1 as pb;
use shoal_types::id::{InvalidId, NodeId, ServiceId};
use shoal_types::object::Task;
use tonic::Status;

use super::asked::Asker;
use super::parts::in_parts;
use super::{Answers, ControlService, unresolved};

fn ids<T: FromStr<Err = InvalidId> + Ord>(
    field: &str,
    texts: &[String],
) -> Result<BTreeSet<T>, Status> {
    let parse = |(i, text): (usize, &String)| {
        text.parse().map_err(|e| Status::invalid_argument(format!("{field}[{i}]: {e}")))
    };
    texts.iter().enumerate().map(parse).collect()
}

pub(super) async fn list_tasks(
    api: &ControlService,
    asker: &Asker,
    request: pb::ListTasksRequest,
) -> Result<Answers<pb::ListTasksResponse>, Status> {
    let services: BTreeSet<ServiceId> = ids("service_ids", &request.service_ids)?;
    let nodes: BTreeSet<NodeId> = ids("node_ids", &request.node_ids)?;
    let view = api.cluster.read().await?;
    let stack = match &request.stack {
        Some(reference) => Some(view.resolve_stack(reference).map_err(|e| unresolved(&e))?),
        None => None,
    };
    let wanted = |task: &&Arc<Task>| {
        (services.is_empty() || services.contains(&task.service_id))
            && (nodes.is_empty() || task.node_id.is_some_and(|id| nodes.contains(&id)))
            && stack.is_none_or(|s| s.services.values().any(|id| *id == task.service_id))
            && (!request.desired_running || !task.desired_state.is_stop())
            && asker.bound().is_none_or(|user| permission::sees_task(&view, &user.spec, task))
    };
    let mut tasks: Vec<Arc<Task>> = view.tasks().filter(wanted).cloned().collect();
    tasks.sort_by(|a, b| {
        let key = |t: &Task| (t.slot, Reverse((t.meta.created_at, t.meta.version, t.id)));
        a.service_name.cmp(&b.service_name).then_with(|| key(a).cmp(&key(b)))
    });
    let tasks = tasks.into_iter().map(|task| (&*task).into());
    Ok(in_parts(tasks, |tasks| pb::ListTasksResponse { tasks }))
}

pub(super) async fn get_task(
    _: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::GetTaskRequest,
) -> Result<pb::GetTaskResponse, Status> {
    let task = view.resolve_task(&request.reference).map_err(|e| unresolved(&e))?;
    Ok(pb::GetTaskResponse { task: Some((&**task).into()) })
}
