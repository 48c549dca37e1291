//! How a rollout goes: whether it has failed and what follows, or whether it is complete.

use std::time::Duration;

use shoal_manager_state::Command;
use shoal_types::id::IdSource;
use shoal_types::object::{Deployment, DeploymentState, Task};
use shoal_types::spec::{FailureAction, UpdateConfig};
use shoal_types::task_state::TaskState;

use super::{Pass, SlotTasks};
use crate::Plan;

/// How long a rollout may go on without any progress before it counts as failed. Time spent
/// waiting for a node that fits counts, so a rollout never hangs for ever.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

impl Pass<'_> {
    /// Decides whether the deployment has failed, and what follows. True if it has ended.
    pub(super) fn judge<I: IdSource>(
        &mut self,
        deployment: &Deployment,
        ids: &mut I,
        plan: &mut Plan,
    ) -> bool {
        let total = self.known.used().max(1);
        #[expect(clippy::cast_precision_loss, reason = "a ratio of slot counts")]
        let ratio = self.known.failed() as f32 / total as f32;
        let goes_on = self.config.failure_action == FailureAction::Continue;
        let too_many = !goes_on && ratio > self.config.max_failure_ratio;
        // To find it takes a look at all slots.
        let last = if too_many { self.known.last_failed() } else { None };
        let last = last.map(|slot| self.tasks(slot));
        let why = if let Some(task) = last.and_then(|tasks| self.failure(&tasks, deployment)) {
            let reason = task.status.reason();
            format!("task {} ({}) {}: {reason}", task.name(), task.id, task.status.state)
        } else if let Some(why) = self.stuck(deployment, plan) {
            why
        } else {
            return false;
        };
        self.fail(deployment, self.config.failure_action, why, ids, plan);
        true
    }

    /// The newest task of this deployment in the slot that failed by itself.
    pub(super) fn failure<'t>(
        &self,
        tasks: &SlotTasks<'t>,
        deployment: &Deployment,
    ) -> Option<&'t Task> {
        tasks.0.iter().rev().copied().find(|task| {
            let ended_badly = match task.status.state {
                TaskState::Failed | TaskState::Rejected => true,
                // Ending well is no failure, unless the policy would start it again and again.
                TaskState::Complete => !self.is_finished(tasks),
                _ => false,
            };
            ended_badly
                && task.meta.created_at >= deployment.meta.created_at
                && !self.is_dirty(task)
                && !self.has_lost_partner(task)
        })
    }

    /// Whether nothing has happened for too long.
    fn stuck(&mut self, deployment: &Deployment, plan: &mut Plan) -> Option<String> {
        let (count, starves) = (self.known.waiting(), self.starves(&deployment.message));
        if count == 0 && !starves {
            return None;
        }
        let last_start = self.known.last_started().max(Some(deployment.meta.created_at))?;
        let deadline = last_start + self.config.delay + PROGRESS_DEADLINE;
        if self.now < deadline {
            plan.wake(deadline);
            return None;
        }
        let waited = PROGRESS_DEADLINE.as_secs();
        if starves {
            return Some(format!("no progress for {waited} s: {}", deployment.message));
        }
        let tasks = self.tasks(self.known.first_waiting()?);
        let task = tasks.wanted()?;
        let reason = task.status.reason();
        let (name, state) = (task.name(), task.status.state);
        Some(format!(
            "no progress for {waited} s: {count} not running; {name} is {state}: {reason}"
        ))
    }

    /// Completes the deployment when every slot has run for the monitoring time.
    pub(super) fn complete(&mut self, deployment: &Deployment, plan: &mut Plan) {
        if !self.known.has_arrived() || self.lacks_slots() {
            return;
        }
        let since = self.known.last_running();
        let monitor = self.config.monitor.unwrap_or(UpdateConfig::DEFAULT_MONITOR);
        let quiet_at = since.filter(|at| self.is_new(*at)).map(|at| at + monitor);
        match quiet_at.filter(|at| *at > self.now) {
            Some(at) => plan.wake(at),
            None => self.note(deployment, DeploymentState::Completed, String::new(), plan),
        }
    }

    /// Notes how far the deployment is, and why.
    pub(super) fn note(
        &self,
        deployment: &Deployment,
        state: DeploymentState,
        message: String,
        plan: &mut Plan,
    ) {
        plan.push(Command::UpdateDeployment { id: deployment.id, state, message });
    }
}
