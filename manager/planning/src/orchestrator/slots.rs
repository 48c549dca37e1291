//! How many slots a service has, and which.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use shoal_types::object::{Node, NodeState, Slot};
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
                let mut candidates: Vec<Slot> = used.into_iter().collect();
                candidates.sort_by_key(|slot| self.worth_keeping(*slot));
                candidates.truncate(excess);
                candidates
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

    /// Sorts slots so that those that serve least come first: not running, on the node with most
    /// tasks of this service, newest number.
    fn worth_keeping(&self, slot: Slot) -> (bool, Reverse<usize>, Reverse<Slot>) {
        let wanted = self.slots.get(&slot).and_then(SlotTasks::wanted);
        let running = wanted.is_some_and(|t| t.status.state == TaskState::Running);
        let crowd = wanted.and_then(|t| t.node_id).map_or(0, |node| {
            self.slots
                .values()
                .filter_map(SlotTasks::wanted)
                .filter(|t| t.node_id == Some(node))
                .count()
        });
        (running, Reverse(crowd), Reverse(slot))
    }

    /// Whether a global service is to have a new task on the node.
    fn wants_global(&self, node: &Node) -> bool {
        node.spec.availability == Availability::Active
            && node.status.state != NodeState::Down
            && scheduler::meets_constraints(&self.service.spec.task_template, node)
            && scheduler::has_platform(&self.service.spec.task_template, node)
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

impl<'a> SlotTasks<'a> {
    /// The newest task that is wanted and not known to have ended.
    pub(super) fn wanted(&self) -> Option<&'a shoal_types::object::Task> {
        self.0.iter().rev().find(|t| t.is_wanted()).copied()
    }

    /// The newest task of all.
    pub(super) fn newest(&self) -> Option<&'a shoal_types::object::Task> {
        self.0.last().copied()
    }
}
