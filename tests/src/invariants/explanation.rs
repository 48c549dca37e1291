//! Whether a slot in which nothing runs says why that is so and stays so.

use shoal_types::object::Task;
use shoal_types::spec::{RestartCondition, RestartPolicy};
use shoal_types::task_state::{DesiredState, TaskState};

/// Whether the slot's task waits and says for what; or whether the one by which the slot is judged has
/// ended in a way that its policy leaves at that: the newest that nobody has stopped on purpose, or
/// else the newest of all. That one failed says nothing about why it has no successor.
#[must_use]
pub fn of(tasks: &[&Task]) -> bool {
    let tasks = kept(tasks);
    let wanted = || tasks.iter().filter(|t| t.is_wanted());
    if wanted().next().is_some() {
        return wanted().any(|t| waits(t));
    }
    // Where new tasks are started first, the older one outlives a newer one that is taken back.
    let kept = tasks.iter().rev().find(|t| !t.desired_state.is_stop());
    kept.or(tasks.last()).is_some_and(|last| is_given_up(&tasks, last))
}

/// The same of a service whose tasks end and are started again for ever, which are between two
/// attempts at some moments.
#[must_use]
pub fn of_restless(tasks: &[&Task]) -> bool {
    let said = |t: &&Task| !t.status.err.is_empty() || t.status.state == TaskState::Complete;
    of(tasks) || kept(tasks).into_iter().rev().take(2).any(|t| said(&t))
}

/// Those that are not to be forgotten, oldest first.
fn kept<'a>(tasks: &[&'a Task]) -> Vec<&'a Task> {
    let mut kept: Vec<&Task> =
        tasks.iter().copied().filter(|t| t.desired_state.is_kept()).collect();
    kept.sort_by_key(|t| (t.meta.created_at, t.meta.version));
    kept
}

/// Whether it waits for a node and says why none will do.
pub(super) fn has_no_place(task: &Task) -> bool {
    task.status.state == TaskState::Pending && !task.status.err.is_empty()
}

/// For a node, or for the end of its restart delay.
fn waits(task: &Task) -> bool {
    has_no_place(task) || (task.desired_state == DesiredState::Ready && task.start_after.is_some())
}

fn is_given_up(tasks: &[&Task], last: &Task) -> bool {
    let policy: RestartPolicy = last.spec.restart_policy.clone().unwrap_or_default();
    let stopped = last.desired_state.is_stop();
    let attempts = || tasks.iter().filter(|t| t.spec_version == last.spec_version).count() as u64;
    let used_up = || policy.max_attempts > 0 && attempts() > policy.max_attempts;
    match policy.condition {
        _ if last.is_live() => false,
        RestartCondition::None => true,
        RestartCondition::OnFailure if last.status.state == TaskState::Complete => true,
        RestartCondition::OnFailure | RestartCondition::Any => !stopped && used_up(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_types::level::Level;
    use shoal_types::object::{Meta, Slot, TaskStatus};
    use shoal_types::spec::{ContainerSpec, TaskRuntime, TaskSpec};
    use shoal_types::time::Timestamp;

    use super::*;

    fn task(made: u64, condition: RestartCondition, desired: DesiredState, at: TaskState) -> Task {
        let time = Timestamp::from_secs(made);
        let policy = RestartPolicy { condition, ..RestartPolicy::default() };
        Task {
            id: u128::from(made).into(),
            meta: Meta { created_at: time, version: made, ..Meta::default() },
            service_id: 1.into(),
            service_name: "web".into(),
            service_labels: Default::default(),
            slot: Slot::Replica(1),
            node_id: None,
            spec: Arc::new(TaskSpec {
                restart_policy: Some(policy),
                ..TaskSpec::of(TaskRuntime::Container(ContainerSpec::default()))
            }),
            spec_version: made,
            endpoint: None,
            networks: [].into(),
            payloads: Default::default(),
            partner: None,
            desired_state: desired,
            start_after: None,
            rejections: 0,
            level: Level::FIRST,
            status: TaskStatus::new(at, time, ""),
        }
    }

    #[test]
    fn a_slot_is_judged_by_the_newest_task_that_nobody_has_stopped() {
        use DesiredState::{Running, Shutdown};
        let any = |desired, at| task(2, RestartCondition::Any, desired, at);
        let once = task(1, RestartCondition::None, Running, TaskState::Failed);
        assert!(of(&[&any(Shutdown, TaskState::Shutdown), &once]), "an update that was taken back");
        assert!(!of(&[&any(Running, TaskState::Failed), &once]), "it has no successor");
        assert!(!of(&[&any(Shutdown, TaskState::Shutdown)]), "stopped, and nothing came after it");
        let stopped = task(1, RestartCondition::None, Shutdown, TaskState::Shutdown);
        assert!(!of(&[&any(Shutdown, TaskState::Shutdown), &stopped]), "the newest counts");
    }
}
