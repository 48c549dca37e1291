//! The real runtime: a supervisor process per container, libcontainer inside of it.

mod adopt;
mod bundle;
mod connection;
mod exec;
mod keeper;
mod link;
pub(crate) mod logs;
mod parent;
mod probe;
mod remove;
mod traces;
mod unaided;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use shoal_agent_ground::blocking::{COUNT, Lost};
use shoal_agent_ground::disk;
use tokio::sync::{mpsc, watch};

use crate::{
    Answer, ContainerDisk, ContainerId, ContainerSpec, ContainerStats, ExecSession, ExecSpec, Exit,
    LogQuery, LogStream, Observed, Prepared, Runtime, RuntimeError, Started, Trace,
};
use link::Link;
use remove::Keep;
use shoal_agent_container::cgroup::{Cgroup, Layout};
use shoal_agent_container::seccomp::Instruction;
use shoal_agent_container::supervise::protocol::Op;
use shoal_agent_container::supervise::setup::{LOG_DIR, UPPER_DIR};

pub use probe::probe;

/// Where a runtime keeps things. No two agents on a machine may share any of them.
#[derive(Debug, Clone)]
pub struct OciConfig {
    /// For what does not survive a reboot: sockets, setups. One directory per container.
    pub run_dir: PathBuf,
    /// For writable layers, logs and exit records. One directory per container; same file system as
    /// is good for overlayfs' upper layers.
    pub state_dir: PathBuf,
    /// Control group above those of the containers, such as `/shoal`.
    pub cgroup_parent: String,
    /// The program with the `supervise` sub-command: this one.
    pub program: PathBuf,
}

/// Runs containers under supervisors.
#[derive(Debug, Clone)]
pub struct OciRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: OciConfig,
    layout: Layout,
    /// The program behind a read-only mount.
    program: OwnedFd,
    links: Mutex<BTreeMap<ContainerId, Link>>,
    /// How many containers are being made that are not in `links` yet.
    parent_claims: Mutex<u32>,
    /// The last compiled filter and what it was compiled from: nearly always the same one.
    filter: Mutex<Option<(oci_spec::runtime::LinuxSeccomp, Arc<[Instruction]>)>>,
    exits: mpsc::UnboundedSender<Exit>,
    unheard: watch::Sender<BTreeMap<ContainerId, String>>,
    exits_receiver: Mutex<Option<mpsc::UnboundedReceiver<Exit>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OciRuntime {
    /// Checks that this host can confine containers, and makes the directories.
    ///
    /// # Errors
    /// [`RuntimeError::CannotConfine`] with what is missing; [`RuntimeError::Io`].
    pub fn new(config: OciConfig) -> Result<Self, RuntimeError> {
        let (layout, program) = probe(&config.program)?;
        for dir in [&config.run_dir, &config.state_dir] {
            bundle::private_dir_all(dir).map_err(RuntimeError::io("making", dir))?;
        }
        let (exits, receiver) = mpsc::unbounded_channel();
        let inner = Inner {
            config,
            layout,
            program,
            links: Mutex::default(),
            parent_claims: Mutex::default(),
            filter: Mutex::default(),
            exits,
            unheard: watch::Sender::default(),
            exits_receiver: Mutex::new(Some(receiver)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How control groups are arranged on this host, for tests that look there.
    #[cfg(any(test, feature = "fake"))]
    #[must_use]
    pub fn cgroup_layout(&self) -> &Layout {
        &self.inner.layout
    }
}

impl Inner {
    /// Notes that a supervisor cannot be talked to, and why; or that it can, or is gone.
    fn note_unheard(&self, id: &ContainerId, why: Option<&str>) {
        self.unheard.send_if_modified(|all| match why {
            Some(why) if all.get(id).is_some_and(|known| known == why) => false,
            Some(why) => {
                all.insert(id.clone(), why.to_owned());
                true
            }
            None => all.remove(id).is_some(),
        });
    }

    fn run_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.run_dir.join(id.as_str())
    }

    fn state_dir(&self, id: &ContainerId) -> PathBuf {
        self.config.state_dir.join(id.as_str())
    }

    /// The prefix keeps containers apart from groups of other makers below the same parent.
    fn cgroup(&self, id: &ContainerId) -> String {
        format!("{}/{CGROUP_PREFIX}{id}", self.config.cgroup_parent.trim_end_matches('/'))
    }

    fn link(&self, id: &ContainerId) -> Result<Link, RuntimeError> {
        let known = lock(&self.links).get(id).cloned();
        known.ok_or_else(|| match self.state_dir(id).exists() {
            true => RuntimeError::NotRunning { id: id.clone() },
            false => RuntimeError::NotFound { id: id.clone() },
        })
    }

    fn known(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        match self.state_dir(id).exists() {
            true => Ok(()),
            false => Err(RuntimeError::NotFound { id: id.clone() }),
        }
    }
}

const CGROUP_PREFIX: &str = "ctr-";

/// How long a supervisor may take to send a signal, which can be sent without it: long enough that one
/// that is well is not passed by, and a small part of the time that a program has to end (10 s, if
/// nobody says otherwise).
const SIGNAL_PATIENCE: Duration = Duration::from_secs(2);

impl Runtime for OciRuntime {
    fn adopt(&self) -> Answer<'_, Vec<Observed>> {
        adopt::adopt(Arc::clone(&self.inner)).boxed()
    }

    fn traces(&self) -> Answer<'_, Vec<Trace>> {
        traces::traces(Arc::clone(&self.inner)).boxed()
    }

    fn take_exits(&self) -> Option<mpsc::UnboundedReceiver<Exit>> {
        lock(&self.inner.exits_receiver).take()
    }

    fn unheard(&self) -> watch::Receiver<BTreeMap<ContainerId, String>> {
        self.inner.unheard.subscribe()
    }

    fn prepare<'a>(&'a self, id: &'a ContainerId, spec: ContainerSpec) -> Answer<'a, Prepared> {
        let inner = Arc::clone(&self.inner);
        async move {
            let _claim = parent::claim(&inner)?;
            let setup = bundle::write(&inner, id, spec)?;
            match link::launch(&inner, id).await {
                Ok(link) => {
                    let supervisor_pid = link.supervisor().pid;
                    lock(&inner.links).insert(id.clone(), link);
                    Ok(Prepared { supervisor_pid })
                }
                Err(error) => {
                    bundle::erase(&setup);
                    Err(error)
                }
            }
        }
        .boxed()
    }

    fn start<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, Started> {
        async move {
            let status = self.inner.link(id)?.ask(Op::Start).await?;
            // Ended already? Then its exit is on its way, and this was its process.
            let pid = status.init.map_or(0, |init| init.pid);
            Ok(Started { pid })
        }
        .boxed()
    }

    fn supervisor<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, Prepared> {
        let supervisor = self.inner.link(id).map(|link| link.supervisor().pid);
        async move { supervisor.map(|supervisor_pid| Prepared { supervisor_pid }) }.boxed()
    }

    fn signal<'a>(&'a self, id: &'a ContainerId, signal: i32) -> Answer<'a, ()> {
        async move {
            let link = self.inner.link(id)?;
            match link.ask_within(SIGNAL_PATIENCE, Op::Signal(signal)).await {
                // It lives and does not help, so that the signal is sent without it. Should it still
                // come to that, a program gets a signal twice.
                Err(RuntimeError::Supervisor { .. }) => {
                    unaided::signal(Arc::clone(&self.inner), id.clone(), signal).await
                }
                other => other.map(drop),
            }
        }
        .boxed()
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ()> {
        remove::remove(Arc::clone(&self.inner), id.clone(), Keep::Nothing).boxed()
    }

    fn release<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ()> {
        remove::remove(Arc::clone(&self.inner), id.clone(), Keep::Log).boxed()
    }

    fn exec<'a>(&'a self, id: &'a ContainerId, spec: ExecSpec) -> Answer<'a, ExecSession> {
        exec::exec(Arc::clone(&self.inner), id.clone(), spec).boxed()
    }

    fn logs<'a>(&'a self, id: &'a ContainerId, query: LogQuery) -> Answer<'a, LogStream> {
        async move {
            self.inner.known(id)?;
            Ok(logs::read(self.inner.state_dir(id), query))
        }
        .boxed()
    }

    fn disk<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ContainerDisk> {
        async move {
            self.inner.known(id)?;
            let of = |dir: &str| {
                let dir = self.inner.state_dir(id).join(dir);
                // What a container wrote goes at its end.
                disk::measure(move || Some(dir).filter(|dir| dir.exists()))
            };
            Ok(ContainerDisk { written: of(UPPER_DIR).await, log: of(LOG_DIR).await })
        }
        .boxed()
    }

    fn stats<'a>(&'a self, id: &'a ContainerId) -> Answer<'a, ContainerStats> {
        let (layout, path) = (self.inner.layout.clone(), self.inner.cgroup(id));
        async move {
            let count =
                move || Cgroup::open(&layout, &path).map(|group| group.map(|group| group.stats()));
            let lost = |e: Lost| RuntimeError::Failed {
                id: id.clone(),
                stage: "reading usage".to_owned(),
                reason: e.to_string(),
            };
            let stats = COUNT.run(count).await.map_err(lost)?;
            let failed = |e: &dyn std::error::Error| RuntimeError::Failed {
                id: id.clone(),
                stage: "reading usage".to_owned(),
                reason: shoal_agent_container::supervise::protocol::chain(e),
            };
            match stats.map_err(|e| failed(&e))? {
                Some(stats) => Ok(stats),
                None => {
                    self.inner.known(id)?;
                    Err(RuntimeError::NotRunning { id: id.clone() })
                }
            }
        }
        .boxed()
    }
}

/// A path to a file in a directory that fits into a socket's address however long the directory's
/// own path is. The descriptor must stay open while it is used.
fn short_path(dir: &OwnedFd, file: &str) -> PathBuf {
    use std::os::fd::AsRawFd;
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(file)
}
