//! How many slots a service has, and which.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use shoal_types::id::NodeId;
use shoal_types::object::{Node, NodeState, Slot, Task};
use shoal_types::spec::{Availability, ServiceMode};
use shoal_types::task_state::{DesiredState, TaskState};

use super::{Pass, SlotTasks};
use crate::scheduler;

impl Pass<'_> {
    /// Slots in use: those with a task that is not on its way out for good.
    pub(super) fn used(&self) -> BTreeSet<Slot> {
        let kept =
            |tasks: &SlotTasks<'_>| tasks.0.iter().any(|t| t.desired_state < DesiredState::Remove);
        self.slots.iter().filter(|(_, tasks)| kept(tasks)).map(|(slot, _)| *slot).collect()
    }

    /// Slots that are to go: too many replicas, or a node that global tasks have no place on.
    pub(super) fn surplus(&self) -> Vec<Slot> {
        let used = self.used();
        match self.service.spec.mode {
            ServiceMode::Replicated { replicas } => {
                let excess =
                    used.len().saturating_sub(usize::try_from(replicas).unwrap_or(usize::MAX));
                self.least_useful(used, excess)
            }
            ServiceMode::Global {} => {
                used.into_iter().filter(|slot| !self.keeps_global(*slot)).collect()
            }
            ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob {} => Vec::new(),
        }
    }

    /// Slots that need a first task.
    pub(super) fn missing(&self) -> Vec<Slot> {
        let used = self.used();
        match self.service.spec.mode {
            ServiceMode::Replicated { replicas } => {
                let lack =
                    usize::try_from(replicas).unwrap_or(usize::MAX).saturating_sub(used.len());
                let free = (1..).map(Slot::Replica).filter(|slot| !used.contains(slot));
                free.take(lack).collect()
            }
            ServiceMode::Global {} => self
                .view
                .nodes()
                .filter(|node| self.wants_global(node))
                .map(|node| Slot::Node(node.id))
                .filter(|slot| !used.contains(slot))
                .collect(),
            ServiceMode::ReplicatedJob { .. } | ServiceMode::GlobalJob {} => Vec::new(),
        }
    }

    /// The slots that serve least, as many as are too many: those that do not run, then those whose
    /// node has more of the service than others have, then the newest numbers.
    fn least_useful(&self, used: BTreeSet<Slot>, excess: usize) -> Vec<Slot> {
        let wanted = |slot: &Slot| self.slots.get(slot).and_then(SlotTasks::wanted);
        let runs = |slot: &Slot| wanted(slot).is_some_and(|t| t.status.state == TaskState::Running);
        let mut slots: Vec<Slot> = used.into_iter().collect();
        slots.sort_by_key(|slot| !runs(slot));
        // Counted one by one, so that what stays is spread as evenly as what was there.
        let mut copies: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut ranked = Vec::with_capacity(slots.len());
        for slot in slots {
            let copy = wanted(&slot).and_then(|t| t.node_id).map_or(0, |node| {
                let copies = copies.entry(node).or_default();
                *copies += 1;
                *copies
            });
            ranked.push((runs(&slot), Reverse(copy), Reverse(slot)));
        }
        ranked.sort_unstable();
        ranked.into_iter().take(excess).map(|(.., Reverse(slot))| slot).collect()
    }

    /// Whether a global service is to have a new task on the node.
    fn wants_global(&self, node: &Node) -> bool {
        node.spec.availability == Availability::Active
            && node.status.state != NodeState::Down
            && scheduler::meets_constraints(&self.service.spec.task_template, node)
            && scheduler::has_platform(&self.service.spec.task_template, node)
    }

    /// Whether the slot is bound to a node that is paused or down, where nothing can be replaced.
    pub(super) fn is_held(&self, slot: Slot) -> bool {
        let Slot::Node(id) = slot else { return false };
        self.view.node(id).is_some_and(|node| {
            node.spec.availability == Availability::Pause || node.status.state == NodeState::Down
        })
    }

    /// Whether a global service keeps its slot on the node. A node that is merely away keeps it:
    /// nobody else can fill it.
    fn keeps_global(&self, slot: Slot) -> bool {
        let Slot::Node(id) = slot else { return false };
        self.view.node(id).is_some_and(|node| {
            node.spec.availability != Availability::Drain
                && scheduler::meets_constraints(&self.service.spec.task_template, node)
        })
    }
}

/// Whether the task waits for a node, and the scheduler has said that there is none.
pub(crate) fn finds_no_place(task: &Task) -> bool {
    task.status.state == TaskState::Pending && !task.status.err.is_empty()
}

impl<'a> SlotTasks<'a> {
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
        let kept = self.0.iter().rev().find(|t| t.desired_state <= DesiredState::Running);
        kept.or(self.0.last()).copied()
    }
}
