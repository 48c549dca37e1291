//! Services and their deployments.

use std::sync::Arc;

use shoal_manager_state::{ClusterState, Command, ObjectKind, UpdateKind, permission};
use shoal_proto::v1 as pb;
use shoal_types::id::{IdSource as _, ServiceId};
use shoal_types::object::{Service, Task};
use shoal_types::spec::{ServiceMode, ServiceSpec};
use shoal_types::task_state::TaskState;
use tonic::Status;

use super::asked::Asker;
use super::error::{required, vanished};
use super::parts::in_parts;
use super::{Answers, ControlService, credentials, invalid, unresolved, violations};
use crate::clock::RandomIds;

/// A spec that came in, checked.
fn checked(spec: Option<pb::ServiceSpec>) -> Result<Arc<ServiceSpec>, Status> {
    let spec: ServiceSpec = required(spec, "spec")?.try_into().map_err(|e| invalid(&e))?;
    spec.validate().map_err(|e| violations(&e))?;
    Ok(Arc::new(spec))
}

pub(super) async fn create_service(
    api: &ControlService,
    request: pb::CreateServiceRequest,
) -> Result<pb::CreateServiceResponse, Status> {
    let spec = checked(request.spec)?;
    let (id, deployment_id) = (RandomIds.next_id(), RandomIds.next_id());
    let command = Command::CreateService { id, deployment_id, spec };
    api.cluster.propose(credentials::with(request.registry_auths, command)?).await?;
    let deployment_id = deployment_id.to_string();
    Ok(pb::CreateServiceResponse { service: Some(written(api, id)?), deployment_id })
}

fn written(api: &ControlService, id: ServiceId) -> Result<pb::Service, Status> {
    let view = api.written();
    let service = view.service(id).ok_or_else(|| vanished("service"))?;
    Ok((&**service).into())
}

pub(super) async fn list_services(
    api: &ControlService,
    asker: &Asker,
    request: pb::ListServicesRequest,
) -> Result<Answers<pb::ListServicesResponse>, Status> {
    let view = api.cluster.read().await?;
    let stack = match &request.stack {
        Some(reference) => Some(view.resolve_stack(reference).map_err(|e| unresolved(&e))?.id),
        None => None,
    };
    let in_stack = |s: &&Arc<Service>| stack.is_none() || s.stack_id == stack;
    let mut services: Vec<Arc<Service>> = view.services().filter(in_stack).cloned().collect();
    if let Some(user) = asker.bound() {
        services.retain(|s| permission::sees_service(&view, &user.spec, s));
    }
    services.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let services = services.into_iter().map(move |service| summary(&view, &service));
    Ok(in_parts(services, |services| pb::ListServicesResponse { services }))
}

/// A service and how it fares. Tasks of nodes that are away are not counted as running.
fn summary(view: &ClusterState, service: &Service) -> pb::ServiceSummary {
    let within_reach = |task: &Task| task.node_id.is_some_and(|id| !view.is_lost(id));
    let tasks = || view.tasks_of_service(service.id);
    let running = tasks().filter(|t| t.status.state == TaskState::Running && within_reach(t));
    let desired = match service.spec.mode {
        ServiceMode::Replicated { replicas } => replicas,
        ServiceMode::Global {} | ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob {} => {
            tasks().filter(|t| !t.desired_state.is_stop()).count() as u64
        }
    };
    pb::ServiceSummary {
        running_tasks: running.count() as u64,
        desired_tasks: desired,
        deployment: view.deployment(service.deployment_id).map(|d| (&**d).into()),
        service: Some(service.into()),
    }
}

pub(super) async fn get_service(
    _: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::GetServiceRequest,
) -> Result<pb::GetServiceResponse, Status> {
    let service = view.resolve_service(&request.reference).map_err(|e| unresolved(&e))?;
    Ok(pb::GetServiceResponse { service: Some(summary(view, service)) })
}

pub(super) async fn update_service(
    api: &ControlService,
    asker: &Asker,
    view: &ClusterState,
    request: pb::UpdateServiceRequest,
) -> Result<pb::UpdateServiceResponse, Status> {
    use pb::update_service_request::Change;
    let change = required(request.change, "spec")?;
    let service = view.resolve_service(&request.reference).map_err(|e| unresolved(&e))?;
    let (spec, kind) = match change {
        Change::Spec(spec) => (checked(Some(spec))?, UpdateKind::Update),
        Change::Rollback(_) => {
            let previous = service.previous_spec.clone().ok_or_else(|| {
                let name = &service.spec.name;
                Status::failed_precondition(format!("service {name} has no previous spec"))
            })?;
            (previous, UpdateKind::Rollback)
        }
    };
    let (id, deployment_id) = (service.id, RandomIds.next_id());
    // A rollback is of what was read here; somebody else's update in between must not be lost.
    let current = service.meta.spec_version;
    let of = (ObjectKind::Service, id.to_string());
    let expected = asker.expected(request.expected_version, current, of)?;
    let expected = match kind {
        UpdateKind::Update => expected,
        UpdateKind::Rollback => expected.or(Some(current)),
    };
    let command = Command::UpdateService { id, expected, deployment_id, spec, kind };
    api.cluster.propose(credentials::with(request.registry_auths, command)?).await?;
    let deployment_id = deployment_id.to_string();
    Ok(pb::UpdateServiceResponse { service: Some(written(api, id)?), deployment_id })
}

pub(super) async fn remove_service(
    api: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::RemoveServiceRequest,
) -> Result<pb::RemoveServiceResponse, Status> {
    let id = view.resolve_service(&request.reference).map_err(|e| unresolved(&e))?.id;
    api.cluster.propose(Command::RemoveService { id }).await?;
    Ok(pb::RemoveServiceResponse { id: id.to_string() })
}

pub(super) async fn get_deployment(
    _: &ControlService,
    _: &Asker,
    view: &ClusterState,
    request: pb::GetDeploymentRequest,
) -> Result<pb::GetDeploymentResponse, Status> {
    let deployment = view.resolve_deployment(&request.id).map_err(|e| unresolved(&e))?;
    Ok(pb::GetDeploymentResponse { deployment: Some((&**deployment).into()) })
}
