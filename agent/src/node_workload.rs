//! The real workload: a worker over the real drivers.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_agent_dns::{NamesDriver, NamesError, NodeNames};
use shoal_agent_image::ImageStore;
use shoal_agent_network::{BridgeConfig, BridgeNetworks, NetworkError, Rules, keep};
use shoal_agent_planning::network::files::RESOLV_CONF;
use shoal_agent_planning::tunnel::{SeenPeer, Side};
use shoal_agent_tunnel::{Tunnel as TunnelDriver, TunnelConfig, TunnelError, Tunnels};
use shoal_agent_volume::{LocalVolumes, VolumeError};
use shoal_types::assignment::{AssignmentChange, NodeAssignment};
use shoal_types::error_chain::chain;
use shoal_types::id::{ClusterId, TaskId};
use shoal_types::object::{TaskStatus, TroubledLinks, TunnelDescription};
use shoal_types::question::{self, Question};

use crate::boot::{self, BootError};
use crate::metrics::{Figures, Link, Tunnel, Ways};
use crate::overlay::{DataPath, Overlay, OverlayHandle, Overseen, SeenLink, Sides, with_packets};
use crate::session::{Answer, CredentialLine, Workload, WorkloadError};
use crate::upkeep::Upkeep;
use crate::worker::{Drivers, Mark, SystemClock, Worker, WorkerConfig, WorkerError, WorkerHandle};
use shoal_agent_runtime::oci::{OciConfig, OciRuntime};
use shoal_agent_runtime::{ExecSession, ExecSpec, LogQuery, LogStream, RuntimeError};

/// Where things are.
#[derive(Debug, Clone)]
pub struct WorkloadConfig {
    /// For what must survive a reboot.
    pub state_dir: PathBuf,
    /// For what does not.
    pub run_dir: PathBuf,
    /// Control group above those of the containers.
    pub cgroup_parent: String,
    /// This program, for supervisors.
    pub program: PathBuf,
    /// For containers on the host's network.
    pub hostname: String,
    /// The host forwards packets for others than containers.
    pub forwards_for_others: bool,
    /// Where other hosts find this one.
    pub data_path: DataPath,
}

/// Why containers cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// This host cannot confine containers, or has no place for them.
    #[error("cannot run containers")]
    Runtime(#[source] RuntimeError),
    /// Networks cannot be set up.
    #[error("cannot connect containers")]
    Networks(#[source] NetworkError),
    /// The tunnel's key cannot be kept.
    #[error("cannot prepare the tunnel to other hosts")]
    Tunnel(#[source] TunnelError),
    /// Nobody can be started that answers names.
    #[error("cannot open this program")]
    Program(#[source] io::Error),
    /// Nor taken over.
    #[error("cannot answer names")]
    Names(#[source] NamesError),
    /// Volumes cannot be kept.
    #[error("cannot keep volumes")]
    Volumes(#[source] VolumeError),
    /// Nobody knows whether the host was restarted.
    #[error("cannot tell this boot of the host from others")]
    Boot(#[source] BootError),
    /// What an earlier agent left cannot be taken over.
    #[error("cannot take up the work of this node")]
    Worker(#[source] WorkerError),
}

/// A worker over the real drivers.
pub struct NodeWorkload {
    worker: WorkerHandle,
    upkeep: Upkeep,
    overlay: OverlayHandle,
    names: Arc<dyn NamesDriver>,
}

impl NodeWorkload {
    /// Takes over what an earlier agent left.
    ///
    /// # Errors
    /// [`StartError`]; nothing is started on a host that cannot confine it.
    pub async fn start(
        config: WorkloadConfig,
        images: ImageStore,
        line: CredentialLine,
    ) -> Result<Self, StartError> {
        let Started { worker, drivers, overlay } = start(&config, &images, line).await?;
        let upkeep = Upkeep::new(worker.clone(), &drivers, images, overlay.clone());
        Ok(Self { upkeep, worker, overlay, names: drivers.names })
    }

    /// What there is to tell of it in figures.
    pub async fn figures(&self) -> Figures {
        let (tasks, overseen, names) = tokio::join!(
            self.worker.task_summary(),
            self.overlay.compare(),
            self.names.is_answering()
        );
        let tasks = tasks.ok().map(|tasks| tasks.iter().map(|task| task.state).collect());
        let link = |link: SeenLink| {
            let seen = link.seen.unwrap_or_default();
            let SeenPeer { handshake_age, rx_bytes, tx_bytes, .. } = seen;
            Link { handshake_age, rx_bytes, tx_bytes }
        };
        let Overseen { compared, from } = overseen;
        let is_known = from.is_some() || compared.notes.is_empty();
        let tunnel = from.map(|from| Tunnel {
            mtu: from.mtu,
            links: from.peers.into_iter().map(|(node, seen)| (node, link(seen))).collect(),
            epoch: from.epochs.present,
            lagging: from.lagging,
        });
        let ways = Ways { wrong: compared.findings.len() as u64, tunnel };
        let troubled = self.overlay.troubled_links().count;
        Figures { tasks, ways: is_known.then_some(ways), troubled, names }
    }

    /// Ends the work of this process. Containers live on.
    pub async fn shut_down(&self) {
        self.worker.shut_down().await;
    }
}

struct Started {
    worker: WorkerHandle,
    drivers: Drivers,
    overlay: OverlayHandle,
}

async fn start(
    config: &WorkloadConfig,
    images: &ImageStore,
    line: CredentialLine,
) -> Result<Started, StartError> {
    let runtime = OciRuntime::new(OciConfig {
        run_dir: config.run_dir.join("containers"),
        state_dir: config.state_dir.join("containers"),
        cgroup_parent: config.cgroup_parent.clone(),
        program: config.program.clone(),
    });
    let runtime = runtime.map_err(StartError::Runtime)?;
    let networks = open_networks(config)?;
    let view = networks.overlay();
    let volumes = LocalVolumes::open(config.state_dir.join("volumes"));
    let drivers = Drivers {
        runtime: Arc::new(runtime),
        networks,
        names: open_names(config).await?,
        volumes: Arc::new(volumes.map_err(StartError::Volumes)?),
        images: Arc::new(images.clone()),
        credentials: Arc::new(line),
        clock: Arc::new(SystemClock),
    };
    let worker = WorkerConfig {
        ledger_dir: config.state_dir.join("ledger"),
        run_dir: config.run_dir.join("worker"),
        hostname: config.hostname.clone(),
        boot: boot::this(&config.run_dir).map_err(StartError::Boot)?,
        parallel: WorkerConfig::PARALLEL,
        round: WorkerConfig::ROUND,
    };
    let tunnels = open_tunnels(config)?;
    let networks = Arc::clone(&drivers.networks);
    let overlay = Overlay::start(tunnels, networks, view, config.data_path, with_packets());
    let worker = Worker::start(worker, drivers.clone()).await.map_err(StartError::Worker)?;
    Ok(Started { worker, drivers, overlay })
}

fn open_networks(config: &WorkloadConfig) -> Result<Arc<BridgeNetworks>, StartError> {
    let (state, run) = (config.state_dir.join("networks"), config.run_dir.join("networks"));
    let networks = BridgeConfig {
        forwards_for_others: config.forwards_for_others,
        node: config.hostname.clone(),
        ..BridgeConfig::new(state, run)
    };
    let networks = BridgeNetworks::open(networks).map_err(StartError::Networks)?;
    let networks = Arc::new(networks);
    // Containers are kept apart without it too: what the tables do not judge is not routed.
    if let Err(error) = keep(&networks) {
        tracing::error!(%error, "cannot hear of changes of the host");
    }
    Ok(networks)
}

async fn open_names(config: &WorkloadConfig) -> Result<Arc<NodeNames>, StartError> {
    let program = File::open(&config.program).map_err(StartError::Program)?;
    let (socket, start) = (config.run_dir.join("names.sock"), shoal_agent_dns::start(program));
    let names = NodeNames::open(socket, PathBuf::from(RESOLV_CONF), start).await;
    names.map(Arc::new).map_err(StartError::Names)
}

/// Both interfaces of the tunnel, of which there is one most of the time.
fn open_tunnels(config: &WorkloadConfig) -> Result<Sides<Arc<dyn TunnelDriver>>, StartError> {
    let open = |side: Side| -> Result<Arc<dyn TunnelDriver>, StartError> {
        let run_dir = match side {
            Side::First => "tunnel",
            Side::Second => "tunnel-1",
        };
        let tunnel = TunnelConfig {
            ifname: side.ifname(&Rules::default().prefix),
            side,
            state_dir: config.state_dir.join("agent"),
            run_dir: config.run_dir.join(run_dir),
            program: config.program.clone(),
            kind: None,
        };
        Ok(Arc::new(Tunnels::open(tunnel).map_err(StartError::Tunnel)?))
    };
    Ok(Sides { first: open(Side::First)?, second: open(Side::Second)? })
}

fn failed(error: &WorkerError) -> WorkloadError {
    WorkloadError::Failed(chain(error).to_string())
}

impl Workload for NodeWorkload {
    fn obey(&self, cluster: ClusterId, term: u64) -> Answer<'_, u64> {
        async move { self.worker.obey(cluster, term).await.map_err(|error| failed(&error)) }.boxed()
    }

    fn assign_all(&self, assignment: NodeAssignment, mark: Mark) {
        self.worker.assign_all(assignment, mark);
    }

    fn change(&self, changes: Vec<AssignmentChange>, mark: Mark) {
        self.worker.change(changes, mark);
    }

    fn applied<'a>(&'a self, session: &'a str, after: u64) -> BoxFuture<'a, u64> {
        self.worker.applied(session, after).boxed()
    }

    fn report_everything(&self) {
        self.worker.reporter().resend_all();
    }

    fn next_statuses(&self) -> BoxFuture<'_, Vec<(TaskId, TaskStatus)>> {
        let reporter = self.worker.reporter();
        async move { reporter.next_batch().await }.boxed()
    }

    fn exec(&self, task: TaskId, spec: ExecSpec) -> Answer<'_, ExecSession> {
        async move { Ok(self.worker.exec(task, spec).await?) }.boxed()
    }

    fn logs(&self, task: TaskId, query: LogQuery) -> Answer<'_, LogStream> {
        async move { Ok(self.worker.logs(task, query).await?) }.boxed()
    }

    fn answer(&self, question: Question) -> Answer<'_, question::Answer> {
        async move { self.upkeep.answer(question).await }.boxed()
    }

    fn tunnel(&self) -> BoxFuture<'_, Option<TunnelDescription>> {
        self.overlay.describe().boxed()
    }

    fn tunnel_news(&self, told: Option<TunnelDescription>) -> BoxFuture<'_, ()> {
        self.overlay.news(told).boxed()
    }

    fn tunnel_now(&self) -> tokio::sync::watch::Receiver<Option<TunnelDescription>> {
        self.overlay.known()
    }

    fn troubled_links(&self) -> TroubledLinks {
        self.overlay.troubled_links()
    }

    fn tried_links(&self) -> BoxFuture<'_, u32> {
        self.overlay.tried_links().boxed()
    }

    fn task_count(&self) -> Answer<'_, u64> {
        async move {
            let tasks = self.worker.task_summary().await.map_err(|error| failed(&error))?;
            Ok(tasks.len() as u64)
        }
        .boxed()
    }

    fn halt(&self) -> Answer<'_, ()> {
        async move { self.worker.halt().await.map_err(|error| failed(&error)) }.boxed()
    }

    fn leave(&self) -> Answer<'_, ()> {
        async move {
            self.worker.leave().await.map_err(|error| failed(&error))?;
            let removed = self.overlay.remove().await;
            removed.map_err(|error| WorkloadError::Failed(chain(&error).to_string()))
        }
        .boxed()
    }
}
