//! Forgetting: tasks that are to be removed and have ended, and the oldest of a slot's past.

use shoal_manager_state::{ClusterState, Command};
use shoal_types::object::{NodeState, Task};
use shoal_types::spec::ClusterSpec;
use shoal_types::task_state::DesiredState;

use super::{Pass, set_desired};
use crate::Plan;

impl Pass<'_> {
    /// Keeps the newest tasks of each slot, as many as the cluster's settings say and as many as
    /// counting restart attempts needs.
    pub(super) fn forget_history(&self, plan: &mut Plan) {
        for tasks in self.slots.values() {
            let attempts = self.service.spec.task_template.restart_policy.as_ref();
            let attempts = attempts.map_or(0, |p| p.max_attempts.saturating_add(1));
            let keep = history_limit(self.view).max(attempts).max(1);
            let excess = tasks.0.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
            // Also one that ended by itself while its successor was there already. But never the
            // newest: what becomes of the slot follows from it.
            let older = tasks.0.split_last().map_or(&[][..], |(_, older)| older);
            let past =
                older.iter().filter(|t| !t.is_wanted() && t.desired_state < DesiredState::Remove);
            for task in past.take(excess).filter(|t| has_ended(self.view, t)) {
                forget(task, plan);
            }
        }
        for task in self.view.tasks_of_service(self.service.id) {
            remove_if_ended(self.view, task, plan);
        }
    }
}

/// Tasks whose service is gone: stop them, then forget them.
pub(super) fn homeless(view: &ClusterState, plan: &mut Plan) {
    for task in view.tasks().filter(|t| view.service(t.service_id).is_none()) {
        set_desired(task, DesiredState::Remove, plan);
        remove_if_ended(view, task, plan);
    }
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
    !task.is_live()
        || task
            .node_id
            .is_none_or(|id| view.node(id).is_none_or(|node| node.status.state == NodeState::Down))
}

fn history_limit(view: &ClusterState) -> u64 {
    let default = || ClusterSpec::default().task_history_retention_limit;
    view.cluster().map_or_else(default, |c| c.spec.task_history_retention_limit)
}
