//! A node: a test host with networks, volumes and a worker.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use shoal_agent::boot;
use shoal_agent::session::CredentialLine;
use shoal_agent::worker::{Drivers, Images, SystemClock, Worker, WorkerConfig};
use shoal_agent_dns::NodeNames;
use shoal_agent_image::{Held, ImageError, Pin, Pins, PullPolicy, PullProgress, RegistryAuth};
use shoal_agent_network::{BridgeConfig, BridgeNetworks};
use shoal_agent_runtime::LogQuery;
use shoal_agent_runtime::oci::{OciConfig, OciRuntime};
use shoal_agent_volume::LocalVolumes;
use shoal_types::assignment::AssignedTask;
use shoal_types::image_ref::{Digest, ImageReference};
use shoal_types::spec::ContainerSpec;
use tokio::sync::watch;

use crate::assigner::{self, Assigner};
use crate::host::kill;

/// All that a task has said.
pub(crate) async fn log(node: &Assigner, id: u128) -> String {
    let lines = node.worker.logs(id.into(), LogQuery::default()).await.unwrap();
    let lines = lines.map(|line| line.unwrap().text).collect::<Vec<_>>().await.concat();
    String::from_utf8(lines).unwrap()
}

/// The same, once it has said this.
pub(crate) async fn until_said(node: &Assigner, id: u128, what: &str) -> String {
    for _ in 0..400 {
        let said = log(node, id).await;
        if said.contains(what) {
            return said;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} is not in {}", log(node, id).await);
}

/// A network namespace that goes when it is dropped.
pub(crate) struct Space(String);

impl Space {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("shoal-test-{}-{name}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let space = Self(name);
        space.run("ip", &["link", "set", "lo", "up"]);
        space
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        let net = format!("--net={}", self.path().display());
        let mut all = vec![net.as_str(), program];
        all.extend(args);
        run("nsenter", &all)
    }

    /// Processes that answer names, with the network namespaces that they are in.
    fn names() -> Vec<(u64, i32)> {
        let one = |entry: std::fs::DirEntry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let words = std::fs::read(entry.path().join("cmdline")).ok()?;
            let net = std::fs::metadata(entry.path().join("ns/net")).ok()?.ino();
            words.starts_with(b"shoal-agent\0names\0").then_some((net, pid))
        };
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(one).collect()
    }

    /// The process that answers names, if there is one.
    pub(crate) fn answering(&self) -> Option<i32> {
        let own = std::fs::metadata(self.path()).unwrap().ino();
        Self::names().into_iter().find(|(net, _)| *net == own).map(|(_, pid)| pid)
    }

    /// Runs a test on threads that live inside.
    pub(crate) fn block_on<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
        let _watch = crate::stuck::Watch::begin();
        let file = File::open(self.path()).unwrap();
        let inside = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(test)
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Also after a failed test.
        if let Ok(own) = std::fs::metadata(self.path()) {
            Self::names().into_iter().filter(|(net, _)| *net == own.ino()).for_each(|(_, pid)| {
                kill(pid, 9);
            });
        }
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Where the process that answers names is spoken to, in the directory of a test host.
pub(crate) const NAMES: &str = "names.sock";

/// One image: the test host's layer.
struct OneImage(PathBuf);

impl Images for OneImage {
    fn hold(&self, reference: &ImageReference) -> Option<Held> {
        let image = assigner::image(reference.clone(), &[], self.0.clone());
        let pin = Arc::new(self.pin(image.id));
        Some(Held { image: Arc::new(image), pin })
    }

    fn pin(&self, id: Digest) -> Pin {
        Pins::default().pin([id])
    }

    fn ensure(
        &self,
        reference: ImageReference,
        _policy: PullPolicy,
        _auth: Option<RegistryAuth>,
        _progress: watch::Sender<PullProgress>,
    ) -> BoxFuture<'static, Result<Held, ImageError>> {
        let held = self.hold(&reference);
        async move { Ok(held.unwrap()) }.boxed()
    }
}

/// Starts a worker on the directories of a test host, inside the network namespace of the caller.
pub(crate) async fn start(home: &Path, cgroup_parent: &str) -> Assigner {
    start_looking(home, cgroup_parent, WorkerConfig::ROUND).await
}

/// As [`start`]. Everything is looked at so often.
pub(crate) async fn start_looking(home: &Path, cgroup_parent: &str, round: Duration) -> Assigner {
    let oci = OciConfig {
        run_dir: home.join("run"),
        state_dir: home.join("state"),
        cgroup_parent: cgroup_parent.to_owned(),
        program: PathBuf::from(env!("CARGO_BIN_EXE_shoal-agent")),
    };
    let program = File::open(&oci.program).unwrap();
    let (socket, start) = (home.join(NAMES), shoal_agent_dns::start(program));
    let names = NodeNames::open(socket, PathBuf::from("/etc/resolv.conf"), start).await.unwrap();
    let networks = BridgeConfig::new(home.join("net-state"), home.join("net-run"));
    let drivers = Drivers {
        runtime: Arc::new(OciRuntime::new(oci).unwrap()),
        networks: Arc::new(BridgeNetworks::open(networks).unwrap()),
        names: Arc::new(names),
        volumes: Arc::new(LocalVolumes::open(home.join("volumes")).unwrap()),
        images: Arc::new(OneImage(home.join("layer"))),
        credentials: Arc::new(CredentialLine::default()),
        clock: Arc::new(SystemClock),
    };
    let config = WorkerConfig {
        ledger_dir: home.join("ledger"),
        run_dir: home.join("files"),
        hostname: "alpha".to_owned(),
        boot: boot::this(home).unwrap(),
        parallel: WorkerConfig::PARALLEL,
        round,
    };
    Assigner::new(Worker::start(config, drivers).await.unwrap())
}

/// A task that runs a shell script.
pub(crate) fn task(
    id: u128,
    script: &str,
    change: impl FnOnce(&mut ContainerSpec),
) -> AssignedTask {
    let mut container = ContainerSpec {
        image: "busybox:1".to_owned(),
        command: Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
        // The first process of a namespace ignores signals that it does not handle.
        stop_grace_period: Some(Duration::from_millis(500)),
        ..ContainerSpec::default()
    };
    change(&mut container);
    assigner::task(id, container)
}
