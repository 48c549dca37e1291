//! What agents report of their tasks.

use shoal_types::id::{NodeId, TaskId};
use shoal_types::object::{Node, Task, TaskStatus};
use shoal_types::time::Timestamp;

use crate::cluster_state::Writer;
use crate::command::Outcome;
use crate::rejected::Rejected;

pub(super) fn update(
    w: &mut Writer<'_>,
    node_id: NodeId,
    statuses: Vec<(TaskId, TaskStatus)>,
) -> Result<Outcome, Rejected> {
    w.get::<Node>(node_id)?;
    let mut outcome = Outcome::Unchanged;
    for (id, status) in statuses {
        let Some(old) = w.state.task(id).filter(|t| t.node_id == Some(node_id)) else { continue };
        if is_news(&old.status, &status) {
            let status =
                TaskStatus { timestamp: believable(&old.status, &status, w.now), ..status };
            let task = Task { status, ..Task::clone(old) };
            w.update(task);
            outcome = Outcome::Applied;
        }
    }
    Ok(outcome)
}

/// When the task got to the state: for a new state the report's time, kept between what was known
/// before and now, since rollouts are timed by it and the clock of a node may be wrong.
fn believable(old: &TaskStatus, new: &TaskStatus, now: Timestamp) -> Timestamp {
    if new.state == old.state {
        return old.timestamp;
    }
    new.timestamp.max(old.timestamp).min(now.max(old.timestamp))
}

/// Whether a report says more than what is known.
///
/// The ladder decides, not the clock of the agent: a higher state is news whatever its time. The
/// same state is news only with a later time and another content (a task's health changes while
/// it runs), so that a report which is sent again changes nothing; a node whose clock is behind
/// refreshes a state only when it has caught up. An end is an end, and managers alone write what
/// comes before and beside the agent's part of the ladder; but an agent that cannot accept a task
/// says why.
fn is_news(old: &TaskStatus, new: &TaskStatus) -> bool {
    let placed = old.state.is_placed() && !old.state.is_terminal();
    if !placed || !new.state.is_agents() {
        return false;
    }
    if old.state != new.state {
        return old.state.may_become(new.state);
    }
    let same = TaskStatus { timestamp: new.timestamp, ..old.clone() } == *new;
    new.timestamp > old.timestamp && !same
}
