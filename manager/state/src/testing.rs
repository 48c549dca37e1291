//! Builders of specs and states for tests, of this crate and (with feature `testing`) of others.
//! All of them panic where a test would.

#![allow(clippy::expect_used, clippy::panic, reason = "as a test would")]

mod commands;

pub use commands::{Step, decide};

use std::sync::Arc;
use std::time::Duration;

use shoal_types::id::{DeploymentId, IdSource, NetworkId, NodeId, SeededIds, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{
    ContainerStatus, DescribedKeys, HostSubnet, JoinTokens, Node, NodeDescription, NodeState,
    NodeStatus, RootCa, Service, Slot, Task, TaskStatus, TunnelDescription, TunnelKey, TunnelKind,
    VirtualIp,
};
use shoal_types::resources::{NANO_CPUS_PER_CPU, ResourceRequirements, Resources};
use shoal_types::spec::{
    Availability, ClusterSpec, ContainerSpec, Driver, EndpointSpec, Ipam, IpamConfig, NetworkSpec,
    NodeRole, NodeSpec, Platform, PortConfig, Protocol, PublishMode, ServiceMode, ServiceSpec,
    StackSpec, TaskRuntime, TaskSpec,
};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use crate::cluster_state::Writer;
use crate::{
    ClusterState, Command, Event, Outcome, PredefinedIds, Rejected, StackIds, UpdateKind, apply,
    invariant,
};

/// CPUs of a test node.
pub const NODE_CPUS: u64 = 4;
/// Memory of a test node in bytes.
pub const NODE_MEMORY_BYTES: u64 = 8 << 30;

/// A replicated service of a small container, without ports or reservations.
#[must_use]
pub fn service_spec(name: &str, replicas: u64) -> ServiceSpec {
    let container = ContainerSpec {
        image: "docker.io/library/busybox:1".to_owned(),
        args: Some(vec!["sleep".to_owned(), "1d".to_owned()]),
        ..ContainerSpec::default()
    };
    ServiceSpec {
        name: name.to_owned(),
        labels: Default::default(),
        task_template: Arc::new(TaskSpec::of(TaskRuntime::Container(container))),
        mode: ServiceMode::Replicated { replicas },
        update_config: None,
        rollback_config: None,
        endpoint_spec: None,
    }
}

/// As [`service_spec`], with one task on every node.
#[must_use]
pub fn global_spec(name: &str) -> ServiceSpec {
    ServiceSpec { mode: ServiceMode::Global {}, ..service_spec(name, 0) }
}

/// Changes the task template of a spec.
#[must_use]
pub fn with_task(mut spec: ServiceSpec, change: impl FnOnce(&mut TaskSpec)) -> ServiceSpec {
    change(Arc::make_mut(&mut spec.task_template));
    spec
}

/// Lets each task of a service reserve this much.
#[must_use]
pub fn with_reservation(spec: ServiceSpec, nano_cpus: u64, memory_bytes: u64) -> ServiceSpec {
    let reserved = Resources { nano_cpus, memory_bytes, generic_resources: Vec::new() };
    with_task(spec, |task| {
        let resources = ResourceRequirements { reservations: Some(reserved), ..Default::default() };
        task.resources = Some(resources);
    })
}

/// Lets a service publish a TCP port in mode host, on all addresses.
#[must_use]
pub fn with_host_port(mut spec: ServiceSpec, published: u16) -> ServiceSpec {
    let endpoint = spec.endpoint_spec.get_or_insert_with(EndpointSpec::default);
    endpoint.ports.push(PortConfig {
        name: String::new(),
        protocol: Protocol::Tcp,
        target_port: 80,
        published_port: published,
        publish_mode: PublishMode::Host,
        host_ip: None,
    });
    spec
}

/// Lets a service publish a TCP port on every node; zero for any.
#[must_use]
pub fn with_ingress_port(spec: ServiceSpec, published: u16) -> ServiceSpec {
    let mut spec = with_host_port(spec, published);
    if let Some(port) = spec.endpoint_spec.as_mut().and_then(|e| e.ports.last_mut()) {
        port.publish_mode = PublishMode::Ingress;
    }
    spec
}

/// Lets a service join networks, by name or id.
#[must_use]
pub fn with_networks(spec: ServiceSpec, targets: &[&str]) -> ServiceSpec {
    with_task(spec, |task| {
        let joins = |target: &&str| shoal_types::spec::NetworkAttachmentConfig {
            target: (*target).to_owned(),
            ..Default::default()
        };
        task.networks = targets.iter().map(joins).collect();
    })
}

/// Lets a service share the network of another one.
#[must_use]
pub fn with_network_of(spec: ServiceSpec, other: &str) -> ServiceSpec {
    with_task(spec, |task| task.network_of = Some(other.to_owned()))
}

/// A bridge network.
#[must_use]
pub fn network_spec(name: &str) -> NetworkSpec {
    let driver = Driver { name: "bridge".to_owned(), ..Driver::default() };
    NetworkSpec { name: name.to_owned(), driver, ..NetworkSpec::default() }
}

/// A network across nodes: with this subnet, or one from the cluster's pools.
#[must_use]
pub fn overlay_spec(name: &str, subnet: Option<&str>) -> NetworkSpec {
    let driver = Driver { name: "overlay".to_owned(), ..Driver::default() };
    let config = |subnet: &str| IpamConfig { subnet: subnet.to_owned(), ..IpamConfig::default() };
    let ipam = subnet.map(|s| Ipam { config: vec![config(s)], ..Ipam::default() });
    NetworkSpec { name: name.to_owned(), driver, ipam, ..NetworkSpec::default() }
}

/// A network on the wire of `eth0` of each node, with this subnet.
#[must_use]
pub fn wire_spec(name: &str, driver: &str, subnet: &str, gateway: &str) -> NetworkSpec {
    let options = [("parent".to_owned(), "eth0".to_owned())].into();
    let config = vec![ipam_config(subnet, "", gateway, &[])];
    NetworkSpec {
        name: name.to_owned(),
        driver: Driver { name: driver.to_owned(), options },
        ipam: Some(Ipam { config, ..Ipam::default() }),
        ..NetworkSpec::default()
    }
}

/// A subnet of a network, as a user says it; empty texts say nothing.
#[must_use]
pub fn ipam_config(subnet: &str, ip_range: &str, gateway: &str, aux: &[&str]) -> IpamConfig {
    let named = |(n, address): (usize, &&str)| (format!("h{n}"), (*address).to_owned());
    IpamConfig {
        subnet: subnet.to_owned(),
        ip_range: ip_range.to_owned(),
        gateway: gateway.to_owned(),
        aux_addresses: aux.iter().enumerate().map(named).collect(),
    }
}

/// A network across nodes with these subnets, with IPv6 or without.
#[must_use]
pub fn dual_spec(name: &str, enable_ipv6: bool, config: Vec<IpamConfig>) -> NetworkSpec {
    let ipam = Some(Ipam { config, ..Ipam::default() });
    NetworkSpec { enable_ipv6, ipam, ..overlay_spec(name, None) }
}

/// What a node with [`NODE_CPUS`] and [`NODE_MEMORY_BYTES`] says of itself.
#[must_use]
pub fn node_description(hostname: &str) -> NodeDescription {
    NodeDescription {
        hostname: hostname.to_owned(),
        platform: Platform { architecture: "amd64".to_owned(), os: "linux".to_owned() },
        resources: Resources {
            nano_cpus: NODE_CPUS * NANO_CPUS_PER_CPU,
            memory_bytes: NODE_MEMORY_BYTES,
            generic_resources: Vec::new(),
        },
        ..NodeDescription::default()
    }
}

/// A cluster whose nodes `node-1` to `node-N` are ready; the first one is a manager. With the ids
/// of the nodes, in that order.
#[must_use]
pub fn cluster_with_nodes(count: usize) -> (TestCluster, Vec<NodeId>) {
    cluster_of(Level::FIRST, count)
}

/// As [`cluster_with_nodes`], with a cluster of this level, and nodes that have it.
#[must_use]
pub fn cluster_of(level: Level, count: usize) -> (TestCluster, Vec<NodeId>) {
    let mut cluster = TestCluster::at(level);
    let nodes = (1..=count).map(|n| cluster.add_node(&format!("node-{n}"))).collect();
    (cluster, nodes)
}

/// A state with a clock, a source of ids and a log index of its own.
#[derive(Debug, Clone)]
pub struct TestCluster {
    /// The state.
    pub state: ClusterState,
    /// Where fresh ids come from.
    pub ids: SeededIds,
    /// The present time; moves only by [`TestCluster::advance`].
    pub now: Timestamp,
}

impl Default for TestCluster {
    fn default() -> Self {
        Self::new()
    }
}

impl TestCluster {
    /// A cluster without nodes, created at 1 000 s.
    #[must_use]
    pub fn new() -> Self {
        Self::at(Level::FIRST)
    }

    /// As [`TestCluster::new`], with a cluster of this level.
    #[must_use]
    pub fn at(level: Level) -> Self {
        let now = Timestamp::from_secs(1000);
        let mut cluster = Self { state: ClusterState::new(), ids: SeededIds::new(1), now };
        let mut create = create_cluster(&mut cluster.ids);
        if let Command::CreateCluster { level: own, .. } = &mut create {
            *own = level;
        }
        cluster.apply(create);
        cluster
    }

    /// Applies a command at the next log index.
    ///
    /// # Errors
    /// As [`apply`].
    pub fn try_apply(&mut self, command: Command) -> Result<Outcome, Rejected> {
        let index = self.state.applied_index() + 1;
        apply(&mut self.state, index, self.now, command)
    }

    /// Applies a command that must not be rejected.
    #[track_caller]
    pub fn apply(&mut self, command: Command) -> Outcome {
        let shown = format!("{command:?}");
        self.try_apply(command).unwrap_or_else(|rejected| panic!("{rejected}: {shown}"))
    }

    /// What was written since this was last called.
    pub fn events(&mut self) -> Vec<Event> {
        self.state.take_events()
    }

    /// A fresh id.
    pub fn fresh<T: From<u128>>(&mut self) -> T {
        self.ids.next_id()
    }

    /// Lets time pass.
    pub fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
    }

    /// Panics if an invariant does not hold.
    #[track_caller]
    pub fn check(&self) {
        let wrong = invariant::check(&self.state);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// A ready node; a manager if it is the first one.
    pub fn add_node(&mut self, hostname: &str) -> NodeId {
        let id = self.ids.next_id();
        let first = self.state.nodes().len() == 0;
        let role = if first { NodeRole::Manager } else { NodeRole::Agent };
        let spec = NodeSpec { role, ..NodeSpec::default() };
        let level = self.state.level();
        let description = NodeDescription { level, ..node_description(hostname) };
        self.apply(Command::CreateNode { id, spec, description });
        self.set_node(id, NodeState::Ready);
        id
    }

    /// Reports a node in this state.
    pub fn set_node(&mut self, id: NodeId, state: NodeState) -> Outcome {
        let status = NodeStatus { state, since: self.now, ..NodeStatus::default() };
        self.apply(Command::ReportNode { id, description: None, status })
    }

    /// Lets a node take tasks, keep those it has, or give them away.
    pub fn set_availability(&mut self, id: NodeId, availability: Availability) {
        let node = Arc::clone(self.state.node(id).expect("the node exists"));
        let spec = NodeSpec { availability, ..node.spec.clone() };
        self.apply(Command::UpdateNode { id, expected: node.meta.spec_version, spec });
    }

    /// A network.
    pub fn add_network(&mut self, name: &str) -> NetworkId {
        let id = self.ids.next_id();
        self.apply(Command::CreateNetwork { id, spec: network_spec(name) });
        id
    }

    /// A network across nodes, as [`overlay_spec`].
    pub fn add_overlay(&mut self, name: &str, subnet: Option<&str>) -> NetworkId {
        let id = self.ids.next_id();
        self.apply(Command::CreateNetwork { id, spec: overlay_spec(name, subnet) });
        id
    }

    /// A network on a wire, as [`wire_spec`].
    pub fn add_wire(&mut self, name: &str, subnet: &str, gateway: &str) -> NetworkId {
        let id = self.ids.next_id();
        self.apply(Command::CreateNetwork {
            id,
            spec: wire_spec(name, "macvlan", subnet, gateway),
        });
        id
    }

    /// Gives a service other virtual addresses on all its networks: those that end in this number.
    pub fn give_vips(&mut self, id: ServiceId, last: u8) {
        let index = self.state.applied_index() + 1;
        let mut service = Service::clone(self.state.service(id).expect("the service exists"));
        let addr = |n| format!("10.9.{n}.{last}/24").parse().expect("an address");
        let networks = service.networks.iter().enumerate();
        let vips =
            networks.map(|(n, joined)| VirtualIp { network_id: joined.network_id, addr: addr(n) });
        service.endpoint.virtual_ips = vips.collect();
        self.state.pass(index);
        Writer { state: &mut self.state, index, now: self.now }.update(service);
    }

    /// Lets a node say which subnets it uses itself, each with an interface.
    pub fn set_host_subnets(&mut self, id: NodeId, subnets: &[(&str, &str)]) {
        let node = self.state.node(id).expect("there");
        let subnet = |(subnet, interface): &(&str, &str)| HostSubnet {
            subnet: subnet.parse().expect("a subnet"),
            interface: (*interface).to_owned(),
        };
        let host_subnets = subnets.iter().map(subnet).collect();
        let description = Some(NodeDescription { host_subnets, ..node.description.clone() });
        let status = node.status.clone();
        self.apply(Command::ReportNode { id, description, status });
    }

    /// Lets a node say that its agent has this level.
    pub fn set_level(&mut self, id: NodeId, level: Level) {
        let node = Arc::clone(self.state.node(id).expect("the node exists"));
        let description = Some(NodeDescription { level, ..node.description.clone() });
        self.apply(Command::ReportNode { id, description, status: node.status.clone() });
    }

    /// Lets a node say that it has a tunnel with this key, at 192.0.2.`last`.
    pub fn give_tunnel(&mut self, id: NodeId, key: u8, last: u8) {
        let node = Arc::clone(self.state.node(id).expect("the node exists"));
        let tunnel = TunnelDescription {
            public_key: TunnelKey([key; 32]),
            port: 51820,
            addr: Some([192, 0, 2, last].into()),
            kind: TunnelKind::Kernel,
            keys: None,
        };
        let (level, tunnel) = (node.description.level.max(Level::OVERLAY), Some(tunnel));
        let description = NodeDescription { level, tunnel, ..node.description.clone() };
        let (description, status) = (Some(description), node.status.clone());
        self.apply(Command::ReportNode { id, description, status });
    }

    /// Lets a node say more of the keys of its tunnel, if it has any.
    pub fn give_keys(&mut self, id: NodeId, keys: DescribedKeys) {
        let node = Arc::clone(self.state.node(id).expect("the node exists"));
        let keys = Some(keys);
        let tunnel = node.description.tunnel.map(|tunnel| TunnelDescription { keys, ..tunnel });
        let description = Some(NodeDescription { tunnel, ..node.description.clone() });
        self.apply(Command::ReportNode { id, description, status: node.status.clone() });
    }

    /// A service, without tasks.
    pub fn add_service(&mut self, spec: ServiceSpec) -> ServiceId {
        let (id, deployment_id) = (self.ids.next_id(), self.ids.next_id());
        self.apply(Command::CreateService { id, deployment_id, spec: Arc::new(spec) });
        id
    }

    /// A stack with its services, without tasks.
    pub fn add_stack(&mut self, spec: StackSpec) {
        let services = spec.services.keys();
        let services = services.map(|k| (k.clone(), (self.ids.next_id(), self.ids.next_id())));
        let services = services.collect();
        let networks = spec.networks.keys().map(|k| (k.clone(), self.ids.next_id())).collect();
        let ids = StackIds { stack: self.ids.next_id(), services, networks };
        self.apply(Command::ApplyStack {
            spec: spec.into(),
            ids,
            prune: false,
            expected: None,
            payloads: Default::default(),
        });
    }

    /// Gives a service another spec.
    pub fn update_service(&mut self, id: ServiceId, spec: ServiceSpec) -> DeploymentId {
        let deployment_id = self.ids.next_id();
        let (spec, kind) = (Arc::new(spec), UpdateKind::Update);
        self.apply(Command::UpdateService { id, expected: None, deployment_id, spec, kind });
        deployment_id
    }

    /// The command that makes a task of the service's present spec, wanted running; and its id.
    pub fn new_task(&mut self, service_id: ServiceId, slot: Slot) -> (TaskId, Command) {
        let service = self.state.service(service_id);
        let service_version = service.expect("the service exists").meta.spec_version;
        let node_id = match slot {
            Slot::Replica(_) => None,
            Slot::Node(node) => Some(node),
        };
        let (id, desired) = (self.ids.next_id(), DesiredState::Running);
        let start_after = None;
        let command = Command::CreateTask {
            id,
            service_id,
            service_version,
            slot,
            node_id,
            desired,
            start_after,
            rejections: 0,
            level: Level::FIRST,
        };
        (id, command)
    }

    /// A pending task of a replicated service.
    pub fn add_task(&mut self, service: ServiceId, replica: u64) -> TaskId {
        let (id, command) = self.new_task(service, Slot::Replica(replica));
        self.apply(command);
        id
    }

    /// A task of a replicated service that runs on a node.
    pub fn add_running(&mut self, service: ServiceId, replica: u64, node: NodeId) -> TaskId {
        let id = self.add_task(service, replica);
        self.apply(Command::AssignTask { id, node_id: node, partner: None });
        self.report(id, TaskState::Running);
        id
    }

    /// A task of a replicated service that runs beside another one, whose network it shares.
    pub fn add_beside(&mut self, service: ServiceId, replica: u64, partner: TaskId) -> TaskId {
        let id = self.add_task(service, replica);
        let node_id = self.state.task(partner).and_then(|t| t.node_id).expect("it has a node");
        self.apply(Command::AssignTask { id, node_id, partner: Some(partner) });
        self.report(id, TaskState::Running);
        id
    }

    /// Reports a task in this state, as its node would; with exit code 0 or 1 if it has ended.
    #[track_caller]
    pub fn report(&mut self, id: TaskId, state: TaskState) -> Outcome {
        let task = self.state.task(id).expect("the task exists");
        let node_id = task.node_id.expect("the task has a node");
        let mut status = TaskStatus::new(state, self.now, state.as_str());
        let ended = matches!(state, TaskState::Complete | TaskState::Failed | TaskState::Shutdown);
        if state.has_begun() {
            status.container_status = Some(ContainerStatus {
                container_id: id.to_string(),
                pid: if ended { 0 } else { 42 },
                exit_code: ended.then_some(i32::from(state == TaskState::Failed)),
                ..ContainerStatus::default()
            });
        }
        self.apply(Command::UpdateTaskStatuses { node_id, statuses: vec![(id, status)] })
    }
}

/// Puts a task in the place of that of the same id, past all checks, as a bug in applying would.
pub fn replace_task(state: &mut ClusterState, task: Task) {
    let task = Arc::new(task);
    let old = state.tasks.insert(task.id, Arc::clone(&task));
    state.indexes.task(old.as_deref(), Some(&task));
}

/// As [`replace_task`], of a node.
pub fn replace_node(state: &mut ClusterState, node: Node) {
    let node = Arc::new(node);
    let old = state.nodes.insert(node.id, Arc::clone(&node));
    state.indexes.node(old.as_deref(), Some(&node));
}

/// The command that founds a cluster.
pub fn create_cluster(ids: &mut impl IdSource) -> Command {
    Command::CreateCluster {
        id: ids.next_id(),
        spec: ClusterSpec::default(),
        root_ca: RootCa { cert_pem: "certificate".to_owned(), key_pem: "key".to_owned() },
        join_tokens: JoinTokens { agent: "a".repeat(25), manager: "m".repeat(25) },
        networks: PredefinedIds { bridge: ids.next_id(), host: ids.next_id(), none: ids.next_id() },
        level: Level::FIRST,
    }
}
