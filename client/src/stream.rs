//! Streams from a manager: changes of objects, lines of logs.

use futures::{Stream, StreamExt as _};
use shoal_proto::convert::InvalidMessage;
use shoal_proto::v1 as pb;
use shoal_types::id::{NodeId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{
    Cluster, Config, Deployment, Network, Node, Secret, Service, Slot, Stack, Task, User,
};
use shoal_types::time::Timestamp;
use tonic::Status;

use super::{Client, Result, required};
/// A change of an object.
#[derive(Debug, Clone)]
pub struct Event {
    /// Of the log entry that did it.
    pub index: u64,
    /// When it happened; never before an earlier one.
    pub time: Timestamp,
    /// What happened.
    pub action: EventAction,
    /// What it happened to.
    pub object: Object,
}

/// Events as they happen.
#[derive(Debug)]
pub struct Watch<S> {
    /// One after the other.
    pub events: S,
    /// The log index after which it begins.
    pub after: u64,
    /// Older ones were asked for than are kept: the first ones are the oldest there are.
    pub is_incomplete: bool,
}

/// Which events are wanted; by itself those from now on.
#[derive(Debug, Clone, Copy, Default)]
pub struct WatchSpan {
    /// Those after this log index.
    pub after: Option<u64>,
    /// Those of this time or later; does not go with `after`.
    pub since: Option<Timestamp>,
    /// Those before this time.
    pub until: Option<Timestamp>,
}

/// What happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventAction {
    /// It was made.
    Create,
    /// It was changed.
    Update,
    /// It was removed.
    Remove,
}

impl EventAction {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
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
pub enum Object {
    /// The cluster.
    Cluster(Box<Cluster>),
    /// A node.
    Node(Box<Node>),
    /// A service.
    Service(Box<Service>),
    /// A task.
    Task(Box<Task>),
    /// A network.
    Network(Box<Network>),
    /// A stack.
    Stack(Box<Stack>),
    /// A deployment.
    Deployment(Box<Deployment>),
    /// A user.
    User(Box<User>),
    /// A version of a secret, without what is in it.
    Secret(Box<Secret>),
    /// A version of a config, likewise.
    Config(Box<Config>),
}

impl Object {
    /// All kinds, by their word.
    pub const KINDS: [(&'static str, pb::ObjectKind); 10] = [
        ("cluster", pb::ObjectKind::Cluster),
        ("node", pb::ObjectKind::Node),
        ("service", pb::ObjectKind::Service),
        ("task", pb::ObjectKind::Task),
        ("network", pb::ObjectKind::Network),
        ("stack", pb::ObjectKind::Stack),
        ("deployment", pb::ObjectKind::Deployment),
        ("user", pb::ObjectKind::User),
        ("secret", pb::ObjectKind::Secret),
        ("config", pb::ObjectKind::Config),
    ];

    /// The word for its kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "cluster",
            Self::Node(_) => "node",
            Self::Service(_) => "service",
            Self::Task(_) => "task",
            Self::Network(_) => "network",
            Self::Stack(_) => "stack",
            Self::Deployment(_) => "deployment",
            Self::User(_) => "user",
            Self::Secret(_) => "secret",
            Self::Config(_) => "config",
        }
    }

    /// Its id.
    pub fn id(&self) -> String {
        match self {
            Self::Cluster(o) => o.id.to_string(),
            Self::Node(o) => o.id.to_string(),
            Self::Service(o) => o.id.to_string(),
            Self::Task(o) => o.id.to_string(),
            Self::Network(o) => o.id.to_string(),
            Self::Stack(o) => o.id.to_string(),
            Self::Deployment(o) => o.id.to_string(),
            Self::User(o) => o.id.to_string(),
            Self::Secret(o) => o.id.to_string(),
            Self::Config(o) => o.id.to_string(),
        }
    }

    /// The name that people know it by; empty if it has none.
    pub fn name(&self) -> String {
        match self {
            Self::Cluster(o) => o.spec.name.clone(),
            Self::Node(o) => o.description.hostname.clone(),
            Self::Service(o) => o.spec.name.clone(),
            Self::Task(o) => o.name(),
            Self::Network(o) => o.spec.name.clone(),
            Self::Stack(o) => o.spec.name.clone(),
            Self::Deployment(_) => String::new(),
            Self::User(o) => o.spec.name.clone(),
            Self::Secret(o) => o.spec.name.clone(),
            Self::Config(o) => o.spec.name.clone(),
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
        Wire::Secret(o) => Object::Secret(Box::new(o.try_into()?)),
        Wire::Config(o) => Object::Config(Box::new(o.try_into()?)),
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
pub enum LogLine {
    /// A line.
    Line {
        /// The task that wrote it.
        task_id: TaskId,
        /// Where it runs.
        node_id: NodeId,
        /// Of that node.
        hostname: String,
        /// Name of the service.
        service: String,
        /// The task's slot.
        slot: Slot,
        /// When it was written.
        time: Timestamp,
        /// To standard error, or else to standard output.
        stderr: bool,
        /// Without its line break; any bytes.
        line: Vec<u8>,
    },
    /// Something that the reader should know.
    Warning(String),
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// A service or a task, by id or name.
    pub reference: String,
    /// Whether lines to come are wanted, too.
    pub follow: bool,
    /// Only the last ones of each task.
    pub tail: Option<u64>,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// Older than this.
    pub until: Option<Timestamp>,
}

/// Lines as they come.
pub type LogStream = futures::stream::BoxStream<'static, Result<LogLine>>;

impl Client {
    /// Changes of objects of some kinds, all if none is named; the stream is open when this
    /// returns, so that whoever lists then misses nothing.
    pub async fn watch(
        &self,
        kinds: &[pb::ObjectKind],
        span: WatchSpan,
    ) -> Result<Watch<impl Stream<Item = Result<Event>> + Unpin + use<>>> {
        let request = pb::WatchRequest {
            kinds: kinds.iter().map(|k| (*k).into()).collect(),
            from_index: span.after,
            since: span.since.map(Timestamp::as_nanos),
            until: span.until.map(Timestamp::as_nanos),
            level: Level::OWN.number(),
        };
        let mut stream = self.rpc.clone().watch(request).await?.into_inner();
        // The first message says that the stream has begun.
        let first = stream.message().await?;
        let first = first.ok_or_else(|| Status::unavailable("the stream ended"))?.message;
        let Some(pb::watch_response::Message::Started(started)) = first else {
            return Err(InvalidMessage::missing("started").into());
        };
        let events = stream.map(|message| match message?.message {
            Some(pb::watch_response::Message::Event(wire)) => event(wire),
            _ => Err(InvalidMessage::missing("event").into()),
        });
        Ok(Watch { events, after: started.index, is_incomplete: started.incomplete })
    }

    /// Lines of the logs of a service or a task.
    pub async fn logs(&self, query: &LogQuery) -> Result<LogStream> {
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
