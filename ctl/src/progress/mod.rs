//! Following deployments until they end one way or another.

mod model;
mod removal;
mod reporter;

use std::time::Duration;

use futures::StreamExt as _;
use shoal_proto::v1::ObjectKind;
use shoal_types::object::Service;
use tokio::time::Instant;

use crate::client::{Client, LogLine, LogQuery, TaskQuery, WatchSpan};
use crate::error::{CommandError, Kind};
use crate::render::{Format, note};

use model::{Model, Outcome};
use reporter::Reporter;

pub(crate) use removal::gone;

/// How a command waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// `None` waits for ever.
    pub(crate) timeout: Option<Duration>,
    pub(crate) quiet: bool,
    pub(crate) format: Format,
}

/// How often what depends on time alone is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a manager may stay away before following it is given up.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Lines of a failed task's log that are shown.
const LOG_LINES: u64 = 10;
/// How long is waited for those.
const LOG_TIME: Duration = Duration::from_secs(3);

/// What ended one round of watching.
enum Round {
    Done(Outcome),
    /// The stream broke off: begin again.
    Broken(CommandError),
}

/// Follows the deployments of services that were just created or updated until all have ended.
///
/// # Errors
/// By outcome: [`Kind::DeploymentFailed`], [`Kind::RolledBack`], [`Kind::TimedOut`],
/// [`Kind::Interrupted`], else [`Kind::Failed`].
pub(crate) async fn follow(
    client: &Client,
    services: &[Service],
    wait: Wait,
) -> Result<(), CommandError> {
    let mut model = Model::new(services);
    let mut reporter = Reporter::new(wait.format, wait.quiet);
    let deadline = wait.timeout.map(|t| Instant::now() + t);
    let outcome = tokio::select! {
        outcome = until_done(client, &mut model, &mut reporter) => outcome,
        () = expired(deadline) => {
            reporter.finish();
            let seconds = wait.timeout.unwrap_or_default().as_secs();
            let rest = model.unfinished().join("; ");
            return Err(CommandError::new(
                Kind::TimedOut,
                format!("not converged after {seconds} s: {rest}"),
            )
            .hint("it goes on without this command; shoalctl service ps SERVICE shows how")
            .hint("--timeout waits longer"));
        }
        _ = tokio::signal::ctrl_c() => {
            reporter.finish();
            return Err(CommandError::new(Kind::Interrupted, "interrupted")
                .hint("the deployment goes on without this command"));
        }
    };
    reporter.finish();
    match outcome? {
        Outcome::Converged => reporter.outcome("converged"),
        Outcome::Superseded(names) => {
            reporter.outcome("superseded")?;
            let names = names.join(", ");
            Err(CommandError::failed(format!(
                "a newer deployment took the place of this one: {names}"
            )))
        }
        Outcome::Gone(names) => {
            reporter.outcome("removed")?;
            Err(CommandError::failed(format!("removed in the meantime: {}", names.join(", "))))
        }
        Outcome::Failed { why, rolled_back } => {
            reporter.outcome(if rolled_back { "rolled-back" } else { "failed" })?;
            show_last_failure(client, &model).await;
            let (kind, what) = if rolled_back {
                (Kind::RolledBack, "the deployment failed and was rolled back")
            } else {
                (Kind::DeploymentFailed, "the deployment failed")
            };
            Err(CommandError::new(kind, format!("{what}: {}", why.join("; ")))
                .hint("shoalctl service ps --no-trunc SERVICE shows all its tasks"))
        }
    }
}

async fn expired(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn until_done(
    client: &Client,
    model: &mut Model,
    reporter: &mut Reporter,
) -> Result<Outcome, CommandError> {
    let mut away_since: Option<Instant> = None;
    loop {
        let started = Instant::now();
        match round(client, model, reporter).await {
            Ok(Round::Done(outcome)) => return Ok(outcome),
            Ok(Round::Broken(_)) if started.elapsed() > TICK => away_since = None,
            Ok(Round::Broken(error)) | Err(error) => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if since == started || since.elapsed() < TICK {
                    reporter.news(&format!("the manager is away, trying again: {error}"))?;
                }
                if since.elapsed() > AWAY_MAX {
                    return Err(error);
                }
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Watches, then lists, so that nothing is missed in between; then goes by the events.
async fn round(
    client: &Client,
    model: &mut Model,
    reporter: &mut Reporter,
) -> Result<Round, CommandError> {
    let kinds = [ObjectKind::Service, ObjectKind::Task, ObjectKind::Deployment];
    let mut events = client.watch(&kinds, WatchSpan::default()).await?;
    load(client, model).await?;
    let mut tick = tokio::time::interval(TICK);
    loop {
        model.report(reporter)?;
        if let Some(outcome) = model.outcome() {
            return Ok(Round::Done(outcome));
        }
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => model.apply(event),
                Some(Err(error)) => return Ok(Round::Broken(error)),
                None => return Ok(Round::Broken(CommandError::failed("the stream ended"))),
            },
            _ = tick.tick() => {}
        }
    }
}

async fn load(client: &Client, model: &mut Model) -> Result<(), CommandError> {
    model.hosts(&client.nodes().await?);
    let query = TaskQuery { service_ids: model.service_ids(), ..TaskQuery::default() };
    let tasks = client.tasks(&query).await?;
    for id in model.service_ids() {
        match client.find_service(&id).await? {
            Some(summary) => model.service(summary.service),
            None => model.removed(&id),
        }
    }
    for id in model.deployment_ids() {
        model.deployment(client.deployment(&id).await?);
    }
    model.tasks(tasks);
    Ok(())
}

/// The last error of a failed task and the end of its log.
async fn show_last_failure(client: &Client, model: &Model) {
    let Some((id, name, words)) = model.last_failure() else { return };
    note(&format!("last failure: {words}"));
    let query = LogQuery { reference: id, tail: Some(LOG_LINES), ..LogQuery::default() };
    // The log is a help; that it cannot be had is no failure of its own.
    let Ok(Ok(mut lines)) = tokio::time::timeout(LOG_TIME, client.logs(&query)).await else {
        return;
    };
    let until = Instant::now() + LOG_TIME;
    while let Ok(Some(Ok(line))) = tokio::time::timeout_at(until, lines.next()).await {
        match line {
            LogLine::Line { line, .. } => {
                note(&format!("{name} | {}", String::from_utf8_lossy(&line)));
            }
            LogLine::Warning(text) => note(&format!("warning: {text}")),
        }
    }
}
