//! Services that share the network of another one, and which task shares that of which.
//!
//! Whose network is shared is said by name, and looked up each time: a service that is made again under its name is
//! shared again.

use std::mem::discriminant;

use shoal_types::id::{NodeId, StackId, TaskId};
use shoal_types::object::{Service, Task};
use shoal_types::spec::ServiceSpec;

use crate::cluster_state::ClusterState;
use crate::rejected::{Rejected, SharingRefused};

/// Checks whose network a service shares that is made or changed, and who shares its own.
pub(super) fn check(
    state: &ClusterState,
    spec: &ServiceSpec,
    stack: Option<StackId>,
) -> Result<(), Rejected> {
    if let Some(other) = &spec.task_template.network_of {
        let service = || spec.name.clone();
        let Some(found) = state.service_by_name(other).filter(|_| *other != spec.name) else {
            let (service, other) = (service(), other.clone());
            return Err(SharingRefused::UnknownService { service, other }.into());
        };
        if let Some(third) = &found.spec.task_template.network_of {
            let (other, third) = (other.clone(), third.clone());
            return Err(SharingRefused::Chain { service: service(), other, third }.into());
        }
        if let Some(sharer) = state.sharers(&spec.name).next() {
            let (other, sharer) = (other.clone(), sharer.spec.name.clone());
            return Err(SharingRefused::IsShared { service: service(), other, sharer }.into());
        }
        return pair(spec, stack, &found.spec, found.stack_id);
    }
    // Who has waited for a service of this name does not get just any.
    state.sharers(&spec.name).try_for_each(|one| pair(&one.spec, one.stack_id, spec, stack))
}

/// Checks that each task of one service can have one of another one beside it.
fn pair(
    sharer: &ServiceSpec,
    stack: Option<StackId>,
    shared: &ServiceSpec,
    other_stack: Option<StackId>,
) -> Result<(), Rejected> {
    let (service, other) = (sharer.name.clone(), shared.name.clone());
    if stack != other_stack {
        let in_stack = stack.is_some();
        return Err(SharingRefused::OtherStack { service, other, in_stack }.into());
    }
    if discriminant(&sharer.mode) != discriminant(&shared.mode) {
        let (mode, wanted) = (sharer.mode.as_str(), shared.mode.as_str());
        return Err(SharingRefused::OtherMode { service, mode, other, wanted }.into());
    }
    Ok(())
}

/// Checks the task whose network a task is to share on a node; none, if its service shares none.
pub(super) fn partner(
    state: &ClusterState,
    task: &Task,
    node: NodeId,
    partner: Option<TaskId>,
) -> Result<(), Rejected> {
    let (shared, id) = match (&task.spec.network_of, partner) {
        (None, None) => return Ok(()),
        (Some(service), None) => {
            let (task, service) = (task.id, service.clone());
            return Err(SharingRefused::NoPartner { task, service }.into());
        }
        (shared, Some(id)) => (shared, id),
    };
    let service = shared.as_ref().and_then(|name| state.service_by_name(name));
    let why = match (service, state.task(id)) {
        (None, _) => "its service shares none, or one that is gone",
        (_, None) => "there is no such task",
        (Some(service), Some(found)) => match hindrance(state, task, service, found, node) {
            None => return Ok(()),
            Some(why) => why,
        },
    };
    Err(SharingRefused::UnfitPartner { task: task.id, partner: id, node, why }.into())
}

fn hindrance(
    state: &ClusterState,
    task: &Task,
    service: &Service,
    found: &Task,
    node: NodeId,
) -> Option<&'static str> {
    let own_stack = state.service(task.service_id).and_then(|own| own.stack_id);
    if found.service_id != service.id || found.slot != task.slot {
        return Some("it is of another slot than that which its service shares");
    }
    if own_stack != service.stack_id {
        return Some("it is of another stack");
    }
    if found.spec.network_of.is_some() {
        return Some("it shares that of another one itself");
    }
    if !found.is_wanted() {
        return Some("it has ended or is to stop");
    }
    let placed = found.node_id == Some(node) && found.status.state.is_placed();
    (!placed).then_some("it is not on that node")
}
