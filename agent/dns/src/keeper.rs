//! The agent's side: the process is found again, started, told everything, and replaced.
//!
//! The agent has copies of all sockets. So nothing that is asked while no process answers is lost: it waits
//! in the kernel until the next one does. That the process has ended is heard of at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::net::{SocketAddrUnix, bind, listen};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shoal_agent_ground::backoff::Backoff;
use shoal_agent_planning::zone::Zone;

use super::line::{Line, seqpacket};
use super::words::Ask;
use super::{Asker, SocketError, Sockets, open};

/// Agents that wait for the one before them to be gone.
const BACKLOG: i32 = 4;
/// Whom the process runs as, by convention the user that owns nothing.
const NOBODY: u32 = 65_534;
/// A process that has lived for so long has not ended because of how it begins.
const LIVED: Duration = Duration::from_secs(10);
/// So many in a row that have not are replaced at once, the next ones after these pauses.
const DEATHS: u32 = 3;
const PAUSES: Backoff =
    Backoff { first: Duration::from_millis(250), last: Duration::from_secs(30) };

/// Starts the process, whose standard input is the socket to listen on, and returns what refers to it
/// (`pidfd_open(2)`).
pub type Start = Box<dyn Fn(OwnedFd) -> io::Result<OwnedFd> + Send + Sync>;

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
    /// Its work was lost.
    #[error("a thread that keeps names ended early")]
    Lost,
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
        let watched = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        // Its end is noticed by whoever is connected to it; here it is only buried.
        let bury = move || match child.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::warn!(%status, "a process that answers names has failed"),
            Err(error) => tracing::warn!(%error, "a process that answers names is not buried"),
        };
        let buried = std::thread::Builder::new().name("names".to_owned()).spawn(bury);
        let process = watched?;
        if let Err(error) = buried {
            let _ = pidfd_send_signal(&process, Signal::KILL);
            return Err(error);
        }
        Ok(process)
    })
}

/// The names of a node's containers. Calls block for a moment; do not make them on a thread of a runtime.
/// Clones are the same.
#[derive(Clone)]
pub struct Names {
    inner: Arc<Inner>,
}

struct Inner {
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
    /// How many in a row have ended early.
    deaths: u32,
}

impl Names {
    /// Takes over what the process of an earlier agent has and knows, if there is one.
    #[must_use]
    pub fn open(socket: PathBuf, start: Start) -> Self {
        Self::of_version(socket, start, env!("CARGO_PKG_VERSION"))
    }

    pub(crate) fn of_version(socket: PathBuf, start: Start, version: &'static str) -> Self {
        let inner = Inner { socket, start, version, held: Mutex::default() };
        let names = Self { inner: Arc::new(inner) };
        names.inner.take_over();
        names
    }

    /// Which containers have sockets.
    #[must_use]
    pub fn served(&self) -> Vec<Asker> {
        self.inner.lock().served.values().map(|(asker, _)| asker.clone()).collect()
    }

    #[cfg(test)]
    pub(crate) fn resolvers(&self) -> Vec<SocketAddr> {
        self.inner.lock().resolvers.clone()
    }

    /// What is known from now on, which may follow from what was known before.
    ///
    /// # Errors
    /// [`NamesError::Process`]. It is told to the next process.
    pub fn know(&self, what: impl FnOnce(&Zone) -> Zone) -> Result<(), NamesError> {
        let mut held = self.inner.lock();
        let zone = what(&held.zone);
        let changes = held.zone.difference(&zone);
        held.zone = zone;
        if changes.is_empty() {
            return Ok(());
        }
        self.inner.tell(&mut held, |_, line| line.say_changes(changes.clone()))
    }

    /// The host's resolvers from now on.
    ///
    /// # Errors
    /// As [`know`](Self::know).
    pub fn set_resolvers(&self, resolvers: Vec<SocketAddr>) -> Result<(), NamesError> {
        let mut held = self.inner.lock();
        if held.resolvers == resolvers {
            return Ok(());
        }
        held.resolvers = resolvers;
        self.inner.tell(&mut held, |held, line| line.ask(&Ask::Resolvers(held.resolvers.clone())))
    }

    /// Has a container answered whose loopback interface is up.
    ///
    /// # Errors
    /// [`NamesError::Socket`] if it has no sockets; [`NamesError::Process`] if they are not heard yet.
    pub fn serve(&self, asker: Asker, netns: &Path) -> Result<(), NamesError> {
        let mut held = self.inner.lock();
        let sockets = match held.served.remove(&asker.container) {
            Some((_, sockets)) => sockets,
            None => open(netns)?,
        };
        let container = asker.container.clone();
        held.served.insert(container.clone(), (asker, sockets));
        self.inner.tell(&mut held, |held, line| match held.served.get(&container) {
            Some((asker, sockets)) => line.give(asker, sockets),
            None => Ok(()),
        })
    }

    /// A container is answered no more, and nothing keeps its network namespace. With the last one the
    /// process ends.
    ///
    /// # Errors
    /// [`NamesError::Process`].
    pub fn let_go(&self, container: &str) -> Result<(), NamesError> {
        let mut held = self.inner.lock();
        if held.served.remove(container).is_none() {
            return Ok(());
        }
        if held.served.is_empty() {
            self.inner.let_process_go(&mut held);
            return Ok(());
        }
        self.inner.tell(&mut held, |_, line| line.ask(&Ask::LetGo(container.to_owned())))
    }

    /// Looks whether the process answers, and has another one do so if not.
    ///
    /// # Errors
    /// [`NamesError::Process`].
    pub fn look(&self) -> Result<(), NamesError> {
        self.inner.tell(&mut self.inner.lock(), |_, line| line.hello())
    }

    /// Whether a process answers; `None` if there is nobody to be answered. Nothing is done about it.
    #[must_use]
    pub fn is_answering(&self) -> Option<bool> {
        let held = self.inner.lock();
        let answers = held.line.as_ref().is_some_and(|line| line.hello().is_ok());
        (!held.served.is_empty()).then_some(answers)
    }

    /// Ends the process and lets go of everything.
    pub fn end(&self) {
        let mut held = std::mem::take(&mut *self.inner.lock());
        self.inner.let_process_go(&mut held);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn let_process_go(&self, held: &mut Held) {
        if let Some(mut line) = held.line.take() {
            // Nobody takes over, so nothing is finished for those who have gone: that would keep their namespaces.
            if self.can_hear(&line) {
                let _ = line.ask(&Ask::Settle(Vec::new()));
            }
            line.farewell();
            // So that nobody takes over what is no more.
            let _ = std::fs::remove_file(&self.socket);
        }
    }

    /// Says one thing; to who cannot hear it everything is said anew. Where there is nobody to be answered,
    /// no process is started for it.
    fn tell(
        self: &Arc<Self>,
        held: &mut Held,
        say: impl Fn(&Held, &Line) -> io::Result<()>,
    ) -> Result<(), NamesError> {
        match &held.line {
            Some(line) if self.can_hear(line) && say(held, line).is_ok() => Ok(()),
            None if held.served.is_empty() => Ok(()),
            _ => self.tell_all(held),
        }
    }

    /// Whether one more word is enough. The rest of the words is only said to a process of the same version.
    fn can_hear(&self, line: &Line) -> bool {
        line.version == self.version && !line.behind
    }

    /// To the process that there is if it is one of ours, else to a new one, which is there before the old
    /// one goes.
    fn tell_all(self: &Arc<Self>, held: &mut Held) -> Result<(), NamesError> {
        let mut old = held.line.take();
        if let Some(line) = old.as_mut().filter(|line| line.version == self.version) {
            match line.begin_anew(&self.socket).and_then(|()| say_all(held, line)) {
                Ok(()) => {
                    line.behind = false;
                    held.line = old;
                    return Ok(());
                }
                Err(error) => tracing::warn!(%error, "the process that answers names is replaced"),
            }
        }
        match self.successor(held) {
            Ok(line) => {
                self.hold(held, line);
                if let Some(mut old) = old {
                    old.farewell();
                }
                Ok(())
            }
            Err(source) => {
                // It has everybody's sockets, so it is not forgotten: the next look tries again, and
                // whoever is let go of is let go of there, too.
                held.line = old;
                if let Some(line) = &mut held.line {
                    line.behind = true;
                }
                Err(NamesError::Process { path: self.socket.clone(), source })
            }
        }
    }

    /// A new process that knows all and answers everybody. Its socket takes the place of the old one's in
    /// one step; before, the next agent finds the old one.
    fn successor(&self, held: &Held) -> io::Result<Line> {
        let begun = self.begun();
        let made = self.started(&begun).and_then(|mut line| {
            let said = say_all(held, &line).and_then(|()| std::fs::rename(&begun, &self.socket));
            match said {
                Ok(()) => Ok(line),
                Err(error) => {
                    line.farewell();
                    Err(error)
                }
            }
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&begun);
        }
        made
    }

    fn started(&self, begun: &Path) -> io::Result<Line> {
        let _ = std::fs::remove_file(begun);
        let listener = seqpacket()?;
        bind(&listener, &SocketAddrUnix::new(begun)?)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(begun, mode)?;
        listen(&listener, BACKLOG)?;
        let process = (self.start)(listener)?;
        let line = Line::to(begun);
        if line.is_err() {
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
        line
    }

    /// Where one listens that is not told all yet.
    fn begun(&self) -> PathBuf {
        self.socket.with_extension("new")
    }

    /// Has again what the process of an earlier agent has, if there is one.
    fn take_over(self: &Arc<Self>) {
        // An agent that has ended while it replaced one has left it there, beside the one to be replaced.
        if let Ok(mut unfinished) = Line::to(&self.begun()) {
            unfinished.farewell();
            let _ = std::fs::remove_file(self.begun());
        }
        let mut line = match Line::to(&self.socket) {
            Ok(line) => line,
            Err(error) => {
                let none = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
                if !none.contains(&error.kind()) {
                    tracing::warn!(%error, "the process that answers names cannot be taken over");
                }
                return;
            }
        };
        let mut held = self.lock();
        match line.borrow().and_then(|served| Ok((served, line.zone()?))) {
            Ok((served, zone)) => {
                (held.served, held.zone) = (served, zone);
                self.hold(&mut held, line);
            }
            Err(error) => {
                tracing::warn!(%error, "the process that answers names cannot be taken over: it ends");
                line.farewell();
            }
        }
    }

    fn hold(self: &Arc<Self>, held: &mut Held, mut line: Line) {
        let inner = Arc::downgrade(self);
        if let Err(error) = line.when_it_ends(move || has_ended(&inner)) {
            tracing::warn!(%error, "the end of the process that answers names will be noticed late");
        }
        held.line = Some(line);
    }

    /// Has another process take the place of one that has ended, unless that was done already.
    fn replace(self: &Arc<Self>) {
        let mut held = self.lock();
        if held.line.as_ref().is_none_or(Line::is_alive) {
            return;
        }
        match self.tell_all(&mut held) {
            Ok(()) => tracing::warn!("the process that answers names had ended and is replaced"),
            // It is tried again with the next look.
            Err(error) => {
                let error = shoal_types::error_chain::chain(&error);
                tracing::error!(%error, "the process that answers names has ended");
            }
        }
    }

    /// How long a successor is waited with.
    fn pause(&self) -> Duration {
        let mut held = self.lock();
        let lived = held.line.as_ref().is_none_or(|line| line.begun.elapsed() >= LIVED);
        held.deaths = if lived { 0 } else { held.deaths + 1 };
        match held.deaths.checked_sub(DEATHS) {
            None | Some(0) => Duration::ZERO,
            Some(more) => PAUSES.wait(more, 0.0),
        }
    }
}

/// A process has ended of which an agent held the line.
fn has_ended(inner: &Weak<Inner>) {
    let Some(pause) = inner.upgrade().map(|inner| inner.pause()) else { return };
    std::thread::sleep(pause);
    if let Some(inner) = inner.upgrade() {
        inner.replace();
    }
}

fn say_all(held: &Held, line: &Line) -> io::Result<()> {
    line.ask(&Ask::Begin)?;
    line.say_changes(Zone::default().difference(&held.zone))?;
    line.ask(&Ask::Resolvers(held.resolvers.clone()))?;
    // Before anybody is answered: without the names, what is ours would be asked of others.
    line.ask(&Ask::Settle(held.served.keys().cloned().collect()))?;
    held.served.values().try_for_each(|(asker, sockets)| line.give(asker, sockets))
}
