//! Tasks -> nodes, or an explanation why not.
//!
//! Pending tasks are taken in groups of one service and spec version. To each group nodes stand in an
//! order, the least loaded first ([`class`]); it is found out no further than it takes to know the first,
//! by way of an order that serves all groups ([`order`]). After each placement the node's load has
//! changed, so it is looked at again. What is written is checked again when the command is applied.
//!
//! The scheduler remembers ([`memory`]) which tasks and nodes have changed, and the order of nodes
//! for groups of which it has placed tasks lately: a look costs as much as has changed. What is left
//! without a node is looked at again when it would be another node's turn.

mod class;
mod filter;
mod memory;
mod node_info;
mod order;
#[cfg(test)]
pub(crate) mod plain;
mod sharing;
#[cfg(test)]
mod tests;

pub use filter::{has_platform, meets_constraints};
pub use memory::Memory;

use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::{NodeId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::Task;
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use crate::Plan;
use crate::orchestrator::held_until;
use class::{Class, Look};
use filter::{Need, explain, first_refusal};
use memory::{Group, Known};

/// Places every pending task that can be placed, and says of the others why they cannot. Looks only
/// at what may have changed since `memory` looked last, and at everything the first time.
#[must_use]
pub fn plan(view: &ClusterState, memory: &mut Memory, now: Timestamp) -> Plan {
    memory.begin(view, now);
    let order = std::mem::take(&mut memory.order);
    let look = Look::new(view, now, order);
    let mut placing = Placing { memory, look, plan: Plan::default() };
    let changed = placing.memory.changes.count() > placing.memory.seen;
    placing.bound();
    placing.shared();
    placing.free(changed);
    let Placing { mut plan, look, .. } = placing;
    let (taken, order) = look.end();
    memory.order = order;
    memory.seen = memory.changes.count();
    // It may be that they are not as they were thought to be: some of the plan may be refused.
    taken.for_each(|node| memory.changes.note(node));
    memory.end();
    if let Some((at, _)) = memory.held.first() {
        plan.wake(*at);
    }
    plan
}

/// One look.
struct Placing<'m, 'a> {
    memory: &'m mut Memory,
    look: Look<'a>,
    plan: Plan,
}

impl<'a> Placing<'_, 'a> {
    /// Tasks of global services, each on the one node that it is for.
    fn bound(&mut self) {
        let memory = &mut self.memory;
        // Beside a task that is looked at are those that wait for the same node.
        let mut nodes: BTreeSet<NodeId> = memory.changes.since(memory.seen).collect();
        nodes.append(&mut memory.bound);
        for node in nodes {
            for task in self.look.view.pending_on_node(node) {
                if sharing::shares(task) {
                    self.memory.shared.insert(task.id);
                } else if !self.is_held(task) {
                    self.confirm(task, node);
                }
            }
        }
        self.show_placed();
    }

    fn confirm(&mut self, task: &Task, node: NodeId) {
        let need = Need::of(self.look.view, task);
        let Some(info) = self.look.node(node) else { return };
        let planned = self.plan.commands.len();
        match first_refusal(&need, &info) {
            None => self.assign(task, node, None),
            Some(refusal) => self.tell(task, &explain(&BTreeMap::from([(refusal, 1)]))),
        }
        // Looked at again: it may be that nothing comes of the plan.
        if self.plan.commands.len() > planned {
            self.memory.note(task);
        }
    }

    /// All others, group by group. If nodes have changed, so may have what was found of groups that
    /// have not.
    fn free(&mut self, changed: bool) {
        let mut groups = std::mem::take(&mut self.memory.tasks);
        if changed {
            for group in self.look.view.pending_groups() {
                groups.entry(group).or_default();
            }
        }
        for (group, tasks) in groups {
            self.group(group, &tasks);
        }
    }

    fn group(&mut self, group: Group, dirty: &BTreeSet<TaskId>) {
        let planned = self.plan.commands.len();
        if self.look.view.pending_of(group.0, group.1).next().is_some_and(|t| sharing::shares(t)) {
            return;
        }
        let pending = self.look.view.pending_of(group.0, group.1);
        let plain = pending.filter(|task| !is_connected(task)).map(|task| task.level).min();
        self.unlike(group, plain);
        if let Some(plain) = plain {
            self.equal(group, dirty, plain);
        }
        // So here.
        let commands = self.plan.commands.iter().skip(planned);
        self.memory.note_all(group, commands.filter_map(subject).collect());
        self.show_placed();
    }

    /// Tasks that were connected to networks need more than their like, and those that were disconnected may: each
    /// is looked at for itself.
    fn unlike(&mut self, group: Group, plain: Option<Level>) {
        let view: &'a ClusterState = self.look.view;
        for task in view.pending_of(group.0, group.1).filter(|task| !is_alike(task, plain)) {
            if !is_pending(task) || self.is_held(task) {
                continue;
            }
            let (need, mut class) = (Need::of(view, task), Class::default());
            match class.best(&need, &self.look) {
                Some(node) => self.assign(task, node, None),
                None => self.tell(task, &explain(class.refusals())),
            }
        }
    }

    fn equal(&mut self, group: Group, dirty: &BTreeSet<TaskId>, plain: Level) {
        let view: &'a ClusterState = self.look.view;
        let all = || {
            let all = view.pending_of(group.0, group.1).map(AsRef::as_ref);
            all.filter(|task| is_alike(task, Some(plain)))
        };
        let Some(first) = all().next() else { return };
        let need = Need::of(view, first);
        let known = self.memory.take_class(group).filter(|known| known.level == plain);
        let known_before = known.as_ref().map(|known| explain(known.class.refusals()));
        let seen = self.memory.changes.count();
        let mut known =
            known.unwrap_or_else(|| Known { class: Class::default(), seen, level: plain });
        known.class.catch_up(&need, &self.look, self.memory.changes.since(known.seen));
        known.seen = seen;
        // Only these, as long as nothing else can be said of the others.
        let as_before = known.class.best(&need, &self.look).is_none()
            && known_before.is_some_and(|why| why == explain(known.class.refusals()));
        let known_dirty = || dirty.iter().filter_map(|id| view.task(*id)).map(AsRef::as_ref);
        let tasks: Vec<&Task> = match as_before {
            true => known_dirty().filter(|task| is_alike(task, Some(plain))).collect(),
            false => all().collect(),
        };
        self.plan.commands.reserve(tasks.len());
        let mut why = None;
        for task in tasks {
            if !is_pending(task) || self.is_held(task) {
                continue;
            }
            if let Some(node) = known.class.best(&need, &self.look) {
                self.assign(task, node, None);
                known.class.update(&need, &self.look, node);
            } else {
                let why = why.get_or_insert_with(|| explain(known.class.refusals()));
                self.tell(task, why);
            }
        }
        self.memory.keep_class(group, known);
    }

    /// Lets others look again at the nodes on which something was placed.
    fn show_placed(&mut self) {
        self.look.news().into_iter().for_each(|node| self.memory.changes.note(node));
    }

    /// Whether a task is not to be placed yet; it is looked at when it is.
    fn is_held(&mut self, task: &Task) -> bool {
        let until = held_until(task, self.look.now);
        self.memory.held.extend(until.map(|at| (at, task.id)));
        until.is_some()
    }

    fn assign(&mut self, task: &Task, node: NodeId, partner: Option<TaskId>) {
        self.look.take(node, task);
        self.plan.push(Command::AssignTask { id: task.id, node_id: node, partner });
    }

    fn tell(&mut self, task: &Task, why: &str) {
        if task.status.err != why {
            self.plan.push(Command::ExplainTask { id: task.id, err: why.to_owned() });
        }
    }
}

/// The task that a command of a plan is about.
fn subject(command: &Command) -> Option<TaskId> {
    match command {
        Command::AssignTask { id, .. } | Command::ExplainTask { id, .. } => Some(*id),
        _ => None,
    }
}

/// Whether a task needs what its like do, that is this level.
fn is_alike(task: &Task, plain: Option<Level>) -> bool {
    !is_connected(task) && Some(task.level) == plain
}

/// Whether somebody has connected this one task to a network.
fn is_connected(task: &Task) -> bool {
    task.networks.iter().any(|joined| joined.connected)
}

fn is_pending(task: &Task) -> bool {
    task.is_wanted() && task.status.state == TaskState::Pending
}
