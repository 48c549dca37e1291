//! The device of a process, by the socket in its run directory.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use shoal_agent_planning::tunnel::uapi::{self, Answer, AnswerError, MESSAGE_MAX};
use shoal_agent_planning::tunnel::{Change, Device, SeenPeer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::TunnelError;
use crate::key::PrivateKey;
use crate::process::SOCKET;

/// How long a device may take to answer. Then it hangs, and is started anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the device says of itself; `None` if it does not answer.
pub(crate) async fn observe(run_dir: &Path, ifname: &str) -> Result<Option<Device>, TunnelError> {
    let text = match ask(run_dir, uapi::GET).await {
        Ok(text) => text,
        Err(error) if is_silence(&error) => return Ok(None),
        Err(source) => return Err(failed("ask the device", ifname, source)),
    };
    let refused = |source| TunnelError::Device { ifname: ifname.to_owned(), source };
    let answer = uapi::answer(&text);
    Ok(Some(device(answer.map_err(refused)?, SystemTime::now())))
}

/// Carries out a change.
pub(crate) async fn configure(
    run_dir: &Path,
    ifname: &str,
    change: &Change,
    private: &PrivateKey,
) -> Result<(), TunnelError> {
    let text = ask(run_dir, &uapi::set(change, &private.0)).await;
    match uapi::done(&text.map_err(|source| failed("tell the device", ifname, source))?) {
        Err(AnswerError::Errno(errno)) if errno == Errno::ADDRINUSE.raw_os_error() => {
            Err(TunnelError::PortInUse { port: change.listen_port.unwrap_or_default() })
        }
        result => {
            result.map_err(|source| TunnelError::Device { ifname: ifname.to_owned(), source })
        }
    }
}

async fn ask(run_dir: &Path, request: &str) -> io::Result<String> {
    let asked = async {
        let mut stream = UnixStream::connect(run_dir.join(SOCKET)).await?;
        // The private key is told here.
        if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        stream.write_all(request.as_bytes()).await?;
        stream.shutdown().await?;
        let mut text = String::new();
        stream.take(MESSAGE_MAX).read_to_string(&mut text).await?;
        Ok(text)
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Whether nobody is there, or nobody who can answer: not that we cannot ask.
fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::TimedOut
    )
}

fn failed(what: &'static str, ifname: &str, source: io::Error) -> TunnelError {
    TunnelError::Process { what, ifname: ifname.to_owned(), source }
}

fn device(answer: Answer, now: SystemTime) -> Device {
    let aged = |(seen, handshake): (SeenPeer, Option<Duration>)| SeenPeer {
        // One from the future is of now: somebody has set the clock back.
        handshake_age: handshake.map(|handshake| {
            now.duration_since(SystemTime::UNIX_EPOCH + handshake).unwrap_or_default()
        }),
        ..seen
    };
    Device {
        key: answer.private_key.map(|key| PrivateKey(key).public()),
        listen_port: answer.listen_port,
        peers: answer.peers.into_iter().map(|(key, peer)| (key, aged(peer))).collect(),
    }
}
