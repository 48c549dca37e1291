//! Services -> tasks.
//!
//! One pass over a service looks at its slots in this order: how many there are to be
//! ([`slots`]), which ended tasks are replaced ([`restart`]), which waiting ones may start, which
//! outdated ones are replaced ([`rollout`], [`judge`], [`fail`]), and which past ones are forgotten
//! ([`reaper`]).

mod dirty;
mod fail;
mod judge;
mod reaper;
mod restart;
mod rollout;
mod slots;
#[cfg(test)]
mod tests;

pub use dirty::is_dirty;
pub(crate) use restart::is_ever_restarted;
use restart::{Delay, delay_of};
pub(crate) use slots::finds_no_place;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::{IdSource, NodeId, StackId};
use shoal_types::object::{Node, NodeState, Service, Slot, Task};
use shoal_types::spec::{Availability, UpdateOrder};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use crate::Plan;

/// How far apart the clocks of two managers may be without being taken for wrong.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// Plans all services, and the end of tasks whose service is gone.
pub fn plan<I: IdSource>(view: &ClusterState, now: Timestamp, ids: &mut I) -> Plan {
    let mut plan = Plan::default();
    for service in view.services() {
        // What would be planned for it is of a version that is being left.
        if service.stack_id.is_some_and(|id| goes_back(&plan, id)) {
            continue;
        }
        Pass::new(view, service, now).run(ids, &mut plan);
    }
    reaper::homeless(view, &mut plan);
    plan
}

/// Whether it is planned that a stack goes back to an earlier version.
fn goes_back(plan: &Plan, stack: StackId) -> bool {
    plan.commands.iter().any(|c| matches!(c, Command::RollBackStack { id, .. } if *id == stack))
}

/// The tasks of one slot, oldest first.
#[derive(Debug, Default)]
struct SlotTasks<'a>(Vec<&'a Task>);

/// One look at one service.
struct Pass<'a> {
    view: &'a ClusterState,
    service: &'a Service,
    now: Timestamp,
    slots: BTreeMap<Slot, SlotTasks<'a>>,
}

impl<'a> Pass<'a> {
    fn new(view: &'a ClusterState, service: &'a Service, now: Timestamp) -> Self {
        let mut slots: BTreeMap<Slot, SlotTasks<'a>> = BTreeMap::new();
        for task in view.tasks_of_service(service.id) {
            slots.entry(task.slot).or_default().0.push(task);
        }
        for slot in slots.values_mut() {
            slot.0.sort_by_key(|t| (t.meta.created_at, t.id));
        }
        Self { view, service, now, slots }
    }

    fn run<I: IdSource>(mut self, ids: &mut I, plan: &mut Plan) {
        for slot in self.surplus() {
            for task in self.slots.get(&slot).into_iter().flat_map(|s| &s.0) {
                set_desired(task, DesiredState::Remove, plan);
            }
            self.slots.remove(&slot);
        }
        for slot in self.missing() {
            self.create(slot, self.blocked(slot), Delay::None, ids, plan);
        }
        // A slot whose tasks are all on their way out for good is no slot any more.
        let used = self.used();
        self.slots.retain(|slot, _| used.contains(slot));
        // What a slot needs is decided once in a pass: a task on a drained node that is outdated,
        // too, must not get two successors.
        let mut decided = BTreeSet::new();
        for (slot, tasks) in &self.slots {
            if self.replace_ended(*slot, tasks, ids, plan) {
                self.start_waiting(tasks, plan);
            } else {
                decided.insert(*slot);
            }
        }
        self.roll_out(&decided, ids, plan);
        self.forget_history(plan);
    }

    /// Creates a task for `slot`. It is made ready only, and started by a later pass, if it must
    /// wait: for the end of another task of the slot, or for a delay.
    fn create<I: IdSource>(
        &self,
        slot: Slot,
        blocked: bool,
        delay: Delay,
        ids: &mut I,
        plan: &mut Plan,
    ) {
        let (start_after, rejections) = match self.paced(slot, delay) {
            Delay::None => (None, 0),
            Delay::Start(at) => (Some(at), 0),
            Delay::Everything(at, rejections) => (Some(at), rejections),
        };
        let waits = blocked || start_after.is_some();
        plan.push(Command::CreateTask {
            id: ids.next_id(),
            service_id: self.service.id,
            service_version: self.service.meta.spec_version,
            slot,
            node_id: match slot {
                Slot::Replica(_) => None,
                Slot::Node(id) => Some(id),
            },
            desired: if waits { DesiredState::Ready } else { DesiredState::Running },
            start_after,
            rejections,
        });
    }

    /// Lets tasks that wait start, once nothing stands in their way.
    fn start_waiting(&self, tasks: &SlotTasks<'_>, plan: &mut Plan) {
        for task in &tasks.0 {
            if task.desired_state != DesiredState::Ready || !task.is_live() {
                continue;
            }
            if let Some(at) = task.start_after.filter(|at| waits(*at, delay_of(task), self.now)) {
                plan.wake(at);
            } else if self.order() == UpdateOrder::StartFirst || !self.another_runs(tasks, task) {
                set_desired(task, DesiredState::Running, plan);
            }
        }
    }

    /// Whether some other task of the slot may still be running somewhere within reach.
    fn another_runs(&self, tasks: &SlotTasks<'_>, than: &Task) -> bool {
        tasks.0.iter().any(|t| t.id != than.id && self.may_run(t))
    }

    /// Whether a new task of the slot has to wait for an old one to end.
    fn blocked(&self, slot: Slot) -> bool {
        self.view.tasks_of_slot(self.service.id, slot).any(|t| self.may_run(t))
    }

    /// Whether something of the task may be running within reach. What a lost node runs nobody
    /// knows; a replacement must not wait for it.
    fn may_run(&self, task: &Task) -> bool {
        task.is_live() && task.node_id.is_some_and(|id| !self.is_lost(id))
    }

    fn is_lost(&self, node: NodeId) -> bool {
        self.view.node(node).is_none_or(|n| n.status.state == NodeState::Down)
    }

    /// Whether the task is where it should not be: on a lost or drained node, or on one that does
    /// not meet its constraints any more.
    fn is_displaced(&self, task: &Task) -> bool {
        let Some(id) = task.node_id else { return false };
        self.view.node(id).is_none_or(|node| {
            node.status.state == NodeState::Down
                || node.spec.availability == Availability::Drain
                || !fits_constraints(task, node)
        })
    }

    fn order(&self) -> UpdateOrder {
        self.view.rollout_config(self.service).order
    }
}

/// Whether `at`, the end of a delay of this length, is still to come. If more is left than the
/// delay ever was, the clock was turned back meanwhile: that is not waited out.
fn waits(at: Timestamp, delay: Duration, now: Timestamp) -> bool {
    at > now && at.since(now) <= delay + CLOCK_SKEW
}

/// Until when a pending task is not to be placed, because those before it were rejected.
#[must_use]
pub fn held_until(task: &Task, now: Timestamp) -> Option<Timestamp> {
    let held = task.rejections > 0 && task.status.state == TaskState::Pending;
    task.start_after.filter(|at| held && waits(*at, delay_of(task), now))
}

/// Moves a task's desired state, unless it is there already or beyond.
fn set_desired(task: &Task, desired: DesiredState, plan: &mut Plan) {
    if task.desired_state < desired {
        plan.push(Command::SetDesired { id: task.id, desired });
    }
}

/// Whether the node meets the constraints the task was made with. Unparsable ones cannot have
/// come past the API; they count as not met.
fn fits_constraints(task: &Task, node: &Node) -> bool {
    crate::scheduler::meets_constraints(&task.spec, node)
}
