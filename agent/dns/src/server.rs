//! Answering.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use shoal_agent_planning::zone::{Change, Zone};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::answer::{Question, Verdict, read};
use super::forward::{PATIENCE, RESOLVERS_MAX, Resolvers, hear, say};
use super::{Asker, Forwards, Sockets, together};

/// Questions that others are asked at the same time: for one container, and for all.
const UNDER_WAY_EACH: usize = 64;
const UNDER_WAY_ALL: usize = 1024;
/// TCP connections at the same time: of one container, and of all.
const CONNECTIONS_EACH: usize = 16;
const CONNECTIONS_ALL: usize = 256;
/// How long a TCP connection may be silent, or its reader slow.
const TCP_PATIENCE: Duration = Duration::from_secs(10);
/// Between attempts to accept when there is no room for more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest question, in bytes: a longer one takes more than its share of time to be read. Over UDP its rest is
/// lost, and with it the question; over TCP the connection is closed.
const QUESTION_BYTES: usize = 2048;

/// Answers for all containers of a node.
#[derive(Debug, Default)]
pub struct Server {
    shared: Arc<Shared>,
    served: Mutex<BTreeMap<String, Served>>,
}

#[derive(Debug)]
struct Served {
    line: Arc<Line>,
    work: AbortHandle,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.work.abort();
    }
}

#[derive(Debug)]
struct Shared {
    zone: RwLock<Zone>,
    host: RwLock<Vec<SocketAddr>>,
    under_way: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            zone: RwLock::default(),
            host: RwLock::default(),
            under_way: Arc::new(Semaphore::new(UNDER_WAY_ALL)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_ALL)),
        }
    }
}

impl Server {
    /// Takes changes in, all at once.
    pub fn take(&self, changes: impl IntoIterator<Item = Change>) {
        let mut zone = self.shared.zone.write().unwrap_or_else(PoisonError::into_inner);
        changes.into_iter().for_each(|change| zone.take(change));
    }

    /// The host's resolvers from now on.
    pub fn set_resolvers(&self, all: Vec<SocketAddr>) {
        *self.shared.host.write().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// Answers a container through these sockets, in the place of those that it had. Within a runtime.
    ///
    /// # Errors
    /// The sockets cannot be waited for.
    pub fn serve(&self, asker: Asker, sockets: Sockets) -> io::Result<()> {
        let container = asker.container.clone();
        let line = Arc::new(Line {
            shared: Arc::clone(&self.shared),
            asker,
            udp: UdpSocket::from_std(sockets.udp)?,
            tcp: TcpListener::from_std(sockets.tcp)?,
            under_way: Arc::new(Semaphore::new(UNDER_WAY_EACH)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_EACH)),
            resolvers: Resolvers::default(),
            gone: watch::Sender::new(false),
        });
        let work = tokio::spawn(Arc::clone(&line).serve()).abort_handle();
        self.lock().insert(container, Served { line, work });
        Ok(())
    }

    /// Answers a container no more, and closes its sockets a moment later: what it asks from now on is heard by
    /// nobody.
    pub fn let_go(&self, container: &str) {
        if let Some(served) = self.lock().remove(container) {
            served.line.gone.send_replace(true);
        }
    }

    /// Reads no question any more, so that what has come and comes is somebody else's who has the same sockets.
    pub(crate) fn leave_all(&self) {
        self.lock().values().for_each(|served| {
            served.line.gone.send_replace(true);
        });
    }

    /// Waits, within a bound, until what others were asked before is answered.
    pub(crate) async fn finish(&self) {
        let all = u32::try_from(UNDER_WAY_ALL).unwrap_or(u32::MAX);
        let _ = timeout(PATIENCE, self.shared.under_way.acquire_many(all)).await;
    }

    /// Who is answered.
    #[must_use]
    pub fn askers(&self) -> Vec<Asker> {
        self.lock().values().map(|served| served.line.asker.clone()).collect()
    }

    /// All that is known, as what leads there from nothing.
    pub(crate) fn known(&self) -> Vec<Change> {
        let zone = self.shared.zone.read().unwrap_or_else(PoisonError::into_inner);
        Zone::default().difference(&zone)
    }

    /// All that is known from now on.
    pub(crate) fn become_zone(&self, zone: Zone) {
        *self.shared.zone.write().unwrap_or_else(PoisonError::into_inner) = zone;
    }

    /// Copies of everybody's sockets.
    ///
    /// # Errors
    /// There is no room for more descriptors.
    pub(crate) fn lend(&self) -> io::Result<Vec<(Asker, Sockets)>> {
        let copy = |served: &Served| {
            let line = &served.line;
            let udp = line.udp.as_fd().try_clone_to_owned()?.into();
            let tcp = line.tcp.as_fd().try_clone_to_owned()?.into();
            Ok((line.asker.clone(), Sockets { udp, tcp }))
        };
        self.lock().values().map(copy).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One container's.
#[derive(Debug)]
struct Line {
    shared: Arc<Shared>,
    asker: Asker,
    udp: UdpSocket,
    tcp: TcpListener,
    under_way: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// Its own: whom it has made others wait for is not waited for less by the rest.
    resolvers: Resolvers,
    /// It was let go of, or left to another process. Held while a question is read and answered: what was read
    /// is answered, or never read.
    gone: watch::Sender<bool>,
}

/// What was asked over UDP, by whom, and is for others.
struct Passed {
    bytes: Vec<u8>,
    from: SocketAddrV4,
    question: Question,
    limit: usize,
}

impl Line {
    /// Until it is aborted, and with it all that it has begun.
    async fn serve(self: Arc<Self>) {
        let mut work = JoinSet::new();
        work.spawn(Arc::clone(&self).accept());
        loop {
            if self.udp.readable().await.is_err() {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
            let Some(turn) = self.turn() else {
                // Only what others were asked is waited for, until the process ends.
                return while work.join_next().await.is_some() {};
            };
            for passed in turn {
                match self.room() {
                    Some(room) => {
                        work.spawn(Arc::clone(&self).pass(passed, room));
                    }
                    None => self.send(&passed.question.failed(ResponseCode::ServFail), passed.from),
                }
            }
            while work.try_join_next().is_some() {}
            // It is the others' turn.
            tokio::task::yield_now().await;
        }
    }

    /// Answers what has come. Returns what is for others; nothing if it was let go of.
    fn turn(&self) -> Option<Vec<Passed>> {
        let (mut passed, mut answers) = (Vec::new(), Vec::new());
        let gone = self.gone.borrow();
        if *gone {
            return None;
        }
        let read = |bytes: &[u8], from: SocketAddrV4| match self.judge(bytes, false) {
            Verdict::Silence => {}
            Verdict::Answer(answer) => answers.push((answer, from)),
            Verdict::Forward(question, limit) => {
                let bytes = bytes.to_vec();
                passed.push(Passed { bytes, from, question, limit });
            }
        };
        let receive = || together::receive(self.udp.as_fd(), QUESTION_BYTES, read);
        // That there is none is remembered. Another error is of somebody who was answered and has gone.
        let _ = self.udp.try_io(Interest::READABLE, receive);
        together::send(self.udp.as_fd(), &answers);
        Some(passed)
    }

    fn judge(&self, bytes: &[u8], tcp: bool) -> Verdict {
        let (question, limit) = match read(bytes, tcp) {
            Ok(question) => question,
            Err(verdict) => return verdict,
        };
        let zone = self.shared.zone.read().unwrap_or_else(PoisonError::into_inner);
        question.look_up(&zone, &self.asker, limit)
    }

    /// Whoever does not read its answers loses them, and asks again.
    fn send(&self, answer: &[u8], to: SocketAddrV4) {
        let _ = self.udp.try_send_to(answer, to.into());
    }

    /// Room for one more question to others, as long as it is held.
    fn room(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let own = Arc::clone(&self.under_way).try_acquire_owned().ok()?;
        Some((own, Arc::clone(&self.shared.under_way).try_acquire_owned().ok()?))
    }

    async fn pass(
        self: Arc<Self>,
        passed: Passed,
        _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) {
        let Passed { bytes, from, question, limit } = passed;
        let answer = self.ask_others(&bytes, &question, false).await;
        let answer = if answer.len() > limit { question.too_long() } else { answer };
        self.send(&answer, from);
    }

    /// What others answer, or that nobody does.
    async fn ask_others(&self, bytes: &[u8], question: &Question, tcp: bool) -> Vec<u8> {
        let resolvers: Vec<SocketAddr> = match &self.asker.forwards {
            Forwards::Nobody => Vec::new(),
            Forwards::To(resolvers) => resolvers.clone(),
            Forwards::Host => {
                let host = self.shared.host.read().unwrap_or_else(PoisonError::into_inner);
                host.iter().take(RESOLVERS_MAX).copied().collect()
            }
        };
        let answer = self.resolvers.ask(&resolvers, bytes, question, tcp).await;
        answer.unwrap_or_else(|| question.failed(ResponseCode::ServFail))
    }

    async fn accept(self: Arc<Self>) {
        let mut connections = JoinSet::new();
        let mut gone = self.gone.subscribe();
        loop {
            // Who comes when there is no room waits in the kernel's queue. Own room first: none of all
            // is held by who cannot use it.
            let own = Arc::clone(&self.connections).acquire_owned().await;
            let accepted = tokio::select! {
                biased;
                _ = gone.wait_for(|gone| *gone) => break,
                accepted = self.tcp.accept() => accepted,
            };
            let all = Arc::clone(&self.shared.connections).try_acquire_owned();
            match (accepted, own, all) {
                (Ok((stream, _)), Ok(own), Ok(all)) => {
                    connections.spawn(Arc::clone(&self).converse(stream, (own, all)));
                }
                // Closed: there is no room in all.
                (Ok(_), _, _) => {}
                (Err(_), _, _) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
            while connections.try_join_next().is_some() {}
        }
        while connections.join_next().await.is_some() {}
    }

    /// Answers one question after the other, until it was let go of.
    async fn converse(
        self: Arc<Self>,
        mut stream: TcpStream,
        _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) {
        while let Ok(Ok(bytes)) = timeout(TCP_PATIENCE, hear(&mut stream, QUESTION_BYTES)).await {
            let answer = match self.judge(&bytes, true) {
                Verdict::Silence => return,
                Verdict::Answer(answer) => answer,
                Verdict::Forward(question, _) => match self.room() {
                    Some(_room) => self.ask_others(&bytes, &question, true).await,
                    None => question.failed(ResponseCode::ServFail),
                },
            };
            let said = timeout(TCP_PATIENCE, say(&mut stream, &answer)).await;
            if !matches!(said, Ok(Ok(()))) || *self.gone.borrow() {
                return;
            }
        }
    }
}
