//! Rollouts: replacing outdated tasks a few slots at a time, and judging how it goes.
//!
//! The pace and the judgement follow from the tasks themselves: a slot is in flight from the
//! moment its new task is made until that task runs, its predecessor has ended and the delay has
//! passed. Nothing is remembered between two passes, so a new leader goes on in the middle.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use shoal_manager_state::{Command, UpdateKind};
use shoal_types::id::IdSource;
use shoal_types::object::{Deployment, DeploymentKind, DeploymentState, Slot, Task};
use shoal_types::spec::{FailureAction, ServiceSpec, UpdateConfig, UpdateOrder};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::{Pass, SlotTasks, is_dirty, set_desired};
use crate::Plan;

/// How long a rollout may go on without any progress before it counts as failed. Time spent
/// waiting for a node that fits counts, so a rollout never hangs for ever.
pub(super) const PROGRESS_DEADLINE: Duration = Duration::from_secs(600);

/// How far one slot is.
enum Progress {
    /// Its task is of an older spec.
    Outdated,
    /// Its new task is on its way.
    InFlight,
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
        if deployment.state != DeploymentState::Updating {
            return;
        }
        let config = self.config_of(deployment);
        if self.judge(deployment, &config, ids, plan) {
            return;
        }
        let progress = |(slot, tasks): (&Slot, &SlotTasks<'_>)| {
            let busy = decided.contains(slot);
            (*slot, if busy { Progress::InFlight } else { self.progress(tasks) })
        };
        let progress: Vec<(Slot, Progress)> = self.slots.iter().map(progress).collect();
        self.replace_outdated(&progress, &config, ids, plan);
        self.complete(deployment, &config, &progress, plan);
    }

    fn config_of(&self, deployment: &Deployment) -> UpdateConfig {
        let spec = &self.service.spec;
        let config = match deployment.kind {
            DeploymentKind::Rollback => {
                spec.rollback_config.as_ref().or(spec.update_config.as_ref())
            }
            DeploymentKind::Create | DeploymentKind::Update => spec.update_config.as_ref(),
        };
        config.cloned().unwrap_or_default()
    }

    fn progress(&self, tasks: &SlotTasks<'_>) -> Progress {
        let Some(task) = tasks.wanted() else {
            let done = self.is_finished(tasks);
            return if done { Progress::Finished } else { Progress::InFlight };
        };
        if self.is_dirty(task) {
            Progress::Outdated
        } else if task.status.state == TaskState::Running && !self.another_runs(tasks, task) {
            Progress::Running(task.status.timestamp)
        } else {
            Progress::InFlight
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
                    if *since + config.delay > self.now && self.is_new(*since) =>
                {
                    plan.wake(*since + config.delay);
                    in_flight += 1;
                }
                Progress::Running(_) | Progress::Outdated | Progress::Finished => {}
            }
        }
        let room = match config.parallelism {
            0 => usize::MAX,
            n => usize::try_from(n).unwrap_or(usize::MAX).saturating_sub(in_flight),
        };
        for (slot, _) in outdated().take(room) {
            let old = self.slots.get(slot).and_then(SlotTasks::wanted);
            let stop_first = config.order == UpdateOrder::StopFirst;
            if let Some(old) = old.filter(|_| stop_first) {
                set_desired(old, DesiredState::Shutdown, plan);
            }
            // Not only for the one it replaces: that may never have run, and wait itself.
            let waits = stop_first && self.blocked(*slot);
            self.create(*slot, waits, None, ids, plan);
        }
    }

    /// Whether something that happened at `at` belongs to the present deployment.
    fn is_new(&self, at: Timestamp) -> bool {
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

    /// Decides whether the deployment has failed, and what follows. True if it has ended.
    fn judge<I: IdSource>(
        &self,
        deployment: &Deployment,
        config: &UpdateConfig,
        ids: &mut I,
        plan: &mut Plan,
    ) -> bool {
        let failed: Vec<&Task> =
            self.slots.values().filter_map(|s| self.failure(s, deployment)).collect();
        let total = self.slots.len().max(1);
        #[expect(clippy::cast_precision_loss, reason = "a ratio of slot counts")]
        let ratio = failed.len() as f32 / total as f32;
        let why = if let Some(task) = failed.last().filter(|_| ratio > config.max_failure_ratio) {
            let reason =
                if task.status.err.is_empty() { &task.status.message } else { &task.status.err };
            format!("task {} ({}) {}: {reason}", task.name(), task.id, task.status.state)
        } else if let Some(why) = self.stuck(deployment, config, plan) {
            why
        } else {
            return false;
        };
        match (config.failure_action, &self.service.previous_spec) {
            (FailureAction::Continue, _) => false,
            (FailureAction::Rollback, Some(previous))
                if deployment.kind == DeploymentKind::Update =>
            {
                self.roll_back(deployment, previous, &why, ids, plan);
                true
            }
            _ => {
                self.note(deployment, DeploymentState::Paused, why, plan);
                true
            }
        }
    }

    /// The newest task of this deployment in the slot that failed by itself.
    fn failure<'t>(&self, tasks: &SlotTasks<'t>, deployment: &Deployment) -> Option<&'t Task> {
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
        })
    }

    /// Whether nothing has happened for too long.
    fn stuck(
        &self,
        deployment: &Deployment,
        config: &UpdateConfig,
        plan: &mut Plan,
    ) -> Option<String> {
        let waiting: Vec<&Task> = self
            .slots
            .values()
            .filter_map(SlotTasks::wanted)
            .filter(|t| t.status.state != TaskState::Running)
            .collect();
        let task = waiting.first()?;
        let last_start = self
            .slots
            .values()
            .filter_map(SlotTasks::wanted)
            .filter(|t| t.status.state == TaskState::Running)
            .map(|t| t.status.timestamp)
            .fold(deployment.meta.created_at, Timestamp::max);
        let deadline = last_start + config.delay + PROGRESS_DEADLINE;
        if self.now < deadline {
            plan.wake(deadline);
            return None;
        }
        let reason =
            if task.status.err.is_empty() { &task.status.message } else { &task.status.err };
        let waited = PROGRESS_DEADLINE.as_secs();
        let (count, name, state) = (waiting.len(), task.name(), task.status.state);
        Some(format!(
            "no progress for {waited} s: {count} not running; {name} is {state}: {reason}"
        ))
    }

    fn roll_back<I: IdSource>(
        &self,
        deployment: &Deployment,
        previous: &Arc<ServiceSpec>,
        why: &str,
        ids: &mut I,
        plan: &mut Plan,
    ) {
        // The update itself ends the deployment as rolled back; were that a command of its own, a
        // leader that dies between the two would leave the failed spec in force for good.
        self.note(deployment, DeploymentState::Updating, why.to_owned(), plan);
        plan.push(Command::UpdateService {
            id: self.service.id,
            expected: Some(self.service.meta.spec_version),
            deployment_id: ids.next_id(),
            spec: Arc::clone(previous),
            kind: UpdateKind::Rollback,
        });
    }

    /// Completes the deployment when every slot has run for the monitoring time.
    fn complete(
        &self,
        deployment: &Deployment,
        config: &UpdateConfig,
        progress: &[(Slot, Progress)],
        plan: &mut Plan,
    ) {
        let mut since = None;
        for (_, progress) in progress {
            match progress {
                Progress::Outdated | Progress::InFlight => return,
                Progress::Running(at) => since = since.max(Some(*at)),
                Progress::Finished => {}
            }
        }
        if !self.missing().is_empty() {
            return;
        }
        let monitor = config.monitor.unwrap_or(UpdateConfig::DEFAULT_MONITOR);
        let quiet_at = since.filter(|at| self.is_new(*at)).map(|at| at + monitor);
        match quiet_at.filter(|at| *at > self.now) {
            Some(at) => plan.wake(at),
            None => self.note(deployment, DeploymentState::Completed, String::new(), plan),
        }
    }

    /// Notes how far the deployment is, and why.
    fn note(
        &self,
        deployment: &Deployment,
        state: DeploymentState,
        message: String,
        plan: &mut Plan,
    ) {
        plan.push(Command::UpdateDeployment { id: deployment.id, state, message });
    }
}
