//! Forgetting: tasks that are to be removed and have ended, and the oldest of a slot's past.

use shoal_manager_state::{ClusterState, Command};
use shoal_types::id::ServiceId;
use shoal_types::object::{Slot, Task};
use shoal_types::task_state::DesiredState;

use super::memory::{Dirty, Memory};
use super::{Pass, SlotTasks, Slots, set_desired};
use crate::Plan;

impl<'a> Pass<'a> {
    /// Keeps the newest tasks of each slot, as many as the cluster's settings say and as many as
    /// counting restart attempts needs.
    pub(super) fn forget_history(&mut self, slots: &Slots<'a>, plan: &mut Plan) {
        let attempts = self.service.spec.task_template.restart_policy.as_ref();
        let attempts = attempts.map_or(0, |p| p.max_attempts.saturating_add(1));
        let keep = self.view.spec().task_history_retention_limit.max(attempts).max(1);
        for (slot, tasks) in slots {
            let planned = plan.commands.len();
            let excess = tasks.0.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
            // Also one that ended by itself while its successor was there already. But never the
            // newest: what becomes of the slot follows from it.
            let older = tasks.0.split_last().map_or(&[][..], |(_, older)| older);
            let past = older.iter().filter(|t| !t.is_wanted() && t.desired_state.is_kept());
            for task in past.take(excess).filter(|t| has_ended(self.view, t)) {
                forget(task, plan);
            }
            if plan.commands.len() > planned {
                self.look_again(Some(*slot));
            }
        }
    }

    /// Forgets what is to be forgotten and has ended.
    pub(super) fn forget_removed<'t>(
        &mut self,
        slots: impl Iterator<Item = (&'t Slot, &'t SlotTasks<'t>)>,
        plan: &mut Plan,
    ) {
        for (slot, tasks) in slots {
            let planned = plan.commands.len();
            tasks.0.iter().for_each(|task| remove_if_ended(self.view, task, plan));
            if plan.commands.len() > planned {
                self.look_again(Some(*slot));
            }
        }
    }
}

/// Tasks whose service is gone: stop them, then forget them.
pub(super) fn homeless(
    view: &ClusterState,
    service: ServiceId,
    dirty: &Dirty,
    memory: &mut Memory,
    plan: &mut Plan,
) {
    let mut again = None;
    let mut end = |task: &Task| {
        let planned = plan.commands.len();
        set_desired(task, DesiredState::Remove, plan);
        remove_if_ended(view, task, plan);
        if plan.commands.len() > planned {
            again.get_or_insert_with(Dirty::default).slots.insert(task.slot);
        }
    };
    if dirty.whole {
        view.tasks_of_service(service).for_each(|task| end(task));
    } else {
        for slot in &dirty.slots {
            view.tasks_of_slot(service, *slot).for_each(|task| end(task));
        }
    }
    again.into_iter().for_each(|again| memory.again(service, again));
}

fn remove_if_ended(view: &ClusterState, task: &Task, plan: &mut Plan) {
    if task.desired_state == DesiredState::Remove && has_ended(view, task) {
        forget(task, plan);
    }
}

/// Removes a task; one that a lost node may still run is given up first.
fn forget(task: &Task, plan: &mut Plan) {
    if task.is_live() && task.node_id.is_some() {
        plan.push(Command::OrphanTask { id: task.id });
    }
    plan.push(Command::RemoveTask { id: task.id });
}

/// Whether nothing of the task can be waited for: it has ended, was never placed, or its node is
/// lost. A lost node that comes back is told to hold nothing it was not assigned, so forgetting
/// the task there still ends it.
fn has_ended(view: &ClusterState, task: &Task) -> bool {
    !task.is_live() || task.node_id.is_none_or(|id| view.is_lost(id))
}
