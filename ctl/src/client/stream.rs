//! Streams from a manager: changes of objects, lines of logs.

use futures::{Stream, StreamExt as _};
use shoal_proto::convert::InvalidMessage;
use shoal_proto::v1 as pb;
use shoal_types::id::{NodeId, TaskId};
use shoal_types::object::{Cluster, Deployment, Network, Node, Service, Slot, Stack, Task, User};
use shoal_types::time::Timestamp;
use tonic::Status;

use super::{Client, Result, required};
use crate::render::note;

/// A change of an object.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) index: u64,
    /// When it happened; never before an earlier one.
    pub(crate) time: Timestamp,
    pub(crate) action: EventAction,
    pub(crate) object: Object,
}

/// Which events are wanted; by itself those from now on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WatchSpan {
    /// Those after this log index.
    pub(crate) after: Option<u64>,
    /// Those of this time or later; does not go with `after`.
    pub(crate) since: Option<Timestamp>,
    /// Those before this time.
    pub(crate) until: Option<Timestamp>,
}

/// What happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventAction {
    Create,
    Update,
    Remove,
}

impl EventAction {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Remove => "remove",
        }
    }
}

/// The object as it is after the change; a removed one as it was before.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(untagged)]
pub(crate) enum Object {
    Cluster(Box<Cluster>),
    Node(Box<Node>),
    Service(Box<Service>),
    Task(Box<Task>),
    Network(Box<Network>),
    Stack(Box<Stack>),
    Deployment(Box<Deployment>),
    User(Box<User>),
}

impl Object {
    pub(crate) const KINDS: [(&'static str, pb::ObjectKind); 8] = [
        ("cluster", pb::ObjectKind::Cluster),
        ("node", pb::ObjectKind::Node),
        ("service", pb::ObjectKind::Service),
        ("task", pb::ObjectKind::Task),
        ("network", pb::ObjectKind::Network),
        ("stack", pb::ObjectKind::Stack),
        ("deployment", pb::ObjectKind::Deployment),
        ("user", pb::ObjectKind::User),
    ];

    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "cluster",
            Self::Node(_) => "node",
            Self::Service(_) => "service",
            Self::Task(_) => "task",
            Self::Network(_) => "network",
            Self::Stack(_) => "stack",
            Self::Deployment(_) => "deployment",
            Self::User(_) => "user",
        }
    }

    pub(crate) fn id(&self) -> String {
        match self {
            Self::Cluster(o) => o.id.to_string(),
            Self::Node(o) => o.id.to_string(),
            Self::Service(o) => o.id.to_string(),
            Self::Task(o) => o.id.to_string(),
            Self::Network(o) => o.id.to_string(),
            Self::Stack(o) => o.id.to_string(),
            Self::Deployment(o) => o.id.to_string(),
            Self::User(o) => o.id.to_string(),
        }
    }

    /// The name that people know it by; empty if it has none.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Cluster(o) => o.spec.name.clone(),
            Self::Node(o) => o.description.hostname.clone(),
            Self::Service(o) => o.spec.name.clone(),
            Self::Task(o) => o.name(),
            Self::Network(o) => o.spec.name.clone(),
            Self::Stack(o) => o.spec.name.clone(),
            Self::Deployment(_) => String::new(),
            Self::User(o) => o.spec.name.clone(),
        }
    }
}

fn object(wire: pb::watch_event::Object) -> Result<Object, InvalidMessage> {
    use pb::watch_event::Object as Wire;
    Ok(match wire {
        Wire::Cluster(o) => Object::Cluster(Box::new(o.try_into()?)),
        Wire::Node(o) => Object::Node(Box::new(o.try_into()?)),
        Wire::Service(o) => Object::Service(Box::new(o.try_into()?)),
        Wire::Task(o) => Object::Task(Box::new(o.try_into()?)),
        Wire::Network(o) => Object::Network(Box::new(o.try_into()?)),
        Wire::Stack(o) => Object::Stack(Box::new(o.try_into()?)),
        Wire::Deployment(o) => Object::Deployment(Box::new(o.try_into()?)),
        Wire::User(o) => Object::User(Box::new(o.try_into()?)),
    })
}

fn event(wire: pb::WatchEvent) -> Result<Event> {
    let action = match wire.action() {
        pb::EventAction::Create => EventAction::Create,
        pb::EventAction::Update => EventAction::Update,
        pb::EventAction::Remove => EventAction::Remove,
        pb::EventAction::Unspecified => return Err(InvalidMessage::missing("action").into()),
    };
    let object = object(wire.object.ok_or_else(|| InvalidMessage::missing("object"))?)?;
    Ok(Event { index: wire.index, time: Timestamp::from_nanos(wire.time), action, object })
}

/// A line of a log, or something that its reader should know.
#[derive(Debug, Clone)]
pub(crate) enum LogLine {
    Line {
        task_id: TaskId,
        node_id: NodeId,
        hostname: String,
        service: String,
        slot: Slot,
        time: Timestamp,
        stderr: bool,
        line: Vec<u8>,
    },
    Warning(String),
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogQuery {
    pub(crate) reference: String,
    pub(crate) follow: bool,
    pub(crate) tail: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
}

pub(crate) type LogStream = futures::stream::BoxStream<'static, Result<LogLine>>;

impl Client {
    /// Changes of objects of some kinds, all if none is named; the stream is open when this
    /// returns, so that whoever lists then misses nothing.
    pub(crate) async fn watch(
        &self,
        kinds: &[pb::ObjectKind],
        span: WatchSpan,
    ) -> Result<impl Stream<Item = Result<Event>> + Unpin + use<>> {
        let request = pb::WatchRequest {
            kinds: kinds.iter().map(|k| (*k).into()).collect(),
            from_index: span.after,
            since: span.since.map(Timestamp::as_nanos),
            until: span.until.map(Timestamp::as_nanos),
        };
        let mut stream = self.rpc.clone().watch(request).await?.into_inner();
        // The first message says that the stream has begun.
        let first = stream.message().await?;
        let first = first.ok_or_else(|| Status::unavailable("the stream ended"))?.message;
        let Some(pb::watch_response::Message::Started(started)) = first else {
            return Err(InvalidMessage::missing("started").into());
        };
        if started.incomplete {
            note("warning: older events are not kept any more: these are the oldest ones");
        }
        Ok(stream.map(|message| match message?.message {
            Some(pb::watch_response::Message::Event(wire)) => event(wire),
            _ => Err(InvalidMessage::missing("event").into()),
        }))
    }

    pub(crate) async fn logs(&self, query: &LogQuery) -> Result<LogStream> {
        let options = pb::LogOptions {
            follow: query.follow,
            tail: query.tail,
            since: query.since.map(Timestamp::as_nanos),
            until: query.until.map(Timestamp::as_nanos),
            stdout: true,
            stderr: true,
        };
        let request =
            pb::ServiceLogsRequest { reference: query.reference.clone(), options: Some(options) };
        let stream = self.rpc.clone().service_logs(request).await?.into_inner();
        Ok(stream.map(|message| log_line(message?)).boxed())
    }
}

fn log_line(wire: pb::ServiceLogsResponse) -> Result<LogLine> {
    use pb::service_logs_response::Message;
    let line = match wire.message {
        Some(Message::Line(line)) => line,
        Some(Message::Warning(text)) => return Ok(LogLine::Warning(text)),
        None => return Err(InvalidMessage::missing("message").into()),
    };
    let inner = line.line.ok_or_else(|| InvalidMessage::missing("line"))?;
    let id = |field: &str, text: String| InvalidMessage::new(field, format!("{text:?} is no id"));
    Ok(LogLine::Line {
        stderr: inner.stream() == pb::OutputStream::Stderr,
        task_id: inner.task_id.parse().map_err(|_| id("task_id", inner.task_id))?,
        node_id: line.node_id.parse().map_err(|_| id("node_id", line.node_id))?,
        hostname: line.node_hostname,
        service: line.service_name,
        slot: required("slot", line.slot)?,
        time: Timestamp::from_nanos(inner.time),
        line: inner.line,
    })
}
