//! Tasks, as far as managers decide about them.

use std::sync::Arc;
use std::time::Duration;

use shoal_types::id::{NodeId, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{Meta, Node, Service, Slot, Task, TaskStatus};
use shoal_types::resources::Resources;
use shoal_types::spec::{ServiceMode, UpdateOrder};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::{address, sharing};
use crate::cluster_state::{ClusterState, Writer};
use crate::command::Outcome;
use crate::index::Inherited;
use crate::rejected::Rejected;
use crate::usage::{host_ports, reservations};

/// What a task was planned as.
pub(super) struct Plan {
    pub(super) service: ServiceId,
    pub(super) version: u64,
    pub(super) slot: Slot,
    pub(super) node_id: Option<NodeId>,
    pub(super) desired: DesiredState,
    pub(super) start_after: Option<Timestamp>,
    pub(super) rejections: u64,
    pub(super) level: Level,
}

pub(super) fn create(w: &mut Writer<'_>, id: TaskId, plan: &Plan) -> Result<Outcome, Rejected> {
    let desired = plan.desired;
    w.id_is_free::<Task>(id)?;
    let service = w.get::<Service>(plan.service)?;
    check_plan(w, id, plan, &service)?;
    if desired.is_stop() {
        return Err(Rejected::DesiredAtStart { task: id, desired });
    }
    if desired == DesiredState::Running {
        slot_is_free(w.state, &service, plan.slot, id)?;
    }
    is_paced(w.state, plan, id)?;
    let networks = address::of_task(w.state, id, &service)?;
    let meta = Meta { created_at: after_all(w, plan), ..Meta::created(w.index, w.now) };
    // What is allocated is allocated with it, so it does not stay new.
    let mut status = TaskStatus::new(TaskState::Pending, w.now, "waits for a node");
    if plan.rejections > 0 {
        "waits for its next try".clone_into(&mut status.message);
        status.err = last_rejection(w.state, plan);
    }
    let Inherited { name, labels, endpoint } = w.state.indexes.inherited(&service);
    w.create(Task {
        id,
        meta,
        service_id: service.id,
        service_name: name,
        service_labels: labels,
        slot: plan.slot,
        node_id: plan.node_id,
        spec: Arc::clone(&service.spec.task_template),
        spec_version: service.meta.spec_version,
        endpoint,
        networks,
        payloads: Arc::clone(&service.payloads),
        partner: None,
        desired_state: desired,
        start_after: plan.start_after,
        rejections: plan.rejections,
        level: plan.level,
        status,
    });
    Ok(Outcome::Applied)
}

/// Why the last task of the slot was rejected: it may be forgotten while its successor waits, and
/// the reason is to stay in sight.
fn last_rejection(state: &ClusterState, plan: &Plan) -> String {
    let rejected = state
        .tasks_of_slot(plan.service, plan.slot)
        .filter(|task| task.status.state == TaskState::Rejected)
        .max_by_key(|task| task.meta.created_at);
    rejected.map_or_else(String::new, |task| format!("last try: {}", task.status.reason()))
}

/// Checks that nothing of the slot but `task` may be running within reach, unless the service
/// starts new tasks first. Whoever planned this may have seen a node away that is back by now, or
/// a task without node that has got one.
fn slot_is_free(
    state: &ClusterState,
    service: &Service,
    slot: Slot,
    task: TaskId,
) -> Result<(), Rejected> {
    if state.rollout_config(service).order == UpdateOrder::StartFirst {
        return Ok(());
    }
    let within_reach = |id| !state.is_lost(id);
    let holder = state
        .tasks_of_slot(service.id, slot)
        .find(|t| t.id != task && t.is_live() && t.node_id.is_some_and(within_reach));
    holder.map_or(Ok(()), |holder| Err(Rejected::SlotTaken { task, holder: holder.id }))
}

/// Checks that a try after a rejection was planned as one. Whoever planned this may have seen a
/// task that was only on the wrong node, and that has been rejected since.
fn is_paced(state: &ClusterState, plan: &Plan, task: TaskId) -> Result<(), Rejected> {
    if plan.rejections > 0 {
        return Ok(());
    }
    let newest =
        state.tasks_of_slot(plan.service, plan.slot).max_by_key(|before| before.meta.created_at);
    let tried = newest.filter(|before| {
        before.status.state == TaskState::Rejected
            && before.spec_version == plan.version
            && before.desired_state.is_kept()
    });
    tried.map_or(Ok(()), |before| Err(Rejected::TriedAtOnce { task, before: before.id }))
}

/// The time of creation of the next task of a slot: later than that of all others, whatever the
/// proposer's clock says, because what is newest decides what becomes of a slot.
fn after_all(w: &Writer<'_>, plan: &Plan) -> Timestamp {
    let others = w.state.tasks_of_slot(plan.service, plan.slot);
    let newest = others.map(|task| task.meta.created_at).max();
    newest.map_or(w.now, |at| w.now.max(at + Duration::from_nanos(1)))
}

fn check_plan(
    w: &Writer<'_>,
    task: TaskId,
    plan: &Plan,
    service: &Service,
) -> Result<(), Rejected> {
    let (planned, current) = (plan.version, service.meta.spec_version);
    if planned != current {
        return Err(Rejected::StaleTask { task, service: service.id, planned, current });
    }
    let mode = service.spec.mode;
    let fits = match (mode, plan.slot) {
        (
            ServiceMode::Replicated { .. } | ServiceMode::ReplicatedJob { .. },
            Slot::Replica(number),
        ) => number > 0 && plan.node_id.is_none(),
        (ServiceMode::Global {} | ServiceMode::GlobalJob {}, Slot::Node(node)) => {
            plan.node_id == Some(node)
        }
        _ => false,
    };
    if !fits {
        let (service, mode) = (service.id, mode.as_str());
        return Err(Rejected::SlotMismatch { service, mode, slot: plan.slot });
    }
    if let Some(node) = plan.node_id {
        w.get::<Node>(node)?;
    }
    Ok(())
}

pub(super) fn assign(
    w: &mut Writer<'_>,
    id: TaskId,
    node_id: NodeId,
    partner: Option<TaskId>,
) -> Result<Outcome, Rejected> {
    let mut task = Task::clone(&*pending(w, id)?);
    if let Some(wanted) = task.node_id.filter(|wanted| *wanted != node_id) {
        return Err(Rejected::WrongNode { task: id, wanted, node: node_id });
    }
    let node = w.get::<Node>(node_id)?;
    if !node.takes_tasks() {
        let (state, availability) = (node.status.state, node.spec.availability);
        return Err(Rejected::NodeTakesNoTasks {
            node: node_id,
            state: state.as_str(),
            availability: availability.as_str(),
        });
    }
    let (has, needed) = (node.description.level, task.level);
    if has < needed {
        return Err(Rejected::NodeTooOld { node: node_id, has, needed });
    }
    check_room(w.state, &node, &task)?;
    sharing::partner(w.state, &task, node_id, partner)?;
    (task.node_id, task.partner) = (Some(node_id), partner);
    task.status = TaskStatus::new(TaskState::Assigned, w.now, "assigned to a node");
    w.update(task);
    Ok(Outcome::Applied)
}

fn check_room(state: &ClusterState, node: &Node, task: &Task) -> Result<(), Rejected> {
    let usage = state.node_usage(node.id);
    let free = node.description.resources.saturating_sub(&usage.reserved);
    let wanted = reservations(task).cloned().unwrap_or_default();
    if !fits(&wanted, &free) {
        let (free, wanted) = (Box::new(free), Box::new(wanted));
        return Err(Rejected::NoRoom { task: task.id, node: node.id, free, wanted });
    }
    for port in host_ports(task) {
        if let Some(holder) = usage.port_holder(port) {
            let (port, protocol) = (port.published_port, port.protocol);
            return Err(Rejected::PortTaken { node: node.id, port, protocol, holder });
        }
    }
    Ok(())
}

fn fits(wanted: &Resources, free: &Resources) -> bool {
    wanted.nano_cpus <= free.nano_cpus && wanted.memory_bytes <= free.memory_bytes
}

pub(super) fn explain(w: &mut Writer<'_>, id: TaskId, err: String) -> Result<Outcome, Rejected> {
    let old = pending(w, id)?;
    if old.status.err == err {
        return Ok(Outcome::Unchanged);
    }
    let mut task = Task::clone(&old);
    task.status.err = err;
    w.update(task);
    Ok(Outcome::Applied)
}

/// A task that waits for a node, and is wanted.
fn pending(w: &Writer<'_>, id: TaskId) -> Result<Arc<Task>, Rejected> {
    let task = w.get::<Task>(id)?;
    let (state, desired) = (task.status.state, task.desired_state);
    if state != TaskState::Pending || !task.is_wanted() {
        return Err(Rejected::TaskNotPending { task: id, state, desired });
    }
    Ok(task)
}

pub(super) fn set_desired(
    w: &mut Writer<'_>,
    id: TaskId,
    desired: DesiredState,
) -> Result<Outcome, Rejected> {
    let old = w.get::<Task>(id)?;
    if desired == old.desired_state {
        return Ok(Outcome::Unchanged);
    }
    if !old.desired_state.may_become(desired) {
        let current = old.desired_state;
        return Err(Rejected::DesiredBackwards { task: id, current, wanted: desired });
    }
    if desired == DesiredState::Running
        && let Some(service) = w.state.service(old.service_id)
    {
        slot_is_free(w.state, service, old.slot, id)?;
    }
    let mut task = Task::clone(&old);
    climb(&mut task, desired, w.now);
    w.update(task);
    Ok(Outcome::Applied)
}

pub(super) fn remove(w: &mut Writer<'_>, id: TaskId) -> Result<Outcome, Rejected> {
    let task = w.get::<Task>(id)?;
    let state = task.status.state;
    if state.is_placed() && !state.is_terminal() {
        return Err(Rejected::TaskNotEnded { task: id, state });
    }
    w.remove::<Task>(id);
    Ok(Outcome::Applied)
}

pub(super) fn orphan(w: &mut Writer<'_>, id: TaskId) -> Result<Outcome, Rejected> {
    let old = w.get::<Task>(id)?;
    if !old.is_live() {
        return Ok(Outcome::Unchanged);
    }
    let mut task = Task::clone(&old);
    climb(&mut task, DesiredState::Shutdown, w.now);
    lose(&mut task, w.now, "its node has been away for too long");
    w.update(task);
    Ok(Outcome::Applied)
}

/// Moves the desired state up. A task that is to stop before it has a node has ended: nobody else
/// would ever say so.
pub(super) fn climb(task: &mut Task, desired: DesiredState, now: Timestamp) {
    if !task.desired_state.may_become(desired) {
        return;
    }
    task.desired_state = desired;
    task.start_after = None;
    if desired.is_stop() && !task.status.state.is_placed() {
        task.status = TaskStatus::new(TaskState::Shutdown, now, "stopped before it had a node");
    }
}

/// Notes that nobody knows any more what a task does, unless it has ended. What was last heard of
/// its container stays.
pub(super) fn lose(task: &mut Task, now: Timestamp, why: &str) {
    if task.is_live() {
        task.status.state = TaskState::Orphaned;
        task.status.timestamp = now;
        why.clone_into(&mut task.status.message);
        why.clone_into(&mut task.status.err);
    }
}
