//! Waiting until a node that is drained is empty.

use std::time::Duration;

use shoal_types::object::{Node, NodeState, Task};
use tokio::time::Instant;

use crate::client::{Client, TaskQuery};
use crate::commands::{Result, Shell};
use crate::error::{CommandError, Kind};
use crate::interrupt::asked_to_stop;
use crate::render::line;
use crate::render::record::{self, Record};

/// How often the tasks of the node are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Tasks that are named when time has run out.
const NAMED_MAX: usize = 5;

/// Waits until no task is left on a node.
///
/// # Errors
/// [`Kind::TimedOut`], [`Kind::Interrupted`], or when the node can no longer say what it holds.
pub(super) async fn until_empty(
    shell: &Shell,
    client: &Client,
    node: &Node,
    timeout: Duration,
) -> Result {
    let mut seen = None;
    let deadline = (!timeout.is_zero()).then(|| Instant::now() + timeout);
    loop {
        let left = left(client, node).await?;
        if seen != Some(left.len()) {
            seen = Some(left.len());
            said(shell, node, left.len())?;
        }
        if left.is_empty() {
            return Ok(());
        }
        let now = client.node(&node.id.to_string()).await?;
        if now.status.state != NodeState::Ready {
            let state = now.status.state.as_str();
            return Err(CommandError::failed(format!(
                "the node is {state}: what became of {} cannot be known",
                named(&left)
            )));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(CommandError::new(
                Kind::TimedOut,
                format!("not empty after {} s: {}", timeout.as_secs(), named(&left)),
            )
            .hint("it goes on without this command; shoalctl node ps NODE shows how"));
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            kind = asked_to_stop() => {
                return Err(CommandError::new(kind, kind.outcome())
                    .hint("the node is drained without this command"));
            }
        }
    }
}

async fn left(client: &Client, node: &Node) -> Result<Vec<Task>> {
    let query = TaskQuery { node_ids: vec![node.id.to_string()], ..TaskQuery::default() };
    let mut tasks = client.tasks(&query).await?;
    tasks.retain(|task| !task.status.state.is_terminal());
    Ok(tasks)
}

fn said(shell: &Shell, node: &Node, left: usize) -> Result {
    let name = &node.description.hostname;
    if shell.is_json() {
        let node_id = node.id.to_string();
        return record::write(&Record::Draining { node: name, node_id, tasks: left });
    }
    match left {
        0 => line(&format!("{name}: empty")),
        1 => line(&format!("{name}: 1 task left")),
        left => line(&format!("{name}: {left} tasks left")),
    }
}

fn named(tasks: &[Task]) -> String {
    let state = |task: &Task| format!("{} ({})", task.name(), task.status.state);
    let mut names: Vec<String> = tasks.iter().take(NAMED_MAX).map(state).collect();
    if tasks.len() > NAMED_MAX {
        names.push(format!("{} more", tasks.len() - NAMED_MAX));
    }
    names.join(", ")
}
