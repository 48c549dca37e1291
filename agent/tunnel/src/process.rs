//! The process that encrypts where the kernel does not, from the agent's side: started, found again, ended.
//!
//! It holds a lock for as long as it lives, in the file that says which process it is. So it is known whether
//! there is one, whatever has become of the agent that started it, and a stranger with its number is not taken
//! for it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::Signal;
use shoal_agent_container::ProcessIdentity;
use shoal_agent_planning::segment::Offload;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::TunnelError;
use crate::device::{Failure, Order, Said, Step};

/// Its lock, with which process it is.
pub(crate) const LOCK: &str = "tunnel.pid";
/// Where its device is spoken to.
pub(crate) const SOCKET: &str = "tunnel.sock";
/// Why it ended, if it could still say so.
pub(crate) const LAST_WORDS: &str = "tunnel.ended";

/// How long it may take until its device answers.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long a killed one may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take from its lock to saying who it is.
const NAME_PATIENCE: Duration = Duration::from_secs(2);
/// Longest word of it, in bytes.
const WORD_MAX: u64 = 64 << 10;

/// The process that runs, if there is one.
pub(crate) fn find(run_dir: &Path, ifname: &str) -> Result<Option<ProcessIdentity>, TunnelError> {
    let until = Instant::now() + NAME_PATIENCE;
    loop {
        match look(run_dir) {
            Ok(Look::Nobody) => return Ok(serving(run_dir)),
            Ok(Look::Somebody(process)) => return Ok(Some(process)),
            Ok(Look::Unnamed) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(Look::Unnamed) => match serving(run_dir) {
                Some(process) => return Ok(Some(process)),
                None => {
                    let ifname = ifname.to_owned();
                    let reason = "holds its lock and does not say which process it is".to_owned();
                    return Err(TunnelError::ProcessSays { ifname, reason });
                }
            },
            Err(source) => {
                return Err(TunnelError::Open { path: run_dir.join(LOCK), source });
            }
        }
    }
}

enum Look {
    Nobody,
    Somebody(ProcessIdentity),
    /// It has just begun.
    Unnamed,
}

fn look(run_dir: &Path) -> io::Result<Look> {
    let file = match File::open(run_dir.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Nobody),
        opened => opened?,
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            // Not left to the closing: a process that is just being started has the file open, too, and the one
            // that is started next would not get the lock.
            flock(&file, FlockOperation::Unlock)?;
            return Ok(Look::Nobody);
        }
        Err(Errno::WOULDBLOCK) => {}
        Err(error) => return Err(error.into()),
    }
    let mut text = String::new();
    file.take(WORD_MAX).read_to_string(&mut text)?;
    let named = serde_json::from_str(&text).ok();
    Ok(named
        .filter(|process: &ProcessIdentity| process.exists())
        .map_or(Look::Unnamed, Look::Somebody))
}

/// Who serves the socket, if the lock is gone: somebody has deleted it.
fn serving(run_dir: &Path) -> Option<ProcessIdentity> {
    let stream = StdUnixStream::connect(run_dir.join(SOCKET)).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    let ours = peer.uid == rustix::process::geteuid();
    ProcessIdentity::of(peer.pid.as_raw_nonzero().get()).filter(|process| ours && process.exists())
}

/// Starts one and waits until its device answers: what it exchanges with the kernel.
pub(crate) async fn start(
    program: &File,
    run_dir: &Path,
    ifname: &str,
) -> Result<Offload, TunnelError> {
    let failed =
        |what| move |source| TunnelError::Process { what, ifname: ifname.to_owned(), source };
    let says = |reason: String| TunnelError::ProcessSays { ifname: ifname.to_owned(), reason };
    let (ours, theirs) = StdUnixStream::pair().map_err(failed("make a socket"))?;
    ours.set_nonblocking(true).map_err(failed("make a socket"))?;
    let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0("shoal-agent")
        .arg("tunnel")
        .arg(run_dir)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("start"))?;
    let mut stream = UnixStream::from_std(ours).map_err(failed("make a socket"))?;
    let order = Order { ifname: ifname.to_owned() };
    let talk = async {
        let mut line = serde_json::to_vec(&order)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut word = Vec::new();
        stream.take(WORD_MAX).read_to_end(&mut word).await?;
        io::Result::Ok(word)
    };
    let word = timeout(START_PATIENCE, talk).await;
    let said = word.map(|word| word.map(|word| serde_json::from_slice::<Said>(&word)));
    let error = match said {
        // It is nobody's child from now on; whoever lets it go here has the runtime wait for its end.
        Ok(Ok(Ok(Said::Ready(offload)))) => return Ok(offload),
        Ok(Ok(Ok(Said::Failed(failure)))) => why(&failure, ifname),
        Ok(Ok(Err(_))) => says("ended before its device answered".to_owned()),
        Ok(Err(source)) => failed("talk to")(source),
        Err(_) => says(format!("was not ready after {START_PATIENCE:?}")),
    };
    let _ = child.start_kill();
    let _ = timeout(END_PATIENCE, child.wait()).await;
    Err(error)
}

fn why(failure: &Failure, ifname: &str) -> TunnelError {
    let errno = failure.errno.map(Errno::from_raw_os_error);
    let source = || match failure.errno {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(failure.reason.clone()),
    };
    match (failure.step, errno) {
        (Step::Tun, Some(Errno::BUSY)) => TunnelError::Busy { ifname: ifname.to_owned() },
        (Step::Tun, Some(Errno::PERM)) => {
            TunnelError::NotPermitted { what: format!("make the TUN device {ifname}") }
        }
        // No file of it, no module behind it, or not for this control group.
        (Step::Tun, Some(Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::ACCESS)) => {
            TunnelError::NoTun { source: source() }
        }
        (step, _) => {
            TunnelError::Process { what: step.what(), ifname: ifname.to_owned(), source: source() }
        }
    }
}

/// Ends it, and waits until it has. Its interface stays.
pub(crate) fn end(process: ProcessIdentity, ifname: &str) -> Result<(), TunnelError> {
    let failed = |source| TunnelError::Process { what: "end", ifname: ifname.to_owned(), source };
    let Some(pidfd) = process.watch().map_err(failed)? else { return Ok(()) };
    process.signal(Signal::KILL.as_raw()).map_err(failed)?;
    let until = Instant::now() + END_PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| failed(io::ErrorKind::TimedOut.into()))?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(failed(io::ErrorKind::TimedOut.into())),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Why the last one ended, if it has said so; it is told once.
pub(crate) fn last_words(run_dir: &Path) -> Option<String> {
    let path = run_dir.join(LAST_WORDS);
    let mut text = String::new();
    File::open(&path).ok()?.take(WORD_MAX).read_to_string(&mut text).ok()?;
    let _ = fs::remove_file(&path);
    Some(text)
}

/// Removes the files of one that has ended.
pub(crate) fn sweep(run_dir: &Path) -> Result<(), TunnelError> {
    for name in [SOCKET, LOCK, LAST_WORDS] {
        let path = run_dir.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(TunnelError::Open { path, source });
            }
            _ => {}
        }
    }
    Ok(())
}
