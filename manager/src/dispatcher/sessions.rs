//! The sessions of this leader.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_manager_planning::pace::Pace;
use shoal_proto::v1 as pb;
use shoal_types::id::{NodeId, SessionId};
use shoal_types::object::AssignmentProgress;
use shoal_types::time::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, watch};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::clock;

/// Messages on their way to one agent. One that does not take them is not there.
const OUTBOX: usize = 256;

/// Reports of one node that wait for their turn. An agent makes one at a time.
const REPORTS_WAITING_MAX: usize = 4;

/// Streams of assignments of one node whose messages it has not taken. An agent has one, and for a
/// moment another when it has connected again.
const STREAMS_MAX: usize = 4;

/// An agent's connection.
#[derive(Debug, Clone)]
pub struct Session {
    /// The node.
    pub node: NodeId,
    /// Its id.
    pub id: SessionId,
    /// The term of the leader that opened it. It is of no use in any other.
    pub term: u64,
    /// Cancelled when it ends.
    pub ended: CancellationToken,
    outbox: mpsc::Sender<pb::SessionMessage>,
    progress: Arc<Counters>,
    told: Arc<Mutex<Told>>,
}

/// What the agent of a session was told of the cluster, and from which index of the log that was.
#[derive(Debug, Default)]
struct Told {
    index: u64,
    facts: Option<pb::ClusterFacts>,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    applied: watch::Sender<u64>,
}

/// Raises a count; those who wait for it hear of it if it was lower.
pub(super) fn raise(count: &watch::Sender<u64>, to: u64) {
    count.send_if_modified(|known| {
        let news = *known < to;
        *known = to.max(*known);
        news
    });
}

/// Numbers the messages of one stream of assignments, so that they follow each other. The numbers
/// go on through all streams of a session: what is acknowledged names one message.
#[derive(Debug)]
pub(super) struct Chain {
    progress: Arc<Counters>,
    /// Of the session.
    pub(super) term: u64,
    /// The last message of this stream; none before its first.
    at: Option<u64>,
}

/// The place of a message in its [`Chain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    /// The message before it; none before the first of a stream.
    pub(super) applies_to: Option<u64>,
    pub(super) results_in: u64,
}

impl Chain {
    /// Before the first message.
    pub(super) fn is_new(&self) -> bool {
        self.at.is_none()
    }

    /// The number of the last message.
    pub(super) fn sent(&self) -> u64 {
        self.at.unwrap_or_default()
    }

    /// Up to which message of the session the node has applied its assignment.
    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.progress.applied.subscribe()
    }

    /// The place of the next message.
    pub(super) fn next(&mut self) -> Link {
        let results_in = self.progress.sent.fetch_add(1, Ordering::AcqRel) + 1;
        Link { applies_to: self.at.replace(results_in), results_in }
    }
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

    /// Tells the agent what the cluster was at this index, if that is newer than what it knows and differs.
    ///
    /// # Errors
    /// As [`Session::send`].
    pub(super) fn tell(&self, index: u64, facts: pb::ClusterFacts) -> Result<(), Status> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if index < told.index || told.facts.as_ref() == Some(&facts) {
            return Ok(());
        }
        let message = pb::session_message::Message::Facts(facts.clone());
        self.send(pb::SessionMessage { message: Some(message) })?;
        *told = Told { index, facts: Some(facts) };
        Ok(())
    }

    /// Notes that the node has applied its assignment up to this message.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if that was not sent yet.
    pub fn acknowledge(&self, applied: u64) -> Result<(), Status> {
        let sent = self.progress.sent.load(Ordering::Acquire);
        if applied > sent {
            let why = format!("applied: is {applied}, and the last message sent is {sent}");
            return Err(Status::invalid_argument(why));
        }
        raise(&self.progress.applied, applied);
        Ok(())
    }

    /// How far the node is with its assignment.
    #[must_use]
    pub fn progress(&self) -> AssignmentProgress {
        // In this order, so that nothing unsent seems applied.
        let applied = *self.progress.applied.borrow();
        AssignmentProgress { applied, sent: self.progress.sent.load(Ordering::Acquire) }
    }
}

/// All sessions, at most one for each node. Their times are [`clock::steady`](crate::clock::steady)'s.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<BTreeMap<NodeId, Entry>>);

#[derive(Debug)]
struct Entry {
    session: Session,
    heard: Timestamp,
    /// Ends the session's stream of assignments.
    assignments: CancellationToken,
    reports: Arc<Reports>,
}

/// What a node uses of what all share: what it writes into the log, what waits for it. It outlives a
/// session, so that nobody gets more by opening another one.
#[derive(Debug)]
struct Reports {
    waiting: Semaphore,
    /// What may be on its way to it, counted in streams.
    streams: Arc<Semaphore>,
    /// Whose turn it is.
    turn: tokio::sync::Mutex<Pace>,
}

impl Default for Reports {
    fn default() -> Self {
        let waiting = Semaphore::new(REPORTS_WAITING_MAX);
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        Self { waiting, streams, turn: tokio::sync::Mutex::default() }
    }
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
        term: u64,
        now: Timestamp,
        first: pb::SessionMessage,
    ) -> (Session, mpsc::Receiver<pb::SessionMessage>) {
        let (outbox, messages) = mpsc::channel(OUTBOX);
        // It is empty: there is room.
        let _ = outbox.try_send(first);
        let (ended, progress, told) = (CancellationToken::new(), Arc::default(), Arc::default());
        let session = Session { node, id, term, ended, outbox, progress, told };
        let assignments = session.ended.child_token();
        let mut sessions = self.lock();
        let reports = sessions.get(&node).map(|old| Arc::clone(&old.reports)).unwrap_or_default();
        let entry = Entry { session: session.clone(), heard: now, assignments, reports };
        if let Some(old) = sessions.insert(node, entry) {
            old.session.ended.cancel();
        }
        drop(sessions);
        (session, messages)
    }

    /// Waits until a report of so many bytes by this node may be written down, while the node's others
    /// wait.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if too many of them do already; `ABORTED` if the session ends meanwhile.
    pub async fn may_report(&self, session: &Session, bytes: usize) -> Result<(), Status> {
        let ended = || Status::aborted("the session has ended: open another one");
        let reports = self.lock().get(&session.node).map(|entry| Arc::clone(&entry.reports));
        let reports = reports.ok_or_else(ended)?;
        let _waits = reports.waiting.try_acquire().map_err(|error| match error {
            TryAcquireError::NoPermits => Status::resource_exhausted(format!(
                "{REPORTS_WAITING_MAX} reports of node {} wait already",
                session.node
            )),
            TryAcquireError::Closed => ended(),
        })?;
        let turn = async {
            let mut pace = reports.turn.lock().await;
            tokio::time::sleep(pace.take(bytes, clock::steady())).await;
        };
        tokio::select! {
            () = turn => Ok(()),
            () = session.ended.cancelled() => Err(ended()),
        }
    }

    /// Room for one more stream of assignments, until it is dropped: an ended one, too, has messages on
    /// their way until the agent takes them.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if there is none; `ABORTED` if the session has ended.
    pub(super) fn room_for_stream(
        &self,
        session: &Session,
    ) -> Result<OwnedSemaphorePermit, Status> {
        let streams = self.lock().get(&session.node).map(|e| Arc::clone(&e.reports.streams));
        let streams =
            streams.ok_or_else(|| Status::aborted("the session has ended: open another one"))?;
        streams.try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "node {} has {STREAMS_MAX} streams of assignments that it does not read: close them",
                session.node
            ))
        })
    }

    /// Begins the session's stream of assignments and ends the one before: a session has one.
    /// Cancelled when the new one is to end.
    #[must_use]
    pub(super) fn begin_assignments(&self, session: &Session) -> (CancellationToken, Chain) {
        let progress = Arc::clone(&session.progress);
        (self.only_stream(session), Chain { progress, term: session.term, at: None })
    }

    fn only_stream(&self, session: &Session) -> CancellationToken {
        let begun = session.ended.child_token();
        match self.lock().get_mut(&session.node).filter(|entry| entry.session.id == session.id) {
            Some(entry) => std::mem::replace(&mut entry.assignments, begun.clone()).cancel(),
            None => begun.cancel(),
        }
        begun
    }

    /// Ends the sessions of nodes that are members no more.
    pub fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        self.lock().retain(|node, entry| {
            let stays = is_member(*node);
            if !stays {
                entry.session.ended.cancel();
            }
            stays
        });
    }

    /// The session of this id, if it is the node's present one and was opened in this term.
    ///
    /// # Errors
    /// `NOT_FOUND` otherwise.
    pub fn get(&self, node: NodeId, id: SessionId, term: u64) -> Result<Session, Status> {
        let sessions = self.lock();
        let entry = sessions.get(&node).filter(|entry| entry.session.id == id);
        let gone = || Status::not_found(format!("session {id} has ended: open another one"));
        let session = entry.map(|entry| entry.session.clone()).ok_or_else(gone)?;
        if session.term != term {
            return Err(Status::not_found(format!(
                "session {id} is of term {}, and this manager leads in term {term}: open another one",
                session.term
            )));
        }
        Ok(session)
    }

    /// The present session of a node.
    #[must_use]
    pub fn of_node(&self, node: NodeId) -> Option<Session> {
        self.lock().get(&node).map(|entry| entry.session.clone())
    }

    /// The present sessions of all nodes.
    #[must_use]
    pub fn all(&self) -> Vec<Session> {
        self.lock().values().map(|entry| entry.session.clone()).collect()
    }

    /// Notes that a session is alive.
    pub fn hear(&self, session: &Session, now: Timestamp) {
        if let Some(entry) = self.lock().get_mut(&session.node)
            && entry.session.id == session.id
        {
            entry.heard = now;
        }
    }

    /// When a node was last heard of.
    #[must_use]
    pub fn heard_of(&self, node: NodeId) -> Option<Timestamp> {
        self.lock().get(&node).map(|entry| entry.heard)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(sessions: &Sessions, node: u128, id: u128) -> Session {
        let first = pb::SessionMessage::default();
        sessions.open(NodeId::from(node), SessionId::from(id), 7, Timestamp::ZERO, first).0
    }

    #[test]
    fn a_session_has_one_stream_of_assignments() {
        let sessions = Sessions::default();
        let session = opened(&sessions, 1, 1);
        let (first, _) = sessions.begin_assignments(&session);
        assert!(!first.is_cancelled());
        let (second, _) = sessions.begin_assignments(&session);
        assert!(first.is_cancelled(), "a new one ends the old");
        assert!(!second.is_cancelled());
        let next = opened(&sessions, 1, 2);
        assert!(second.is_cancelled(), "and so does a new session");
        assert!(sessions.begin_assignments(&session).0.is_cancelled(), "an old session has none");
        assert!(!sessions.begin_assignments(&next).0.is_cancelled());
    }

    #[test]
    fn sessions_of_removed_nodes_end() {
        let sessions = Sessions::default();
        let (stays, goes) = (opened(&sessions, 1, 1), opened(&sessions, 2, 2));
        let (streamed, _) = sessions.begin_assignments(&goes);
        sessions.retain(|node| node == stays.node);
        assert!(goes.ended.is_cancelled() && streamed.is_cancelled());
        assert!(!stays.ended.is_cancelled());
        assert!(sessions.of_node(goes.node).is_none());
        assert_eq!(sessions.heard_of(stays.node), Some(Timestamp::ZERO));
    }

    #[test]
    fn a_session_is_of_the_term_in_which_it_was_opened() {
        let sessions = Sessions::default();
        let session = opened(&sessions, 1, 1);
        assert!(sessions.get(session.node, session.id, 7).is_ok());
        for term in [6, 8] {
            let refused = sessions.get(session.node, session.id, term).expect_err("another term");
            assert_eq!(refused.code(), tonic::Code::NotFound);
            let expected = format!("is of term 7, and this manager leads in term {term}");
            assert!(refused.message().contains(&expected), "{}", refused.message());
        }
    }

    #[test]
    fn what_is_applied_is_remembered_through_all_streams_of_a_session() {
        let sessions = Sessions::default();
        let session = opened(&sessions, 1, 1);
        let (_, mut first) = sessions.begin_assignments(&session);
        assert!(first.is_new());
        assert_eq!(first.next(), Link { applies_to: None, results_in: 1 });
        assert_eq!(first.next(), Link { applies_to: Some(1), results_in: 2 });
        session.acknowledge(1).expect("sent");
        assert_eq!(session.progress(), AssignmentProgress { sent: 2, applied: 1 });
        let refused = session.acknowledge(3).expect_err("not sent yet");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);

        let (_, mut second) = sessions.begin_assignments(&session);
        assert_eq!(second.next(), Link { applies_to: None, results_in: 3 });
        session.acknowledge(3).expect("sent");
        session.acknowledge(2).expect("one that was overtaken");
        let known = sessions.of_node(session.node).expect("there").progress();
        assert_eq!(known, AssignmentProgress { sent: 3, applied: 3 });
        assert_eq!(
            opened(&sessions, 1, 2).progress(),
            AssignmentProgress::default(),
            "begins anew"
        );
    }
}
