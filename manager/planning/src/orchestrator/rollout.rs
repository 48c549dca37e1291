//! Rollouts: replacing outdated tasks a few slots at a time.
//!
//! The pace, and the judgement in [`super::judge`], follow from the tasks themselves: a slot is in flight from the
//! moment its new task is made until that task runs, its predecessor has ended and the delay has
//! passed. Nothing is remembered that does not follow from them, so a new leader goes on in the middle.

use shoal_types::id::IdSource;
use shoal_types::object::{DeploymentState, Slot, Task};
use shoal_types::spec::{FailureAction, UpdateOrder};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::facts::{Facts, Progress};
use super::{Delay, Pass, SlotTasks, Slots, is_dirty, set_desired, waits};
use crate::Plan;

impl<'a> Pass<'a> {
    pub(super) fn is_dirty(&self, task: &Task) -> bool {
        let node = task.node_id.and_then(|id| self.view.node(id)).map(AsRef::as_ref);
        is_dirty(self.service, task, node)
    }

    /// What follows from the tasks of a slot that is used. Of one that is `decided` something has been
    /// planned already.
    pub(super) fn facts(
        &self,
        slot: Slot,
        tasks: &SlotTasks<'a>,
        decided: bool,
        plan: &mut Plan,
    ) -> Facts {
        let wanted = tasks.wanted();
        let runs = |task: &&Task| task.status.state == TaskState::Running;
        let started = wanted.filter(runs).map(|task| task.status.timestamp);
        let failed = self.deployment.is_some_and(|d| self.failure(tasks, d).is_some());
        let waiting = wanted.is_some_and(|task| !runs(&task)) && !self.is_held(slot);
        let progress = self.progress(slot, tasks, decided, failed, plan);
        Facts { used: true, missing: false, failed, waiting, started, progress: Some(progress) }
    }

    fn progress(
        &self,
        slot: Slot,
        tasks: &SlotTasks<'a>,
        decided: bool,
        failed: bool,
        plan: &mut Plan,
    ) -> Progress {
        let runs = |task: &Task| {
            task.status.state == TaskState::Running && !self.another_runs(tasks, task)
        };
        let progress = match tasks.wanted() {
            _ if decided => Progress::InFlight,
            Some(task) if !self.is_dirty(task) && runs(task) => self.runs(task, plan),
            None if self.is_finished(tasks) => Progress::Finished,
            _ if self.is_held(slot) => Progress::Held,
            Some(task) if self.is_dirty(task) => Progress::Outdated,
            Some(_) | None => Progress::InFlight,
        };
        let goes_on = self.config.failure_action == FailureAction::Continue && failed;
        // After the end nobody judges any more what finds no place.
        let ended = self.deployment.is_some_and(|d| d.state == DeploymentState::Completed);
        let alone = goes_on || (ended && tasks.finds_no_place());
        if alone && progress == Progress::InFlight { Progress::Failing } else { progress }
    }

    /// The pause between two slots counts from the start of the earlier one.
    fn runs(&self, task: &Task, plan: &mut Plan) -> Progress {
        let since = task.status.timestamp;
        let until = since + self.config.delay;
        if waits(until, self.config.delay, self.now) && self.is_new(since) {
            plan.wake(until);
            return Progress::Settling;
        }
        Progress::Running
    }

    /// Takes the service's deployment one step further.
    pub(super) fn roll_out<I: IdSource>(
        &mut self,
        slots: &Slots<'a>,
        ids: &mut I,
        plan: &mut Plan,
    ) {
        let Some(deployment) = self.deployment else { return };
        let (planned, wake) = (plan.commands.len(), plan.wake_at.take());
        match deployment.state {
            DeploymentState::Updating if self.judge(deployment, ids, plan) => {}
            // What is outdated after the end was on a node that was paused or down until then.
            DeploymentState::Updating | DeploymentState::Completed => {
                self.replace_outdated(slots, ids, plan);
                if deployment.state == DeploymentState::Updating {
                    self.explain_starvation(deployment, plan);
                    self.complete(deployment, plan);
                }
            }
            DeploymentState::Paused | DeploymentState::RolledBack | DeploymentState::Superseded => {
            }
        }
        self.wake = plan.wake_at;
        plan.wake_at = wake;
        if plan.commands.len() > planned {
            self.look_again(None);
        }
    }

    /// Starts replacing outdated slots, as many as the parallelism leaves room for.
    fn replace_outdated<I: IdSource>(&mut self, slots: &Slots<'a>, ids: &mut I, plan: &mut Plan) {
        let room = match self.config.parallelism {
            0 => usize::MAX,
            n => usize::try_from(n).unwrap_or(usize::MAX).saturating_sub(self.known.in_flight()),
        };
        let outdated: Vec<Slot> = self.known.outdated().iter().take(room).copied().collect();
        for slot in outdated {
            let planned = plan.commands.len();
            match slots.get(&slot) {
                Some(tasks) => self.replace(slot, tasks, ids, plan),
                None => self.replace(slot, &self.tasks(slot), ids, plan),
            }
            if plan.commands.len() > planned {
                self.look_again(Some(slot));
            }
        }
    }

    /// Replaces what is outdated in one slot.
    fn replace<I: IdSource>(
        &mut self,
        slot: Slot,
        tasks: &SlotTasks<'_>,
        ids: &mut I,
        plan: &mut Plan,
    ) {
        let wanted = || tasks.0.iter().filter(|t| t.is_wanted());
        let runs = |t: &&&Task| t.status.state == TaskState::Running && !self.is_dirty(t);
        // Nothing better than a task of the same spec that still runs: a rollback of what was
        // started first finds one.
        let kept = wanted().rfind(runs).map(|t| t.id);
        let stop_first = self.order() == UpdateOrder::StopFirst;
        if kept.is_some() || stop_first {
            for old in wanted().filter(|t| Some(t.id) != kept) {
                set_desired(old, DesiredState::Shutdown, plan);
            }
        }
        if kept.is_none() {
            // Not only for the one it replaces: that may never have run, and wait itself.
            let blocked = stop_first && self.blocked(slot);
            self.create(slot, tasks, blocked, self.after_a_try(tasks), ids, plan);
        }
    }

    /// What the next try waits for, if one of the present spec has ended by itself beside what it
    /// was to replace.
    fn after_a_try(&self, tasks: &SlotTasks<'_>) -> Delay {
        let tried = tasks.0.last().filter(|task| {
            !task.is_live()
                && !task.desired_state.is_stop()
                && task.spec_version == self.service.meta.spec_version
        });
        tried.map_or(Delay::None, |task| self.after(task))
    }

    /// Whether something that happened at `at` belongs to the present deployment.
    pub(super) fn is_new(&self, at: Timestamp) -> bool {
        self.deployment.is_some_and(|d| at >= d.meta.created_at)
    }

    /// Start-first: once the new task of a slot runs, its predecessors stop.
    pub(super) fn finish_start_first(&self, tasks: &SlotTasks<'_>, plan: &mut Plan) {
        let Some(new) = tasks.wanted() else { return };
        if new.status.state != TaskState::Running {
            return;
        }
        for old in tasks.0.iter().filter(|t| t.id != new.id && t.is_wanted()) {
            set_desired(old, DesiredState::Shutdown, plan);
        }
    }
}
