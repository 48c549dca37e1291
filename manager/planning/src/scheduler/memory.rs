//! What the scheduler remembers between two looks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::{ClusterState, Event, ObjectRef};
use shoal_types::id::{NodeId, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{Slot, Task};
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use super::class::Class;
use super::order::Order;
use super::sharing::shares;

/// Nodes in all remembered classes together, and classes, beside four times the nodes that there are.
const CLASS_NODES_MIN: usize = 1 << 16;

/// A class catches up with so many changes, or twice as many as it knows nodes; with more it is
/// cheaper to begin anew.
const CATCH_UP_MIN: u64 = 64;

/// Equal tasks: of one service and spec version.
pub(super) type Group = (ServiceId, u64);

/// What the scheduler remembers from when a manager begins to lead until it ceases to: which tasks
/// and nodes it has to look at again, and nodes in the order in which equal tasks take them. All of it
/// follows from the view; nothing of it is written down.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Whether it has looked at everything.
    begun: bool,
    /// When it looked last.
    looked: Timestamp,
    /// Tasks to look at. All tasks of a group are, if nothing is remembered of it.
    pub(super) tasks: BTreeMap<Group, BTreeSet<TaskId>>,
    /// Nodes to look at, as tasks that are for them alone wait.
    pub(super) bound: BTreeSet<NodeId>,
    /// Tasks to look at that share the networks of others.
    pub(super) shared: BTreeSet<TaskId>,
    /// Those of them that the nodes of their partners do not take.
    beside: BTreeMap<NodeId, BTreeSet<TaskId>>,
    /// Slots in which a task has changed: others may wait for it to share its network.
    slots: BTreeSet<(ServiceId, Slot)>,
    /// Services that have changed or are gone, by name: likewise.
    named: BTreeSet<String>,
    /// Tasks that are held, and until when.
    pub(super) held: BTreeSet<(Timestamp, TaskId)>,
    pub(super) changes: Changes,
    /// Up to where `changes` have been looked at.
    pub(super) seen: u64,
    /// Nodes as they were when it looked last.
    pub(super) order: Order,
    classes: Classes,
}

/// A class, and how far it has caught up.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) class: Class,
    /// The last of the `changes` that is in it.
    pub(super) seen: u64,
    /// The level that its tasks need.
    pub(super) level: Level,
}

impl Known {
    /// What it takes to keep it, in nodes.
    fn size(&self) -> usize {
        1 + self.class.len()
    }
}

/// Classes that were used lately.
#[derive(Debug, Clone, Default)]
struct Classes {
    known: BTreeMap<Group, Known>,
    /// The same by how far they have caught up: those used last are at the end.
    queue: BTreeSet<(u64, Group)>,
    /// Size of all.
    size: usize,
}

impl Classes {
    fn take(&mut self, group: Group) -> Option<Known> {
        let known = self.known.remove(&group)?;
        self.queue.remove(&(known.seen, group));
        self.size -= known.size();
        Some(known)
    }

    fn keep(&mut self, group: Group, known: Known) {
        self.size += known.size();
        self.queue.insert((known.seen, group));
        self.known.insert(group, known);
    }

    /// The one that is furthest behind, and what it has seen.
    fn oldest(&self) -> Option<(u64, Group)> {
        self.queue.first().copied()
    }
}

/// Which nodes have changed, the one that has changed last at the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    count: u64,
    order: BTreeMap<u64, NodeId>,
    places: BTreeMap<NodeId, u64>,
}

impl Changes {
    /// Notes that a node has changed.
    pub(super) fn note(&mut self, node: NodeId) {
        self.count += 1;
        if let Some(old) = self.places.insert(node, self.count) {
            self.order.remove(&old);
        }
        self.order.insert(self.count, node);
    }

    /// How many there were in all.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Nodes that have changed after so many changes.
    pub(super) fn since(&self, count: u64) -> impl Iterator<Item = NodeId> {
        self.order.range(count + 1..).map(|(_, node)| *node)
    }

    /// Forgets what everybody has seen.
    fn forget(&mut self, seen: u64) {
        while let Some(entry) = self.order.first_entry().filter(|entry| *entry.key() <= seen) {
            self.places.remove(&entry.remove());
        }
    }
}

impl Memory {
    /// Notes what an event has changed.
    pub fn hear(&mut self, event: &Event) {
        match &event.object {
            ObjectRef::Task(task) => {
                if let Some(node) = task.node_id {
                    self.changes.note(node);
                }
                self.note(task);
                self.slots.insert((task.service_id, task.slot));
            }
            ObjectRef::Node(node) => self.changes.note(node.id),
            ObjectRef::Service(service) => drop(self.named.insert(service.spec.name.clone())),
            ObjectRef::Cluster(_)
            | ObjectRef::Network(_)
            | ObjectRef::Deployment(_)
            | ObjectRef::Stack(_)
            | ObjectRef::User(_)
            | ObjectRef::Secret(_)
            | ObjectRef::Config(_) => {}
        }
    }

    /// Forgets everything: some events were missed.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether both found nodes in the same order when they looked last.
    #[cfg(test)]
    pub(crate) fn knows_the_same(&self, other: &Self) -> bool {
        self.order == other.order
    }

    /// How many nodes are known to classes, and how many classes there are, together.
    #[cfg(test)]
    pub(crate) const fn size(&self) -> usize {
        self.classes.size
    }

    /// Notes a task that may wait for a node.
    pub(super) fn note(&mut self, task: &Task) {
        if task.status.state != TaskState::Pending {
            return;
        }
        match task.node_id {
            _ if shares(task) => drop(self.shared.insert(task.id)),
            None => {
                self.tasks.entry((task.service_id, task.spec_version)).or_default().insert(task.id);
            }
            Some(node) => {
                self.bound.insert(node);
            }
        }
    }

    /// Notes tasks of a group, in any order.
    pub(super) fn note_all(&mut self, group: Group, tasks: BTreeSet<TaskId>) {
        match self.tasks.entry(group) {
            Entry::Vacant(free) if !tasks.is_empty() => drop(free.insert(tasks)),
            Entry::Vacant(_) => {}
            Entry::Occupied(mut known) => known.get_mut().extend(tasks),
        }
    }

    /// Begins a look: at everything, if it is the first one or the clock was turned back.
    pub(super) fn begin(&mut self, view: &ClusterState, now: Timestamp) {
        if !self.begun || now < self.looked {
            self.forget();
            self.begun = true;
            for group in view.pending_groups() {
                let shared = view.pending_of(group.0, group.1).filter(|task| shares(task));
                self.shared.extend(shared.map(|task| task.id));
                self.tasks.insert(group, BTreeSet::new());
            }
            self.bound.extend(view.awaited_nodes());
            self.order = Order::new(view);
        }
        let changed = self.changes.since(self.seen);
        for node in changed {
            self.order.update(view, node);
            self.shared.extend(self.beside.remove(&node).into_iter().flatten());
        }
        self.wake_sharers(view);
        self.looked = now;
        while let Some((_, task)) = self.held.first().copied().filter(|(at, _)| *at <= now) {
            self.held.pop_first();
            view.task(task).into_iter().for_each(|task| self.note(task));
        }
    }

    /// Notes tasks that wait for something that has changed, to share its network.
    fn wake_sharers(&mut self, view: &ClusterState) {
        for (service, slot) in std::mem::take(&mut self.slots) {
            let Some(shared) = view.service(service) else { continue };
            view.pending_beside_slot(&shared.spec.name, slot).for_each(|task| self.note(task));
        }
        for name in std::mem::take(&mut self.named) {
            view.pending_beside(&name).for_each(|task| self.note(task));
        }
    }

    /// Notes that a task is to be looked at when this node has changed.
    pub(super) fn waits_beside(&mut self, task: TaskId, node: NodeId) {
        self.beside.entry(node).or_default().insert(task);
    }

    /// Takes a group's class out, if there is one that is worth its keep.
    pub(super) fn take_class(&mut self, group: Group) -> Option<Known> {
        let known = self.classes.take(group)?;
        let behind = self.changes.count() - known.seen;
        let most = CATCH_UP_MIN.max(known.class.len() as u64 * 2);
        (behind <= most).then_some(known)
    }

    /// Puts a class back.
    pub(super) fn keep_class(&mut self, group: Group, known: Known) {
        self.classes.keep(group, known);
    }

    /// Ends a look: forgets what is not needed any more.
    pub(super) fn end(&mut self) {
        let most = CLASS_NODES_MIN.max(self.order.len() * 4);
        while self.classes.size > most
            && let Some((_, group)) = self.classes.oldest()
        {
            self.classes.take(group);
        }
        let behind = self.classes.oldest().map_or(self.seen, |(seen, _)| seen);
        self.changes.forget(behind.min(self.seen));
    }
}
