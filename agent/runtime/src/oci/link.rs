//! The agent's end of a supervisor: a task that holds the connection and turns what it hears, and
//! what it stops hearing, into answers and exits.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::sockopt::socket_peercred;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::{ContainerId, Inner, RuntimeError, short_path};
use crate::{Exit, ExitStatus};
use shoal_agent_container::cgroup::Cgroup;
use shoal_agent_container::supervise::exit;
use shoal_agent_container::supervise::log::now_nanos;
use shoal_agent_container::supervise::protocol::{Failure, LINE_MAX, Message, Op, Request, Status};
use shoal_agent_container::supervise::setup::{CONTROL_SOCKET, ProcessIdentity};

/// How long a supervisor may take to prepare or answer. Starting is bounded by nothing here: whoever
/// asked for it gives it up and removes the container instead.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a killed supervisor may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Requests under way at most.
const QUEUE: usize = 64;

type Reply = oneshot::Sender<Result<Status, RuntimeError>>;

/// A supervisor that is there, or was.
#[derive(Debug, Clone)]
pub(super) struct Link {
    id: ContainerId,
    supervisor: ProcessIdentity,
    requests: mpsc::Sender<(Op, Reply)>,
    /// Whether the supervisor has ended (and, if it was our child, been waited for).
    ended: watch::Receiver<bool>,
}

impl Link {
    pub(super) fn supervisor(&self) -> ProcessIdentity {
        self.supervisor
    }

    pub(super) async fn ask(&self, op: Op) -> Result<Status, RuntimeError> {
        let (tx, rx) = oneshot::channel();
        let gone = || RuntimeError::NotRunning { id: self.id.clone() };
        self.requests.send((op, tx)).await.map_err(|_| gone())?;
        let answer = async { rx.await.unwrap_or_else(|_| Err(gone())) };
        if op == Op::Start {
            return answer.await;
        }
        let silent = |_| Err(supervisor_error(&self.id, "it does not answer"));
        timeout(PATIENCE, answer).await.unwrap_or_else(silent)
    }

    /// Waits for the supervisor's end; `false` when it takes too long.
    pub(super) async fn ended_within(&self, patience: Duration) -> bool {
        let mut ended = self.ended.clone();
        // A dropped sender means the task is over, so the supervisor is.
        timeout(patience, ended.wait_for(|ended| *ended)).await.is_ok()
    }
}

/// Starts a supervisor and waits until its container is prepared.
pub(super) async fn launch(inner: &Arc<Inner>, id: &ContainerId) -> Result<Link, RuntimeError> {
    let run_dir = inner.run_dir(id);
    let io = |action| RuntimeError::io(action, run_dir.clone());
    let (ours, theirs) = StdUnixStream::pair().map_err(io("making a socket for"))?;
    ours.set_nonblocking(true).map_err(io("making a socket for"))?;
    let child = Command::new(format!("/proc/self/fd/{}", inner.program.as_raw_fd()))
        .arg0("shoal-agent")
        .arg("supervise")
        .arg(&run_dir)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(io("starting the supervisor of"))?;
    let stream = UnixStream::from_std(ours).map_err(io("making a socket for"))?;
    let mut connection = Connection::new(stream);
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let supervisor = pid.and_then(ProcessIdentity::of);
    let mut child = child;
    let prepared = match timeout(PATIENCE, connection.next()).await {
        Ok(Some(Message::Prepared)) => Ok(()),
        Ok(Some(Message::NotPrepared(failure))) => Err(failure.into_error(id)),
        Ok(Some(_)) => Err(supervisor_error(id, "it said something unexpected")),
        Ok(None) => {
            let how = ended(&mut child).await;
            Err(supervisor_error(id, &format!("it ended before it was prepared ({how})")))
        }
        Err(_) => Err(supervisor_error(id, "it was not prepared in time")),
    };
    match (prepared, supervisor) {
        (Ok(()), Some(supervisor)) => {
            Ok(attach(inner, id, connection, supervisor, Some(child), false))
        }
        (prepared, _) => {
            let _ = child.start_kill();
            ended(&mut child).await;
            let (inner, id) = (Arc::clone(inner), id.clone());
            let cgroup = inner.cgroup(&id);
            let _ = tokio::task::spawn_blocking(move || clear_cgroup(&inner, &cgroup)).await;
            Err(prepared.err().unwrap_or_else(|| supervisor_error(&id, "it vanished")))
        }
    }
}

/// Waits for a supervisor's end, and says how that was. One that is in the middle of a call to a file
/// system that does not answer cannot be killed before that answers: it is left to end then, since
/// what waits for its end holds up others.
async fn ended(child: &mut Child) -> String {
    match timeout(END_PATIENCE, child.wait()).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it cannot be killed".to_owned(),
    }
}

/// Connects to the supervisor of an earlier agent. `None` when nobody listens.
pub(super) async fn connect(inner: &Arc<Inner>, id: &ContainerId) -> Option<(Link, Status)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, inner.run_dir(id), flags, Mode::empty()).ok()?;
    let stream = UnixStream::connect(short_path(&dir, CONTROL_SOCKET)).await.ok()?;
    if !socket_peercred(&stream).is_ok_and(|c| c.uid.is_root()) {
        return None;
    }
    let mut connection = Connection::new(stream);
    connection.write(&Request { seq: 0, op: Op::Status }).await.ok()?;
    let status = loop {
        match timeout(PATIENCE, connection.next()).await.ok()?? {
            Message::Reply { seq: 0, result } => break result.ok()?,
            Message::Prepared => {}
            Message::Exited(_) | Message::NotPrepared(_) | Message::Reply { .. } => return None,
        }
    };
    let started = status.init.is_some();
    Some((attach(inner, id, connection, status.supervisor, None, started), status))
}

fn attach(
    inner: &Arc<Inner>,
    id: &ContainerId,
    connection: Connection,
    supervisor: ProcessIdentity,
    child: Option<Child>,
    started: bool,
) -> Link {
    let (requests, receiver) = mpsc::channel(QUEUE);
    let (ended_tx, ended) = watch::channel(false);
    let task = Task {
        inner: Arc::clone(inner),
        id: id.clone(),
        connection,
        supervisor,
        child,
        started,
        reported: false,
        seq: 1,
        waiting: BTreeMap::new(),
    };
    tokio::spawn(async move {
        task.run(receiver).await;
        let _ = ended_tx.send(true);
    });
    Link { id: id.clone(), supervisor, requests, ended }
}

fn supervisor_error(id: &ContainerId, reason: &str) -> RuntimeError {
    RuntimeError::Supervisor { id: id.clone(), reason: reason.to_owned() }
}

/// Kills and removes a container's control groups.
pub(super) fn clear_cgroup(inner: &Inner, cgroup: &str) -> Result<u64, String> {
    let text = |e: shoal_agent_container::cgroup::CgroupError| {
        shoal_agent_container::supervise::protocol::chain(&e)
    };
    let Some(group) = Cgroup::open(&inner.layout, cgroup).map_err(text)? else { return Ok(0) };
    group.kill().map_err(text)?;
    let oom_kills = group.oom_kills();
    group.remove().map_err(text)?;
    Ok(oom_kills)
}

/// Lines in and out.
struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// What of a line has come: kept here so that waiting for the rest may be abandoned.
    partial: Vec<u8>,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::with_capacity(1024, reader), writer, partial: Vec::new() }
    }

    /// The next message; `None` at the end, or when what comes makes no sense. May be cancelled.
    async fn next(&mut self) -> Option<Message> {
        let limit = (LINE_MAX - self.partial.len()) as u64 + 1;
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.partial).await;
        if read.ok()? == 0 || self.partial.last() != Some(&b'\n') {
            return None;
        }
        let line = std::mem::take(&mut self.partial);
        serde_json::from_slice(&line).ok()
    }

    async fn write(&mut self, request: &Request) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.writer.write_all(&line).await
    }
}

struct Task {
    inner: Arc<Inner>,
    id: ContainerId,
    connection: Connection,
    supervisor: ProcessIdentity,
    child: Option<Child>,
    /// Whether the container ran, so that an exit is owed.
    started: bool,
    /// Whether it has been paid.
    reported: bool,
    seq: u32,
    waiting: BTreeMap<u32, (Op, Reply)>,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<(Op, Reply)>) {
        loop {
            tokio::select! {
                message = self.connection.next() => match message {
                    Some(message) => self.hear(message),
                    None => break,
                },
                Some((op, reply)) = requests.recv() => self.ask(op, reply).await,
            }
        }
        drop(requests);
        self.epilogue().await;
    }

    async fn ask(&mut self, op: Op, reply: Reply) {
        self.seq = self.seq.wrapping_add(1);
        let request = Request { seq: self.seq, op };
        self.waiting.insert(self.seq, (op, reply));
        if self.reported {
            // It is ending by itself, which answers whatever is asked.
            return;
        }
        // A failure shows as the end of the connection.
        let _ = self.connection.write(&request).await;
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Reply { seq, result } => {
                let Some((op, reply)) = self.waiting.remove(&seq) else { return };
                self.started |= op == Op::Start && result.is_ok();
                let _ = reply.send(result.map_err(|f: Failure| f.into_error(&self.id)));
            }
            Message::Exited(status) => self.report(status),
            Message::Prepared | Message::NotPrepared(_) => {}
        }
    }

    fn report(&mut self, status: ExitStatus) {
        if self.started && !self.reported {
            self.reported = true;
            let _ = self.inner.exits.send(Exit { id: self.id.clone(), status });
        }
    }

    /// The supervisor is gone, or as good as.
    async fn epilogue(mut self) {
        let how = match &mut self.child {
            Some(child) => match timeout(PATIENCE, child.wait()).await {
                Ok(Ok(status)) => status.to_string(),
                _ => "it closed its socket but did not end".to_owned(),
            },
            None => {
                wait_gone(self.supervisor).await;
                "it was not this agent's child".to_owned()
            }
        };
        if self.started && !self.reported {
            let (inner, id) = (Arc::clone(&self.inner), self.id.clone());
            let found = tokio::task::spawn_blocking(move || aftermath(&inner, &id, &how)).await;
            if let Ok(status) = found {
                self.report(status);
            }
        }
        for (_, reply) in std::mem::take(&mut self.waiting).into_values() {
            let _ = reply.send(Err(match self.reported {
                true => RuntimeError::NotRunning { id: self.id.clone() },
                false => supervisor_error(&self.id, "it ended before it answered"),
            }));
        }
    }
}

/// Waits for a process that is not our child.
async fn wait_gone(process: ProcessIdentity) {
    let mut pause = Duration::from_millis(1);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while process.exists() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// What became of a container whose supervisor ended without saying: recorded by it, or else killed
/// now, since a container without supervisor must not live on.
pub(super) fn aftermath(inner: &Inner, id: &ContainerId, how: &str) -> ExitStatus {
    let state_dir = inner.state_dir(id);
    let recorded = exit::read(&state_dir).ok().flatten();
    let cleared = clear_cgroup(inner, &inner.cgroup(id));
    if let Some(status) = recorded {
        return status;
    }
    let mut message = format!("its supervisor died ({how}), so it was killed");
    match &cleared {
        Ok(kills) => {
            if let Some(note) = exit::starved(*kills) {
                message = format!("{message}; {note}");
            }
        }
        Err(e) => message = format!("{message}; {e}"),
    }
    let status = ExitStatus {
        code: None,
        signal: None,
        oom_killed: false,
        at_nanos: now_nanos(),
        message: Some(message),
    };
    // So that the next agent tells the same story.
    let _ = exit::write(&state_dir, &status);
    status
}
