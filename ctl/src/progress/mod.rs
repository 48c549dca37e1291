//! Following deployments until they end one way or another.

mod away;
mod model;
mod outcome;
mod removal;
mod reporter;

use std::time::Duration;

use futures::StreamExt as _;
use shoal_client::{Client, LogLine, LogQuery, TaskQuery, WatchSpan};
use shoal_proto::v1::ObjectKind;
use tokio::time::Instant;
use tonic::Status;

use crate::error::{CommandError, Kind};
use crate::interrupt::asked_to_stop;
use crate::render::{Format, note};

use model::Model;
use outcome::Outcome;
use reporter::Reporter;

pub(crate) use away::{Away, again};
pub(crate) use model::Followed;
pub(crate) use outcome::ServiceReport;
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

/// Follows the deployments of services that were just created or updated until all have ended:
/// theirs, and the rollbacks that came of them. Gives what has become of each service as well.
///
/// # Errors
/// One [`Kind`] for each outcome.
pub(crate) async fn follow(
    client: &Client,
    followed: &Followed,
    wait: Wait,
) -> (Vec<ServiceReport>, Result<(), CommandError>) {
    let mut model = Model::new(followed);
    let mut reporter = Reporter::new(wait.format, wait.quiet);
    let deadline = wait.timeout.map(|t| Instant::now() + t);
    let outcome = tokio::select! {
        outcome = until_done(client, &mut model, &mut reporter) => outcome,
        () = expired(deadline) => {
            let seconds = wait.timeout.unwrap_or_default().as_secs();
            let rest = model.unfinished().join("; ");
            Err(CommandError::new(
                Kind::TimedOut,
                format!("not converged after {seconds} s: {rest}"),
            )
            .hint("it goes on without this command; shoalctl service ps SERVICE shows how")
            .hint("--timeout waits longer"))
        }
        kind = asked_to_stop() => {
            Err(CommandError::new(kind, format!("{}: {}", kind.outcome(), model.unfinished().join("; ")))
                .hint("the deployment goes on without this command"))
        }
    };
    reporter.finish();
    let states = model.reports();
    let result = match outcome {
        Err(error) => Err(error),
        Ok(outcome) => {
            if !matches!(outcome, Outcome::Converged | Outcome::Superseded(_) | Outcome::Removed(_))
            {
                show_last_failure(client, &model).await;
            }
            outcome.result(&states)
        }
    };
    (states, result)
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
    let begun = Instant::now();
    let mut away = Away::default();
    loop {
        let started = Instant::now();
        match round(client, model, reporter, begun).await {
            Ok(Round::Done(outcome)) => return Ok(outcome),
            Ok(Round::Broken(_)) if started.elapsed() > TICK => away.is_back(),
            Ok(Round::Broken(error)) | Err(error) => {
                let text = format!("the manager is away, trying again: {}", error.reason());
                if away.bear(error, Instant::now())? {
                    reporter.notice("manager-away", &text)?;
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
    begun: Instant,
) -> Result<Round, CommandError> {
    let kinds = [ObjectKind::Service, ObjectKind::Task, ObjectKind::Deployment, ObjectKind::Stack];
    // Stacks carry the specs of their history: only for those who need them.
    let kinds = &kinds[..if model.stack_id().is_some() { 4 } else { 3 }];
    let mut events = client.watch(kinds, WatchSpan::default()).await?.events;
    load(client, model).await?;
    let mut tick = tokio::time::interval(TICK);
    loop {
        model.report(reporter, begun.elapsed())?;
        if model.outcome().is_some() {
            // One change comes as several events, between which the picture is half drawn: what
            // looks like an end is one if a fresh look says so, too.
            load(client, model).await?;
            if let Some(outcome) = model.outcome() {
                model.report(reporter, begun.elapsed())?;
                return Ok(Round::Done(outcome));
            }
        }
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => model.apply(event),
                Some(Err(error)) => return Ok(Round::Broken(error.into())),
                None => return Ok(Round::Broken(Status::unavailable("the stream ended").into())),
            },
            _ = tick.tick() => {}
        }
    }
}

async fn load(client: &Client, model: &mut Model) -> Result<(), CommandError> {
    model.hosts(&client.nodes().await?);
    if let Some(id) = model.stack_id() {
        let stack = client.find_stack(&id.to_string()).await?;
        let there = stack.is_some();
        model.stack(stack);
        if there {
            for summary in client.services(Some(&id.to_string())).await? {
                model.service(summary.service);
            }
        }
    }
    for id in model.service_ids() {
        match client.find_service(&id).await? {
            Some(summary) => model.service(summary.service),
            None => model.removed(&id),
        }
    }
    for id in model.deployment_ids() {
        match client.find_deployment(&id.to_string()).await? {
            Some(deployment) => model.deployment(deployment),
            None => model.forgotten(id),
        }
    }
    let service_ids = model.service_ids();
    // Without a service this would ask for all tasks of the cluster.
    if !service_ids.is_empty() {
        let query = TaskQuery { service_ids, ..TaskQuery::default() };
        model.tasks(client.tasks(&query).await?);
    }
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
