//! The change feed: what one applied command did to the objects.

use std::fmt;
use std::sync::Arc;

use shoal_types::object::{
    Cluster, Config, Deployment, Network, Node, Secret, Service, Stack, Task, User,
};
use shoal_types::time::Timestamp;

use crate::reach::Reach;

/// One object was written or removed.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Log index of the command.
    pub index: u64,
    /// When the command was proposed, which is when it happened.
    pub time: Timestamp,
    /// What happened to the object.
    pub action: Action,
    /// The object as it is now, or as it was when it was removed.
    pub object: ObjectRef,
    /// Where others see what has changed: where a task or a service is reached, or how a node is. Nowhere if it
    /// is seen by those alone that the object is about.
    pub reach: Reach,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It was made.
    Create,
    /// It was changed.
    Update,
    /// It was removed.
    Remove,
}

/// Any object of the state, shared.
#[derive(Debug, Clone, PartialEq)]
pub enum ObjectRef {
    /// The cluster itself.
    Cluster(Arc<Cluster>),
    /// A node.
    Node(Arc<Node>),
    /// A network.
    Network(Arc<Network>),
    /// A service.
    Service(Arc<Service>),
    /// A deployment.
    Deployment(Arc<Deployment>),
    /// A stack.
    Stack(Arc<Stack>),
    /// A task.
    Task(Arc<Task>),
    /// A user.
    User(Arc<User>),
    /// A version of a secret.
    Secret(Arc<Secret>),
    /// A version of a config.
    Config(Arc<Config>),
}

impl ObjectRef {
    /// What kind of object it is.
    #[must_use]
    pub const fn kind(&self) -> ObjectKind {
        match self {
            Self::Cluster(_) => ObjectKind::Cluster,
            Self::Node(_) => ObjectKind::Node,
            Self::Network(_) => ObjectKind::Network,
            Self::Service(_) => ObjectKind::Service,
            Self::Deployment(_) => ObjectKind::Deployment,
            Self::Stack(_) => ObjectKind::Stack,
            Self::Task(_) => ObjectKind::Task,
            Self::User(_) => ObjectKind::User,
            Self::Secret(_) => ObjectKind::Secret,
            Self::Config(_) => ObjectKind::Config,
        }
    }

    /// Its id in written form.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Cluster(o) => o.id.to_string(),
            Self::Node(o) => o.id.to_string(),
            Self::Network(o) => o.id.to_string(),
            Self::Service(o) => o.id.to_string(),
            Self::Deployment(o) => o.id.to_string(),
            Self::Stack(o) => o.id.to_string(),
            Self::Task(o) => o.id.to_string(),
            Self::User(o) => o.id.to_string(),
            Self::Secret(o) => o.id.to_string(),
            Self::Config(o) => o.id.to_string(),
        }
    }
}

/// Kinds of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The cluster itself.
    Cluster,
    /// A node.
    Node,
    /// A network.
    Network,
    /// A service.
    Service,
    /// A deployment.
    Deployment,
    /// A stack.
    Stack,
    /// A task.
    Task,
    /// A user.
    User,
    /// A version of a secret.
    Secret,
    /// A version of a config.
    Config,
}

impl ObjectKind {
    /// All kinds, in the order in which a snapshot holds them.
    pub const ALL: [Self; 10] = [
        Self::Cluster,
        Self::Node,
        Self::Network,
        Self::Service,
        Self::Deployment,
        Self::Stack,
        Self::Task,
        Self::User,
        Self::Secret,
        Self::Config,
    ];

    /// Its name in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Node => "node",
            Self::Network => "network",
            Self::Service => "service",
            Self::Deployment => "deployment",
            Self::Stack => "stack",
            Self::Task => "task",
            Self::User => "user",
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
