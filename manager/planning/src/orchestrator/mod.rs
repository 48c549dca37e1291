//! Services -> tasks.
//!
//! One look at a service takes its slots in this order: how many there are to be
//! ([`slots`]), which ended tasks are replaced ([`restart`]), which waiting ones may start, which
//! outdated ones are replaced ([`rollout`], [`judge`], [`fail`]), and which past ones are forgotten
//! ([`reaper`]).
//!
//! The orchestrator remembers ([`memory`]) what follows from each slot ([`facts`]), and looks again
//! only at slots in which something has changed and at the sums of their services: a look costs as
//! much as has changed. It looks at everything when a manager begins to lead.

mod dirty;
mod facts;
mod fail;
mod judge;
mod memory;
mod partner;
mod reaper;
mod restart;
mod rollout;
mod room;
mod slots;
#[cfg(test)]
mod tests;

pub use dirty::is_dirty;
pub use memory::Memory;
pub(crate) use restart::is_ever_restarted;
use restart::{Delay, delay_of};
pub(crate) use slots::finds_no_place;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::{IdSource, NodeId, ServiceId, StackId};
use shoal_types::level::Level;
use shoal_types::object::{Deployment, Node, Service, Slot, Task};
use shoal_types::spec::{Availability, UpdateConfig, UpdateOrder};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use crate::{Plan, level};
use facts::{Facts, Known};
use memory::Dirty;
use room::Promised;

/// How far apart the clocks of two managers may be without being taken for wrong.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// Commands in one plan, about. What is left comes with the next one: whoever carries a plan out
/// looks at nothing meanwhile.
const PLAN_MAX: usize = 16 * crate::BATCH_MAX;

/// Plans all services, and the end of tasks whose service is gone. Looks only at what may have changed
/// since `memory` looked last, and at everything the first time.
pub fn plan<I: IdSource>(
    view: &ClusterState,
    memory: &mut Memory,
    now: Timestamp,
    ids: &mut I,
) -> Plan {
    let mut plan = Plan::default();
    memory.begin(view, now);
    let mut going_back: BTreeSet<StackId> = BTreeSet::new();
    for (id, dirty) in memory.take_dirty() {
        if plan.commands.len() >= PLAN_MAX {
            memory.leave(id, dirty);
            continue;
        }
        let stack = view.service(id).and_then(|service| service.stack_id);
        // What would be planned for it is of a version that is being left.
        if stack.is_some_and(|stack| going_back.contains(&stack)) {
            memory.again(id, dirty);
            continue;
        }
        let planned = plan.commands.len();
        look(view, memory, now, id, dirty, ids, &mut plan);
        going_back.extend(plan.commands.iter().skip(planned).filter_map(goes_back));
    }
    if plan.commands.is_empty() {
        prove(view, memory, now, ids, &mut plan);
    }
    plan.wake_at = memory.wake_at();
    plan
}

/// The stack that a command takes back to an earlier version.
fn goes_back(command: &Command) -> Option<StackId> {
    match command {
        Command::RollBackStack { id, .. } => Some(*id),
        _ => None,
    }
}

/// Looks at something of one service.
fn look<I: IdSource>(
    view: &ClusterState,
    memory: &mut Memory,
    now: Timestamp,
    id: ServiceId,
    dirty: Dirty,
    ids: &mut I,
    plan: &mut Plan,
) {
    let Some(service) = view.service(id) else {
        memory.drop_known(id);
        reaper::homeless(view, id, &dirty, memory, plan);
        return;
    };
    let known = memory.take_known(id);
    let promised = std::mem::take(&mut memory.promised);
    let mut pass = Pass::new(view, service, now, known, promised);
    pass.run(dirty, ids, plan);
    let Pass { known, again, wakes, wake, promised, .. } = pass;
    memory.promised = promised;
    if let Some(again) = again {
        memory.again(id, again);
    }
    wakes.into_iter().for_each(|(slot, at)| memory.wake(at, id, slot));
    memory.keep_known(id, service.spec.mode, known, wake);
}

/// Looks, now and then, at what nobody has said to have changed. There is nothing to find; what is
/// found all the same is said and mended.
fn prove<I: IdSource>(
    view: &ClusterState,
    memory: &mut Memory,
    now: Timestamp,
    ids: &mut I,
    plan: &mut Plan,
) {
    for (id, part) in memory.proof(view) {
        let slots: Vec<Slot> = part.slots.iter().copied().collect();
        let facts = |memory: &Memory| -> Vec<Facts> {
            let known = memory.known(id);
            slots.iter().map(|slot| known.map_or(Facts::default(), |k| k.get(*slot))).collect()
        };
        let (before, planned) = (facts(memory), plan.commands.len());
        look(view, memory, now, id, part, ids, plan);
        if plan.commands.len() > planned || facts(memory) != before {
            plan.missed.push(format!("something of service {id} had changed unnoticed"));
        }
    }
}

/// The tasks of one slot, oldest first.
#[derive(Debug, Default)]
struct SlotTasks<'a>(Vec<&'a Task>);

type Slots<'a> = BTreeMap<Slot, SlotTasks<'a>>;

/// One look at one service.
struct Pass<'a> {
    view: &'a ClusterState,
    service: &'a Service,
    now: Timestamp,
    deployment: Option<&'a Deployment>,
    config: UpdateConfig,
    known: Known,
    /// Of a new task.
    level: OnceCell<Level>,
    /// What is to be looked at again.
    again: Option<Dirty>,
    wakes: Vec<(Slot, Timestamp)>,
    /// When the sums are to be looked at again.
    wake: Option<Timestamp>,
    promised: Promised,
}

impl<'a> Pass<'a> {
    fn new(
        view: &'a ClusterState,
        service: &'a Service,
        now: Timestamp,
        known: Known,
        promised: Promised,
    ) -> Self {
        let deployment = view.deployment(service.deployment_id).map(AsRef::as_ref);
        let config = view.rollout_config(service);
        let (again, wakes, wake) = (None, Vec::new(), None);
        let level = OnceCell::new();
        Self { view, service, now, deployment, config, known, level, again, wakes, wake, promised }
    }

    fn run<I: IdSource>(&mut self, dirty: Dirty, ids: &mut I, plan: &mut Plan) {
        let mut slots = self.tasks_of(dirty);
        for (slot, tasks) in &slots {
            let (used, missing) = (tasks.is_used(), self.is_missing(*slot, tasks));
            self.known.set(*slot, Facts { used, missing, ..Facts::default() });
            self.known.starved.remove(slot);
        }
        self.known.forget_unused();
        let mut gone = Slots::new();
        for slot in self.surplus(&slots) {
            let tasks = slots.remove(&slot).unwrap_or_else(|| self.tasks(slot));
            tasks.0.iter().for_each(|task| set_desired(task, DesiredState::Remove, plan));
            self.known.set(slot, Facts::default());
            self.look_again(Some(slot));
            gone.insert(slot, tasks);
        }
        for slot in self.missing(PLAN_MAX.saturating_sub(plan.commands.len())) {
            let planned = plan.commands.len();
            self.create(slot, &SlotTasks::default(), self.blocked(slot), Delay::None, ids, plan);
            if plan.commands.len() == planned {
                break;
            }
            self.look_again(None);
        }
        // A slot whose tasks are all on their way out for good is no slot any more.
        let unused = slots.extract_if(.., |_, tasks| !tasks.is_used());
        gone.extend(unused.collect::<Slots<'a>>());
        self.decide(&slots, ids, plan);
        self.roll_out(&slots, ids, plan);
        self.forget_history(&slots, plan);
        self.forget_removed(slots.iter().chain(&gone), plan);
    }

    /// The tasks of the slots that are to be looked at.
    fn tasks_of(&mut self, dirty: Dirty) -> Slots<'a> {
        if !dirty.whole {
            return dirty.slots.into_iter().map(|slot| (slot, self.tasks(slot))).collect();
        }
        self.known.clear();
        let mut slots = Slots::new();
        for slot in self.slots_of_nodes() {
            slots.insert(slot, SlotTasks::default());
        }
        for task in self.view.tasks_of_service(self.service.id) {
            slots.entry(task.slot).or_default().0.push(task);
        }
        slots.values_mut().for_each(SlotTasks::sort);
        slots
    }

    fn tasks(&self, slot: Slot) -> SlotTasks<'a> {
        let tasks = self.view.tasks_of_slot(self.service.id, slot);
        let mut tasks = SlotTasks(tasks.map(AsRef::as_ref).collect());
        tasks.sort();
        tasks
    }

    /// Notes that something was planned: it is to be looked at again what became of it.
    fn look_again(&mut self, slot: Option<Slot>) {
        self.again.get_or_insert_default().slots.extend(slot);
    }

    /// Decides about each slot for itself, and notes what follows for the service. What a slot needs
    /// is decided once in a look: a task on a drained node that is outdated, too, must not get two
    /// successors.
    fn decide<I: IdSource>(&mut self, slots: &Slots<'a>, ids: &mut I, plan: &mut Plan) {
        for (slot, tasks) in slots {
            let (planned, wake) = (plan.commands.len(), plan.wake_at.take());
            let stays = self.replace_ended(*slot, tasks, ids, plan);
            if stays {
                self.start_waiting(tasks, plan);
                self.finish_start_first(tasks, plan);
            }
            let facts = self.facts(*slot, tasks, !stays, plan);
            self.known.set(*slot, facts);
            self.wakes.extend(plan.wake_at.map(|at| (*slot, at)));
            plan.wake_at = wake;
            if plan.commands.len() > planned {
                self.look_again(Some(*slot));
            }
        }
    }

    /// Creates a task for `slot`. It is made ready only, and started by a later pass, if it must
    /// wait: for the end of another task of the slot, or for a delay. It is not made at all while there is
    /// no address for it.
    fn create<I: IdSource>(
        &mut self,
        slot: Slot,
        tasks: &SlotTasks<'_>,
        blocked: bool,
        delay: Delay,
        ids: &mut I,
        plan: &mut Plan,
    ) {
        self.give_up_lost(plan);
        if !self.has_addresses(slot) {
            return;
        }
        let (start_after, rejections) = match self.paced(tasks, delay) {
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
            level: *self.level.get_or_init(|| level::of_task(self.view, self.service)),
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
        self.view.is_lost(node)
    }

    /// Whether the task is where it should not be: on a lost or drained node, or on one that does
    /// not meet its constraints any more.
    fn is_displaced(&self, task: &Task) -> bool {
        let Some(id) = task.node_id else { return false };
        self.view.node(id).is_none_or(|node| {
            node.is_lost()
                || node.spec.availability == Availability::Drain
                || !fits_constraints(task, node)
        })
    }

    const fn order(&self) -> UpdateOrder {
        self.config.order
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
    if task.desired_state.may_become(desired) {
        plan.push(Command::SetDesired { id: task.id, desired });
    }
}

/// Whether the node meets the constraints the task was made with. Unparsable ones cannot have
/// come past the API; they count as not met.
fn fits_constraints(task: &Task, node: &Node) -> bool {
    crate::scheduler::meets_constraints(&task.spec, node)
}
