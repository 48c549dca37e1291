//! Waiting until the tasks of removed services are gone.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_client::{Client, TaskQuery};
use tokio::time::Instant;

use crate::error::{CommandError, Kind};
use crate::interrupt::asked_to_stop;
use crate::render::record::{self, Record};
use crate::render::words::count;
use crate::render::{Format, line};

use super::{Away, TICK, Wait};

/// How often is looked.
const PERIOD: Duration = Duration::from_millis(300);

/// Waits until no task of these services is left. A manager may be away for a while.
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
    tokio::select! {
        biased;
        gone = all_gone(client, service_ids, wait) => gone,
        kind = asked_to_stop() => Err(CommandError::new(kind, kind.outcome())
            .hint("the removal goes on without this command")),
    }
}

async fn all_gone(
    client: &Client,
    service_ids: Vec<String>,
    wait: Wait,
) -> Result<(), CommandError> {
    let query = TaskQuery { service_ids, ..TaskQuery::default() };
    let deadline = wait.timeout.map(|t| Instant::now() + t);
    let mut shown = None;
    let mut away = Away::default();
    loop {
        let tasks = match client.tasks(&query).await {
            Ok(tasks) => {
                away.is_back();
                tasks
            }
            Err(error) => {
                away.bear(error.into(), Instant::now())?;
                tokio::time::sleep(TICK).await;
                continue;
            }
        };
        if tasks.is_empty() {
            return Ok(());
        }
        if shown != Some(tasks.len()) && !wait.quiet {
            shown = Some(tasks.len());
            let words = format!("waiting for {} to end", count(tasks.len(), "task"));
            match wait.format {
                Format::Json => record::write(&Record::notice("waiting", &words))?,
                Format::Table => line(&words)?,
            }
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
        tokio::time::sleep(PERIOD).await;
    }
}
