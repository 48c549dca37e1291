//! What must be so some time after the last fault healed: every service has its replicas or a
//! stated reason ([`super::explanation`]), nothing is held that is not assigned, and the past is
//! bounded.

use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_planning::tunnel_keys;
use shoal_manager_state::ClusterState;
use shoal_types::id::{NodeId, ServiceId};
use shoal_types::level::Level;
use shoal_types::object::{NodeState, Service, Slot, Task};
use shoal_types::spec::{Availability, ServiceMode};
use shoal_types::task_state::{DesiredState, TaskState};

use super::{Moment, explanation};

/// Ended tasks of a slot that may be left for a moment before they are forgotten.
const SLACK: u64 = 3;

/// Everything that is not yet as it must be. Tasks of `restless` services end and are started again
/// for ever, as their specs say.
#[must_use]
pub fn check(moment: &Moment<'_>, restless: &BTreeSet<ServiceId>) -> Vec<String> {
    let mut wrong = Vec::new();
    for service in moment.state.services() {
        let explained =
            if restless.contains(&service.id) { explanation::of_restless } else { explanation::of };
        replicas(moment, service, explained, &mut wrong);
        history(moment.state, service, &mut wrong);
    }
    homeless(moment.state, &mut wrong);
    keys(moment.state, &mut wrong);
    held(moment, &mut wrong);
    wrong
}

/// Keys of tunnels do not change for ever.
fn keys(state: &ClusterState, wrong: &mut Vec<String>) {
    let Some(cluster) = state.cluster() else { return };
    let (keys, wanted) = (cluster.tunnel_keys, cluster.spec.tunnel_keys.force_rotate);
    let able = state.level() >= Level::KEYS && tunnel_keys::hinders(state).is_none();
    if keys.epochs.former.is_some() || (able && keys.forced != wanted) {
        wrong.push(format!("keys of tunnels are at {keys:?}, and {wanted} is wanted"));
    }
}

fn replicas(
    moment: &Moment<'_>,
    service: &Service,
    explained: fn(&[&Task]) -> bool,
    wrong: &mut Vec<String>,
) {
    let mut slots: BTreeMap<Slot, Vec<&Task>> = BTreeMap::new();
    for task in moment.state.tasks_of_service(service.id) {
        slots.entry(task.slot).or_default().push(task);
    }
    let really: BTreeSet<_> = moment.running.iter().map(|r| r.task).collect();
    let fine = |tasks: &Vec<&Task>| {
        let runs = |t: &&&Task| {
            t.desired_state == DesiredState::Running
                && t.status.state == TaskState::Running
                && really.contains(&t.id)
        };
        tasks.iter().find(runs).is_some() || explained(tasks)
    };
    let good = |slot: &Slot| slots.get(slot).is_some_and(fine);
    let show = |slot: &Slot| -> Vec<String> {
        let tasks = slots.get(slot).into_iter().flatten();
        tasks.map(|t| format!("{} {:?} {:?}", t.desired_state, t.status, t.node_id)).collect()
    };
    match service.spec.mode {
        ServiceMode::Replicated { replicas } => {
            let have = slots.keys().filter(|slot| good(slot)).count() as u64;
            let name = &service.spec.name;
            if have != replicas {
                let all: Vec<_> = slots.keys().map(|s| (s, show(s))).collect();
                wrong.push(format!("{name} has {have} of {replicas} replicas: {all:?}"));
            }
            let used = moment
                .running
                .iter()
                .filter(|r| r.service == service.id)
                .map(|r| r.slot)
                .collect::<BTreeSet<_>>();
            if used.len() as u64 > replicas {
                wrong.push(format!("{name} runs in {used:?}, and wants {replicas}"));
            }
        }
        ServiceMode::Global {} => {
            let placement = service.spec.task_template.placement.as_ref();
            if placement.is_some_and(|p| !p.constraints.is_empty() || !p.platforms.is_empty()) {
                return;
            }
            for node in nodes_in_use(moment.state) {
                if !good(&Slot::Node(node)) {
                    let tasks = show(&Slot::Node(node));
                    wrong.push(format!("{} is not on {node}: {tasks:?}", service.spec.name));
                }
            }
        }
        ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob {} => {}
    }
}

fn nodes_in_use(state: &ClusterState) -> impl Iterator<Item = NodeId> {
    state
        .nodes()
        .filter(|n| n.spec.availability == Availability::Active)
        .filter(|n| n.status.state == NodeState::Ready)
        .map(|n| n.id)
}

fn history(state: &ClusterState, service: &Service, wrong: &mut Vec<String>) {
    let limit = state.cluster().map_or(5, |c| c.spec.task_history_retention_limit);
    let policy = service.spec.task_template.restart_policy.as_ref();
    let limit = limit.max(policy.map_or(0, |p| p.max_attempts + 1)).max(1) + SLACK;
    let mut counts: BTreeMap<Slot, u64> = BTreeMap::new();
    for task in state.tasks_of_service(service.id) {
        *counts.entry(task.slot).or_default() += 1;
    }
    for (slot, count) in counts.into_iter().filter(|(_, count)| *count > limit) {
        let name = &service.spec.name;
        wrong.push(format!("slot {slot} of {name} remembers {count} tasks, more than {limit}"));
    }
}

fn homeless(state: &ClusterState, wrong: &mut Vec<String>) {
    for task in state.tasks() {
        if state.service(task.service_id).is_none() {
            wrong.push(format!("task {} outlives its service: {:?}", task.id, task.status));
        } else if task.desired_state == DesiredState::Remove {
            wrong
                .push(format!("task {} is to be forgotten and is not: {:?}", task.id, task.status));
        }
    }
}

fn held(moment: &Moment<'_>, wrong: &mut Vec<String>) {
    for (node, id) in moment.held {
        let task = moment.state.task(*id);
        if task.is_none_or(|task| task.node_id != Some(*node)) {
            wrong.push(format!("node {node} holds task {id}, which is not assigned to it"));
        }
    }
    for running in moment.running {
        let task = moment.state.task(running.task);
        if task.is_none_or(|task| task.desired_state != DesiredState::Running) {
            wrong.push(format!("task {} runs, and is not to", running.task));
        }
    }
}
