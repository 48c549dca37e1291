//! Services.

use std::mem::discriminant;
use std::sync::Arc;

use shoal_types::id::{DeploymentId, ServiceId, StackId};
use shoal_types::object::{
    Deployment, DeploymentKind, Endpoint, Meta, Service, Stack, Task, TaskNetwork,
};
use shoal_types::spec::{EndpointMode, ServiceSpec};
use shoal_types::task_state::DesiredState;

use super::port::{self, For};
use super::{address, deployment, network, payload, sharing, task};
use crate::cluster_state::{ClusterState, Writer};
use crate::command::{Outcome, UpdateKind};
use crate::event::ObjectKind;
use crate::rejected::Rejected;

pub(super) fn create(
    w: &mut Writer<'_>,
    id: ServiceId,
    deployment_id: DeploymentId,
    spec: Arc<ServiceSpec>,
    kind: DeploymentKind,
    stack: Option<(StackId, Option<u64>)>,
) -> Result<Outcome, Rejected> {
    w.id_is_free::<Service>(id)?;
    w.id_is_free::<Deployment>(deployment_id)?;
    if let Some(other) = w.state.service_by_name(&spec.name) {
        let (name, holder) = (spec.name.clone(), other.id.to_string());
        return Err(Rejected::NameTaken { kind: ObjectKind::Service, name, holder });
    }
    let stack_id = stack.map(|(id, _)| id);
    sharing::check(w.state, &spec, stack_id)?;
    let networks = network::of_service(w.state, id, &spec)?;
    let payloads = payload::of_service(w.state, &spec, None)?;
    let who = For { id, spec: &spec, old: None, stack: stack_id };
    let endpoint = endpoint(w.state, &who, &networks)?;
    let meta = Meta::created(w.index, w.now);
    let previous_spec = None;
    w.create(Service {
        id,
        meta,
        spec,
        previous_spec,
        stack_id,
        deployment_id,
        networks,
        payloads,
        endpoint,
    });
    deployment::begin(w, deployment_id, id, 1, stack.and_then(|(_, version)| version), kind);
    Ok(Outcome::Applied)
}

pub(super) fn update(
    w: &mut Writer<'_>,
    id: ServiceId,
    expected: Option<u64>,
    deployment_id: DeploymentId,
    spec: Arc<ServiceSpec>,
    kind: UpdateKind,
    stack: Option<(StackId, Option<u64>)>,
) -> Result<Outcome, Rejected> {
    let (applied, stack_version) =
        (stack.map(|(id, _)| id), stack.and_then(|(_, version)| version));
    let old = w.get::<Service>(id)?;
    if let Some(expected) = expected {
        w.in_sequence(old.as_ref(), expected)?;
    }
    w.id_is_free::<Deployment>(deployment_id)?;
    if old.spec.name != spec.name {
        let (name, wanted) = (old.spec.name.clone(), spec.name.clone());
        return Err(Rejected::NameImmutable { name, wanted });
    }
    if discriminant(&old.spec.mode) != discriminant(&spec.mode) {
        let (mode, wanted) = (old.spec.mode.as_str(), spec.mode.as_str());
        let service = spec.name.clone();
        return Err(Rejected::ModeImmutable { service, mode, wanted });
    }
    sharing::check(w.state, &spec, old.stack_id)?;
    let networks = network::of_service(w.state, id, &spec)?;
    let payloads = payload::of_service(w.state, &spec, Some(&old))?;
    let who = For { id, spec: &spec, old: Some(&old.endpoint), stack: applied };
    let endpoint = endpoint(w.state, &who, &networks)?;
    deployment::replace(w, old.deployment_id, kind, deployment_id);
    let kind = match kind {
        UpdateKind::Update => DeploymentKind::Update,
        UpdateKind::Rollback => DeploymentKind::Rollback,
    };
    // The same spec again is another attempt: what it would be rolled back to stays what it was.
    let same = old.spec == spec;
    let previous_spec = if same { old.previous_spec.clone() } else { Some(Arc::clone(&old.spec)) };
    let (meta, stack_id) = (old.meta, old.stack_id);
    let service = Service {
        id,
        meta,
        spec,
        previous_spec,
        stack_id,
        deployment_id,
        networks,
        payloads,
        endpoint,
    };
    w.keep_credentials(&service);
    w.update_spec(service);
    deployment::begin(w, deployment_id, id, old.meta.spec_version + 1, stack_version, kind);
    Ok(Outcome::Applied)
}

pub(super) fn remove(w: &mut Writer<'_>, id: ServiceId) -> Result<Outcome, Rejected> {
    let service = w.get::<Service>(id)?;
    if let Some(stack) = service.stack_id.and_then(|id| w.state.stack(id)) {
        let mut stack = Stack::clone(stack);
        stack.services.remove(&service.spec.name);
        w.update(stack);
    }
    erase(w, id);
    Ok(Outcome::Applied)
}

/// Removes a service, whatever its stack thinks. Its tasks stay until they have ended.
pub(super) fn erase(w: &mut Writer<'_>, id: ServiceId) {
    let tasks: Vec<_> = w.state.tasks_of_service(id).cloned().collect();
    for old in tasks {
        if old.desired_state != DesiredState::Remove {
            let mut task = Task::clone(&old);
            task::climb(&mut task, DesiredState::Remove, w.now);
            w.update(task);
        }
    }
    let deployments: Vec<_> = w.state.deployments_of(id).map(|d| d.id).collect();
    for deployment in deployments {
        w.remove::<Deployment>(deployment);
    }
    w.state.credentials.remove(&id);
    w.remove::<Service>(id);
}

/// Where a service is reached: at ports, and on each network that spans nodes at an address of its own, the one that
/// it had there before.
fn endpoint(
    state: &ClusterState,
    who: &For<'_>,
    networks: &[TaskNetwork],
) -> Result<Endpoint, Rejected> {
    let For { id, spec, old, .. } = *who;
    let wanted = spec.endpoint_spec.clone();
    let ports = port::of_service(state, who)?;
    let by_vip = wanted.as_ref().is_none_or(|e| e.mode == EndpointMode::Vip);
    let joined = if by_vip { networks } else { &[] };
    let virtual_ips = address::of_service(state, id, &spec.name, joined, old)?;
    Ok(Endpoint { spec: wanted, ports, virtual_ips })
}
