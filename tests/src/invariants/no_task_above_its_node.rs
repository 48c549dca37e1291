//! No task is given to a node that cannot do what it needs. Nodes are upgraded and never go
//! back; what an older program has said may be heard after what a newer one has.

use shoal_types::task_state::TaskState;

use super::Moment;

/// Looks at one moment; says what is wrong with it.
#[must_use]
pub fn judge(moment: &Moment<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for task in moment.state.tasks() {
        let placed = task.status.state.is_placed() && task.is_live();
        let Some(node) = task.node_id else { continue };
        let Some(&has) = moment.levels.get(&node) else { continue };
        if placed && task.level > has {
            let (task, needed) = (task.id, task.level);
            wrong.push(format!(
                "task {task} needs level {needed} and is on {node}, which has {has}"
            ));
        }
        // The node's last resort; whoever placed the task there did not look.
        if task.status.state == TaskState::Rejected && task.status.err.contains("too old") {
            wrong.push(format!("task {} was rejected: {}", task.id, task.status.err));
        }
    }
    wrong
}
