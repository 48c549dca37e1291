//! The task that holds on to one supervisor and turns what it hears into answers and exits.
//!
//! That nothing is heard any more is one thing, that the supervisor is gone another: only its process
//! tells that, by a descriptor of it. While it lives the connection is made again and again, requests are
//! answered with what is wrong, and the container goes on.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use shoal_agent_container::ProcessIdentity;
use shoal_agent_container::supervise::exit;
use shoal_agent_container::supervise::protocol::{Failure, Message, Op, Request};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::connection::{self, Connection, PATIENCE, Unheard};
use super::link::{ANSWER_PATIENCE, Reply, SILENT, supervisor_error};
use super::unaided::{self, aftermath, unknown_end};
use super::{ContainerId, Inner, RuntimeError};
use crate::io::Readable;
use crate::{Exit, ExitStatus};

/// How long after the end of a connection its supervisor is waited for before it is taken to live.
const GRACE: Duration = Duration::from_secs(1);
/// Pauses between attempts at a supervisor that does not answer: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Between two looks at a process of which there is no descriptor.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Between two questions to a supervisor, so that one that hangs is noticed although nobody wants
/// anything of it.
const ASK_PAUSE: Duration = Duration::from_secs(15);
/// How long a supervisor may take to record the end of a container of which no process is left.
const RECORD_PATIENCE: Duration = Duration::from_secs(30);

/// A supervisor's process.
pub(super) enum Process {
    /// A child of this agent.
    Ours(Child),
    /// That of an earlier one: readable when it has ended.
    Adopted(Readable),
    /// The same, where there is no descriptor to be had: looked after now and then.
    Unwatched(ProcessIdentity),
    /// Already ended.
    Gone,
}

impl Process {
    /// Of one that an earlier agent has started.
    pub(super) fn adopt(supervisor: ProcessIdentity) -> Self {
        match supervisor.watch().and_then(|fd: Option<OwnedFd>| fd.map(Readable::new).transpose()) {
            Ok(Some(fd)) => Self::Adopted(fd),
            Ok(None) => Self::Gone,
            Err(_) => Self::Unwatched(supervisor),
        }
    }

    /// Waits for its end; how that was. May be cancelled.
    async fn ended(&mut self) -> String {
        match self {
            Self::Ours(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(e) => e.to_string(),
            },
            Self::Adopted(fd) => {
                // Fails only with the async runtime, which ends then.
                let _ = fd.ready().await;
                "it was not this agent's child".to_owned()
            }
            Self::Unwatched(process) => {
                while process.exists() {
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                "it was not this agent's child".to_owned()
            }
            Self::Gone => "while nobody looked".to_owned(),
        }
    }
}

/// How a supervisor is talked to.
pub(super) enum Voice {
    Talking(Connection),
    /// Not at all, for now or (`for_good`) as long as it lives.
    Mute {
        why: String,
        for_good: bool,
    },
}

impl Voice {
    pub(super) fn mute(unheard: &Unheard) -> Self {
        let for_good = matches!(unheard, Unheard::Newer { .. });
        Self::Mute { why: unheard.why(), for_good }
    }
}

pub(super) struct Keeper {
    inner: Arc<Inner>,
    id: ContainerId,
    process: Process,
    /// Whether the container ran, so that an exit is owed.
    started: bool,
    /// Whether it has been paid.
    reported: bool,
    seq: u32,
    /// What it was asked: since when, and who wants to know.
    waiting: BTreeMap<u32, (Op, Instant, Option<Reply>)>,
    /// Since when no process of the container is left.
    empty_since: Option<Instant>,
}

type Requests = mpsc::Receiver<(Op, Reply)>;

impl Keeper {
    pub(super) fn new(
        inner: &Arc<Inner>,
        id: &ContainerId,
        process: Process,
        started: bool,
    ) -> Self {
        Self {
            inner: Arc::clone(inner),
            id: id.clone(),
            process,
            started,
            reported: false,
            seq: 1,
            waiting: BTreeMap::new(),
            empty_since: None,
        }
    }

    /// Goes on until the supervisor's process has ended.
    pub(super) async fn run(mut self, mut voice: Voice, mut requests: Requests) {
        let how = loop {
            voice = match voice {
                Voice::Talking(connection) => {
                    self.inner.note_unheard(&self.id, None);
                    let why = self.talk(connection, &mut requests).await;
                    self.give_up_waiting(&why);
                    match timeout(GRACE, self.process.ended()).await {
                        Ok(how) => break how,
                        Err(_) => Voice::Mute { why, for_good: false },
                    }
                }
                Voice::Mute { why, for_good } => {
                    self.inner.note_unheard(&self.id, Some(&why));
                    match self.endure(why, for_good, &mut requests).await {
                        Ok(connection) => Voice::Talking(connection),
                        Err(how) => break how,
                    }
                }
            };
        };
        drop(requests);
        self.inner.note_unheard(&self.id, None);
        self.epilogue(&how).await;
    }

    /// Talks until nothing more is heard; why that is. Whoever holds the connection and says nothing on
    /// it is not heard either.
    async fn talk(&mut self, mut connection: Connection, requests: &mut Requests) -> String {
        let mut ask_at = Instant::now() + ASK_PAUSE;
        loop {
            let late = self.late_at();
            let asked = tokio::select! {
                message = connection.next() => match message {
                    Ok(message) => {
                        self.hear(message);
                        continue;
                    }
                    Err(lost) => return lost.to_string(),
                },
                Some((op, reply)) = requests.recv() => {
                    // Who has given up wants nothing any more, and may have got it in another way.
                    reply.is_closed() || self.ask(&mut connection, op, Some(reply)).await
                }
                () = tokio::time::sleep_until(ask_at), if self.started && !self.reported => {
                    ask_at = Instant::now() + ASK_PAUSE;
                    self.ask(&mut connection, Op::Status, None).await
                }
                () = tokio::time::sleep_until(late.unwrap_or(ask_at)), if late.is_some() => false,
            };
            if !asked {
                return SILENT.to_owned();
            }
        }
    }

    /// When an answer is overdue. A start takes as long as it takes, and may keep others waiting.
    fn late_at(&self) -> Option<Instant> {
        let is_starting = self.waiting.values().any(|(op, ..)| *op == Op::Start);
        let asked = self.waiting.values().filter(|_| !is_starting && !self.reported);
        asked.map(|(_, since, _)| *since + ANSWER_PATIENCE).min()
    }

    /// Lives with a supervisor that is not heard: until it is again, or has ended.
    async fn endure(
        &mut self,
        mut why: String,
        mut for_good: bool,
        requests: &mut Requests,
    ) -> Result<Connection, String> {
        let mut pause = PAUSE_MIN;
        loop {
            let again = Instant::now() + pause;
            pause = (pause * 2).min(PAUSE_MAX);
            loop {
                tokio::select! {
                    how = self.process.ended() => return Err(how),
                    Some((_, reply)) = requests.recv() => {
                        let _ = reply.send(Err(supervisor_error(&self.id, &why)));
                    }
                    () = tokio::time::sleep_until(again) => break,
                }
            }
            self.look().await;
            if for_good {
                continue;
            }
            match connection::connect(&self.inner, &self.id, PATIENCE).await {
                Ok((connection, status)) => {
                    self.started |= status.init.is_some();
                    return Ok(connection);
                }
                Err(unheard) => {
                    for_good = matches!(unheard, Unheard::Newer { .. });
                    why = unheard.why();
                    self.inner.note_unheard(&self.id, Some(&why));
                }
            }
        }
    }

    /// Looks after a container whose supervisor does not say how it is: its end is on disk, or no
    /// process of it is left.
    async fn look(&mut self) {
        if !self.started || self.reported {
            return;
        }
        let (inner, id) = (Arc::clone(&self.inner), self.id.clone());
        let looked = tokio::task::spawn_blocking(move || -> std::io::Result<_> {
            Ok((exit::read(&inner.state_dir(&id))?, unaided::is_empty(&inner, &id)?))
        });
        match looked.await {
            Ok(Ok((Some(status), _))) => self.report(status),
            Ok(Ok((None, true))) => {
                let since = *self.empty_since.get_or_insert_with(Instant::now);
                if since.elapsed() > RECORD_PATIENCE {
                    let message = "no process of it is left, and its supervisor does not say why";
                    self.report(unknown_end(message.to_owned()));
                }
            }
            Ok(Ok((None, false)) | Err(_)) | Err(_) => self.empty_since = None,
        }
    }

    /// Whether it took the question in time.
    async fn ask(&mut self, connection: &mut Connection, op: Op, reply: Option<Reply>) -> bool {
        self.seq = self.seq.wrapping_add(1);
        let request = Request { seq: self.seq, op: op.clone(), hello: None };
        self.waiting.insert(self.seq, (op, Instant::now(), reply));
        if self.reported {
            // It is ending by itself, which answers whatever is asked.
            return true;
        }
        // A failure shows as the end of the connection.
        timeout(ANSWER_PATIENCE, connection.write(&request)).await.is_ok()
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Reply { seq, result } => {
                let Some((op, _, reply)) = self.waiting.remove(&seq) else { return };
                self.started |= op == Op::Start && result.is_ok();
                if let Some(reply) = reply {
                    let _ = reply.send(result.map_err(|f: Failure| f.into_error(&self.id)));
                }
            }
            Message::Exited(status) => self.report(status),
            Message::Hello(_) | Message::Prepared | Message::NotPrepared(_) => {}
        }
    }

    fn report(&mut self, status: ExitStatus) {
        if self.started && !self.reported {
            self.reported = true;
            let _ = self.inner.exits.send(Exit { id: self.id.clone(), status });
        }
    }

    /// Whoever waits for an answer will have none on this connection.
    fn give_up_waiting(&mut self, why: &str) {
        let waiting = std::mem::take(&mut self.waiting).into_values();
        for reply in waiting.filter_map(|(.., reply)| reply) {
            let _ = reply.send(Err(match self.reported {
                true => RuntimeError::NotRunning { id: self.id.clone() },
                false => supervisor_error(&self.id, why),
            }));
        }
    }

    /// The supervisor is gone.
    async fn epilogue(mut self, how: &str) {
        if self.started && !self.reported {
            let (inner, id, how) = (Arc::clone(&self.inner), self.id.clone(), how.to_owned());
            let found = tokio::task::spawn_blocking(move || aftermath(&inner, &id, &how)).await;
            if let Ok(status) = found {
                self.report(status);
            }
        }
    }
}
