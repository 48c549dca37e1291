//! The agent's end of a supervisor: who it is, and how it is asked.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use shoal_agent_container::ProcessIdentity;
use shoal_agent_container::supervise::protocol::{Message, Op, Status};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::{Connection, Lost};
use super::keeper::{Keeper, Process, Voice};
use super::unaided::clear_cgroup;
use super::{ContainerId, Inner, RuntimeError};

/// How long a supervisor may take to prepare.
const PREPARE_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to answer. Starting is bounded by nothing here: whoever asked for it gives it up
/// and removes the container instead.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(15);
/// What is said of one that does not.
pub(super) const SILENT: &str = "it does not answer";
/// How long a killed supervisor may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Requests under way at most.
const QUEUE: usize = 64;

pub(super) type Reply = oneshot::Sender<Result<Status, RuntimeError>>;

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

    /// Asks the supervisor. [`RuntimeError::Supervisor`] says that it lives and does not help.
    pub(super) async fn ask(&self, op: Op) -> Result<Status, RuntimeError> {
        self.ask_within(ANSWER_PATIENCE, op).await
    }

    /// As [`Link::ask`], for as long at most: with the wait for one's turn. Whoever starts waits only
    /// for that.
    pub(super) async fn ask_within(
        &self,
        patience: Duration,
        op: Op,
    ) -> Result<Status, RuntimeError> {
        let until = Instant::now() + patience;
        let (tx, rx) = oneshot::channel();
        let gone = || RuntimeError::NotRunning { id: self.id.clone() };
        let silent = |_| supervisor_error(&self.id, SILENT);
        let is_start = op == Op::Start;
        let sent = timeout_at(until, self.requests.send((op, tx))).await.map_err(silent)?;
        sent.map_err(|_| gone())?;
        let answer = async { rx.await.unwrap_or_else(|_| Err(gone())) };
        if is_start {
            return answer.await;
        }
        timeout_at(until, answer).await.map_err(silent)?
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
    let prepared = match timeout(PREPARE_PATIENCE, first_word(&mut connection)).await {
        Ok(Ok(Message::Prepared)) => Ok(()),
        Ok(Ok(Message::NotPrepared(failure))) => Err(failure.into_error(id)),
        Ok(Ok(_)) => Err(supervisor_error(id, "it said something unexpected")),
        Ok(Err(Lost::End)) => {
            let how = ended(&mut child).await;
            Err(supervisor_error(id, &format!("it ended before it was prepared ({how})")))
        }
        Ok(Err(lost)) => Err(supervisor_error(id, &lost.to_string())),
        Err(_) => Err(supervisor_error(id, "it was not prepared in time")),
    };
    match (prepared, supervisor) {
        (Ok(()), Some(supervisor)) => {
            let voice = Voice::Talking(connection);
            Ok(attach(inner, id, voice, supervisor, Process::Ours(child), false))
        }
        (prepared, _) => {
            // Nothing has been started in it, and whoever wanted it hears why it was not.
            let _ = child.start_kill();
            ended(&mut child).await;
            let (inner, id) = (Arc::clone(inner), id.clone());
            let cgroup = inner.cgroup(&id);
            let _ = tokio::task::spawn_blocking(move || clear_cgroup(&inner, &cgroup)).await;
            Err(prepared.err().unwrap_or_else(|| supervisor_error(&id, "it vanished")))
        }
    }
}

/// What comes after the greeting.
async fn first_word(connection: &mut Connection) -> Result<Message, Lost> {
    loop {
        match connection.next().await? {
            Message::Hello(_) => {}
            other => return Ok(other),
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

/// Holds on to a supervisor until it has ended. `started` says whether the container ran, so that an
/// exit is owed.
pub(super) fn attach(
    inner: &Arc<Inner>,
    id: &ContainerId,
    voice: Voice,
    supervisor: ProcessIdentity,
    process: Process,
    started: bool,
) -> Link {
    let (requests, receiver) = mpsc::channel(QUEUE);
    let (ended_tx, ended) = watch::channel(false);
    let keeper = Keeper::new(inner, id, process, started);
    tokio::spawn(async move {
        keeper.run(voice, receiver).await;
        let _ = ended_tx.send(true);
    });
    Link { id: id.clone(), supervisor, requests, ended }
}

pub(super) fn supervisor_error(id: &ContainerId, reason: &str) -> RuntimeError {
    RuntimeError::Supervisor { id: id.clone(), reason: reason.to_owned() }
}
