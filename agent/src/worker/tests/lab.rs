//! A host of fakes that outlives workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use oci_spec::image::{ConfigBuilder, ImageConfiguration};
use shoal_types::assignment::{AssignedTask, NodeAssignment};
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::image_ref::{Digest, ImageReference};
use shoal_types::object::{Meta, Network, Slot, TaskNetwork, TaskStatus};
use shoal_types::spec::{ContainerSpec, Driver, NetworkSpec, TaskRuntime, TaskSpec};
use shoal_types::task_state::{DesiredState, TaskState};
use tokio::sync::{Notify, watch};

use crate::image::{Image, ImageError, ImageHealthcheck, PullPolicy, PullProgress, RegistryError};
use crate::network::FakeNetworks;
use crate::runtime::fake::FakeRuntime;
use crate::volume::FakeVolumes;
use crate::worker::{Drivers, Images, SystemClock, Worker, WorkerConfig, WorkerHandle};

/// Images that are there, and ones that never come.
#[derive(Default)]
pub(super) struct FakeImages {
    pub(super) known: Mutex<BTreeMap<ImageReference, Image>>,
    pub(super) asked: Mutex<Vec<(ImageReference, PullPolicy)>>,
    pub(super) unreachable: Mutex<bool>,
    pub(super) slow: Mutex<BTreeSet<ImageReference>>,
    pub(super) hurry: Notify,
}

impl FakeImages {
    pub(super) fn add(&self, name: &str, healthcheck: Option<ImageHealthcheck>) {
        let reference = ImageReference::parse(name).unwrap();
        let mut config = ImageConfiguration::default();
        let cmd = ConfigBuilder::default().cmd(vec!["run".to_owned()]).build().unwrap();
        config.set_config(Some(cmd));
        let image = Image {
            id: Digest::from_bytes([1; 32]),
            reference: Some(reference.clone()),
            repo_digest: None,
            config,
            healthcheck,
            layers: vec!["/layers/a".into()],
            size: 1,
        };
        self.known.lock().unwrap().insert(reference, image);
    }
}

pub(super) struct SharedImages(Arc<FakeImages>);

impl Images for SharedImages {
    fn get(&self, reference: &ImageReference) -> Result<Option<Image>, ImageError> {
        Ok(self.0.known.lock().unwrap().get(reference).cloned())
    }

    fn ensure(
        &self,
        reference: ImageReference,
        policy: PullPolicy,
        _progress: watch::Sender<PullProgress>,
    ) -> BoxFuture<'static, Result<Image, ImageError>> {
        let images = Arc::clone(&self.0);
        async move {
            images.asked.lock().unwrap().push((reference.clone(), policy));
            let slow = images.slow.lock().unwrap().contains(&reference);
            if slow {
                images.hurry.notified().await;
            }
            let name = reference.to_string();
            let gone = || RegistryError::NotFound {
                registry: "docker.io".to_owned(),
                what: "manifest".to_owned(),
                detail: String::new(),
            };
            if *images.unreachable.lock().unwrap() && policy == PullPolicy::Always {
                return Err(ImageError::Pull { reference: name, source: gone() });
            }
            let known = images.known.lock().unwrap().get(&reference).cloned();
            known.ok_or_else(|| ImageError::NotFound { reference: name, source: gone() })
        }
        .boxed()
    }
}

/// A host.
pub(super) struct Lab {
    pub(super) dir: tempfile::TempDir,
    pub(super) runtime: FakeRuntime,
    pub(super) networks: Arc<FakeNetworks>,
    pub(super) volumes: Arc<FakeVolumes>,
    pub(super) images: Arc<FakeImages>,
    pub(super) worker: WorkerHandle,
    pub(super) assignment: NodeAssignment,
    latest: Mutex<BTreeMap<TaskId, TaskStatus>>,
    pub(super) history: Mutex<Vec<(TaskId, TaskState)>>,
}

impl Lab {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (networks, volumes) = (Arc::default(), Arc::default());
        let images = Arc::new(FakeImages::default());
        images.add("app:1", None);
        let runtime = FakeRuntime::default();
        let worker = start(&dir, &runtime, &networks, &volumes, &images).await;
        let assignment = NodeAssignment { networks: [network()].into(), ..Default::default() };
        Self {
            dir,
            runtime,
            networks,
            volumes,
            images,
            worker,
            assignment,
            latest: Mutex::default(),
            history: Mutex::default(),
        }
    }

    /// The agent dies and comes back; containers live on.
    pub(super) async fn crash(&mut self) {
        self.crash_and(|_| {}).await;
    }

    /// As [`Lab::crash`], with something happening in between.
    pub(super) async fn crash_and(&mut self, meanwhile: impl FnOnce(&Self)) {
        self.worker.shut_down().await;
        self.runtime.crash();
        meanwhile(self);
        self.runtime = FakeRuntime::on(self.runtime.host());
        self.worker =
            start(&self.dir, &self.runtime, &self.networks, &self.volumes, &self.images).await;
        self.latest.lock().unwrap().clear();
    }

    pub(super) fn assign(&mut self, tasks: impl IntoIterator<Item = AssignedTask>) {
        self.assignment.tasks.extend(tasks.into_iter().map(|task| (task.id, task)));
        self.worker.assign_all(self.assignment.clone());
    }

    pub(super) fn want(&mut self, id: u128, desired: DesiredState) {
        self.assignment.tasks.get_mut(&id.into()).unwrap().desired_state = desired;
        self.worker.assign_all(self.assignment.clone());
    }

    pub(super) fn drop_task(&mut self, id: u128) {
        self.assignment.tasks.remove(&id.into());
        self.worker.assign_all(self.assignment.clone());
    }

    /// Listens until a task reports what is looked for.
    pub(super) async fn until(&self, id: u128, found: impl Fn(&TaskStatus) -> bool) -> TaskStatus {
        let id = TaskId::from(id);
        let look = async {
            loop {
                if let Some(status) = self.latest.lock().unwrap().get(&id)
                    && found(status)
                {
                    return status.clone();
                }
                for (id, status) in self.worker.reporter().next_batch().await {
                    self.history.lock().unwrap().push((id, status.state));
                    self.latest.lock().unwrap().insert(id, status);
                }
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), look).await {
            Ok(status) => status,
            Err(_) => panic!("{id} is {:?}", self.latest.lock().unwrap().get(&id)),
        }
    }

    pub(super) async fn until_state(&self, id: u128, state: TaskState) -> TaskStatus {
        let status = self.until(id, |s| s.state >= state).await;
        assert_eq!(status.state, state, "{status:?}");
        status
    }

    /// Nothing of any task is left.
    pub(super) async fn until_empty(&self) {
        let look = async {
            loop {
                let tasks = self.worker.task_summary().await.unwrap();
                if tasks.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), look).await.unwrap();
        assert!(self.runtime.containers().is_empty());
        self.nothing_is_leased();
        let left = std::fs::read_dir(self.dir.path().join("ledger/tasks")).unwrap().count();
        assert_eq!(left, 0, "ledger");
        let files = std::fs::read_dir(self.dir.path().join("run/files"));
        assert_eq!(files.map_or(0, Iterator::count), 0, "files");
    }
}

impl Lab {
    /// No network, no attachment, no port.
    pub(super) fn nothing_is_leased(&self) {
        let leases = format!("{:?}", self.networks.leases());
        assert!(leases.contains("networks: {}, containers: {}"), "{leases}");
    }
}

async fn start(
    dir: &tempfile::TempDir,
    runtime: &FakeRuntime,
    networks: &Arc<FakeNetworks>,
    volumes: &Arc<FakeVolumes>,
    images: &Arc<FakeImages>,
) -> WorkerHandle {
    let config = WorkerConfig {
        ledger_dir: dir.path().join("ledger"),
        run_dir: dir.path().join("run"),
        hostname: "alpha".to_owned(),
        parallel: WorkerConfig::PARALLEL,
    };
    let drivers = Drivers {
        runtime: Arc::new(runtime.clone()),
        networks: Arc::clone(networks) as _,
        volumes: Arc::clone(volumes) as _,
        images: Arc::new(SharedImages(Arc::clone(images))),
        clock: Arc::new(SystemClock),
    };
    Worker::start(config, drivers).await.unwrap()
}

const NETWORK: u128 = 77;

fn network() -> (NetworkId, Arc<Network>) {
    let driver = Driver { name: "bridge".to_owned(), ..Driver::default() };
    let spec = NetworkSpec { name: "back".to_owned(), driver, ..NetworkSpec::default() };
    let id = NETWORK.into();
    let network = Network { id, meta: Meta::default(), spec, stack_id: None, predefined: false };
    (id, Arc::new(network))
}

pub(crate) fn task(id: u128, change: impl FnOnce(&mut ContainerSpec)) -> AssignedTask {
    let mut container = ContainerSpec { image: "app:1".to_owned(), ..ContainerSpec::default() };
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
            network_id: NETWORK.into(),
            aliases: Vec::new(),
            driver_opts: BTreeMap::new(),
            addresses: Vec::new(),
        }],
        desired_state: DesiredState::Running,
    }
}
