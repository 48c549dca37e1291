//! Sending tasks' logs to a manager that asked for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use shoal_proto::v1::publish_logs_message::Message;
use shoal_proto::v1::{
    LogBatch, LogOptions, LogsAttach, OutputStream, PublishLogsMessage, StartLogs, TaskLogLine,
};
use shoal_types::error_chain::chain;
use shoal_types::id::TaskId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Client;
use super::workload::Workload;
use shoal_agent_runtime::{LogLine, LogQuery, Stream};

/// Batches on their way to the manager.
const QUEUE: usize = 4;
/// Lines in one batch.
const BATCH_LINES: usize = 512;
/// Bytes of lines after which a batch is sent; the last line may exceed it.
const BATCH_BYTES: usize = 256 * 1024;
/// Tasks in one request; the rest is answered by a warning.
const MAX_TASKS: usize = 1024;

/// Opens the stream and fills it until the logs end or nobody reads any more. `refused` says why
/// nothing is read at all.
pub(super) async fn publish(
    mut client: Client,
    workload: Arc<dyn Workload>,
    request: StartLogs,
    refused: Option<&'static str>,
) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let subscription = request.subscription_id.clone();
    let read = async move {
        // Fails only when the call has ended, and so has this.
        let _ = send_all(&sender, workload, request, refused).await;
    };
    let call = client.publish_logs(ReceiverStream::new(receiver));
    tokio::pin!(call, read);
    // The manager may answer early, when nobody reads any more; else its answer ends it all.
    let answer = tokio::select! {
        answer = &mut call => answer,
        () = &mut read => call.await,
    };
    if let Err(status) = answer {
        tracing::debug!(subscription, %status, "a stream of logs broke off");
    }
}

/// Nobody reads any more.
struct Gone;

type Sender = mpsc::Sender<PublishLogsMessage>;

async fn send(sender: &Sender, message: Message) -> Result<(), Gone> {
    sender.send(PublishLogsMessage { message: Some(message) }).await.map_err(|_| Gone)
}

async fn send_all(
    sender: &Sender,
    workload: Arc<dyn Workload>,
    request: StartLogs,
    refused: Option<&'static str>,
) -> Result<(), Gone> {
    let StartLogs { subscription_id, task_ids, options } = request;
    send(sender, Message::Attach(LogsAttach { subscription_id })).await?;
    if let Some(why) = refused {
        return send(sender, Message::Warning(why.to_owned())).await;
    }
    let query = query(options.unwrap_or_default());
    let mut all = stream::SelectAll::new();
    if task_ids.len() > MAX_TASKS {
        let warning = format!("only the first {MAX_TASKS} of {} tasks are read", task_ids.len());
        send(sender, Message::Warning(warning)).await?;
    }
    let wanted: BTreeSet<String> = task_ids.into_iter().take(MAX_TASKS).collect();
    for text in wanted {
        match open(workload.as_ref(), &text, query).await {
            Ok(lines) => all.push(lines),
            Err(warning) => send(sender, Message::Warning(warning)).await?,
        }
    }
    let mut batches = all.ready_chunks(BATCH_LINES);
    while let Some(entries) = batches.next().await {
        let mut batch = Batch::default();
        for entry in entries {
            match entry {
                Ok(line) => batch.push(line),
                Err(warning) => {
                    batch.flush(sender).await?;
                    send(sender, Message::Warning(warning)).await?;
                }
            }
            if batch.bytes >= BATCH_BYTES {
                batch.flush(sender).await?;
            }
        }
        batch.flush(sender).await?;
    }
    Ok(())
}

#[derive(Default)]
struct Batch {
    lines: Vec<TaskLogLine>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, line: TaskLogLine) {
        self.bytes += line.line.len() + line.task_id.len();
        self.lines.push(line);
    }

    async fn flush(&mut self, sender: &Sender) -> Result<(), Gone> {
        let Self { lines, .. } = std::mem::take(self);
        if lines.is_empty() {
            return Ok(());
        }
        send(sender, Message::Lines(LogBatch { lines })).await
    }
}

type Lines = BoxStream<'static, Result<TaskLogLine, String>>;

async fn open(workload: &dyn Workload, task: &str, query: LogQuery) -> Result<Lines, String> {
    let id: TaskId = task.parse().map_err(|error| format!("{error}"))?;
    let lines = workload.logs(id, query).await;
    let lines = lines.map_err(|error| format!("logs of task {id}: {}", chain(&error)))?;
    let of_task = move |line: Result<LogLine, _>| match line {
        Ok(line) => Ok(of_line(id, line)),
        Err(error) => Err(format!("logs of task {id}: {}", chain(&error))),
    };
    Ok(lines.map(of_task).boxed())
}

fn of_line(task: TaskId, line: LogLine) -> TaskLogLine {
    let stream = match line.stream {
        Stream::Stdout => OutputStream::Stdout,
        Stream::Stderr => OutputStream::Stderr,
    };
    let mut text = line.text;
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    TaskLogLine {
        task_id: task.to_string(),
        time: line.at_nanos,
        stream: stream.into(),
        line: text,
    }
}

fn query(options: LogOptions) -> LogQuery {
    let LogOptions { follow, tail, since, until, stdout, stderr } = options;
    LogQuery {
        follow,
        since_nanos: since,
        until_nanos: until,
        tail: tail.map(|tail| usize::try_from(tail).unwrap_or(usize::MAX)),
        stdout,
        stderr,
    }
}
