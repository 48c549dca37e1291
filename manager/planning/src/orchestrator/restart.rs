//! Which ended or displaced tasks get a successor, and when.

use std::time::Duration;

use shoal_types::id::IdSource;
use shoal_types::object::{DeploymentState, Slot, Task};
use shoal_types::spec::{RestartCondition, RestartPolicy};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::{Pass, SlotTasks, held_until, set_desired};
use crate::Plan;

/// After the first rejection, if the restart delay is not longer. A registry that has no such image
/// is not asked more often, whatever the delay after a crash is.
const REJECTED_FIRST: Duration = Duration::from_secs(5);

/// After many rejections, if the restart delay is not longer.
const REJECTED_LAST: Duration = Duration::from_secs(300);

/// What a new task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delay {
    /// Nothing.
    None,
    /// It is prepared at once and starts at this time.
    Start(Timestamp),
    /// It is not even placed before this time, as so many before it were rejected.
    Everything(Timestamp, u64),
}

impl Pass<'_> {
    /// Replaces the slot's task if it has ended by itself and the policy says so, or if it is
    /// where it should not be. True if the slot is as it was.
    pub(super) fn replace_ended<I: IdSource>(
        &mut self,
        slot: Slot,
        tasks: &SlotTasks<'_>,
        ids: &mut I,
        plan: &mut Plan,
    ) -> bool {
        let planned = plan.commands.len();
        let Some(task) = tasks.current() else { return true };
        if task.desired_state.is_stop() {
            // Stopped on purpose. Its successor is made by whoever stopped it; if that one is
            // gone (rejected, or its leader died in between), the slot is refilled here.
            if self.is_dirty(task) || is_ever_restarted(task) {
                let delay = match self.after(task) {
                    Delay::Start(_) => Delay::None,
                    other => other,
                };
                self.create(slot, tasks, self.blocked(slot), delay, ids, plan);
            }
        } else if !task.is_live() {
            self.replace_dead(slot, tasks, task, ids, plan);
        } else if held_until(task, self.now).is_some() && !self.is_of_present_spec(task) {
            // What was changed may be what it was rejected for.
            set_desired(task, DesiredState::Shutdown, plan);
            self.create(slot, tasks, self.blocked(slot), Delay::None, ids, plan);
        } else if self.has_lost_partner(task)
            || matches!(slot, Slot::Replica(_)) && self.is_displaced(task)
        {
            if is_ever_restarted(task) {
                set_desired(task, DesiredState::Shutdown, plan);
                // Nobody waits for a lost node; but an earlier task may still be ending elsewhere.
                self.create(slot, tasks, self.blocked(slot), Delay::None, ids, plan);
            } else if !self.is_lost_task(task) {
                set_desired(task, DesiredState::Shutdown, plan);
            }
        }
        plan.commands.len() == planned
    }

    fn is_lost_task(&self, task: &Task) -> bool {
        task.node_id.is_some_and(|id| self.is_lost(id))
    }

    fn replace_dead<I: IdSource>(
        &mut self,
        slot: Slot,
        tasks: &SlotTasks<'_>,
        task: &Task,
        ids: &mut I,
        plan: &mut Plan,
    ) {
        let dirty = self.is_dirty(task) || self.is_tried_again(task);
        let dirty = dirty || self.ended_with_partner(task);
        if let Some(at) = self.awaits_end_of_partner(task).filter(|_| !dirty) {
            return plan.wake(at);
        }
        if !dirty && !self.may_restart(tasks, task) {
            return;
        }
        set_desired(task, DesiredState::Shutdown, plan);
        let delay = if dirty { Delay::None } else { self.after(task) };
        self.create(slot, tasks, self.another_runs(tasks, task), delay, ids, plan);
    }

    /// What the successor of a task that has ended waits for.
    pub(super) fn after(&self, task: &Task) -> Delay {
        let delay = restart_delay(task);
        match task.status.state {
            TaskState::Rejected if self.is_of_present_spec(task) => {
                let rejections = task.rejections.saturating_add(1);
                Delay::Everything(self.now + back_off(delay, rejections), rejections)
            }
            // A new spec version begins anew.
            TaskState::Rejected => Delay::None,
            _ if delay.is_zero() => Delay::None,
            _ => Delay::Start(self.now + delay),
        }
    }

    /// What a new task waits for if the one before it was rejected: whatever it is made for, it is
    /// another try. The state refuses one that does not wait.
    pub(super) fn paced(&self, tasks: &SlotTasks<'_>, delay: Delay) -> Delay {
        let rejected = tasks.0.last().filter(|task| {
            task.status.state == TaskState::Rejected
                && task.desired_state.is_kept()
                && self.is_of_present_spec(task)
        });
        match (delay, rejected) {
            (Delay::None | Delay::Start(_), Some(task)) => self.after(task),
            _ => delay,
        }
    }

    fn is_of_present_spec(&self, task: &Task) -> bool {
        task.spec_version == self.service.meta.spec_version
    }

    /// Whether the slot's last task has ended in a way that its policy leaves at that.
    pub(super) fn is_finished(&self, tasks: &SlotTasks<'_>) -> bool {
        tasks.current().is_some_and(|task| {
            let stopped = task.desired_state.is_stop();
            let goes_on = if stopped {
                is_ever_restarted(task)
            } else {
                self.may_restart(tasks, task)
                    || self.is_tried_again(task)
                    || self.ended_with_partner(task)
            };
            !task.is_live() && !self.is_dirty(task) && !goes_on
        })
    }

    /// Whether a task that its policy has given up gets a successor all the same: it failed in a
    /// deployment that failed, and somebody has begun another one since.
    fn is_tried_again(&self, task: &Task) -> bool {
        matches!(task.status.state, TaskState::Failed | TaskState::Rejected)
            && task.spec_version < self.service.meta.spec_version
            && !self.is_new(task.status.timestamp)
            && self.view.deployments_of(self.service.id).any(|d| {
                d.service_version == task.spec_version && d.state == DeploymentState::Paused
            })
    }

    /// Whether the policy allows a successor of a task that has ended by itself.
    fn may_restart(&self, tasks: &SlotTasks<'_>, task: &Task) -> bool {
        let policy = policy(task);
        let counts = match policy.condition {
            RestartCondition::None => false,
            RestartCondition::OnFailure => task.status.state != TaskState::Complete,
            RestartCondition::Any => true,
        };
        counts
            && (policy.max_attempts == 0
                || self.attempts(tasks, task, &policy) < policy.max_attempts)
    }

    /// How often a task of this spec was restarted in this slot within the policy's window, which
    /// ends with the task: once given up, it stays given up however much time passes.
    fn attempts(&self, tasks: &SlotTasks<'_>, task: &Task, policy: &RestartPolicy) -> u64 {
        let window = policy.window.filter(|w| !w.is_zero());
        let end = task.status.timestamp;
        let recent = |t: &&&Task| window.is_none_or(|w| end.since(t.meta.created_at) < w);
        let alike = |t: &&&Task| (t.spec_version, t.partner) == (task.spec_version, task.partner);
        // The first one of a spec, and beside another partner, was no restart.
        let restarts = tasks.0.iter().filter(alike).skip(1);
        restarts.filter(recent).count() as u64
    }
}

fn policy(task: &Task) -> RestartPolicy {
    task.spec.restart_policy.clone().unwrap_or_default()
}

/// How long the successor of this task waits before it starts.
pub(super) fn restart_delay(task: &Task) -> Duration {
    policy(task).delay.unwrap_or(RestartPolicy::DEFAULT_DELAY)
}

/// How long this task was to wait when it was made.
pub(super) fn delay_of(task: &Task) -> Duration {
    let delay = restart_delay(task);
    if task.rejections == 0 { delay } else { back_off(delay, task.rejections) }
}

/// How long the next try waits after so many rejections in a row: twice as long each time.
fn back_off(delay: Duration, rejections: u64) -> Duration {
    let doublings = u32::try_from(rejections.saturating_sub(1)).unwrap_or(u32::MAX);
    let grown = delay.max(REJECTED_FIRST).saturating_mul(2u32.saturating_pow(doublings));
    grown.min(delay.max(REJECTED_LAST))
}

/// Whether there are ends after which the task gets a successor. Where there are none it is not
/// begun again on another node either.
pub(crate) fn is_ever_restarted(task: &Task) -> bool {
    policy(task).condition != RestartCondition::None
}
