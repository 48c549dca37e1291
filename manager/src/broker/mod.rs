//! Brings people and containers together: log and exec streams, and questions to nodes.
//!
//! Managers never dial agents. What a user asks for goes to the agent through its session stream;
//! the agent then opens a stream of its own, which is joined here with the user's by an id that
//! cannot be guessed.

mod exec;
mod logs;
mod question;

pub use exec::exec_start;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_proto::v1 as pb;
use shoal_types::id::{IdSource as _, NodeId, TaskId};
use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tonic::Status;

use crate::clock::RandomIds;
use crate::cluster::Cluster;
use crate::dispatcher::{Session, Sessions};

pub use question::Answers as NodeAnswers;

/// A stream towards a user or an agent.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Streams under way.
pub struct Broker {
    cluster: Cluster,
    sessions: Arc<Sessions>,
    logs: Waiting<logs::Subscriber>,
    execs: Waiting<exec::Waiter>,
    questions: Waiting<question::Asker>,
    questions_free: Semaphore,
}

impl Broker {
    /// For the sessions of this manager.
    #[must_use]
    pub fn new(cluster: Cluster, sessions: Arc<Sessions>) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            sessions,
            logs: Waiting::default(),
            execs: Waiting::default(),
            questions: Waiting::default(),
            questions_free: Semaphore::new(question::QUESTIONS_MAX),
        })
    }

    /// The session of a node, unless the node is known to be away: the connection of a host that died
    /// can outlive it, and nobody should wait for its answer.
    fn session_of(&self, node: NodeId) -> Option<Session> {
        let view = self.cluster.view();
        let there = view.node(node).is_some_and(|node| node.is_reachable());
        self.sessions.of_node(node).filter(|_| there)
    }
}

/// Those who wait for an agent to open a stream, by the id it will name.
struct Waiting<T>(Mutex<BTreeMap<String, (NodeId, T)>>);

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Waiting<T> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (NodeId, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a stream of this node; the id it must name.
    fn add(&self, node: NodeId, waiter: T) -> String {
        let id: TaskId = RandomIds.next_id();
        let id = id.to_string();
        self.lock().insert(id.clone(), (node, waiter));
        id
    }

    /// Nobody waits any more.
    fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Whoever waits for this stream of this node.
    fn take(&self, node: NodeId, id: &str) -> Result<T, Status> {
        let mut waiting = self.lock();
        let gone = || Status::not_found("nobody waits for this stream any more");
        match waiting.remove(id) {
            Some((expected, waiter)) if expected == node => Ok(waiter),
            Some(other) => {
                waiting.insert(id.to_owned(), other);
                Err(gone())
            }
            None => Err(gone()),
        }
    }
}

/// Forgets a waiter, if nobody has taken it, when it is dropped.
struct Forgotten<'a, T> {
    waiting: &'a Waiting<T>,
    id: &'a str,
}

impl<T> Drop for Forgotten<'_, T> {
    fn drop(&mut self) {
        self.waiting.forget(self.id);
    }
}

fn to_agent(message: pb::session_message::Message) -> pb::SessionMessage {
    pb::SessionMessage { message: Some(message) }
}
