//! Tasks -> nodes, or an explanation why not.
//!
//! Pending tasks are taken in groups of one service and spec version. A group's nodes go through
//! the filters once; those that pass stand in a heap, the least loaded first. After each placement
//! the node's load has changed, so it is checked and put back. What is written is checked again
//! when the command is applied.

mod filter;
mod node_info;
#[cfg(test)]
mod tests;

pub use filter::{has_platform, meets_constraints};

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::{NodeId, ServiceId};
use shoal_types::object::Task;
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use crate::Plan;
use crate::orchestrator::held_until;
use filter::{Need, explain, first_refusal};
use node_info::NodeInfo;

/// Places every pending task that can be placed, and says of the others why they cannot.
#[must_use]
pub fn plan(view: &ClusterState, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let pending = pending(view, now, &mut plan);
    if pending.is_empty() {
        return plan;
    }
    let mut nodes: BTreeMap<NodeId, NodeInfo> =
        view.nodes().map(|node| (node.id, NodeInfo::new(view, node, now))).collect();
    for tasks in pending.values() {
        let (preassigned, free): (Vec<&Task>, Vec<&Task>) =
            tasks.iter().partition(|t| t.node_id.is_some());
        for task in preassigned {
            confirm(task, &mut nodes, &mut plan);
        }
        place(&free, &mut nodes, &mut plan);
    }
    plan
}

type Groups<'a> = BTreeMap<(ServiceId, u64), Vec<&'a Task>>;

fn pending<'a>(view: &'a ClusterState, now: Timestamp, plan: &mut Plan) -> Groups<'a> {
    let mut groups = Groups::new();
    for task in view.tasks() {
        if task.status.state != TaskState::Pending || task.desired_state > DesiredState::Running {
            continue;
        }
        if let Some(at) = held_until(task, now) {
            plan.wake(at);
        } else {
            groups.entry((task.service_id, task.spec_version)).or_default().push(task);
        }
    }
    groups
}

/// Checks a task of a global service on the one node it is for.
fn confirm(task: &Task, nodes: &mut BTreeMap<NodeId, NodeInfo<'_>>, plan: &mut Plan) {
    let Some(info) = task.node_id.and_then(|id| nodes.get_mut(&id)) else { return };
    let need = Need::of(task);
    match first_refusal(&need, info) {
        None => assign(task, info, plan),
        Some(refusal) => tell(task, &explain(&BTreeMap::from([(refusal, 1)])), plan),
    }
}

/// Places a group of equal tasks.
fn place(tasks: &[&Task], nodes: &mut BTreeMap<NodeId, NodeInfo<'_>>, plan: &mut Plan) {
    let Some(first) = tasks.first() else { return };
    let need = Need::of(first);
    let mut heap: BinaryHeap<_> = nodes
        .values()
        .filter(|info| first_refusal(&need, info).is_none())
        .map(|info| Reverse((info.load(need.service), info.id())))
        .collect();
    let mut left = tasks.iter();
    let mut stranded = None;
    for task in left.by_ref() {
        let Some(info) = heap.pop().and_then(|Reverse((_, id))| nodes.get_mut(&id)) else {
            stranded = Some(task);
            break;
        };
        assign(task, info, plan);
        if first_refusal(&need, info).is_none() {
            heap.push(Reverse((info.load(need.service), info.id())));
        }
    }
    let Some(stranded) = stranded else { return };
    let mut counts = BTreeMap::new();
    for info in nodes.values() {
        if let Some(refusal) = first_refusal(&need, info) {
            *counts.entry(refusal).or_insert(0usize) += 1;
        }
    }
    let why = explain(&counts);
    for task in std::iter::once(stranded).chain(left) {
        tell(task, &why, plan);
    }
}

fn assign(task: &Task, info: &mut NodeInfo<'_>, plan: &mut Plan) {
    info.take(task);
    plan.push(Command::AssignTask { id: task.id, node_id: info.id() });
}

fn tell(task: &Task, why: &str, plan: &mut Plan) {
    if task.status.err != why {
        plan.push(Command::ExplainTask { id: task.id, err: why.to_owned() });
    }
}
