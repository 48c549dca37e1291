//! A host of fakes that outlives workers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use shoal_agent_dns::FakeNames;
use shoal_agent_image::{
    Held, Image, ImageError, ImageHealthcheck, Pin, Pins, PullPolicy, PullProgress, RegistryAuth,
    RegistryError,
};
use shoal_agent_network::FakeNetworks;
use shoal_agent_planning::task::{Boot, Moment};
use shoal_agent_volume::FakeVolumes;
use shoal_types::assignment::AssignedTask;
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::image_ref::{Digest, ImageReference};
use shoal_types::object::Network;
use shoal_types::spec::ContainerSpec;
use tokio::sync::{Notify, watch};

use crate::testing::assigner::{self, Assigner};
use crate::worker::{
    Clock, Credentials, Drivers, Images, SystemClock, Unasked, Worker, WorkerConfig, WorkerHandle,
};
use shoal_agent_runtime::fake::FakeRuntime;

/// Images that are there, and ones that never come.
#[derive(Default)]
pub(super) struct FakeImages {
    /// Tasks that other nodes lead to.
    pub(super) led_to: watch::Sender<BTreeSet<TaskId>>,
    pub(super) known: Mutex<BTreeMap<ImageReference, Image>>,
    pub(super) asked: Mutex<Vec<(ImageReference, PullPolicy)>>,
    /// Credentials that came with each question.
    pub(super) shown: Mutex<Vec<Option<RegistryAuth>>>,
    /// Images of registries that want a credential.
    pub(super) private: Mutex<BTreeMap<ImageReference, Image>>,
    /// What a manager would say, by task; nobody answers if it is not there.
    pub(super) credentials: Mutex<BTreeMap<TaskId, Option<RegistryAuth>>>,
    pub(super) unreachable: Mutex<bool>,
    pub(super) slow: Mutex<BTreeSet<ImageReference>>,
    pub(super) hurry: Notify,
    /// Who hears of the pull of a slow one.
    pub(super) pulls: Mutex<Option<watch::Sender<PullProgress>>>,
    pub(super) pins: Pins,
}

impl FakeImages {
    pub(super) fn add(&self, name: &str, healthcheck: Option<ImageHealthcheck>) {
        let reference = ImageReference::parse(name).unwrap();
        let image = assigner::image(reference.clone(), &["run"], "/layers/a".into());
        let image = Image { healthcheck, ..image };
        self.known.lock().unwrap().insert(reference, image);
    }

    fn hold(&self, reference: &ImageReference) -> Option<Held> {
        let image = self.known.lock().unwrap().get(reference).cloned()?;
        let pin = Arc::new(self.pins.pin([image.id]));
        Some(Held { image: Arc::new(image), pin })
    }
}

pub(super) struct SharedImages(pub(super) Arc<FakeImages>);

impl Images for SharedImages {
    fn hold(&self, reference: &ImageReference) -> Option<Held> {
        self.0.hold(reference)
    }

    fn pin(&self, id: Digest) -> Pin {
        self.0.pins.pin([id])
    }

    fn ensure(
        &self,
        reference: ImageReference,
        policy: PullPolicy,
        auth: Option<RegistryAuth>,
        progress: watch::Sender<PullProgress>,
    ) -> BoxFuture<'static, Result<Held, ImageError>> {
        let images = Arc::clone(&self.0);
        async move {
            images.asked.lock().unwrap().push((reference.clone(), policy));
            images.shown.lock().unwrap().push(auth.clone());
            let slow = images.slow.lock().unwrap().contains(&reference);
            if slow {
                images.pulls.lock().unwrap().replace(progress);
                images.hurry.notified().await;
            }
            let name = reference.to_string();
            let gone = || RegistryError::NotFound {
                registry: "docker.io".to_owned(),
                what: "manifest".to_owned(),
                detail: String::new(),
            };
            let private = images.private.lock().unwrap().get(&reference).cloned();
            if let Some(image) = private.filter(|_| auth.is_some()) {
                images.known.lock().unwrap().insert(reference.clone(), image);
            } else if images.private.lock().unwrap().contains_key(&reference)
                && images.hold(&reference).is_none()
            {
                let source = RegistryError::Denied {
                    registry: reference.registry().to_owned(),
                    repository: reference.repository().to_owned(),
                    needs: "credentials",
                    detail: String::new(),
                };
                return Err(ImageError::Pull { reference: name, source });
            }
            if *images.unreachable.lock().unwrap() && policy == PullPolicy::Always {
                return Err(ImageError::Pull { reference: name, source: gone() });
            }
            images
                .hold(&reference)
                .ok_or_else(|| ImageError::NotFound { reference: name, source: gone() })
        }
        .boxed()
    }
}

impl Credentials for SharedImages {
    fn for_task(
        &self,
        task: TaskId,
        wait: Duration,
    ) -> BoxFuture<'static, Result<Option<RegistryAuth>, Unasked>> {
        let images = Arc::clone(&self.0);
        async move {
            let known = images.credentials.lock().unwrap().get(&task).cloned();
            known.ok_or_else(|| Unasked(format!("nobody is there within {wait:?}")))
        }
        .boxed()
    }

    fn withdrawn(&self, task: TaskId) -> BoxFuture<'static, Result<u32, Unasked>> {
        let mut led_to = self.0.led_to.subscribe();
        async move {
            // Fails only when the lab is gone.
            drop(led_to.wait_for(|tasks| !tasks.contains(&task)).await);
            Ok(0)
        }
        .boxed()
    }
}

/// The host's clocks, turned forward.
#[derive(Default)]
pub(super) struct LabClock {
    ahead: Mutex<Duration>,
}

impl LabClock {
    pub(super) fn advance(&self, by: Duration) {
        *self.ahead.lock().unwrap() += by;
    }
}

impl Clock for LabClock {
    fn now(&self) -> Moment {
        let ahead = *self.ahead.lock().unwrap();
        let Moment { wall, steady } = SystemClock.now();
        Moment { wall: wall + ahead, steady: steady + ahead }
    }
}

/// A host.
pub(super) struct Lab {
    pub(super) dir: tempfile::TempDir,
    pub(super) runtime: FakeRuntime,
    pub(super) networks: Arc<FakeNetworks>,
    pub(super) names: Arc<FakeNames>,
    pub(super) volumes: Arc<FakeVolumes>,
    pub(super) images: Arc<FakeImages>,
    pub(super) clock: Arc<LabClock>,
    boot: Boot,
    assigner: Assigner,
}

impl Deref for Lab {
    type Target = Assigner;

    fn deref(&self) -> &Assigner {
        &self.assigner
    }
}

impl DerefMut for Lab {
    fn deref_mut(&mut self) -> &mut Assigner {
        &mut self.assigner
    }
}

impl Lab {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (networks, names, volumes) = (Arc::default(), Arc::default(), Arc::default());
        let images = Arc::new(FakeImages::default());
        images.add("app:1", None);
        let runtime = FakeRuntime::default();
        let clock = Arc::default();
        let boot = Boot::new("1");
        let hosts = Hosts { networks: &networks, names: &names, volumes: &volumes };
        let worker = start(&dir, &runtime, &hosts, &images, &clock, &boot).await;
        let assigner = Assigner::new(worker);
        Self { dir, runtime, networks, names, volumes, images, clock, boot, assigner }
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
        let Self { dir, runtime, networks, names, volumes, images, clock, boot, .. } = &*self;
        let hosts = Hosts { networks, names, volumes };
        let worker = start(dir, runtime, &hosts, images, clock, boot).await;
        self.turn_to(worker);
    }

    /// The host loses power and comes back: of containers only what is on disk is left, and what was
    /// in memory is gone.
    pub(super) async fn reboot(&mut self) {
        self.boot = Boot::new(format!("{}+", self.boot));
        let lost = |lab: &Self| {
            lab.runtime.reboot();
            lab.names.lose_everything();
        };
        self.crash_and(lost).await;
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
        assert_eq!(self.names.askers(), []);
        let left = std::fs::read_dir(self.dir.path().join("ledger/tasks")).unwrap().count();
        assert_eq!(left, 0, "ledger");
        let files = std::fs::read_dir(self.dir.path().join("run/files"));
        assert_eq!(files.map_or(0, Iterator::count), 0, "files");
    }

    /// No network, no attachment, no port.
    pub(super) fn nothing_is_leased(&self) {
        let leases = format!("{:?}", self.networks.leases());
        assert!(leases.contains("networks: {}, containers: {}"), "{leases}");
    }
}

/// What is on the host beside containers and images.
struct Hosts<'a> {
    networks: &'a Arc<FakeNetworks>,
    names: &'a Arc<FakeNames>,
    volumes: &'a Arc<FakeVolumes>,
}

async fn start(
    dir: &tempfile::TempDir,
    runtime: &FakeRuntime,
    hosts: &Hosts<'_>,
    images: &Arc<FakeImages>,
    clock: &Arc<LabClock>,
    boot: &Boot,
) -> WorkerHandle {
    let config = WorkerConfig {
        ledger_dir: dir.path().join("ledger"),
        run_dir: dir.path().join("run"),
        hostname: "alpha".to_owned(),
        boot: boot.clone(),
        parallel: WorkerConfig::PARALLEL,
        round: WorkerConfig::ROUND,
    };
    let drivers = Drivers {
        runtime: Arc::new(runtime.clone()),
        networks: Arc::clone(hosts.networks) as _,
        names: Arc::clone(hosts.names) as _,
        volumes: Arc::clone(hosts.volumes) as _,
        images: Arc::new(SharedImages(Arc::clone(images))),
        credentials: Arc::new(SharedImages(Arc::clone(images))),
        clock: Arc::clone(clock) as _,
    };
    Worker::start(config, drivers).await.unwrap()
}

/// A task of an image that there is.
pub(super) fn task(id: u128, change: impl FnOnce(&mut ContainerSpec)) -> AssignedTask {
    let mut container = ContainerSpec { image: "app:1".to_owned(), ..ContainerSpec::default() };
    change(&mut container);
    assigner::task(id, container)
}

/// A network beside the one that every task is on.
pub(super) fn other_network() -> (NetworkId, Arc<Network>) {
    let mut network = Network::clone(&assigner::network().1);
    (network.id, network.spec.name) = (78.into(), "other".to_owned());
    (network.id, Arc::new(network))
}
