//! Changes as they happen.

use clap::Args;
use futures::StreamExt as _;
use serde_json::json;
use shoal_client::{Event, Object, Place, Watch, WatchSpan};

use super::filter::Filters;
use super::{Result, Shell};
use crate::error::CommandError;
use crate::progress::{Away, again};
use crate::render::record::{self, Record};
use crate::render::{clean, line, note, time};

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Not older than this: 10m, 2026-01-31T12:00:00Z or seconds since the epoch
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Older than this; ends when it has passed
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Only those after this log index, as JSON output tells it
    #[arg(long, value_name = "INDEX", conflicts_with = "since")]
    after: Option<u64>,
    /// Only those that fit: type=, name=, event=, service=, node=
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

pub(crate) async fn run(shell: &Shell, args: &Events) -> Result {
    let filters = Filters::parse(&args.filter, &["type", "name", "event", "service", "node"])?;
    let mut kinds = Vec::new();
    for wanted in filters.values("type") {
        let kind = Object::KINDS.iter().find(|(name, _)| name == wanted);
        let Some((_, kind)) = kind else {
            let known: Vec<&str> = Object::KINDS.iter().map(|(name, _)| *name).collect();
            let known = known.join(", ");
            return Err(CommandError::usage(format!(
                "type {wanted:?} is unknown: expected one of {known}"
            )));
        };
        kinds.push(*kind);
    }
    let now = time::now();
    let read = |flag: &str, text: &Option<String>| {
        let read = text.as_deref().map(|text| time::parse(text, now)).transpose();
        read.map_err(|error| CommandError::usage(format!("{flag}: {error}")))
    };
    let span = WatchSpan {
        after: args.after,
        since: read("--since", &args.since)?,
        until: read("--until", &args.until)?,
    };
    let client = shell.manager().await?;
    let Watch { mut events, after, is_incomplete } = client.watch(&kinds, span).await?;
    if is_incomplete {
        note("warning: older events are not kept any more: these are the oldest ones");
    }
    let (mut place, mut away) = (Place::after(after), Away::default());
    loop {
        let error = match events.next().await {
            Some(Ok(event)) => {
                away.is_back();
                // Where it goes on after a break is told by its place, not by the time that was asked for.
                let is_asked_for = span.since.is_none_or(|since| event.time >= since);
                if place.takes(event.index) && is_asked_for && fits(&filters, &event) {
                    show(shell, &event)?;
                }
                continue;
            }
            None if span.until.is_some_and(|until| until <= time::now()) => return Ok(()),
            // In good order, and not as when another manager leads.
            None => {
                return Err(CommandError::failed("the manager ended the stream")
                    .hint("it may have been stopped, or this reader was too slow"));
            }
            Some(Err(error)) => error.into(),
        };
        let rest = WatchSpan { after: Some(place.resume()), since: None, until: span.until };
        let open = async || Ok(client.watch(&kinds, rest).await?.events);
        events = again(&mut away, error, open).await?;
    }
}

fn fits(filters: &Filters, event: &Event) -> bool {
    let (mut service, mut node) = (String::new(), String::new());
    match &event.object {
        Object::Task(task) => {
            service = format!("{} {}", task.service_name, task.service_id);
            node = task.node_id.map(|id| id.to_string()).unwrap_or_default();
        }
        Object::Service(s) => service = format!("{} {}", s.spec.name, s.id),
        Object::Deployment(d) => service = d.service_id.to_string(),
        Object::Node(n) => node = format!("{} {}", n.description.hostname, n.id),
        Object::Cluster(_)
        | Object::Network(_)
        | Object::Stack(_)
        | Object::User(_)
        | Object::Secret(_)
        | Object::Config(_) => {}
    }
    let is_one = |names: &str, v: &str| names.split(' ').any(|name| name == v);
    filters.allows("name", |v| event.object.name().starts_with(v))
        && filters.allows("event", |v| event.action.as_str() == v)
        && filters.allows("service", |v| is_one(&service, v))
        && filters.allows("node", |v| is_one(&node, v))
}

fn show(shell: &Shell, event: &Event) -> Result {
    let object = &event.object;
    let at = event.time;
    if shell.is_json() || shell.is_template() {
        let mut what = json!({
            "Index": event.index, "Type": object.kind(), "Action": event.action.as_str(),
            "Object": object,
        });
        if shell.is_json() {
            return record::write_at(at, &Record::Change { what });
        }
        what["Time"] = at.to_string().into();
        return shell.document(&what);
    }
    let words = match object {
        Object::Task(task) if task.status.err.is_empty() => {
            format!(" {} (wanted: {})", task.status.state, task.desired_state)
        }
        Object::Task(task) => {
            format!(" {} (wanted: {}): {}", task.status.state, task.desired_state, task.status.err)
        }
        Object::Node(node) => {
            format!(" {} {}", node.status.state.as_str(), node.spec.availability.as_str())
        }
        Object::Deployment(d) => {
            let message = if d.message.is_empty() { "" } else { ": " };
            format!(" {}{message}{}", d.state.as_str(), d.message)
        }
        _ => String::new(),
    };
    let (kind, action) = (object.kind(), event.action.as_str());
    let name = object.name();
    let text = format!("{at} {kind} {action} {} {name}{words}", object.id());
    line(&clean::one_line(&text))
}
