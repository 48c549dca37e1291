//! The agent's side: the process is found again, started, told everything, and replaced.
//!
//! The agent has copies of all sockets. So nothing that is asked while no process answers is lost: it waits
//! in the kernel until the next one does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{bind, connect, listen, socket_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shoal_agent_planning::zone::{Change, Zone};

use super::words::{Answer, Ask, receive, send};
use super::{Asker, SocketError, Sockets, open};

/// Whoever does not answer for so long is replaced.
const PATIENCE: Duration = Duration::from_secs(2);
/// Changes in one packet, as many as fit with the longest names there are.
const CHANGES_MAX: usize = 16;
/// Agents that wait for the one before them to be gone.
const BACKLOG: i32 = 4;
/// Whom the process runs as, by convention the user that owns nothing.
const NOBODY: u32 = 65_534;

/// Starts the process, whose standard input is the socket to listen on.
pub type Start = Box<dyn Fn(OwnedFd) -> io::Result<()> + Send + Sync>;

/// Why names are not answered.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// No process can be started, or none keeps answering the agent.
    #[error("no process answers names through {}", path.display())]
    Process {
        /// Its socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A container has no sockets.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// Starts this program's `names` sub-command, with no rights.
#[must_use]
pub fn start(program: File) -> Start {
    Box::new(move |listener| {
        let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0("shoal-agent")
            .args(["names", "/"])
            .env_clear()
            .uid(NOBODY)
            .gid(NOBODY)
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Its end is noticed by its silence; here it is only buried.
        let bury = move || drop(child.wait());
        std::thread::Builder::new().name("names".to_owned()).spawn(bury).map(drop)
    })
}

/// The names of a node's containers. Calls block for a moment; do not make them on a thread of a runtime.
pub struct Names {
    socket: PathBuf,
    start: Start,
    version: &'static str,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    zone: Zone,
    resolvers: Vec<SocketAddr>,
    served: BTreeMap<String, (Asker, Sockets)>,
    line: Option<Line>,
}

/// A connection to a process that has said who it is.
struct Line {
    socket: OwnedFd,
    version: String,
    /// Refers to it also when another one has its number. The socket does not tell: the kernel says who
    /// listens first, and that was the agent.
    process: OwnedFd,
}

impl Names {
    /// Takes over what the process of an earlier agent has, which goes on as it is until
    /// [`settle`](Self::settle).
    #[must_use]
    pub fn open(socket: PathBuf, start: Start) -> Self {
        Self::of_version(socket, start, env!("CARGO_PKG_VERSION"))
    }

    pub(crate) fn of_version(socket: PathBuf, start: Start, version: &'static str) -> Self {
        let mut held = Held::default();
        // None is there, or it is of no use: what it had is had again.
        if let Ok(line) = connected(&socket) {
            held.served = borrow(&line.socket).unwrap_or_default();
            held.line = Some(line);
        }
        Self { socket, start, version, held: Mutex::new(held) }
    }

    /// Which containers have sockets.
    #[must_use]
    pub fn served(&self) -> Vec<Asker> {
        self.lock().served.values().map(|(asker, _)| asker.clone()).collect()
    }

    /// All that is so, after the agent has begun: the names, and the host's resolvers. Containers that are
    /// not among these are answered no more.
    ///
    /// # Errors
    /// [`NamesError::Process`]. What was said counts for the next process.
    pub fn settle(
        &self,
        zone: Zone,
        resolvers: Vec<SocketAddr>,
        containers: &[String],
    ) -> Result<(), NamesError> {
        let mut held = self.lock();
        held.served.retain(|container, _| containers.contains(container));
        (held.zone, held.resolvers) = (zone, resolvers);
        self.tell_all(&mut held)
    }

    /// Has a container answered whose loopback interface is up.
    ///
    /// # Errors
    /// [`NamesError::Socket`] if it has no sockets; [`NamesError::Process`] if they are not heard yet.
    pub fn serve(&self, asker: Asker, netns: &Path) -> Result<(), NamesError> {
        let mut held = self.lock();
        let sockets = match held.served.remove(&asker.container) {
            Some((_, sockets)) => sockets,
            None => open(netns)?,
        };
        let container = asker.container.clone();
        held.served.insert(container.clone(), (asker, sockets));
        self.tell(&mut held, |held, line| match held.served.get(&container) {
            Some((asker, sockets)) => give(line, asker, sockets),
            None => Ok(()),
        })
    }

    /// A container is answered no more.
    ///
    /// # Errors
    /// [`NamesError::Process`].
    pub fn let_go(&self, container: &str) -> Result<(), NamesError> {
        let mut held = self.lock();
        held.served.remove(container);
        let container = container.to_owned();
        self.tell(&mut held, |_, line| ask(line, &Ask::LetGo(container.clone())))
    }

    /// What has changed.
    ///
    /// # Errors
    /// [`NamesError::Process`].
    pub fn take(&self, changes: &[Change]) -> Result<(), NamesError> {
        let mut held = self.lock();
        changes.iter().cloned().for_each(|change| held.zone.take(change));
        self.tell(&mut held, |_, line| say_changes(line, changes))
    }

    /// Looks whether the process answers, and has another one do so if not.
    ///
    /// # Errors
    /// [`NamesError::Process`].
    pub fn look(&self) -> Result<(), NamesError> {
        self.tell(&mut self.lock(), |_, line| hello(line).map(drop))
    }

    /// Ends the process and lets go of everything.
    pub fn end(&self) {
        let mut held = self.lock();
        if let Some(line) = std::mem::take(&mut *held).line {
            farewell(&line);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says one thing; to who cannot hear it everything is said anew.
    fn tell(
        &self,
        held: &mut Held,
        say: impl Fn(&Held, &OwnedFd) -> io::Result<()>,
    ) -> Result<(), NamesError> {
        match &held.line {
            Some(line) if say(held, &line.socket).is_ok() => Ok(()),
            _ => self.tell_all(held),
        }
    }

    /// To the process that there is if it is one of ours, else to a new one, which is there before the old
    /// one goes.
    fn tell_all(&self, held: &mut Held) -> Result<(), NamesError> {
        let old = held.line.take();
        if let Some(line) = old.as_ref().filter(|line| line.version == self.version) {
            match say_all(held, &line.socket) {
                Ok(()) => {
                    held.line = old;
                    return Ok(());
                }
                Err(error) => tracing::warn!(%error, "the process that answers names is replaced"),
            }
        }
        let failed = |source| NamesError::Process { path: self.socket.clone(), source };
        let line = self.started().map_err(failed)?;
        say_all(held, &line.socket).map_err(failed)?;
        held.line = Some(line);
        if let Some(old) = old {
            farewell(&old);
        }
        Ok(())
    }

    /// A new process. Its socket takes the place of the old one's in one step.
    fn started(&self) -> io::Result<Line> {
        let begun = self.socket.with_extension("new");
        let _ = std::fs::remove_file(&begun);
        let listener = seqpacket()?;
        bind(&listener, &SocketAddrUnix::new(&begun)?)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&begun, mode)?;
        listen(&listener, BACKLOG)?;
        (self.start)(listener)?;
        std::fs::rename(&begun, &self.socket)?;
        connected(&self.socket)
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

fn connected(path: &Path) -> io::Result<Line> {
    let socket = seqpacket()?;
    for timeout in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, timeout, Some(PATIENCE))?;
    }
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let (version, pid) = hello(&socket)?;
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("it has no number"))?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    // It was its number before, and still is.
    hello(&socket)?;
    Ok(Line { socket, version, process })
}

fn heard(line: &OwnedFd) -> io::Result<(Answer, Vec<OwnedFd>)> {
    receive(line)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Asks for something and waits until it is done.
fn ask(line: &OwnedFd, what: &Ask) -> io::Result<()> {
    send(line, what, &[])?;
    done(line)
}

fn done(line: &OwnedFd) -> io::Result<()> {
    match heard(line)?.0 {
        Answer::Done => Ok(()),
        Answer::Refused(why) => Err(io::Error::other(why)),
        other => Err(io::Error::other(format!("it answers {other:?}, expected that it is done"))),
    }
}

fn hello(line: &OwnedFd) -> io::Result<(String, i32)> {
    send(line, &Ask::Hello, &[])?;
    match heard(line)?.0 {
        Answer::Hello { version, pid } => Ok((version, pid)),
        other => Err(io::Error::other(format!("it answers {other:?}, expected its version"))),
    }
}

fn give(line: &OwnedFd, asker: &Asker, sockets: &Sockets) -> io::Result<()> {
    send(line, &Ask::Serve(asker.clone()), &[sockets.udp.as_fd(), sockets.tcp.as_fd()])?;
    done(line)
}

fn borrow(line: &OwnedFd) -> io::Result<BTreeMap<String, (Asker, Sockets)>> {
    send(line, &Ask::Lend, &[])?;
    let mut all = BTreeMap::new();
    loop {
        match heard(line)? {
            (Answer::Lent(asker), descriptors) => {
                let [udp, tcp] = <[OwnedFd; 2]>::try_from(descriptors)
                    .map_err(|_| io::Error::other("it has lent no two sockets"))?;
                let sockets = Sockets { udp: udp.into(), tcp: tcp.into() };
                all.insert(asker.container.clone(), (asker, sockets));
            }
            (Answer::Done, _) => return Ok(all),
            (other, _) => return Err(io::Error::other(format!("it answers {other:?}"))),
        }
    }
}

fn say_changes(line: &OwnedFd, changes: &[Change]) -> io::Result<()> {
    changes.chunks(CHANGES_MAX).try_for_each(|some| ask(line, &Ask::Changes(some.to_vec())))
}

fn say_all(held: &Held, line: &OwnedFd) -> io::Result<()> {
    ask(line, &Ask::Begin)?;
    say_changes(line, &Zone::default().difference(&held.zone))?;
    ask(line, &Ask::Resolvers(held.resolvers.clone()))?;
    // Before anybody is answered: without the names, what is ours would be asked of others.
    ask(line, &Ask::Settle(held.served.keys().cloned().collect()))?;
    held.served.values().try_for_each(|(asker, sockets)| give(line, asker, sockets))
}

/// Has a process end that does so, and kills one that does not.
fn farewell(line: &Line) {
    if ask(&line.socket, &Ask::End).is_err() {
        // It may be gone, as it was to be.
        let _ = pidfd_send_signal(&line.process, Signal::KILL);
    }
}
