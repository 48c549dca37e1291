//! The sessions of this leader.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_manager_planning::liveness::LastHeard;
use shoal_proto::v1 as pb;
use shoal_types::id::{NodeId, SessionId};
use shoal_types::time::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Messages on their way to one agent. One that does not take them is not there.
const OUTBOX: usize = 256;

/// An agent's connection.
#[derive(Debug, Clone)]
pub struct Session {
    /// The node.
    pub node: NodeId,
    /// Its id.
    pub id: SessionId,
    /// Cancelled when it ends.
    pub ended: CancellationToken,
    outbox: mpsc::Sender<pb::SessionMessage>,
}

impl Session {
    /// Sends the agent a message.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the agent does not take its messages.
    pub fn send(&self, message: pb::SessionMessage) -> Result<(), Status> {
        self.outbox
            .try_send(message)
            .map_err(|_| Status::unavailable(format!("node {} does not answer", self.node)))
    }
}

/// All sessions, at most one for each node. Their times are [`clock::steady`](crate::clock::steady)'s.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<BTreeMap<NodeId, Entry>>);

#[derive(Debug)]
struct Entry {
    session: Session,
    heard: Timestamp,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session and ends the node's older one. `first` comes before whatever others, who
    /// may be waiting for the session, send through it.
    pub fn open(
        &self,
        node: NodeId,
        id: SessionId,
        now: Timestamp,
        first: pb::SessionMessage,
    ) -> (Session, mpsc::Receiver<pb::SessionMessage>) {
        let (outbox, messages) = mpsc::channel(OUTBOX);
        // It is empty: there is room.
        let _ = outbox.try_send(first);
        let session = Session { node, id, ended: CancellationToken::new(), outbox };
        let entry = Entry { session: session.clone(), heard: now };
        if let Some(old) = self.lock().insert(node, entry) {
            old.session.ended.cancel();
        }
        (session, messages)
    }

    /// The session of this id, if it is the node's present one.
    ///
    /// # Errors
    /// `NOT_FOUND` otherwise.
    pub fn get(&self, node: NodeId, id: SessionId) -> Result<Session, Status> {
        let sessions = self.lock();
        let entry = sessions.get(&node).filter(|entry| entry.session.id == id);
        let gone = || Status::not_found(format!("session {id} has ended: open another one"));
        entry.map(|entry| entry.session.clone()).ok_or_else(gone)
    }

    /// The present session of a node.
    #[must_use]
    pub fn of_node(&self, node: NodeId) -> Option<Session> {
        self.lock().get(&node).map(|entry| entry.session.clone())
    }

    /// Notes that a session is alive.
    pub fn hear(&self, session: &Session, now: Timestamp) {
        if let Some(entry) = self.lock().get_mut(&session.node)
            && entry.session.id == session.id
        {
            entry.heard = now;
        }
    }

    /// When each node was last heard of.
    #[must_use]
    pub fn heard(&self) -> LastHeard {
        self.lock().iter().map(|(node, entry)| (*node, entry.heard)).collect()
    }

    /// Ends every session: this manager does not lead any more.
    pub fn end_all(&self) {
        for entry in std::mem::take(&mut *self.lock()).into_values() {
            entry.session.ended.cancel();
        }
    }
}

/// The messages of a session until it ends.
pub(super) fn until_ended(
    session: Session,
    messages: mpsc::Receiver<pb::SessionMessage>,
) -> impl Stream<Item = Result<pb::SessionMessage, Status>> {
    let start = (session.ended, messages, false);
    futures::stream::unfold(start, |(ended, mut messages, over)| async move {
        if over {
            return None;
        }
        tokio::select! {
            message = messages.recv() => Some((Ok(message?), (ended, messages, false))),
            () = ended.cancelled() => {
                let status = Status::aborted("the session has ended: open another one");
                Some((Err(status), (ended, messages, true)))
            }
        }
    })
}
