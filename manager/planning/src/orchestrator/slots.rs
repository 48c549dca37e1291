//! How many slots a service has, and which.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use shoal_types::id::NodeId;
use shoal_types::object::{Node, Slot, Task};
use shoal_types::spec::{Availability, ServiceMode};
use shoal_types::task_state::TaskState;

use super::{Pass, SlotTasks, Slots};
use crate::scheduler;

impl<'a> Pass<'a> {
    /// Slots that are to go: too many replicas, or a node that global tasks have no place on. Of the
    /// latter only those that are looked at.
    pub(super) fn surplus(&self, slots: &Slots<'a>) -> Vec<Slot> {
        match self.service.spec.mode {
            ServiceMode::Replicated { replicas } => {
                let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
                match self.known.used().saturating_sub(replicas) {
                    0 => Vec::new(),
                    excess => self.least_useful(excess),
                }
            }
            ServiceMode::Global {} => {
                let used = slots.iter().filter(|(_, tasks)| tasks.is_used());
                used.map(|(slot, _)| *slot).filter(|slot| !self.keeps_global(*slot)).collect()
            }
            ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob {} => Vec::new(),
        }
    }

    /// Slots that need a first task, so many at the most.
    pub(super) fn missing(&mut self, most: usize) -> Vec<Slot> {
        let lack = self.lack();
        match self.service.spec.mode {
            ServiceMode::Replicated { .. } if lack == 0 => Vec::new(),
            ServiceMode::Replicated { .. } => {
                let lack = lack.min(most);
                let mut slots = self.beside_partners(lack);
                let more = self.known.free(lack).into_iter().filter(|slot| !slots.contains(slot));
                let more: Vec<Slot> = more.take(lack - slots.len()).collect();
                slots.extend(more);
                slots
            }
            _ => self.known.missing().iter().take(most).copied().collect(),
        }
    }

    /// Whether there are slots that need a first task.
    pub(super) fn lacks_slots(&self) -> bool {
        self.lack() > 0 || !self.known.missing().is_empty()
    }

    /// How many replicas there are to be beside those that there are.
    fn lack(&self) -> usize {
        let ServiceMode::Replicated { replicas } = self.service.spec.mode else { return 0 };
        usize::try_from(replicas).unwrap_or(usize::MAX).saturating_sub(self.known.used())
    }

    /// Whether the slot is that of a node on which a global service is to have its first task.
    pub(super) fn is_missing(&self, slot: Slot, tasks: &SlotTasks<'_>) -> bool {
        let (ServiceMode::Global {}, Slot::Node(id)) = (self.service.spec.mode, slot) else {
            return false;
        };
        !tasks.is_used() && self.view.node(id).is_some_and(|node| self.wants_global(node))
    }

    /// The slots that a global service may have.
    pub(super) fn slots_of_nodes(&self) -> impl Iterator<Item = Slot> + use<'a> {
        let global = matches!(self.service.spec.mode, ServiceMode::Global {});
        let nodes = global.then(|| self.view.nodes());
        nodes.into_iter().flatten().map(|node| Slot::Node(node.id))
    }

    /// The slots that serve least, as many as are too many: those that do not run, then those whose
    /// node has more of the service than others have, then the newest numbers.
    fn least_useful(&self, excess: usize) -> Vec<Slot> {
        let used = self.known.slots().filter(|slot| self.known.get(*slot).used);
        if self.is_paired() {
            // Both services give up the same ones, whenever it is done.
            let mut slots: Vec<Slot> = used.collect();
            slots.sort_unstable_by_key(|slot| Reverse(*slot));
            slots.truncate(excess);
            return slots;
        }
        let mut slots: Vec<_> = used.map(|slot| (slot, self.tasks(slot).wanted())).collect();
        let runs = |task: Option<&Task>| task.is_some_and(|t| t.status.state == TaskState::Running);
        slots.sort_by_key(|(_, task)| !runs(*task));
        // Counted one by one, so that what stays is spread as evenly as what was there.
        let mut copies: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut ranked = Vec::with_capacity(slots.len());
        for (slot, task) in slots {
            let copy = task.and_then(|t| t.node_id).map_or(0, |node| {
                let copies = copies.entry(node).or_default();
                *copies += 1;
                *copies
            });
            ranked.push((runs(task), Reverse(copy), Reverse(slot)));
        }
        ranked.sort_unstable();
        ranked.into_iter().take(excess).map(|(.., Reverse(slot))| slot).collect()
    }

    /// Whether a global service is to have a new task on the node.
    fn wants_global(&self, node: &Node) -> bool {
        node.spec.availability == Availability::Active
            && !node.is_lost()
            && scheduler::meets_constraints(&self.service.spec.task_template, node)
            && scheduler::has_platform(&self.service.spec.task_template, node)
            && self.may_have_partner(node)
    }

    /// Whether the slot is bound to a node that is paused or down, where nothing can be replaced.
    pub(super) fn is_held(&self, slot: Slot) -> bool {
        let Slot::Node(id) = slot else { return false };
        self.view
            .node(id)
            .is_some_and(|node| node.spec.availability == Availability::Pause || node.is_lost())
    }

    /// Whether a global service keeps its slot on the node. A node that is merely away keeps it:
    /// nobody else can fill it.
    fn keeps_global(&self, slot: Slot) -> bool {
        let Slot::Node(id) = slot else { return false };
        self.view.node(id).is_some_and(|node| {
            node.spec.availability != Availability::Drain
                && scheduler::meets_constraints(&self.service.spec.task_template, node)
                && self.may_have_partner(node)
        })
    }
}

/// Whether the task waits for a node, and the scheduler has said that there is none.
pub(crate) fn finds_no_place(task: &Task) -> bool {
    task.status.state == TaskState::Pending && !task.status.err.is_empty()
}

impl<'a> SlotTasks<'a> {
    pub(super) fn sort(&mut self) {
        self.0.sort_by_key(|t| (t.meta.created_at, t.id));
    }

    /// Whether there is a task that is not on its way out for good.
    pub(super) fn is_used(&self) -> bool {
        self.0.iter().any(|t| t.desired_state.is_kept())
    }

    /// Whether the slot waits for a node, and the scheduler has said that there is none.
    pub(super) fn finds_no_place(&self) -> bool {
        self.wanted().is_some_and(finds_no_place)
    }

    /// The newest task that is wanted and not known to have ended.
    pub(super) fn wanted(&self) -> Option<&'a Task> {
        self.0.iter().rev().find(|t| t.is_wanted()).copied()
    }

    /// The task by which the slot is judged: the newest one that nobody has stopped on purpose, or
    /// else the newest of all.
    pub(super) fn current(&self) -> Option<&'a Task> {
        let kept = self.0.iter().rev().find(|t| !t.desired_state.is_stop());
        kept.or(self.0.last()).copied()
    }
}
