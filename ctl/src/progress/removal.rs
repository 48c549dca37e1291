//! Waiting until the tasks of removed services are gone.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{Client, TaskQuery};
use crate::error::{CommandError, Kind};
use crate::render::words::count;
use crate::render::{Format, line};

use super::Wait;

/// How often is looked.
const PERIOD: Duration = Duration::from_millis(300);

/// Waits until no task of these services is left.
///
/// # Errors
/// [`Kind::TimedOut`] names the tasks that are left; [`Kind::Interrupted`].
pub(crate) async fn gone(
    client: &Client,
    service_ids: Vec<String>,
    wait: Wait,
) -> Result<(), CommandError> {
    if service_ids.is_empty() {
        return Ok(());
    }
    let query = TaskQuery { service_ids, ..TaskQuery::default() };
    let deadline = wait.timeout.map(|t| Instant::now() + t);
    let mut shown = None;
    loop {
        let tasks = client.tasks(&query).await?;
        if tasks.is_empty() {
            return Ok(());
        }
        if shown != Some(tasks.len()) && !wait.quiet && wait.format == Format::Table {
            shown = Some(tasks.len());
            line(&format!("waiting for {} to end", count(tasks.len(), "task")))?;
        }
        if deadline.is_some_and(|d| Instant::now() > d) {
            let names: BTreeSet<String> =
                tasks.iter().map(|t| format!("{} ({})", t.name(), t.status.state)).collect();
            let names = names.into_iter().take(10).collect::<Vec<_>>().join(", ");
            let text = format!("{} left: {names}", count(tasks.len(), "task"));
            return Err(CommandError::new(Kind::TimedOut, text).hint(
                "a node that cannot be reached keeps its tasks until it comes back or is removed",
            ));
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            _ = tokio::signal::ctrl_c() => {
                return Err(CommandError::new(Kind::Interrupted, "interrupted")
                    .hint("the removal goes on without this command"));
            }
        }
    }
}
