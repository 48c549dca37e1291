//! What the scheduler remembers between two looks.

use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::{ClusterState, Event, ObjectRef};
use shoal_types::id::{NodeId, ServiceId, TaskId};
use shoal_types::object::Task;
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use super::class::Class;

/// Nodes in all remembered classes together, beside four times those that there are.
const CLASS_NODES_MIN: usize = 1 << 16;

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
    /// Tasks to look at, by group.
    pub(super) tasks: BTreeSet<(ServiceId, u64, TaskId)>,
    /// The same of tasks that are for one node only.
    pub(super) bound: BTreeSet<(NodeId, TaskId)>,
    /// Tasks that are held, and until when.
    pub(super) held: BTreeSet<(Timestamp, TaskId)>,
    pub(super) changes: Changes,
    /// Up to where `changes` have been looked at.
    pub(super) seen: u64,
    classes: BTreeMap<Group, Known>,
    looks: u64,
}

/// A class, and how far it has caught up.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) class: Class,
    /// The last of the `changes` that is in it.
    pub(super) seen: u64,
    /// In which look it was used last.
    pub(super) used: u64,
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
            }
            ObjectRef::Node(node) => self.changes.note(node.id),
            ObjectRef::Cluster(_)
            | ObjectRef::Network(_)
            | ObjectRef::Service(_)
            | ObjectRef::Deployment(_)
            | ObjectRef::Stack(_)
            | ObjectRef::User(_) => {}
        }
    }

    /// Forgets everything: some events were missed.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Notes a task that may wait for a node.
    pub(super) fn note(&mut self, task: &Task) {
        if task.status.state != TaskState::Pending {
            return;
        }
        match task.node_id {
            None => self.tasks.extend([(task.service_id, task.spec_version, task.id)]),
            Some(node) => self.bound.extend([(node, task.id)]),
        }
    }

    /// Begins a look: at everything, if it is the first one or the clock was turned back.
    pub(super) fn begin(&mut self, view: &ClusterState, now: Timestamp) {
        if !self.begun || now < self.looked {
            self.forget();
            self.begun = true;
            for (service, version) in view.pending_groups() {
                let all = view.pending_of(service, version);
                self.tasks.extend(all.map(|task| (service, version, task.id)));
            }
            for node in view.awaited_nodes() {
                self.bound.extend(view.pending_on_node(node).map(|task| (node, task.id)));
            }
        }
        self.looked = now;
        self.looks += 1;
        while let Some((_, task)) = self.held.first().copied().filter(|(at, _)| *at <= now) {
            self.held.pop_first();
            view.task(task).into_iter().for_each(|task| self.note(task));
        }
    }

    /// Takes a group's class out, if there is one.
    pub(super) fn take_class(&mut self, group: Group) -> Option<Known> {
        self.classes.remove(&group)
    }

    /// Puts a class back.
    pub(super) fn keep_class(&mut self, group: Group, known: Known) {
        self.classes.insert(group, Known { used: self.looks, ..known });
    }

    /// Ends a look: forgets what is not needed any more.
    pub(super) fn end(&mut self, view: &ClusterState) {
        let most = CLASS_NODES_MIN.max(view.nodes().len() * 4);
        let mut all: usize = self.classes.values().map(|known| known.class.len()).sum();
        while all > most
            && let Some(oldest) = self.classes.iter().min_by_key(|(_, k)| k.used).map(|(g, _)| *g)
        {
            let gone = self.classes.remove(&oldest);
            all -= gone.map_or(0, |known| known.class.len());
        }
        let behind = self.classes.values().map(|known| known.seen).min();
        self.changes.forget(behind.unwrap_or(self.seen).min(self.seen));
    }
}
