//! Whether a slot in which nothing runs says why that is so and stays so.

use shoal_types::object::Task;
use shoal_types::spec::{RestartCondition, RestartPolicy};
use shoal_types::task_state::{DesiredState, TaskState};

/// Whether the slot's task waits and says for what; or whether its last one has ended in a way that
/// its policy leaves at that. That one failed says nothing about why it has no successor.
#[must_use]
pub fn of(tasks: &[&Task]) -> bool {
    let tasks = kept(tasks);
    let wanted = || tasks.iter().filter(|t| t.is_wanted());
    if wanted().next().is_some() {
        return wanted().any(|t| waits(t));
    }
    tasks.last().is_some_and(|last| is_given_up(&tasks, last))
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

/// For a node, and it says why none will do; or for the end of its restart delay.
fn waits(task: &Task) -> bool {
    let explained = task.status.state == TaskState::Pending && !task.status.err.is_empty();
    explained || (task.desired_state == DesiredState::Ready && task.start_after.is_some())
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
