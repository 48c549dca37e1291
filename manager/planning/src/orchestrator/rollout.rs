//! Rollouts: replacing outdated tasks a few slots at a time.
//!
//! The pace, and the judgement in [`super::judge`], follow from the tasks themselves: a slot is in flight from the
//! moment its new task is made until that task runs, its predecessor has ended and the delay has
//! passed. Nothing is remembered between two passes, so a new leader goes on in the middle.

use std::collections::BTreeSet;

use shoal_types::id::IdSource;
use shoal_types::object::{DeploymentState, Slot, Task};
use shoal_types::spec::{FailureAction, UpdateConfig, UpdateOrder};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::{Delay, Pass, SlotTasks, is_dirty, set_desired, waits};
use crate::Plan;

/// How far one slot is.
pub(super) enum Progress {
    /// Its task is of an older spec.
    Outdated,
    /// No new task of it runs, and none can for as long as its node is paused or down. Nothing
    /// waits for it: it is replaced when the node is back.
    Held,
    /// Its new task is on its way.
    InFlight,
    /// Its new task has failed and is tried again, or finds no place, and the others are not to wait
    /// for it.
    Failing,
    /// Its new task runs since then, and its predecessor is gone.
    Running(Timestamp),
    /// Its new task has ended, and the policy leaves it at that.
    Finished,
}

impl Pass<'_> {
    pub(super) fn is_dirty(&self, task: &Task) -> bool {
        let node = task.node_id.and_then(|id| self.view.node(id)).map(AsRef::as_ref);
        is_dirty(self.service, task, node)
    }

    /// Takes the service's deployment one step further. Slots in `decided` are left alone: this
    /// pass has planned something for them already.
    pub(super) fn roll_out<I: IdSource>(
        &self,
        decided: &BTreeSet<Slot>,
        ids: &mut I,
        plan: &mut Plan,
    ) {
        self.finish_start_first(decided, plan);
        let Some(deployment) = self.view.deployment(self.service.deployment_id) else { return };
        let config = self.view.rollout_config(self.service);
        match deployment.state {
            DeploymentState::Updating if self.judge(deployment, &config, ids, plan) => return,
            // What is outdated after the end was on a node that was paused or down until then.
            DeploymentState::Updating | DeploymentState::Completed => {}
            DeploymentState::Paused | DeploymentState::RolledBack | DeploymentState::Superseded => {
                return;
            }
        }
        let progress = |(slot, tasks): (&Slot, &SlotTasks<'_>)| {
            let busy = decided.contains(slot);
            let progress = if busy { Progress::InFlight } else { self.progress(*slot, tasks) };
            let goes_on = config.failure_action == FailureAction::Continue
                && self.failure(tasks, deployment).is_some();
            // After the end nobody judges any more what finds no place.
            let left = deployment.state == DeploymentState::Completed && tasks.finds_no_place();
            let alone = matches!(progress, Progress::InFlight) && (goes_on || left);
            (*slot, if alone { Progress::Failing } else { progress })
        };
        let progress: Vec<(Slot, Progress)> = self.slots.iter().map(progress).collect();
        self.replace_outdated(&progress, &config, ids, plan);
        if deployment.state == DeploymentState::Updating {
            self.complete(deployment, &config, &progress, plan);
        }
    }

    fn progress(&self, slot: Slot, tasks: &SlotTasks<'_>) -> Progress {
        let runs = |task: &Task| {
            task.status.state == TaskState::Running && !self.another_runs(tasks, task)
        };
        match tasks.wanted() {
            Some(task) if !self.is_dirty(task) && runs(task) => {
                Progress::Running(task.status.timestamp)
            }
            None if self.is_finished(tasks) => Progress::Finished,
            _ if self.is_held(slot) => Progress::Held,
            Some(task) if self.is_dirty(task) => Progress::Outdated,
            Some(_) | None => Progress::InFlight,
        }
    }

    /// Starts replacing outdated slots, as many as the parallelism leaves room for.
    fn replace_outdated<I: IdSource>(
        &self,
        progress: &[(Slot, Progress)],
        config: &UpdateConfig,
        ids: &mut I,
        plan: &mut Plan,
    ) {
        let outdated = || progress.iter().filter(|(_, p)| matches!(p, Progress::Outdated));
        if outdated().next().is_none() {
            return;
        }
        let mut in_flight = 0;
        for (_, progress) in progress {
            match progress {
                Progress::InFlight => in_flight += 1,
                // The pause between two slots counts from the start of the earlier one.
                Progress::Running(since)
                    if waits(*since + config.delay, config.delay, self.now)
                        && self.is_new(*since) =>
                {
                    plan.wake(*since + config.delay);
                    in_flight += 1;
                }
                Progress::Running(_)
                | Progress::Outdated
                | Progress::Held
                | Progress::Failing
                | Progress::Finished => {}
            }
        }
        let room = match config.parallelism {
            0 => usize::MAX,
            n => usize::try_from(n).unwrap_or(usize::MAX).saturating_sub(in_flight),
        };
        for (slot, _) in outdated().take(room) {
            if let Some(tasks) = self.slots.get(slot) {
                self.replace(*slot, tasks, config.order, ids, plan);
            }
        }
    }

    /// Replaces what is outdated in one slot.
    fn replace<I: IdSource>(
        &self,
        slot: Slot,
        tasks: &SlotTasks<'_>,
        order: UpdateOrder,
        ids: &mut I,
        plan: &mut Plan,
    ) {
        let wanted = || tasks.0.iter().filter(|t| t.is_wanted());
        let runs = |t: &&&Task| t.status.state == TaskState::Running && !self.is_dirty(t);
        // Nothing better than a task of the same spec that still runs: a rollback of what was
        // started first finds one.
        let kept = wanted().rfind(runs).map(|t| t.id);
        let stop_first = order == UpdateOrder::StopFirst;
        if kept.is_some() || stop_first {
            for old in wanted().filter(|t| Some(t.id) != kept) {
                set_desired(old, DesiredState::Shutdown, plan);
            }
        }
        if kept.is_none() {
            // Not only for the one it replaces: that may never have run, and wait itself.
            let blocked = stop_first && self.blocked(slot);
            self.create(slot, blocked, self.after_a_try(tasks), ids, plan);
        }
    }

    /// What the next try waits for, if one of the present spec has ended by itself beside what it
    /// was to replace.
    fn after_a_try(&self, tasks: &SlotTasks<'_>) -> Delay {
        let tried = tasks.0.last().filter(|task| {
            !task.is_live()
                && task.desired_state <= DesiredState::Running
                && task.spec_version == self.service.meta.spec_version
        });
        tried.map_or(Delay::None, |task| self.after(task))
    }

    /// Whether something that happened at `at` belongs to the present deployment.
    pub(super) fn is_new(&self, at: Timestamp) -> bool {
        let deployment = self.view.deployment(self.service.deployment_id);
        deployment.is_some_and(|d| at >= d.meta.created_at)
    }

    /// Start-first: once the new task of a slot runs, its predecessors stop.
    fn finish_start_first(&self, decided: &BTreeSet<Slot>, plan: &mut Plan) {
        for (_, tasks) in self.slots.iter().filter(|(slot, _)| !decided.contains(slot)) {
            let Some(new) = tasks.wanted() else { continue };
            if new.status.state != TaskState::Running {
                continue;
            }
            for old in tasks.0.iter().filter(|t| t.id != new.id && t.is_wanted()) {
                set_desired(old, DesiredState::Shutdown, plan);
            }
        }
    }
}
