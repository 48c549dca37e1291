//! The worker: the sole owner of what this node holds.
//!
//! ```text
//! assignment ─┐                                   ┌─> operations (ops/): runtime, networks, volumes
//! exits ──────┼─> one loop (state) ─ asks the ────┤
//! results ────┤   machine of each task what next  ├─> ledger, before anything is acknowledged
//! timers ─────┘                                   └─> reporter, what managers are told
//! ```
//!
//! The loop waits for nothing but events. What takes time is an operation in a task of its own, which
//! ends as an event; each container has at most one. What is to be done is decided by
//! `shoal_agent_planning`.

mod applied;
mod assignment;
mod beside;
mod event;
mod health;
mod holdings;
mod images;
mod keeper;
mod ops;
mod order;
mod resume;
mod state;
mod steps;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shoal_agent_dns::NamesDriver;
use shoal_agent_network::{NetworkDriver, NetworkError};
use shoal_agent_planning::prune::Holding;
use shoal_agent_planning::task::{Boot, Moment};
use shoal_agent_volume::{VolumeDriver, VolumeError};
use shoal_types::assignment::{AssignmentChange, NodeAssignment};
use shoal_types::id::{ClusterId, TaskId};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::ledger::{Ledger, LedgerError, Loaded, Term};
use crate::reporter::Reporter;
use crate::told::Told;
use shoal_agent_runtime::{
    ContainerId, ExecSession, ExecSpec, Exit, LogQuery, LogStream, Runtime, RuntimeError,
};

pub use applied::Mark;
use event::Event;
pub use images::{Credentials, Images, Unasked};

/// Where a worker keeps things and how much it does at once.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The ledger's directory; survives a reboot.
    pub ledger_dir: PathBuf,
    /// For the files that containers see, such as their `/etc/hosts`.
    pub run_dir: PathBuf,
    /// The host's name, for containers on its network.
    pub hostname: String,
    /// The boot of the host that this is.
    pub boot: Boot,
    /// Containers that are prepared, started and cleaned up at the same time, of each kind.
    pub parallel: usize,
    /// How often everything that the node has is looked at.
    pub round: Duration,
}

impl WorkerConfig {
    /// Enough to keep a few processors busy while some wait for the disk.
    pub const PARALLEL: usize = 16;
    /// What nobody tells of may wait so long.
    pub const ROUND: Duration = Duration::from_secs(30);
}

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Moment;
}

/// The host's clocks. The steady one stands still while the host sleeps.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        let timestamp = |since: Duration| {
            Timestamp::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
        };
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { wall: timestamp(wall), steady: timestamp(BEGINNING.elapsed()) }
    }
}

/// What the worker works with.
#[derive(Clone)]
pub struct Drivers {
    /// Runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// Connects them.
    pub networks: Arc<dyn NetworkDriver>,
    /// Answers them names.
    pub names: Arc<dyn NamesDriver>,
    /// Keeps their data.
    pub volumes: Arc<dyn VolumeDriver>,
    /// Brings their images.
    pub images: Arc<dyn Images>,
    /// Says with which credentials.
    pub credentials: Arc<dyn Credentials>,
    /// Says what time it is.
    pub clock: Arc<dyn Clock>,
}

/// Why a worker cannot be started, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The ledger cannot be read.
    #[error("cannot open the ledger")]
    Ledger(#[from] LedgerError),
    /// What runs cannot be found out.
    #[error("cannot take over the containers of this node")]
    Adopt(#[source] RuntimeError),
    /// Somebody else listens to exits.
    #[error("the runtime's exits are taken by another worker")]
    ExitsTaken,
    /// The networks of this node cannot be put in order.
    #[error("cannot put the networks of this node in order")]
    Networks(#[source] NetworkError),
    /// The volumes of this node cannot be put in order.
    #[error("cannot put the volumes of this node in order")]
    Volumes(#[source] VolumeError),
    /// It cannot be written down whom the node obeys.
    #[error("cannot write down which leader this node obeys")]
    Term(#[source] LedgerError),
    /// Nobody can be started who keeps what is told of overlay networks.
    #[error("cannot keep what is told of overlay networks")]
    Told(#[source] io::Error),
    /// The worker was shut down.
    #[error("the worker has ended")]
    Ended,
}

/// A task in a few words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSummary {
    /// Its id.
    pub id: TaskId,
    /// Its name, `service.slot`.
    pub name: String,
    /// What managers want of it.
    pub desired: DesiredState,
    /// Where it is.
    pub state: TaskState,
    /// What went wrong.
    pub err: String,
}

/// Starts workers.
#[derive(Debug)]
pub struct Worker;

impl Worker {
    /// Takes over what an earlier worker left, removes what belongs to nobody, and begins to work:
    /// accepted tasks go on at once, before any manager has been heard.
    ///
    /// # Errors
    /// The ledger cannot be read, or the node cannot be put in order.
    pub async fn start(
        config: WorkerConfig,
        drivers: Drivers,
    ) -> Result<WorkerHandle, WorkerError> {
        let exits = drivers.runtime.take_exits().ok_or(WorkerError::ExitsTaken)?;
        let dir = config.ledger_dir.clone();
        let opened = tokio::task::spawn_blocking(move || Ledger::open(&dir)).await;
        let (ledger, loaded) = opened.map_err(|_| WorkerError::Ended)??;
        Self::over(config, drivers, ledger, loaded, exits).await
    }

    /// As [`Worker::start`], over a ledger that has been opened.
    async fn over(
        config: WorkerConfig,
        drivers: Drivers,
        ledger: Ledger,
        loaded: Loaded,
        exits: mpsc::UnboundedReceiver<Exit>,
    ) -> Result<WorkerHandle, WorkerError> {
        for damaged in &loaded.damaged {
            tracing::error!(error = %shoal_types::error_chain::chain(damaged), "ledger file skipped");
        }
        let told_in = config.ledger_dir.join("told");
        let opened = tokio::task::spawn_blocking(move || Told::open(&told_in)).await;
        let (told, kept) = opened.map_err(|_| WorkerError::Ended)?.map_err(WorkerError::Told)?;
        let cluster = loaded.term.map(|term| term.cluster);
        let known =
            kept.and_then(|kept| kept.after_reboot(cluster, &config.boot, &loaded.networks));
        let reporter = Reporter::default();
        // Unbounded, so that no driver ever waits for the loop: what can be under way is bounded by
        // the number of tasks.
        let (events, inbox) = mpsc::unbounded_channel();
        let runtime = Arc::clone(&drivers.runtime);
        let context = Arc::new(ops::Context::new(config, drivers, ledger));
        let entries =
            resume::resume(&context, loaded.tasks, &loaded.lost, &loaded.networks).await?;
        let (term, networks) = (loaded.term, loaded.networks);
        let held = state::Held { entries, lost: loaded.lost, networks, term, told, known };
        let (tell, applied) = watch::channel(None);
        tokio::spawn(hear_followed(context.drivers.networks.followed(), events.clone()));
        let state = state::State::new(context, held, reporter.clone(), events.clone(), tell);
        tokio::spawn(state.run(inbox, exits));
        Ok(WorkerHandle { events, reporter, runtime, applied })
    }
}

/// What the rest of the agent does with the worker. Clones speak to the same one.
#[derive(Clone)]
pub struct WorkerHandle {
    events: mpsc::UnboundedSender<Event>,
    reporter: Reporter,
    runtime: Arc<dyn Runtime>,
    applied: watch::Receiver<Option<Mark>>,
}

impl WorkerHandle {
    /// All that the node is to hold. Tasks that are not in it are stopped and forgotten. Passed over if
    /// it is by an older leader than one that is obeyed.
    pub fn assign_all(&self, assignment: NodeAssignment, mark: Mark) {
        self.tell(Event::AssignAll(assignment, mark));
    }

    /// What has changed since.
    pub fn change(&self, changes: Vec<AssignmentChange>, mark: Mark) {
        self.tell(Event::Change(changes, mark));
    }

    /// Obeys a leader of this term from now on, also after a crash, unless a newer one is obeyed
    /// already. The newest term of the cluster that is obeyed.
    ///
    /// # Errors
    /// [`WorkerError::Term`], [`WorkerError::Ended`].
    pub async fn obey(&self, cluster: ClusterId, term: u64) -> Result<u64, WorkerError> {
        self.ask(|answer| Event::Obey(Term { cluster, number: term }, answer)).await?
    }

    /// Waits until a message of the session that comes after this one is applied: all that it brings
    /// is on disk. Which one is the last of these.
    pub async fn applied(&self, session: &str, after: u64) -> u64 {
        let newer = |mark: &Mark| &*mark.session == session && mark.sequence > after;
        let mut applied = self.applied.clone();
        let sequence = match applied.wait_for(|mark| mark.as_ref().is_some_and(newer)).await {
            Ok(mark) => mark.as_ref().map(|mark| mark.sequence),
            // The worker has ended, and applies nothing any more.
            Err(_) => None,
        };
        match sequence {
            Some(sequence) => sequence,
            None => std::future::pending().await,
        }
    }

    /// What managers are to be told.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }

    /// Every task of this node.
    ///
    /// # Errors
    /// [`WorkerError::Ended`].
    pub async fn task_summary(&self) -> Result<Vec<TaskSummary>, WorkerError> {
        self.ask(Event::Summary).await
    }

    /// What every task of this node holds.
    ///
    /// # Errors
    /// [`WorkerError::Ended`].
    pub async fn holdings(&self) -> Result<Vec<Holding>, WorkerError> {
        self.ask(Event::Holdings).await
    }

    /// What would be put in order about what tasks hold, if it were now.
    ///
    /// # Errors
    /// It cannot be seen; [`WorkerError::Ended`].
    pub(crate) async fn differing(
        &self,
    ) -> Result<Vec<shoal_agent_planning::node::holdings::Action>, WorkerError> {
        self.ask(Event::Differing).await?
    }

    /// Runs a further process in the container of a task.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::NotRunning`]; as [`Runtime::exec`].
    pub async fn exec(&self, task: TaskId, spec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        self.runtime.exec(&task.into(), spec).await
    }

    /// Reads the log of a task's container, also after its end.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] while there is no container; as [`Runtime::logs`].
    pub async fn logs(&self, task: TaskId, query: LogQuery) -> Result<LogStream, RuntimeError> {
        self.runtime.logs(&task.into(), query).await
    }

    /// Ends the worker. Containers live on, and the next worker takes over.
    pub async fn shut_down(&self) {
        // Ended already is fine.
        let _ = self.ask(Event::ShutDown).await;
    }

    /// Stops every container in good order, because the host stops, and returns when none runs. What is
    /// assigned from then on is for the next worker. May be repeated.
    ///
    /// # Errors
    /// [`WorkerError::Ended`].
    pub async fn halt(&self) -> Result<(), WorkerError> {
        self.ask(Event::Halt).await
    }

    /// Stops and removes every container and network and empties the ledger. What is assigned
    /// meanwhile is not taken on. May be repeated.
    ///
    /// # Errors
    /// [`WorkerError::Networks`] when something of the networks is left; [`WorkerError::Ended`].
    pub async fn leave(&self) -> Result<(), WorkerError> {
        self.ask(Event::Leave).await?
    }

    /// Looks at everything that the node has, before it is time.
    #[cfg(test)]
    fn look_around(&self) {
        self.tell(Event::Round);
    }

    /// As if a task had just been forgotten.
    #[cfg(test)]
    fn forgotten(&self, id: TaskId) {
        self.tell(Event::Forgotten(id));
    }

    fn tell(&self, event: Event) {
        if self.events.send(event).is_err() {
            tracing::warn!("an event came after the worker had ended");
        }
    }

    async fn ask<T>(
        &self,
        event: impl FnOnce(oneshot::Sender<T>) -> Event,
    ) -> Result<T, WorkerError> {
        let (answer, answered) = oneshot::channel();
        self.events.send(event(answer)).map_err(|_| WorkerError::Ended)?;
        answered.await.map_err(|_| WorkerError::Ended)
    }
}

/// Hears what is done about overlay networks, as long as there are the driver and the worker.
async fn hear_followed(mut followed: watch::Receiver<u64>, events: mpsc::UnboundedSender<Event>) {
    while followed.changed().await.is_ok() {
        let revision = *followed.borrow_and_update();
        if events.send(Event::OverlayFollowed(revision)).is_err() {
            return;
        }
    }
}

/// The task that a container is named after.
fn task_id(container: &ContainerId) -> Option<TaskId> {
    container.as_str().parse().ok()
}
