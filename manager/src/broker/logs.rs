//! Logs of services and tasks, from all their nodes.

mod source;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shoal_manager_planning::logs::{self, Next, Wanted};
use shoal_manager_planning::words;
use shoal_manager_state::ClusterState;
use shoal_proto::v1 as pb;
use shoal_types::id::NodeId;
use shoal_types::object::Task;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};

use self::source::Source;
use super::{Answers, Broker, to_agent};
use crate::dispatcher::Session;

/// Answers on their way to one reader. A reader that is slower holds up the agents, not us.
const QUEUE: usize = 64;

/// How long an agent may take to open its stream.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a reader that follows waits before it asks an agent again whose stream broke.
const RETRY: Duration = Duration::from_secs(1);

/// Where lines go.
type Reader = mpsc::Sender<Result<pb::ServiceLogsResponse, Status>>;

/// One node's part of what a reader wants.
pub(super) struct Subscriber {
    reader: Reader,
    node: Arc<Source>,
    /// Dropped when the agent's stream has begun.
    _begun: oneshot::Sender<()>,
    /// Used when the agent has sent all there is; dropped when its stream breaks before.
    whole: oneshot::Sender<()>,
}

/// How an agent's stream ended.
enum End {
    /// With all there is.
    Whole(Session),
    /// Before that, or it never began.
    Cut {
        /// For the reader.
        why: String,
        begun: bool,
    },
    /// Nobody reads any more.
    Unread,
}

fn line(message: pb::service_logs_response::Message) -> Result<pb::ServiceLogsResponse, Status> {
    Ok(pb::ServiceLogsResponse { message: Some(message) })
}

async fn warn(reader: &Reader, text: String) {
    // A reader that is gone needs no warning.
    let _ = reader.send(line(pb::service_logs_response::Message::Warning(text))).await;
}

impl Broker {
    /// Serves a reader of logs.
    ///
    /// # Errors
    /// The reference leads nowhere.
    pub fn service_logs(
        self: &Arc<Self>,
        view: &ClusterState,
        request: &pb::ServiceLogsRequest,
    ) -> Result<Answers<pb::ServiceLogsResponse>, Status> {
        let wanted = Wanted::resolve(view, &request.reference);
        let wanted = wanted.map_err(|unknown| crate::api::unresolved(&unknown))?;
        let options = request.options.unwrap_or_default();
        let (reader, answers) = mpsc::channel(QUEUE);
        let broker = Arc::clone(self);
        tokio::spawn(async move { broker.collect_logs(wanted, options, reader).await });
        Ok(Box::pin(ReceiverStream::new(answers)))
    }

    /// Asks every node for its part, also those that get tasks later if the reader follows.
    async fn collect_logs(
        self: Arc<Self>,
        wanted: Wanted,
        options: pb::LogOptions,
        reader: Reader,
    ) {
        let mut events = self.cluster.feed().follow();
        let mut asked = logs::Asked::new(wanted);
        let streams = TaskTracker::new();
        let mut fresh = asked.look(&self.cluster.view());
        loop {
            self.ask_nodes(&self.cluster.view(), fresh, &options, &reader, &streams);
            if !options.follow {
                streams.close();
                tokio::select! {
                    () = reader.closed() => {}
                    () = streams.wait() => {}
                }
                return;
            }
            tokio::select! {
                () = reader.closed() => return,
                () = events.changed() => {}
            }
            fresh = match events.take() {
                Some(events) => asked.hear(&events),
                None => asked.look(&self.cluster.view()),
            };
        }
    }

    fn ask_nodes(
        self: &Arc<Self>,
        view: &ClusterState,
        tasks: Vec<Arc<Task>>,
        options: &pb::LogOptions,
        reader: &Reader,
        streams: &TaskTracker,
    ) {
        for (id, tasks) in logs::by_node(tasks) {
            let hostname = view.hostname(id);
            let tasks = tasks.into_iter().map(|task| (task.id.to_string(), task)).collect();
            let source = Source::new(id, hostname, tasks, BTreeMap::new());
            let work = Arc::clone(self).ask_node(source, *options, reader.clone());
            streams.spawn(work);
        }
    }

    /// One node's part, from asking for it to its end. For a reader that follows, an agent that
    /// was away is asked again where it broke off.
    async fn ask_node(
        self: Arc<Self>,
        source: Source,
        mut options: pb::LogOptions,
        reader: Reader,
    ) {
        let mut source = Arc::new(source);
        let mut warned = false;
        loop {
            let (end, session, why) = match self.ask_once(&source, options, &reader).await {
                End::Unread => return,
                End::Whole(session) => (logs::End::Whole, Some(session), None),
                End::Cut { why, begun } => {
                    let why = logs::is_news(begun, warned).then_some(why);
                    (logs::End::Cut { begun }, None, why)
                }
            };
            if let Some(why) = why {
                warn(&reader, why).await;
            }
            let next = logs::after(end, options.follow, options.until.is_some());
            let pause = async {
                match &session {
                    Some(session) => session.ended.cancelled().await,
                    None => tokio::time::sleep(RETRY).await,
                }
            };
            match next {
                Next::Done => return,
                Next::AfterSession | Next::Again => tokio::select! {
                    () = pause => {}
                    () = reader.closed() => return,
                },
            }
            warned = next == Next::Again;
            let all = warned;
            let rest = source.rest(&self.cluster.view(), all);
            if rest.tasks.is_empty() {
                return;
            }
            options = rest.resume(options);
            source = Arc::new(rest);
        }
    }

    /// Asks a node for its part, and waits until its stream ends.
    async fn ask_once(&self, node: &Arc<Source>, options: pb::LogOptions, reader: &Reader) -> End {
        use pb::session_message::Message;
        let host = &node.hostname;
        let Some(session) = self.session_of(node.id) else {
            let why = format!("node {host} cannot be reached: its logs are missing");
            return End::Cut { why, begun: false };
        };
        let (begun, has_begun) = oneshot::channel();
        let (whole, ended) = oneshot::channel();
        let subscriber =
            Subscriber { reader: reader.clone(), node: Arc::clone(node), _begun: begun, whole };
        let subscription_id = self.logs.add(node.id, subscriber);
        let start = pb::StartLogs {
            subscription_id: subscription_id.clone(),
            task_ids: node.tasks.keys().cloned().collect(),
            options: Some(options),
        };
        let asked = session.send(to_agent(Message::StartLogs(start)));
        let in_time = async { tokio::time::timeout(PATIENCE, has_begun).await.is_ok() };
        // The sender is dropped, not used, when the stream begins: the error is the signal.
        if asked.is_err() || !in_time.await {
            self.logs.forget(&subscription_id);
            let why = format!("node {host} does not answer: its logs are missing");
            return End::Cut { why, begun: false };
        }
        let cut = || End::Cut {
            why: format!("the stream of node {host} broke: its logs may be cut off"),
            begun: true,
        };
        tokio::select! {
            whole = ended => if whole.is_ok() { End::Whole(session) } else { cut() },
            () = session.ended.cancelled() => cut(),
            () = reader.closed() => {
                let stop = pb::StopLogs { subscription_id };
                // An agent that is gone has stopped.
                let _ = session.send(to_agent(Message::StopLogs(stop)));
                End::Unread
            }
        }
    }

    /// Takes an agent's part and hands it to its reader.
    ///
    /// # Errors
    /// The stream does not begin as it must, or nobody waits for it.
    pub async fn publish_logs(
        &self,
        node: NodeId,
        mut messages: Streaming<pb::PublishLogsMessage>,
    ) -> Result<(), Status> {
        use pb::publish_logs_message::Message;
        let first = messages.message().await?.and_then(|m| m.message);
        let Some(Message::Attach(attach)) = first else {
            return Err(Status::invalid_argument("attach: must be the first message"));
        };
        let Subscriber { reader, node, _begun, whole } =
            self.logs.take(node, &attach.subscription_id)?;
        drop(_begun);
        loop {
            let message = tokio::select! {
                () = reader.closed() => return Ok(()),
                message = messages.message() => message?,
            };
            match message.map(|m| m.message) {
                None => {
                    // A reader that is gone does not care.
                    let _ = whole.send(());
                    return Ok(());
                }
                Some(Some(Message::Lines(batch))) => {
                    for text in batch.lines {
                        if let Some(answer) = node.answer(text)
                            && reader.send(line(answer)).await.is_err()
                        {
                            return Ok(());
                        }
                    }
                }
                Some(Some(Message::Warning(text))) => {
                    let text = words::text(&text);
                    warn(&reader, format!("node {}: {text}", node.hostname)).await;
                }
                Some(Some(Message::Attach(_)) | None) => {
                    return Err(Status::invalid_argument("message: expected lines or a warning"));
                }
            }
        }
    }
}
