//! What is heard from a supervisor, line by line, and every way in which nothing is.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::sockopt::socket_peercred;
use shoal_agent_container::ProcessIdentity;
use shoal_agent_container::supervise::protocol::{
    Garbled, Hello, LINE_MAX, Message, Op, Request, Status,
};
use shoal_agent_container::supervise::setup::CONTROL_SOCKET;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout_at};

use super::{ContainerId, Inner, short_path};

/// How long a supervisor may take to greet and say how things stand. An agent that starts waits for it
/// before it tells the managers that it is there, and they give a node up that is silent for six seconds;
/// whoever is slower is asked again while the agent works.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Why nothing more is heard on a connection. None of it says that the supervisor is gone.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("it closed the connection")]
    End,
    #[error(transparent)]
    Garbled(#[from] Garbled),
    #[error("it said a line of more than {LINE_MAX} bytes")]
    TooLong,
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
}

/// Why a supervisor could not be talked to.
#[derive(Debug)]
pub(super) enum Unheard {
    /// Nobody listens at its socket.
    Nobody,
    /// Its container has ended, and so will it.
    Ended,
    /// Somebody listens, and does not say what is understood; who, if that is known.
    Silent { who: Option<ProcessIdentity>, why: String },
    /// It says itself that this agent would not understand it.
    Newer { who: Option<ProcessIdentity>, hello: Hello },
}

impl Unheard {
    /// For people.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Nobody => "nobody listens at its socket".to_owned(),
            Self::Ended => "its container has ended".to_owned(),
            Self::Silent { why, .. } => why.clone(),
            Self::Newer { hello: Hello { protocol, needs }, .. } => format!(
                "it speaks protocol {protocol} and needs an agent that knows protocol {needs}; this one \
                 knows {}",
                Hello::OURS.protocol
            ),
        }
    }

    /// Whoever listens.
    pub(super) fn who(&self) -> Option<ProcessIdentity> {
        match self {
            Self::Silent { who, .. } | Self::Newer { who, .. } => *who,
            Self::Nobody | Self::Ended => None,
        }
    }
}

/// Lines in and out.
pub(super) struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// What of a line has come: kept here so that waiting for the rest may be abandoned.
    partial: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::with_capacity(1024, reader), writer, partial: Vec::new() }
    }

    /// The next message that is known. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<Message, Lost> {
        loop {
            let limit = (LINE_MAX - self.partial.len()) as u64 + 1;
            (&mut self.reader).take(limit).read_until(b'\n', &mut self.partial).await?;
            if self.partial.last() != Some(&b'\n') {
                return Err(if self.partial.len() > LINE_MAX { Lost::TooLong } else { Lost::End });
            }
            let line = std::mem::take(&mut self.partial);
            if let Some(message) = Message::read(&line)? {
                return Ok(message);
            }
        }
    }

    pub(super) async fn write(&mut self, request: &Request) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.writer.write_all(&line).await
    }

    /// Greets, and asks how things stand.
    async fn begin(&mut self, who: Option<ProcessIdentity>) -> Result<Status, Unheard> {
        let silent = |why: String| Unheard::Silent { who, why };
        let request = Request { seq: 0, op: Op::Status, hello: Some(Hello::OURS) };
        self.write(&request).await.map_err(|e| silent(Lost::Broken(e).to_string()))?;
        loop {
            match self.next().await.map_err(|lost| silent(lost.to_string()))? {
                Message::Hello(hello) if !hello.is_understood() => {
                    return Err(Unheard::Newer { who, hello });
                }
                Message::Reply { seq: 0, result: Ok(status) } => return Ok(status),
                Message::Reply { seq: 0, result: Err(failure) } => {
                    return Err(silent(format!("it does not say how things stand: {failure:?}")));
                }
                Message::Exited(_) => return Err(Unheard::Ended),
                Message::Hello(_)
                | Message::Prepared
                | Message::NotPrepared(_)
                | Message::Reply { .. } => {}
            }
        }
    }
}

/// Connects to the supervisor of an earlier agent, and hears how things stand, within `patience`.
pub(super) async fn connect(
    inner: &Arc<Inner>,
    id: &ContainerId,
    patience: Duration,
) -> Result<(Connection, Status), Unheard> {
    let until = Instant::now() + patience;
    let silent = |who, why: String| Unheard::Silent { who, why };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir: OwnedFd = match openat(CWD, inner.run_dir(id), flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(rustix::io::Errno::NOENT) => return Err(Unheard::Nobody),
        Err(e) => return Err(silent(None, format!("its run directory: {e}"))),
    };
    let connecting = UnixStream::connect(short_path(&dir, CONTROL_SOCKET));
    let late = |_| silent(None, format!("it does not answer within {patience:?}"));
    let stream = match timeout_at(until, connecting).await.map_err(late)? {
        Ok(stream) => stream,
        // Refused by the kernel, because no process has the other end open any more.
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => return Err(Unheard::Nobody),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Unheard::Nobody),
        Err(e) => return Err(silent(None, format!("its socket: {e}"))),
    };
    let peer = socket_peercred(&stream).ok();
    if !peer.is_some_and(|peer| peer.uid.is_root()) {
        return Err(silent(None, "somebody else listens at its socket".to_owned()));
    }
    let who = peer.and_then(|peer| ProcessIdentity::of(peer.pid.as_raw_nonzero().get()));
    let mut connection = Connection::new(stream);
    let late = |_| silent(who, format!("it does not answer within {patience:?}"));
    let status = timeout_at(until, connection.begin(who)).await.map_err(late)??;
    Ok((connection, status))
}
