//! A node: a test host with networks, volumes and a worker.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use oci_spec::image::{ConfigBuilder, ImageConfiguration};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use shoal_agent::image::{Image, ImageError, PullPolicy, PullProgress};
use shoal_agent::network::{BridgeConfig, BridgeNetworks};
use shoal_agent::runtime::oci::{OciConfig, OciRuntime};
use shoal_agent::volume::LocalVolumes;
use shoal_agent::worker::{Drivers, Images, SystemClock, Worker, WorkerConfig, WorkerHandle};
use shoal_types::assignment::{AssignedTask, NodeAssignment};
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::image_ref::{Digest, ImageReference};
use shoal_types::object::{Meta, Network, Slot, TaskNetwork, TaskStatus};
use shoal_types::spec::{ContainerSpec, Driver, NetworkSpec, TaskRuntime, TaskSpec};
use shoal_types::task_state::{DesiredState, TaskState};
use tokio::sync::watch;

use crate::host::PATIENCE;

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

    /// Runs a test on threads that live inside.
    pub(crate) fn block_on<T: Send>(&self, test: impl Future<Output = T> + Send) -> T {
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

/// One image: the test host's layer.
struct OneImage(PathBuf);

impl Images for OneImage {
    fn get(&self, reference: &ImageReference) -> Result<Option<Image>, ImageError> {
        let mut config = ImageConfiguration::default();
        config.set_config(Some(ConfigBuilder::default().build().unwrap()));
        Ok(Some(Image {
            id: Digest::from_bytes([7; 32]),
            reference: Some(reference.clone()),
            repo_digest: None,
            config,
            healthcheck: None,
            layers: vec![self.0.clone()],
            size: 1,
        }))
    }

    fn ensure(
        &self,
        reference: ImageReference,
        _policy: PullPolicy,
        _progress: watch::Sender<PullProgress>,
    ) -> BoxFuture<'static, Result<Image, ImageError>> {
        let image = self.get(&reference);
        async move { Ok(image?.unwrap()) }.boxed()
    }
}

/// A worker and what it was told.
pub(crate) struct Node {
    pub(crate) worker: WorkerHandle,
    pub(crate) assignment: NodeAssignment,
    latest: Mutex<BTreeMap<TaskId, TaskStatus>>,
}

impl Node {
    /// Starts a worker on the directories of a test host, inside the network namespace of the caller.
    pub(crate) async fn start(home: &Path, cgroup_parent: &str) -> Self {
        let oci = OciConfig {
            run_dir: home.join("run"),
            state_dir: home.join("state"),
            cgroup_parent: cgroup_parent.to_owned(),
            program: PathBuf::from(env!("CARGO_BIN_EXE_shoal-agent")),
        };
        let networks = BridgeConfig::new(home.join("net-state"), home.join("net-run"));
        let drivers = Drivers {
            runtime: Arc::new(OciRuntime::new(oci).unwrap()),
            networks: Arc::new(BridgeNetworks::open(networks).unwrap()),
            volumes: Arc::new(LocalVolumes::open(home.join("volumes")).unwrap()),
            images: Arc::new(OneImage(home.join("layer"))),
            clock: Arc::new(SystemClock),
        };
        let config = WorkerConfig {
            ledger_dir: home.join("ledger"),
            run_dir: home.join("files"),
            hostname: "alpha".to_owned(),
            parallel: WorkerConfig::PARALLEL,
        };
        let worker = Worker::start(config, drivers).await.unwrap();
        let assignment = NodeAssignment { networks: [network()].into(), ..Default::default() };
        Self { worker, assignment, latest: Mutex::default() }
    }

    pub(crate) fn assign(&mut self, tasks: impl IntoIterator<Item = AssignedTask>) {
        self.assignment.tasks.extend(tasks.into_iter().map(|task| (task.id, task)));
        self.worker.assign_all(self.assignment.clone());
    }

    pub(crate) fn want(&mut self, id: u128, desired: DesiredState) {
        self.assignment.tasks.get_mut(&id.into()).unwrap().desired_state = desired;
        self.worker.assign_all(self.assignment.clone());
    }

    /// Listens until a task has come so far.
    pub(crate) async fn until(&self, id: u128, state: TaskState) -> TaskStatus {
        let id = TaskId::from(id);
        let look = async {
            loop {
                let known = self.latest.lock().unwrap().get(&id).cloned();
                if let Some(status) = known.filter(|s| s.state >= state) {
                    return status;
                }
                let batch = self.worker.reporter().next_batch().await;
                self.latest.lock().unwrap().extend(batch);
            }
        };
        let status = tokio::time::timeout(PATIENCE, look).await;
        let status =
            status.unwrap_or_else(|_| panic!("{id} is {:?}", self.latest.lock().unwrap().get(&id)));
        assert_eq!(status.state, state, "{status:?}");
        status
    }
}

fn network() -> (NetworkId, Arc<Network>) {
    let driver = Driver { name: "bridge".to_owned(), ..Driver::default() };
    let spec = NetworkSpec { name: "back".to_owned(), driver, ..NetworkSpec::default() };
    let id = 77.into();
    let network = Network { id, meta: Meta::default(), spec, stack_id: None, predefined: false };
    (id, Arc::new(network))
}

/// A task that runs a shell script.
pub(crate) fn task(
    id: u128,
    script: &str,
    change: impl FnOnce(&mut ContainerSpec),
) -> AssignedTask {
    let mut container = ContainerSpec {
        image: "busybox:1".to_owned(),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        // The first process of a namespace ignores signals that it does not handle.
        stop_grace_period: Some(Duration::from_millis(500)),
        ..ContainerSpec::default()
    };
    change(&mut container);
    AssignedTask {
        id: id.into(),
        service_id: 1.into(),
        service_name: "web".to_owned(),
        service_labels: BTreeMap::new(),
        slot: Slot::Replica(u64::try_from(id).unwrap()),
        node_id: 2.into(),
        spec: Arc::new(TaskSpec {
            runtime: TaskRuntime::Container(container),
            resources: None,
            restart_policy: None,
            placement: None,
            networks: Vec::new(),
            log_driver: None,
            force_update: 0,
        }),
        ports: Vec::new(),
        networks: vec![TaskNetwork {
            network_id: 77.into(),
            aliases: Vec::new(),
            driver_opts: BTreeMap::new(),
            addresses: Vec::new(),
        }],
        desired_state: DesiredState::Running,
    }
}
