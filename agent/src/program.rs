//! Putting the agent together, running it, and ending it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustix::fs::{FlockOperation, flock};
use sd_notify::NotifyState;
use shoal_agent_image::{ImageStore, RegistryConfig, StoreConfig};
use shoal_agent_network::wire_drivers;
use shoal_transport::{server_builder, unix_incoming};
use shoal_types::log_filter;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, RunArgs};
use crate::description::{describe, describer};
use crate::identity::IdentityStore;
use crate::local::Local;
use crate::manager_child::{ManagerChild, ManagerConfig};
use crate::metrics;
use crate::node::{Node, NodeParts};
use crate::node_workload::{NodeWorkload, WorkloadConfig};
use crate::overlay::DataPath;
use crate::session::CredentialLine;
use shoal_agent_container::sys;

/// The agent waits for disks and networks most of the time.
const THREADS: usize = 2;
/// Stacks grow to what is used; this only bounds them.
const STACK_BYTES: usize = 2 << 20;

/// Runs the agent until it is told to stop.
///
/// # Errors
/// It may not run here, or what it needs cannot be had. Containers are not touched then.
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    start_logging(&args)?;
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("the agent must run as root: it makes namespaces, mounts and control groups");
    }
    keep_to_ourselves()?;
    let labels = args.engine_labels().map_err(anyhow::Error::msg)?;
    // The manager's user passes through to its own directories below.
    for dir in [&args.state_dir, &args.run_dir] {
        make_dir(dir, 0o711)?;
    }
    let state_dir = args.state_dir.join("agent");
    make_dir(&state_dir, 0o700)?;
    let _lock = lock(&state_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(shoal_agent_ground::blocking::THREADS)
        .thread_stack_size(STACK_BYTES)
        .thread_name("shoal-agent")
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let result = runtime.block_on(serve(args, labels, state_dir));
    // What still blocks is not waited for: everything durable is written by rename.
    runtime.shutdown_background();
    result
}

/// Whatever this process was started with beside its standard streams ends here: neither the manager,
/// who runs as somebody else, nor a container may get hold of it. Sockets that a service manager hands
/// over (`LISTEN_FDS`) stay open in this process, which is whom they are for.
fn keep_to_ourselves() -> anyhow::Result<()> {
    match sys::process::close_on_exec_from(3) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            // Before Linux 5.11.
            let entries = fs::read_dir("/proc/self/fd").context("cannot list open files")?;
            let numbers = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
            let inherited: Vec<i32> = numbers.filter(|fd| *fd >= 3).collect();
            inherited.into_iter().try_for_each(sys::process::close_on_exec)
        }
        done => done,
    }
    .context("cannot keep inherited files from being handed on")
}

fn start_logging(args: &RunArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(log_filter::directives(&args.log_level))
        .with_context(|| format!("--log-level {:?} is not usable", args.log_level))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match args.log_format {
        LogFormat::Text => logs.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}

fn make_dir(dir: &Path, mode: u32) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(dir);
    made.with_context(|| format!("cannot make the directory {}", dir.display()))
}

/// Held while this process lives, so that two agents never share a state directory.
fn lock(state_dir: &Path) -> anyhow::Result<File> {
    let path = state_dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            anyhow::bail!("another agent uses the state directory {}", state_dir.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Both signals that end the agent.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        let terminate = listen(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve(
    args: RunArgs,
    labels: std::collections::BTreeMap<String, String>,
    state_dir: PathBuf,
) -> anyhow::Result<()> {
    let mut stop = Stop::new()?;
    let images = open_images(&args).await?;
    let drivers = wire_drivers().await?;
    let hostname = describe(args.hostname.as_deref(), &labels, &drivers).hostname;
    let workload = WorkloadConfig {
        state_dir: args.state_dir.clone(),
        run_dir: args.run_dir.clone(),
        cgroup_parent: args.cgroup_parent.clone(),
        program: std::env::current_exe().context("cannot find this program")?,
        hostname,
        forwards_for_others: args.forwards_for_others,
        data_path: DataPath { addr: args.data_path_addr, port: args.data_path_port },
    };
    let line = CredentialLine::default();
    let workload = NodeWorkload::start(workload, images.clone(), line.clone()).await?;
    let workload = Arc::new(workload);
    let metrics = tell_metrics(args.metrics_addr, &workload).await?;
    let collecting = collect_images(&args, &images);
    let manager = ManagerChild::new(manager_config(&args));
    let node = Node::open(NodeParts {
        store: IdentityStore::new(state_dir.clone()),
        manager,
        workload: workload.clone(),
        line,
        describe: describer(args.hostname.clone(), labels, drivers),
    })?;
    let node = Arc::new(node);
    let local = Local::new(node.clone(), images, state_dir.join("upload"));
    let local = local.context("cannot prepare the directory for uploads")?;
    let socket = args.socket();
    let connections =
        unix_incoming(&socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    tell_service_manager(NotifyState::Ready);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        socket = %socket.display(),
        "the agent is ready"
    );
    let server = server_builder().add_service(local.into_server()).serve_with_incoming(connections);
    let result = tokio::select! {
        served = server => served.context("the local socket failed"),
        () = node.run() => Ok(()),
        () = collecting => Ok(()),
        () = metrics => Ok(()),
        () = stop.requested() => Ok(()),
    };
    tell_service_manager(NotifyState::Stopping);
    tracing::info!("stopping; containers live on");
    let _ = fs::remove_file(&socket);
    workload.shut_down().await;
    node.manager().stop().await;
    result
}

/// As sd_notify(3) has it; does nothing where no service manager asked for it.
fn tell_service_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// Never ends.
async fn tell_metrics(
    addr: Option<SocketAddr>,
    workload: &Arc<NodeWorkload>,
) -> anyhow::Result<BoxFuture<'static, ()>> {
    let Some(addr) = addr else { return Ok(futures::future::pending().boxed()) };
    let listener = TcpListener::bind(addr).await;
    let listener = listener.with_context(|| format!("cannot listen on --metrics-addr {addr}"))?;
    let workload = Arc::clone(workload);
    let source: metrics::Source = Arc::new(move || {
        let workload = Arc::clone(&workload);
        async move { workload.figures().await }.boxed()
    });
    Ok(metrics::serve(listener, source).boxed())
}

/// Never ends.
fn collect_images(args: &RunArgs, images: &ImageStore) -> BoxFuture<'static, ()> {
    match args.unused_image_hours {
        0 => futures::future::pending().boxed(),
        hours => {
            let unused_for = Duration::from_secs(u64::from(hours) * 3600);
            shoal_agent_image::collect_regularly(images.clone(), unused_for).boxed()
        }
    }
}

async fn open_images(args: &RunArgs) -> anyhow::Result<ImageStore> {
    let config = StoreConfig {
        registries: RegistryConfig {
            plain_http: args.plain_http_registries.clone(),
            ..RegistryConfig::default()
        },
        ..StoreConfig::default()
    };
    let dir = args.state_dir.join("images");
    let opened = tokio::task::spawn_blocking(move || ImageStore::open(&dir, config)).await;
    Ok(opened.context("opening the image store broke off")??)
}

fn manager_config(args: &RunArgs) -> ManagerConfig {
    let programs = args.clone();
    ManagerConfig {
        program: Box::new(move || programs.manager_program()),
        user: args.manager_user.clone(),
        state_dir: args.state_dir.join("manager"),
        run_dir: args.run_dir.join("manager"),
        pid_file: args.run_dir.join("manager.pid"),
        log_format: args.log_format.as_str(),
        log_level: args.log_level.clone(),
    }
}
