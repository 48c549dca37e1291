//! What a manager does to a worker: it assigns tasks and hears what becomes of them.
//!
//! Shared with the tests over real drivers (agent/tests/worker), so it calls this crate by its name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oci_spec::image::{ConfigBuilder, ImageConfiguration};
use shoal_agent::worker::{Mark, WorkerHandle};
use shoal_agent_image::Image;
use shoal_types::assignment::{AssignedTask, NodeAssignment};
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::image_ref::{Digest, ImageReference};
use shoal_types::level::Level;
use shoal_types::object::{Meta, Network, Slot, TaskNetwork, TaskStatus};
use shoal_types::spec::{ContainerSpec, Driver, NetworkSpec, TaskRuntime, TaskSpec};
use shoal_types::task_state::{DesiredState, TaskState};

/// Bound of every wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// The network that every task is on.
const NETWORK: u128 = 77;

/// Tells a worker what to do.
pub(crate) struct Assigner {
    pub(crate) worker: WorkerHandle,
    pub(crate) assignment: NodeAssignment,
    latest: Mutex<BTreeMap<TaskId, TaskStatus>>,
    pub(crate) history: Mutex<Vec<(TaskId, TaskState)>>,
}

impl Assigner {
    pub(crate) fn new(worker: WorkerHandle) -> Self {
        let assignment = NodeAssignment { networks: [network()].into(), ..Default::default() };
        Self { worker, assignment, latest: Mutex::default(), history: Mutex::default() }
    }

    /// Goes on with the worker of the next agent.
    pub(crate) fn turn_to(&mut self, worker: WorkerHandle) {
        self.worker = worker;
        self.latest.lock().unwrap().clear();
    }

    pub(crate) fn assign(&mut self, tasks: impl IntoIterator<Item = AssignedTask>) {
        self.assignment.tasks.extend(tasks.into_iter().map(|task| (task.id, task)));
        self.worker.assign_all(self.assignment.clone(), mark(0, 1));
    }

    pub(crate) fn want(&mut self, id: u128, desired: DesiredState) {
        self.assignment.tasks.get_mut(&id.into()).unwrap().desired_state = desired;
        self.worker.assign_all(self.assignment.clone(), mark(0, 1));
    }

    pub(crate) fn drop_task(&mut self, id: u128) {
        self.assignment.tasks.remove(&id.into());
        self.worker.assign_all(self.assignment.clone(), mark(0, 1));
    }

    /// Listens until a task reports what is looked for.
    pub(crate) async fn until(&self, id: u128, found: impl Fn(&TaskStatus) -> bool) -> TaskStatus {
        let id = TaskId::from(id);
        let look = async {
            loop {
                let known = self.latest.lock().unwrap().get(&id).cloned();
                if let Some(status) = known.filter(|status| found(status)) {
                    return status;
                }
                for (id, status) in self.worker.reporter().next_batch().await {
                    self.history.lock().unwrap().push((id, status.state));
                    self.latest.lock().unwrap().insert(id, status);
                }
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(status) => status,
            Err(_) => panic!("{id} is {:?}", self.latest.lock().unwrap().get(&id)),
        }
    }

    /// Listens until a task has come so far, and no further.
    pub(crate) async fn until_state(&self, id: u128, state: TaskState) -> TaskStatus {
        let status = self.until(id, |s| s.state.has_reached(state)).await;
        assert_eq!(status.state, state, "{status:?}");
        status
    }
}

/// A message of a leader of this term.
pub(crate) fn mark(term: u64, sequence: u64) -> Mark {
    Mark { node: Some(2.into()), session: "test".into(), term, sequence }
}

pub(crate) fn network() -> (NetworkId, Arc<Network>) {
    let driver = Driver { name: "bridge".to_owned(), ..Driver::default() };
    let spec = NetworkSpec { name: "back".to_owned(), driver, ..NetworkSpec::default() };
    let id = NETWORK.into();
    let network = Network {
        id,
        meta: Meta::default(),
        spec,
        stack_id: None,
        predefined: false,
        subnets: Vec::new(),
    };
    (id, Arc::new(network))
}

/// An image of one layer.
pub(crate) fn image(reference: ImageReference, cmd: &[&str], layer: PathBuf) -> Image {
    let cmd: Vec<String> = cmd.iter().map(ToString::to_string).collect();
    let mut config = ImageConfiguration::default();
    config.set_config(Some(ConfigBuilder::default().cmd(cmd).build().unwrap()));
    Image {
        id: Digest::from_bytes([1; 32]),
        reference: Some(reference),
        repo_digest: None,
        config,
        healthcheck: None,
        layers: vec![layer],
        size: 1,
    }
}

/// A task that is to run, on the network.
pub(crate) fn task(id: u128, container: ContainerSpec) -> AssignedTask {
    AssignedTask {
        id: id.into(),
        service_id: 1.into(),
        service_name: "web".to_owned(),
        service_labels: BTreeMap::new(),
        slot: Slot::Replica(u64::try_from(id).unwrap()),
        node_id: 2.into(),
        spec: Arc::new(TaskSpec::of(TaskRuntime::Container(container))),
        ports: Vec::new(),
        networks: vec![TaskNetwork { connected: false, ..joined(NETWORK.into()) }],
        payloads: Default::default(),
        partner: None,
        desired_state: DesiredState::Running,
        level: Level::FIRST,
    }
}

/// A network to which somebody has connected a task.
pub(crate) fn joined(network_id: NetworkId) -> TaskNetwork {
    TaskNetwork {
        network_id,
        aliases: Vec::new(),
        driver_opts: BTreeMap::new(),
        addresses: Vec::new(),
        connected: true,
    }
}
