//! A host of fakes, and the agents that live on it one after the other, each in a runtime of its own
//! that is thrown away with all that it remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_agent_dns::FakeNames;
use shoal_agent_network::{FakeNetworks, NetworkDriver as _};
use shoal_agent_planning::task::{Boot, Moment};
use shoal_agent_runtime::fake::FakeRuntime;
use shoal_agent_volume::{FakeVolumes, VolumeDriver as _};
use shoal_types::assignment::NodeAssignment;
use shoal_types::id::TaskId;
use shoal_types::object::TaskStatus;
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;
use tokio::time::Instant;

use super::drivers::{Metered, MeteredDisk};
use super::meter::Meter;
use crate::ledger::Ledger;
use crate::testing::assigner::{self, mark};
use crate::worker::tests::lab::{FakeImages, SharedImages};
use crate::worker::{Clock, Drivers, TaskSummary, Worker, WorkerConfig, WorkerHandle};

/// Bound of every wait, by the clock of the runtime, which jumps.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked whether it is over, and how long after that nothing may change.
const LOOK: Duration = Duration::from_millis(50);
/// More than any story has, each with its beginning.
const LIVES_MAX: u32 = 6;

/// What outlives agents.
pub(super) struct Host {
    dir: tempfile::TempDir,
    pub(super) runtime: FakeRuntime,
    networks: Arc<FakeNetworks>,
    names: Arc<FakeNames>,
    volumes: Arc<FakeVolumes>,
    images: Arc<FakeImages>,
    pub(super) meter: Arc<Meter>,
    boots: u32,
    wall: Arc<Mutex<Timestamp>>,
}

/// What managers want, and what they have heard.
pub(super) struct Manager {
    pub(super) assignment: NodeAssignment,
    /// Of each task, the furthest that it came.
    pub(super) told: BTreeMap<TaskId, TaskStatus>,
    pub(super) wrong: Vec<String>,
}

/// What the agent that lives now has said.
#[derive(Default)]
pub(super) struct Said {
    pub(super) statuses: BTreeMap<TaskId, TaskStatus>,
    pub(super) summary: Vec<TaskSummary>,
    /// How many networks each container has, and how many names are answered to it on.
    pub(super) connected: BTreeMap<String, (usize, usize)>,
}

impl Said {
    pub(super) fn is(&self, id: u128, state: TaskState) -> bool {
        self.statuses.get(&id.into()).is_some_and(|status| status.state == state)
    }

    /// Whether a container has so many networks, and is answered names on them.
    pub(super) fn is_connected(&self, id: u128, count: usize) -> bool {
        self.connected.get(&TaskId::from(id).to_string()) == Some(&(count, count))
    }

    pub(super) fn holds(&self, id: u128) -> bool {
        self.summary.iter().any(|task| task.id == id.into())
    }
}

/// How it is when all is over, by what it is about.
pub(super) type End = BTreeMap<&'static str, String>;

/// # Errors
/// In what one is not as expected.
pub(super) fn same(expected: &End, end: &End) -> Result<(), String> {
    let others = end.iter().filter(|(what, is)| expected.get(*what) != Some(is));
    let wrong: Vec<String> =
        others.map(|(what, is)| format!("{what} is {is}, and not {}", expected[what])).collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// The clock of a runtime that jumps. The wall's goes on with the next one.
struct JumpingClock {
    began: Instant,
    wall: Arc<Mutex<Timestamp>>,
    since: Timestamp,
}

impl Clock for JumpingClock {
    fn now(&self) -> Moment {
        let wall = self.since + self.began.elapsed();
        let mut last = self.wall.lock().unwrap();
        *last = wall.max(*last);
        Moment { wall, steady: Timestamp::from_secs(1) + self.began.elapsed() }
    }
}

/// One agent.
pub(super) struct Process {
    tokio: tokio::runtime::Runtime,
    worker: WorkerHandle,
    networks: Arc<FakeNetworks>,
    names: Arc<FakeNames>,
    pub(super) said: Said,
}

/// How far an agent came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Until it was over.
    Whole,
    /// It died.
    Cut,
}

impl Host {
    pub(super) fn new() -> Self {
        let images = Arc::new(FakeImages::default());
        images.add("app:1", None);
        Self {
            dir: tempfile::tempdir().unwrap(),
            runtime: FakeRuntime::default(),
            networks: Arc::default(),
            names: Arc::default(),
            volumes: Arc::default(),
            images,
            meter: Arc::default(),
            boots: 0,
            wall: Arc::new(Mutex::new(Timestamp::from_secs(1000))),
        }
    }

    /// It loses power and comes back.
    pub(super) fn reboot(&mut self) {
        self.boots += 1;
        self.runtime.reboot();
        self.names.lose_everything();
    }

    /// An agent that is dead leaves what is on disk, and nobody who hears of exits.
    fn bury(&mut self) {
        self.runtime.crash();
        self.runtime = FakeRuntime::on(self.runtime.host());
        self.meter.next_life();
    }

    fn drivers(&self) -> Drivers {
        let meter = || Arc::clone(&self.meter);
        let images = || Arc::new(SharedImages(Arc::clone(&self.images)));
        Drivers {
            runtime: Arc::new(Metered { inner: self.runtime.clone(), meter: meter() }),
            networks: Arc::new(Metered { inner: Arc::clone(&self.networks), meter: meter() }),
            names: Arc::new(Metered { inner: Arc::clone(&self.names), meter: meter() }),
            volumes: Arc::new(Metered { inner: Arc::clone(&self.volumes), meter: meter() }),
            images: Arc::new(Metered { inner: images(), meter: meter() }),
            credentials: images(),
            clock: Arc::new(JumpingClock {
                began: Instant::now(),
                wall: Arc::clone(&self.wall),
                since: *self.wall.lock().unwrap(),
            }),
        }
    }

    async fn worker(&self) -> WorkerHandle {
        let config = WorkerConfig {
            ledger_dir: self.dir.path().join("ledger"),
            run_dir: self.dir.path().join("run"),
            hostname: "alpha".to_owned(),
            boot: Boot::new(self.boots.to_string()),
            parallel: WorkerConfig::PARALLEL,
            round: WorkerConfig::ROUND,
        };
        let (ledger, loaded) = Ledger::open(&config.ledger_dir).unwrap();
        assert!(loaded.damaged.is_empty(), "{:?}", loaded.damaged);
        let meter = Arc::clone(&self.meter);
        let ledger = ledger.through(|inner| Arc::new(MeteredDisk { inner, meter }));
        let drivers = self.drivers();
        let exits = drivers.runtime.take_exits().unwrap();
        Worker::over(config, drivers, ledger, loaded, exits).await.unwrap()
    }

    /// An agent begins to live. None if it dies of it.
    pub(super) fn agent(&self) -> Option<Process> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let tokio = builder.enable_all().start_paused(true).build().unwrap();
        let worker = tokio.block_on(async {
            tokio::select! {
                biased;
                () = self.meter.death() => None,
                worker = self.worker() => Some(worker),
            }
        });
        match worker {
            Some(worker) => {
                let (networks, names) = (Arc::clone(&self.networks), Arc::clone(&self.names));
                Some(Process { tokio, worker, networks, names, said: Said::default() })
            }
            None => {
                throw_away(tokio);
                None
            }
        }
    }

    /// An agent lives until it is over, or until it dies, in which case others live after it.
    pub(super) fn live(
        &mut self,
        manager: &mut Manager,
        mut process: Option<Process>,
        over: fn(&Said) -> bool,
    ) -> Result<Process, String> {
        for _ in 0..LIVES_MAX {
            let Some(mut agent) = process.take() else {
                self.bury();
                process = self.agent();
                if let Some(agent) = &process {
                    agent.hear(manager);
                }
                continue;
            };
            match agent.live(&self.meter, manager, over)? {
                Life::Whole => return Ok(agent),
                Life::Cut => agent.end(),
            }
        }
        Err("agents die again and again".to_owned())
    }

    /// What there is in the end. The last agent is thrown away.
    pub(super) fn end(&mut self, process: Process, manager: &Manager) -> End {
        let images = self.images.pins.all().len();
        process.end();
        self.bury();
        let (ledger, loaded) = Ledger::open(&self.dir.path().join("ledger")).unwrap();
        drop(ledger);
        let text =
            |state: TaskState, text: &str, code: Option<i32>| format!("{state} {text:?} {code:?}");
        let told = manager.told.iter().map(|(id, status)| {
            let code = status.container_status.as_ref().and_then(|c| c.exit_code);
            let ports = status.port_status.iter().map(|p| p.published_port).collect::<Vec<_>>();
            (id.to_string(), format!("{} {ports:?}", text(status.state, &status.err, code)))
        });
        let records = loaded.tasks.iter().map(|(id, record)| {
            let started = record.started.is_some();
            let networks = record.task.networks.len();
            let record = format!("{} {}", record.status.state, record.task.desired_state);
            (id.to_string(), format!("{record} {started} {networks}"))
        });
        let networks = loaded.networks.keys().map(|id| (id.to_string(), "network".to_owned()));
        let containers = self.runtime.containers();
        let containers = containers.iter().map(|(id, c)| {
            let is = match (c.released, c.pid, &c.exited) {
                (true, ..) => "released".to_owned(),
                (false, Some(_), _) => "runs".to_owned(),
                (false, None, exited) => format!("{:?}", exited.as_ref().map(|e| e.code)),
            };
            (id.to_string(), is)
        });
        let leases = self.networks.leases();
        let described = futures::executor::block_on(self.volumes.describe()).unwrap();
        let volumes = described.into_iter().map(|v| {
            // Those that were made for a task alone have names by chance.
            let anonymous = v.name.len() > 20;
            let name = if anonymous { "anonymous".to_owned() } else { v.name };
            (name, format!("{:?}", v.users))
        });
        let begun = self.runtime.begun();
        let pages = leases.container_ids().filter_map(|id| leases.container_page(id));
        let pages: Vec<String> = pages.map(|p| serde_json::to_string(p).unwrap()).collect();
        let ports = pages.iter().flat_map(|page| page.split("\"host_port\":").skip(1));
        let ports = ports.map(|rest| rest.split([',', '}']).next().unwrap_or_default());
        let files = files(&self.dir.path().join("run/files"));
        let by_name = |all: &mut dyn Iterator<Item = (String, String)>| {
            format!("{:?}", all.collect::<BTreeMap<_, _>>())
        };
        BTreeMap::from([
            ("containers", by_name(&mut { containers })),
            ("begun", format!("{begun:?}")),
            ("answered", format!("{:?}", self.names.askers())),
            ("ways out", format!("{:?}", self.networks.leads_out())),
            ("leases", format!("{:?}", self.networks.held())),
            ("ports", format!("{:?}", ports.collect::<BTreeSet<_>>())),
            ("networks", format!("{:?}", self.networks.networks())),
            ("volumes", by_name(&mut { volumes })),
            ("files", format!("{files:?}")),
            ("images", images.to_string()),
            ("ledger", by_name(&mut records.chain(networks))),
            ("told", by_name(&mut { told })),
        ])
    }
}

fn files(dir: &std::path::Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let names = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let inside = std::fs::read_dir(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let inside = inside.map(move |e| format!("{name}/{}", e.unwrap().file_name().display()));
        inside.collect::<Vec<_>>()
    };
    entries.flat_map(names).collect()
}

impl Manager {
    pub(super) fn new() -> Self {
        let networks = [assigner::network()].into();
        let assignment = NodeAssignment { networks, ..NodeAssignment::default() };
        Self { assignment, told: BTreeMap::new(), wrong: Vec::new() }
    }

    /// States only climb: what is less is old news.
    fn hear(&mut self, id: TaskId, status: &TaskStatus) {
        let known = self.told.get(&id);
        let ended = known.filter(|known| known.state.is_terminal());
        if let Some(ended) = ended
            && (ended.state, &ended.err) != (status.state, &status.err)
            && status.state.is_terminal()
        {
            self.wrong.push(format!("{id} has ended as {ended:?}, and as {status:?}"));
        }
        if known.is_none_or(|known| status.state.has_reached(known.state)) {
            self.told.insert(id, status.clone());
        }
    }
}

impl Process {
    /// What is assigned, all of it.
    pub(super) fn hear(&self, manager: &Manager) {
        self.worker.assign_all(manager.assignment.clone(), mark(0, 1));
    }

    fn live(
        &mut self,
        meter: &Meter,
        manager: &mut Manager,
        over: fn(&Said) -> bool,
    ) -> Result<Life, String> {
        let Self { tokio, worker, networks, names, said } = self;
        let connected = || {
            let held = networks.held();
            let askers = names.askers();
            let both = askers.into_iter().map(|asker| {
                let has = held.get(&asker.container).map_or(0, BTreeSet::len);
                (asker.container, (has, asker.networks.len()))
            });
            both.collect()
        };
        tokio.block_on(async {
            tokio::select! {
                biased;
                () = meter.death() => Ok(Life::Cut),
                whole = tokio::time::timeout(PATIENCE, listen(worker, said, &connected, manager, over)) => {
                    whole.map(|()| Life::Whole).map_err(|_| {
                        let statuses = &said.statuses;
                        format!("it is never over: {:?} {statuses:?}", said.summary)
                    })
                }
            }
        })
    }

    /// The memory of the agent is thrown away.
    pub(super) fn end(self) {
        throw_away(self.tokio);
    }
}

/// What has been begun in other threads, which are files, is waited for: it happened before the death.
fn throw_away(tokio: tokio::runtime::Runtime) {
    tokio.shutdown_timeout(Duration::from_secs(60));
}

async fn listen(
    worker: &WorkerHandle,
    said: &mut Said,
    connected: &dyn Fn() -> BTreeMap<String, (usize, usize)>,
    manager: &mut Manager,
    over: fn(&Said) -> bool,
) {
    let reporter = worker.reporter();
    let mut quiet = false;
    loop {
        tokio::select! {
            batch = reporter.next_batch() => {
                for (id, status) in batch {
                    manager.hear(id, &status);
                    said.statuses.insert(id, status);
                }
                quiet = false;
            }
            () = tokio::time::sleep(LOOK) => {
                said.summary = worker.task_summary().await.unwrap();
                said.connected = connected();
                if over(said) && quiet {
                    return;
                }
                quiet = over(said);
            }
        }
    }
}
