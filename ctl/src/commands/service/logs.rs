//! `service logs`.

use std::borrow::Cow;
use std::io::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use futures::StreamExt as _;
use serde_json::{Value, json};
use shoal_client::{LogLine, LogPlace, LogQuery};

use crate::commands::{Result, Shell};
use crate::error::CommandError;
use crate::progress::{Away, again};
use crate::render::record::{self, Record};
use crate::render::{clean, id, note, time};

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on with what is written from now on
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines of each task: a number, or all
    #[arg(long, short = 'n', value_name = "N", default_value = "all")]
    tail: Tail,
    /// Not older than this: 10m, 2026-01-31T12:00:00Z or seconds since the epoch
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Older than this
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show when each line was written
    #[arg(long, short)]
    timestamps: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Write the lines as they are, without saying whose they are
    #[arg(long)]
    raw: bool,
    /// Leave the ids of tasks out
    #[arg(long)]
    no_task_ids: bool,
    /// A service or a task: id or name
    #[arg(value_name = "SERVICE|TASK")]
    reference: String,
}

#[derive(Debug, Clone, Copy)]
struct Tail(Option<u64>);

impl std::str::FromStr for Tail {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(None));
        }
        text.parse().map(|n| Self(Some(n))).map_err(|_| "expected a number or all".to_owned())
    }
}

pub(super) async fn run(shell: &Shell, args: &Logs) -> Result {
    let now = time::now();
    let read = |flag: &str, text: &Option<String>| {
        let read = text.as_deref().map(|text| time::parse(text, now)).transpose();
        read.map_err(|error| CommandError::usage(format!("{flag}: {error}")))
    };
    let query = LogQuery {
        reference: args.reference.clone(),
        follow: args.follow,
        tail: args.tail.0,
        since: read("--since", &args.since)?,
        until: read("--until", &args.until)?,
    };
    let client = shell.manager().await?;
    let query = match crate::commands::tasks::find(&client, &query.reference).await? {
        Some(task) => LogQuery { reference: task.id.to_string(), ..query },
        None => query,
    };
    let mut lines = client.logs(&query).await?;
    let (mut place, mut away) = (LogPlace::default(), Away::default());
    loop {
        let error = match lines.next().await {
            None => return Ok(()),
            Some(Ok(line)) => {
                away.is_back();
                let is_new = match &line {
                    LogLine::Line { task_id, time, .. } => place.takes(*task_id, *time),
                    LogLine::Warning(_) => true,
                };
                if is_new {
                    show(shell, args, line)?;
                }
                continue;
            }
            Some(Err(error)) => error.into(),
        };
        if !args.follow {
            return Err(error);
        }
        let rest = match place.resume() {
            Some(since) => LogQuery { since: Some(since), tail: None, ..query.clone() },
            None => query.clone(),
        };
        lines = again(&mut away, error, async || Ok(client.logs(&rest).await?)).await?;
    }
}

fn show(shell: &Shell, args: &Logs, line: LogLine) -> Result {
    let LogLine::Line { task_id, node_id, hostname, service, slot, time: at, stderr, line } = line
    else {
        if let LogLine::Warning(text) = line {
            note(&format!("warning: {text}"));
            if shell.is_json() {
                return record::write(&Record::notice("warning", &text));
            }
        }
        return Ok(());
    };
    if shell.is_json() {
        let mut what = json!({
            "TaskID": task_id, "NodeID": node_id, "Hostname": hostname, "Service": service,
            "Slot": slot, "Stream": if stderr { "stderr" } else { "stdout" },
        });
        add_text(&mut what, &line);
        return record::write_at(at, &Record::Line { what });
    }
    let mut out = Vec::with_capacity(line.len() + 80);
    if args.timestamps {
        out.extend_from_slice(at.to_string().as_bytes());
        out.push(b' ');
    }
    if !args.raw {
        let task = if args.no_task_ids {
            String::new()
        } else {
            format!(".{}", id(task_id, args.no_trunc))
        };
        let host = if hostname.is_empty() { id(node_id, args.no_trunc) } else { hostname };
        let whose = format!("{service}.{slot}{task}@{host}    | ");
        out.extend_from_slice(clean::one_line(&whose).as_bytes());
    }
    out.extend_from_slice(&line);
    out.push(b'\n');
    if stderr {
        io::stderr().lock().write_all(&out)?;
    } else {
        io::stdout().lock().write_all(&out)?;
    }
    Ok(())
}

/// A line in JSON, which knows text only: where the line is not UTF-8, what is not is replaced in
/// `Line`, and `Bytes` has all of it in base64.
fn add_text(record: &mut Value, line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    if matches!(text, Cow::Owned(_)) {
        record["Bytes"] = STANDARD.encode(line).into();
    }
    record["Line"] = text.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_json_lose_nothing() {
        let record = |line: &[u8]| {
            let mut record = json!({});
            add_text(&mut record, line);
            record
        };
        assert_eq!(record("é".as_bytes()), json!({ "Line": "é" }));
        assert_eq!(record(b"caf\xe9"), json!({ "Line": "caf\u{fffd}", "Bytes": "Y2Fm6Q==" }));
    }
}
