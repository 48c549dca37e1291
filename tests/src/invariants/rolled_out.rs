//! Deployments do what they say, and end.

use std::collections::BTreeSet;

use shoal_manager_state::ClusterState;
use shoal_types::id::ServiceId;
use shoal_types::object::{Deployment, DeploymentState, Service, Slot, Task};
use shoal_types::spec::{Availability, TaskSpec};
use shoal_types::task_state::TaskState;

use super::explanation;

/// Tasks that still run and are of an older spec though their deployment is complete.
#[must_use]
pub fn outdated(state: &ClusterState) -> Vec<String> {
    let mut wrong = Vec::new();
    for (service, deployment) in present(state) {
        if deployment.state != DeploymentState::Completed {
            continue;
        }
        let runs = |t: &&Task| t.is_wanted() && t.status.state == TaskState::Running;
        let tasks = state.tasks_of_service(service.id).map(AsRef::as_ref).filter(runs);
        for task in tasks.filter(|t| !is_held(state, t) && !has_present_spec(service, t)) {
            let (id, version) = (task.id, task.spec_version);
            wrong.push(format!("task {id} of {} is outdated: {version}", service.spec.name));
        }
    }
    wrong
}

/// Deployments that still go on, but for those of `restless` services and those whose tasks wait for
/// a node that will do: what runs is not taken down for others that cannot run.
#[must_use]
pub fn unended(state: &ClusterState, restless: &BTreeSet<ServiceId>) -> Vec<String> {
    let waits = |service: &Service| {
        let mut tasks = state.tasks_of_service(service.id);
        tasks.any(|task| task.is_wanted() && explanation::has_no_place(task))
    };
    present(state)
        .filter(|(service, deployment)| {
            let goes_on = deployment.state == DeploymentState::Updating;
            goes_on && !restless.contains(&service.id) && !waits(service)
        })
        .map(|(service, deployment)| {
            let tasks = state.tasks_of_service(service.id);
            let tasks: Vec<_> = tasks.map(|t| (&t.slot, t.spec_version, &t.status)).collect();
            let name = &service.spec.name;
            format!("the deployment of {name} does not end: {deployment:?} {tasks:?}")
        })
        .collect()
}

fn present(state: &ClusterState) -> impl Iterator<Item = (&Service, &Deployment)> {
    let services = state.services().map(AsRef::as_ref);
    services.filter_map(|service: &Service| {
        Some((service, state.deployment(service.deployment_id)?.as_ref()))
    })
}

/// Whether the task keeps its place on a paused node, where it cannot be replaced.
fn is_held(state: &ClusterState, task: &Task) -> bool {
    let Slot::Node(node) = task.slot else { return false };
    state.node(node).is_none_or(|node| node.spec.availability == Availability::Pause)
}

/// Whether the task is what the service wants now. Other constraints alone are none of a running
/// task's business.
fn has_present_spec(service: &Service, task: &Task) -> bool {
    let wanted = &service.spec.task_template;
    // With the ports that were chosen.
    let endpoint = service.spec.endpoint_spec.clone().map(|mut endpoint| {
        endpoint.ports.clone_from(&service.endpoint.ports);
        endpoint
    });
    task.endpoint.as_deref() == endpoint.as_ref()
        && without_constraints(&task.spec) == without_constraints(wanted)
}

fn without_constraints(spec: &TaskSpec) -> TaskSpec {
    let mut placement = spec.placement.clone().unwrap_or_default();
    placement.constraints.clear();
    TaskSpec { placement: Some(placement), ..spec.clone() }
}
