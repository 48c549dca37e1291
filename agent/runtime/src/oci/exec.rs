//! Further processes in a container: the agent's side. The work is done by `shoal-agent join`.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::{ContainerId, ExecSession, ExecSpec, Inner, RuntimeError, unaided};
use crate::io::{Readable, Writable};
use crate::{ExitStatus, Stream, TermSize};
use shoal_agent_container::supervise::join::{JoinRequest, Joined};
use shoal_agent_container::supervise::protocol::{Op, Status};

/// How long it may take until the process runs. Its program is looked up and mapped within that, which
/// a file system that does not answer may never allow.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a supervisor may take to say who the container's first process is, which can be found out
/// without it: less than most health checks have, which fail otherwise because of a supervisor.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);
/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// Chunks on their way.
const QUEUE: usize = 16;
/// How long, once the process has ended, there may be no output until that is taken for all of it:
/// others may hold its streams open for ever.
const QUIET: Duration = Duration::from_millis(100);
/// How long output is waited for after that end altogether.
const DRAIN: Duration = Duration::from_secs(1);
/// Bytes that are read after that end at most. What the process itself has written last is among the
/// first of them: no pipe and no terminal holds as much.
const DRAIN_BYTES: usize = 1 << 20;

pub(super) async fn exec(
    inner: Arc<Inner>,
    id: ContainerId,
    spec: ExecSpec,
) -> Result<ExecSession, RuntimeError> {
    // Says which of "unknown" and "not running" it is.
    let link = inner.link(&id)?;
    let failed = |e: std::io::Error| RuntimeError::Failed {
        id: id.clone(),
        stage: "starting a process in the container".to_owned(),
        reason: e.to_string(),
    };
    let status = match link.ask_within(STATUS_PATIENCE, Op::Status).await {
        // It lives and does not answer: who joins needs to know who is there, and nothing else.
        Err(RuntimeError::Supervisor { .. }) => {
            let (inner, id) = (Arc::clone(&inner), id.clone());
            let found = tokio::task::spawn_blocking(move || unaided::first_process(&inner, &id));
            let found = found.await.map_err(|e| failed(std::io::Error::other(e)))?;
            let init = found.map_err(failed)?;
            Status { supervisor: link.supervisor(), init }
        }
        other => other?,
    };
    let init = status.init.ok_or_else(|| RuntimeError::NotRunning { id: id.clone() })?;
    let (ours, theirs) = StdUnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let child = Command::new(format!("/proc/self/fd/{}", inner.program.as_raw_fd()))
        .arg0("shoal-agent")
        .arg("join")
        .arg(inner.run_dir(&id))
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Not to be killed before it has ended what it started, which it does when its socket closes.
        .kill_on_drop(false)
        .spawn()
        .map_err(failed)?;
    let tty = spec.tty;
    let (streams, given) = match tty {
        Some(_) => (None, Vec::new()),
        None => pipes(spec.stdin).map(|(own, given)| (Some(own), given)).map_err(failed)?,
    };
    let request = JoinRequest {
        argv: spec.argv,
        env: spec.env,
        user: spec.user,
        cwd: spec.cwd,
        tty,
        sweep: spec.sweep,
        init,
        supervisor: status.supervisor,
    };
    let mut helper =
        Helper { id: id.clone(), socket: UnixStream::from_std(ours).map_err(failed)?, child };
    let began = async {
        helper.ask(&request, &given).await?;
        drop(given);
        helper.hear().await
    };
    let slow = |_| Err(std::io::Error::other(format!("it takes longer than {PATIENCE:?}")));
    let (joined, terminal) = timeout(PATIENCE, began).await.unwrap_or_else(slow).map_err(failed)?;
    let pid = match joined {
        Joined::Started { pid } => pid,
        Joined::Failed(failure) => return Err(failure.into_error(&id)),
        Joined::Ended(_) => return Err(failed(std::io::ErrorKind::InvalidData.into())),
    };
    let streams = match (streams, terminal) {
        (Some(streams), _) => streams,
        (None, Some(terminal)) => Streams::terminal(terminal).map_err(failed)?,
        (None, None) => return Err(failed(std::io::ErrorKind::InvalidData.into())),
    };
    Ok(session(pid, helper, streams))
}

/// The `join` process.
struct Helper {
    id: ContainerId,
    socket: UnixStream,
    child: Child,
}

impl Helper {
    /// Sends the request, and descriptors for the new process's standard streams with it.
    async fn ask(&self, request: &JoinRequest, fds: &[OwnedFd]) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let mut rest = &line[..];
        let mut first = true;
        while !rest.is_empty() {
            let sent = self.socket.async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                if first && !borrowed.is_empty() {
                    ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
                }
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                Ok(sendmsg(&self.socket, &[IoSlice::new(rest)], &mut ancillary, flags)?)
            });
            rest = &rest[sent.await?..];
            first = false;
        }
        Ok(())
    }

    /// The next thing it says, with a terminal if one came with it. Each is one small write on its
    /// side, and it waits for nothing in between, so several may arrive at once: read byte by byte.
    async fn hear(&mut self) -> std::io::Result<(Joined, Option<OwnedFd>)> {
        let mut line = Vec::new();
        let mut terminal = None;
        while line.last() != Some(&b'\n') {
            let mut byte = [0u8; 1];
            let (n, fd) = self
                .socket
                .async_io(Interest::READABLE, || receive(&self.socket, &mut byte))
                .await?;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            terminal = terminal.or(fd);
            line.push(byte[0]);
            if line.len() > 16 * 1024 {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
        }
        Ok((serde_json::from_slice(&line)?, terminal))
    }

    async fn end(mut self) -> Result<ExitStatus, RuntimeError> {
        let heard = self.hear().await;
        let how = self.child.wait().await;
        match heard {
            Ok((Joined::Ended(status), _)) => Ok(status),
            Ok((Joined::Failed(failure), _)) => Err(failure.into_error(&self.id)),
            Ok((Joined::Started { .. }, _)) | Err(_) => Err(RuntimeError::Failed {
                id: self.id.clone(),
                stage: "waiting for a process in the container".to_owned(),
                reason: format!("its helper ended without a word ({how:?})"),
            }),
        }
    }
}

fn receive(socket: &UnixStream, into: &mut [u8]) -> std::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = recvmsg(socket, &mut [IoSliceMut::new(into)], &mut ancillary, flags)?;
    let mut found = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            found = found.or_else(|| fds.next());
        }
    }
    Ok((got.bytes, found))
}

/// The agent's ends.
struct Streams {
    stdin: Option<Writable>,
    outputs: Vec<(Stream, Readable)>,
    terminal: Option<OwnedFd>,
}

/// Own ends, and those of the process: stdin, stdout, stderr.
fn pipes(stdin: bool) -> std::io::Result<(Streams, Vec<OwnedFd>)> {
    let (in_read, in_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Without stdin the write end closes here, which the process reads as end of file.
    let stdin = stdin.then(|| Writable::new(in_write)).transpose()?;
    let outputs = vec![
        (Stream::Stdout, Readable::new(out_read)?),
        (Stream::Stderr, Readable::new(err_read)?),
    ];
    Ok((Streams { stdin, outputs, terminal: None }, vec![in_read, out_write, err_write]))
}

impl Streams {
    fn terminal(master: OwnedFd) -> std::io::Result<Self> {
        let dup = || rustix::io::fcntl_dupfd_cloexec(&master, 3).map_err(std::io::Error::from);
        let (stdin, output) = (Writable::new(dup()?)?, Readable::new(dup()?)?);
        let outputs = vec![(Stream::Stdout, output)];
        Ok(Self { stdin: Some(stdin), outputs, terminal: Some(master) })
    }
}

fn session(pid: i32, helper: Helper, streams: Streams) -> ExecSession {
    let (stdin, stdin_rx) = mpsc::channel(QUEUE);
    let (output_tx, output) = mpsc::channel(QUEUE);
    let (resize, mut resize_rx) = mpsc::channel::<TermSize>(QUEUE);
    let (done_tx, done) = oneshot::channel();
    let (ended_tx, ended) = watch::channel(false);
    if let Some(fd) = streams.stdin {
        tokio::spawn(write_all(fd, stdin_rx));
    }
    for (stream, fd) in streams.outputs {
        tokio::spawn(read_all(stream, fd, output_tx.clone(), ended.clone()));
    }
    tokio::spawn(async move {
        while let Some(size) = resize_rx.recv().await {
            if let Some(terminal) = &streams.terminal {
                let (ws_row, ws_col) = (size.rows, size.cols);
                let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
                let _ = tcsetwinsize(terminal, size);
            }
        }
    });
    // Dropping the session drops `done`, and with it the helper, which takes the process along.
    tokio::spawn(async move {
        let mut done_tx = done_tx;
        tokio::select! {
            () = done_tx.closed() => {}
            result = helper.end() => {
                let _ = ended_tx.send(true);
                let _ = done_tx.send(result);
            }
        }
    });
    let lost = move |_| {
        let reason = "the session was dropped".to_owned();
        Err(RuntimeError::Unsupported { field: "exec".to_owned(), reason })
    };
    let wait = done.map(move |r| r.unwrap_or_else(lost)).boxed();
    ExecSession { pid, stdin, output, resize, wait }
}

async fn write_all(fd: Writable, mut from: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = from.recv().await {
        if fd.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn read_all(
    stream: Stream,
    fd: Readable,
    to: mpsc::Sender<(Stream, Bytes)>,
    mut ended: watch::Receiver<bool>,
) {
    let mut chunk = vec![0u8; CHUNK];
    let (mut left, mut waited) = (DRAIN_BYTES, Duration::ZERO);
    while left > 0 && waited < DRAIN {
        let begin = Instant::now();
        let read = tokio::select! {
            biased;
            read = fd.read(&mut chunk) => read,
            // Also when whoever would say it is gone.
            () = async {
                let _ = ended.wait_for(|ended| *ended).await;
                tokio::time::sleep(QUIET).await;
            } => return,
        };
        match read {
            Ok(0) => return,
            Ok(n) => {
                if *ended.borrow() {
                    waited += begin.elapsed();
                    left = left.saturating_sub(n);
                }
                if to.send((stream, Bytes::copy_from_slice(&chunk[..n]))).await.is_err() {
                    return;
                }
            }
            Err(e) if e.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            // A terminal says EIO when nobody holds its other side any more.
            Err(_) => return,
        }
    }
}
