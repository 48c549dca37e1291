//! Commands at random: mostly sensible ones, sometimes not.

use std::sync::Arc;

use shoal_types::id::{IdSource, NodeId, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{
    DeploymentState, ManagerStatus, NodeState, NodeStatus, Slot, Task, TaskStatus,
};
use shoal_types::registry_auth::RegistryAuth;
use shoal_types::spec::{
    AddressPool, Availability, ClusterSpec, ConfigSpec, EndpointMode, NetworkSpec, NodeRole,
    NodeSpec, OnChange, PayloadReference, SecretSpec, ServiceMode, ServiceSpec, StackSpec,
    TaskRuntime, UserRole, UserSpec,
};
use shoal_types::task_state::{DesiredState, TaskState};

use super::{
    TestCluster, create_cluster, dual_spec, global_spec, ipam_config, network_spec,
    node_description, overlay_spec, service_spec, wire_spec, with_host_port, with_ingress_port,
    with_networks, with_reservation, with_task,
};
use crate::{ClusterState, Command, JoinSecret, StackIds, StackPayloads, UpdateKind};

/// One step: which command, and three choices for its parts.
pub type Step = (u8, u8, u8, u8);

/// Kinds of command that [`decide`] makes.
const KINDS: u8 = 40;

/// One of a table's objects, or an id that is in no table.
fn pick<T: Copy>(mut all: impl ExactSizeIterator<Item = T>, choice: u8, otherwise: T) -> T {
    let len = all.len();
    if len == 0 || choice == u8::MAX {
        return otherwise;
    }
    all.nth(usize::from(choice) % len).unwrap_or(otherwise)
}

fn node(state: &ClusterState, choice: u8) -> NodeId {
    pick(state.nodes().map(|n| n.id), choice, 9999.into())
}

fn service(state: &ClusterState, choice: u8) -> ServiceId {
    pick(state.services().map(|s| s.id), choice, 9999.into())
}

fn task(state: &ClusterState, choice: u8) -> TaskId {
    pick(state.tasks().map(|t| t.id), choice, 9999.into())
}

fn network_name(choice: u8) -> &'static str {
    ["n0", "n1", "st_n0", "bridge", "host", "nowhere", "o0", "o1"][usize::from(choice) % 8]
}

/// Subnets that hold little, and some that have addresses in common.
fn some_overlay(choice: u8) -> NetworkSpec {
    let subnet = [None, Some("10.9.9.0/28"), Some("10.9.9.8/29"), Some("nonsense")];
    let name = format!("o{}", choice % 3);
    let v4 = |subnet, gateway, aux| ipam_config(subnet, "", gateway, aux);
    match choice / 3 % 12 {
        8 => dual_spec(&name, true, Vec::new()),
        9 => dual_spec(
            &name,
            true,
            vec![v4("10.9.9.0/30", "", &[]), v4("10.9.8.0/29", "10.9.8.4", &["10.9.8.2"])],
        ),
        10 => dual_spec(
            &name,
            true,
            vec![ipam_config("fd00:9::/124", "fd00:9::/125", "", &["fd00:9::5"])],
        ),
        11 => dual_spec(
            &name,
            false,
            vec![ipam_config("10.9.9.0/28", "10.9.9.4/30", "", &["10.9.9.5"])],
        ),
        7 => wire_spec(&name, "macvlan", "10.9.9.0/28", "10.9.9.3"),
        other => overlay_spec(&name, subnet[usize::from(other) % 4]),
    }
}

fn some_service_spec(prefix: &str, a: u8, b: u8, c: u8) -> ServiceSpec {
    let spec = some_bare_spec(prefix, a, b, c);
    if b & 128 != 0 && c & 16 != 0 { with_payloads(spec, b, c) } else { spec }
}

fn some_bare_spec(prefix: &str, a: u8, b: u8, c: u8) -> ServiceSpec {
    let name = format!("{prefix}s{}", a % 4);
    let spec = if a % 4 == 3 { global_spec(&name) } else { service_spec(&name, (b % 4).into()) };
    let spec = if b & 4 == 0 { spec } else { with_host_port(spec, 80 + u16::from(b % 2)) };
    let spec = match b & 48 {
        16 => with_ingress_port(spec, 81 + u16::from(c % 4)),
        32 => with_ingress_port(spec, 0),
        _ => spec,
    };
    let spec = if b & 8 == 0 { spec } else { with_reservation(spec, 0, 3 << 30) };
    if c & 64 != 0 && b & 64 != 0 {
        let address = ["10.9.9.4", "10.9.9.5", "10.9.8.3", "fd00:9::a"][usize::from(a / 4) % 4];
        return with_task(with_networks(spec, &["o0"]), |task| {
            task.networks[0].addresses.extend(address.parse::<std::net::IpAddr>());
        });
    }
    match c % 4 {
        // Sometimes itself, sometimes one that shares that of another one.
        0 if c & 24 == 8 => {
            with_task(spec, |task| task.network_of = Some(format!("{prefix}s{}", (c >> 5) % 4)))
        }
        0 => spec,
        1 => with_networks(spec, &[network_name(c >> 2)]),
        2 => with_networks(spec, &["n0", network_name(c >> 2)]),
        _ if c & 4 == 0 => with_networks(spec, &["st_n0"]),
        _ if b & 32 == 0 => with_networks(spec, &["o0", "o1"]),
        _ => {
            let mut spec = with_networks(spec, &["o0"]);
            spec.endpoint_spec.get_or_insert_default().mode = EndpointMode::Dnsrr;
            spec
        }
    }
}

fn stack(ids: &mut impl IdSource, a: u8, b: u8, c: u8) -> Command {
    let mut spec = StackSpec { name: "st".to_owned(), ..StackSpec::default() };
    let mut stack_ids = StackIds {
        stack: ids.next_id(),
        services: Default::default(),
        networks: Default::default(),
    };
    for n in 0..3u8 {
        if a & (1 << n) != 0 {
            let key = format!("s{n}");
            spec.services.insert(key.clone(), some_service_spec("st_", n, b, c));
            stack_ids.services.insert(key, (ids.next_id(), ids.next_id()));
        }
        if a & (8 << n) != 0 && n < 2 {
            let (key, name) = (format!("n{n}"), format!("st_n{n}"));
            spec.networks.insert(key.clone(), network_spec(&name));
            stack_ids.networks.insert(key, ids.next_id());
        }
    }
    // Half of all stacks have a network across nodes.
    if b & 64 != 0 {
        let network = spec.networks.entry("n0".to_owned()).or_insert_with(|| network_spec("st_n0"));
        *network = overlay_spec("st_n0", Some("10.9.9.0/29").filter(|_| c & 64 != 0));
        stack_ids.networks.insert("n0".to_owned(), ids.next_id());
    }
    let mut payloads = StackPayloads::default();
    if c & 32 != 0 {
        let name = "st_p0".to_owned();
        spec.secrets.insert("p0".to_owned(), name.clone());
        let secret = SecretSpec { name, data: vec![b], ..SecretSpec::default() };
        payloads.secrets.insert("p0".to_owned(), (ids.next_id(), secret));
        for service in spec.services.values_mut().filter(|_| b & 4 != 0) {
            *service = with_task(service.clone(), |task| {
                if let TaskRuntime::Container(container) = &mut task.runtime {
                    container.secrets.push(PayloadReference::to("st_p0"));
                }
            });
        }
    }
    let expected = (c & 128 != 0).then_some(u64::from(c & 3));
    Command::ApplyStack {
        spec: Arc::new(spec),
        ids: stack_ids,
        prune: a & 128 != 0,
        expected,
        payloads,
    }
}

fn roll_back_stack(state: &ClusterState, ids: &mut impl IdSource, a: u8, b: u8) -> Command {
    let found = state.stack_by_name("st");
    let revision = found.and_then(|s| pick(s.history.iter().map(Some), a, None));
    let mut stack_ids = StackIds {
        stack: ids.next_id(),
        services: Default::default(),
        networks: Default::default(),
    };
    if let Some(revision) = revision.filter(|_| a < 250) {
        for key in revision.spec.services.keys() {
            stack_ids.services.insert(key.clone(), (ids.next_id(), ids.next_id()));
        }
        for key in revision.spec.networks.keys() {
            stack_ids.networks.insert(key.clone(), ids.next_id());
        }
    }
    Command::RollBackStack {
        id: found.map_or(9999.into(), |s| s.id),
        expected: found.map_or(1, |s| s.meta.spec_version) + u64::from(b % 16 == 15),
        to: revision.map_or(1, |r| r.spec_version),
        ids: stack_ids,
        failed: b
            .is_multiple_of(2)
            .then(|| pick(state.deployments().map(|d| d.id), b / 2, 9999.into())),
    }
}

fn new_task(state: &ClusterState, ids: &mut impl IdSource, a: u8, b: u8, c: u8) -> Command {
    let service_id = service(state, a);
    let found = state.service(service_id);
    let global = found.is_some_and(|s| matches!(s.spec.mode, ServiceMode::Global {}));
    let node_id = global.then(|| node(state, b));
    Command::CreateTask {
        id: ids.next_id(),
        service_id,
        service_version: found.map_or(1, |s| s.meta.spec_version) + u64::from(c % 16 == 15),
        slot: node_id.map_or(Slot::Replica(u64::from(b % 4)), Slot::Node),
        node_id,
        desired: desired(c % 2),
        start_after: None,
        rejections: 0,
        level: Level::new(1 + u32::from(c % 8 == 7)),
    }
}

fn assign(state: &ClusterState, a: u8, b: u8) -> Command {
    let pending = || state.tasks().filter(|t| t.status.state == TaskState::Pending);
    let beside = |t: &Task| -> Vec<(TaskId, Option<NodeId>)> {
        let shared = t.spec.network_of.as_ref().and_then(|name| state.service_by_name(name));
        let beside = shared.into_iter().flat_map(|shared| state.tasks_of_slot(shared.id, t.slot));
        beside.map(|one| (one.id, one.node_id)).collect()
    };
    // Few share a network, and of those few find somebody.
    let sharing: Vec<TaskId> = pending().filter(|t| !beside(t).is_empty()).map(|t| t.id).collect();
    if let Some(id) = sharing.first().copied().filter(|_| b % 16 != 15)
        && let Some(found) = state.task(id).map(|t| beside(t))
    {
        let (partner, own) = pick(found.into_iter(), a, (9999.into(), None));
        let node_id = own.unwrap_or_else(|| node(state, b));
        return Command::AssignTask { id, node_id, partner: Some(partner) };
    }
    let pending: Vec<TaskId> = pending().map(|t| t.id).collect();
    let id = pick(pending.into_iter(), a, task(state, a));
    let own = state.task(id).and_then(|t| t.node_id);
    Command::AssignTask { id, node_id: own.unwrap_or_else(|| node(state, b)), partner: None }
}

/// Connecting a task, sometimes with an address of its own, and disconnecting one that was connected.
fn connection(state: &ClusterState, (kind, a, b, c): Step) -> Command {
    let id = task(state, a);
    let network_id = pick(state.networks().map(|n| n.id), b, 9999.into());
    if kind == 34 {
        let addresses = match c % 8 {
            0 => vec![[10, 9, 9, c / 16].into()],
            1 => vec![[10, 9, 9, 3].into(), [10, 9, 9, 4].into()],
            _ => Vec::new(),
        };
        let aliases = (c & 8 != 0).then(|| "also".to_owned()).into_iter().collect();
        return Command::ConnectTask { id, network_id, aliases, addresses };
    }
    let joined = state.tasks().flat_map(|t| t.networks.iter().map(|n| (t.id, n)));
    let connected =
        joined.filter(|(_, n)| n.connected || c >= 240).map(|(id, n)| (id, n.network_id));
    let connected: Vec<_> = connected.collect();
    let (id, network_id) = pick(connected.into_iter(), a, (id, network_id));
    Command::DisconnectTask { id, network_id, force: c.is_multiple_of(3) }
}

fn desired(choice: u8) -> DesiredState {
    use DesiredState::{Ready, Remove, Running, Shutdown};
    [Running, Ready, Shutdown, Remove][usize::from(choice) % 4]
}

fn report(state: &ClusterState, cluster: &TestCluster, a: u8, b: u8, c: u8) -> Command {
    let id = task(state, a);
    let own = state.task(id).and_then(|t| t.node_id);
    let node_id = own.filter(|_| c < 240).unwrap_or_else(|| node(state, c));
    let at = TaskState::ALL[usize::from(b) % TaskState::ALL.len()];
    let status = TaskStatus::new(at, cluster.now, &format!("report {}", c % 3));
    Command::UpdateTaskStatuses { node_id, statuses: vec![(id, status)] }
}

fn node_state(choice: u8) -> NodeState {
    use NodeState::{Disconnected, Down, Ready, Unknown};
    [Ready, Ready, Ready, Down, Disconnected, Unknown][usize::from(choice) % 6]
}

fn update_service(
    state: &ClusterState,
    ids: &mut impl IdSource,
    (a, b, c): (u8, u8, u8),
) -> Command {
    let id = service(state, a);
    let name = state.service(id).map_or("s0".to_owned(), |s| s.spec.name.clone());
    let number = name.chars().last().and_then(|d| d.to_digit(10)).unwrap_or(0);
    let mut spec = some_service_spec("", u8::try_from(number).unwrap_or(0), b, c);
    spec.name = name;
    let kind = if b < 128 { UpdateKind::Update } else { UpdateKind::Rollback };
    let expected = (c > 250).then_some(u64::from(b));
    Command::UpdateService { id, expected, deployment_id: ids.next_id(), spec: spec.into(), kind }
}

/// Commands about the cluster itself and the managers in it, and explanations.
fn cluster_wide(state: &ClusterState, ids: &mut impl IdSource, (kind, a, b, c): Step) -> Command {
    match kind {
        23 => {
            let pending = state.tasks().filter(|t| t.status.state == TaskState::Pending);
            let pending: Vec<TaskId> = pending.map(|t| t.id).collect();
            let id = pick(pending.into_iter(), a, task(state, a));
            Command::ExplainTask { id, err: format!("no node {}", b % 3) }
        }
        24 => {
            let known = state.cluster().map_or(1, |cluster| cluster.meta.spec_version);
            let task_history_retention_limit = u64::from(a % 4);
            let base = "10.9.9.8/29".parse().expect("a range");
            let pools = (a >= 64).then_some(AddressPool { base, size: 30 });
            Command::UpdateCluster {
                expected_spec_version: known + u64::from(b > 200),
                spec: ClusterSpec {
                    task_history_retention_limit,
                    address_pools: pools.into_iter().collect(),
                    ..ClusterSpec::default()
                },
            }
        }
        25 => Command::RotateJoinToken {
            role: if a % 2 == 0 { NodeRole::Manager } else { NodeRole::Agent },
            secret: JoinSecret(format!("{:025}", b % 4)),
        },
        26 => Command::SetManagerStatus {
            id: node(state, a),
            status: (b % 4 > 0).then(|| ManagerStatus {
                raft_id: u64::from(a),
                addr: format!("10.0.0.{}:7000", c % 4),
                level: Level::new(u32::from(b % 4)),
            }),
        },
        33 if b % 2 == 0 => Command::RaiseLevel { level: Level::new(u32::from(a % 4)) },
        33 => {
            let from = state.cluster().map(|cluster| cluster.tunnel_keys.epochs);
            let from = from.filter(|_| a % 8 > 0).unwrap_or_default();
            let to = if c % 2 == 0 { from.begun() } else { from.ended() };
            Command::SetTunnelEpochs { from, to: to.unwrap_or(from), forced: u64::from(c) }
        }
        _ => create_cluster(ids),
    }
}

/// Commands about users.
fn user(state: &ClusterState, ids: &mut impl IdSource, (kind, a, b, c): Step) -> Command {
    let spec = UserSpec {
        name: format!("u{}", b % 4),
        role: UserRole::ALL[usize::from(c) % 4],
        ..UserSpec::default()
    };
    let id = pick(state.users().map(|u| u.id), a, 9999.into());
    match kind {
        30 => Command::CreateUser { id: ids.next_id(), spec },
        31 => {
            let known = state.user(id).map_or(1, |u| u.meta.spec_version);
            Command::UpdateUser { id, expected: known + u64::from(a > 250), spec }
        }
        _ => Command::RemoveUser { id },
    }
}

/// Commands about secrets and configs, few of them, with few things in them.
fn payload(state: &ClusterState, ids: &mut impl IdSource, (kind, a, b, c): Step) -> Command {
    let (name, version) = (format!("p{}", a % 2), (b % 4 == 3).then_some(u64::from(c % 4)));
    let (data, replace) = (vec![b'x', b % 3], c % 4 > 0);
    let labels = (c > 200).then(|| ("l".to_owned(), "v".to_owned())).into_iter().collect();
    let following = match kind {
        36 => state.following_secret(&name).cloned().collect::<Vec<_>>(),
        _ => state.following_config(&name).cloned().collect(),
    };
    // Sometimes one has come meanwhile.
    let known = following.iter().skip(usize::from(a == 7));
    let deployments = known.map(|s| (s.spec.name.clone(), ids.next_id())).collect();
    match kind {
        36 => {
            let spec = SecretSpec { name, labels, data, ..SecretSpec::default() };
            Command::CreateSecret { id: ids.next_id(), spec, replace, deployments }
        }
        37 => {
            let spec = ConfigSpec { name, labels, data, ..ConfigSpec::default() };
            Command::CreateConfig { id: ids.next_id(), spec, replace, deployments }
        }
        38 => Command::RemoveSecret { name, version },
        _ => Command::RemoveConfig { name, version },
    }
}

/// What some services are given.
fn with_payloads(spec: ServiceSpec, b: u8, c: u8) -> ServiceSpec {
    let on_change = if b & 2 == 0 { OnChange::Restart } else { OnChange::Nothing };
    let version = (c & 7 == 7).then_some(u64::from(c >> 6));
    let one =
        PayloadReference { version, on_change, ..PayloadReference::to(format!("p{}", c % 2)) };
    with_task(spec, |task| {
        if let TaskRuntime::Container(container) = &mut task.runtime {
            if b & 1 == 0 { &mut container.secrets } else { &mut container.configs }.push(one);
        }
    })
}

/// The command of one step.
pub fn decide(cluster: &mut TestCluster, (kind, a, b, c): Step) -> Command {
    let state = cluster.state.clone();
    let ids = &mut cluster.ids.clone();
    let id = task(&state, a);
    let destroys = matches!(kind % KINDS, 2 | 8 | 13);
    let command = match kind % KINDS {
        // Else there would never be much to work on.
        _ if destroys && c >= 64 => assign(&state, a, b),
        0 => {
            let role = if b % 4 == 0 { NodeRole::Manager } else { NodeRole::Agent };
            let description = node_description(&format!("h{}", a % 3));
            let spec = NodeSpec { role, ..NodeSpec::default() };
            Command::CreateNode { id: ids.next_id(), spec, description }
        }
        1 => {
            let id = node(&state, a);
            let availability = [Availability::Active, Availability::Pause, Availability::Drain]
                [usize::from(b % 3)];
            let role = if c % 4 == 0 { NodeRole::Manager } else { NodeRole::Agent };
            let expected = state.node(id).map_or(1, |n| n.meta.spec_version);
            let spec = NodeSpec { availability, role, ..NodeSpec::default() };
            Command::UpdateNode { id, expected, spec }
        }
        2 => Command::RemoveNode { id: node(&state, a), force: b % 4 == 0 },
        3 | 4 => {
            let description = (c % 4 == 0).then(|| node_description(&format!("h{}", c % 5)));
            let status =
                NodeStatus { state: node_state(b), since: cluster.now, ..NodeStatus::default() };
            Command::ReportNode { id: node(&state, a), description, status }
        }
        5 | 6 => Command::CreateService {
            id: ids.next_id(),
            deployment_id: ids.next_id(),
            spec: some_service_spec("", a, b, c).into(),
        },
        7 => update_service(&state, ids, (a, b, c)),
        8 => Command::RemoveService { id: service(&state, a) },
        9 if b % 2 == 0 => Command::CreateNetwork { id: ids.next_id(), spec: some_overlay(a) },
        9 => {
            let name = format!("n{}", a % 3);
            Command::CreateNetwork { id: ids.next_id(), spec: network_spec(&name) }
        }
        10 => Command::RemoveNetwork { id: pick(state.networks().map(|n| n.id), a, 9999.into()) },
        11 => stack(ids, a, b, c),
        12 if a.is_multiple_of(2) => stack(ids, a / 2, b, c),
        12 => roll_back_stack(&state, ids, a, b),
        13 => Command::RemoveStack { id: pick(state.stacks().map(|s| s.id), a, 9999.into()) },
        14..=16 => new_task(&state, ids, a, b, c),
        17 | 18 => assign(&state, a, b),
        19 => Command::SetDesired { id, desired: desired(b) },
        20 => Command::RemoveTask { id },
        21 => Command::OrphanTask { id },
        22 => report(&state, cluster, a, b, c),
        34 | 35 => connection(&state, (kind % KINDS, a, b, c)),
        30..=32 => user(&state, ids, (kind % KINDS, a, b, c)),
        23..=27 | 33 => cluster_wide(&state, ids, (kind % KINDS, a, b, c)),
        36..=39 => payload(&state, ids, (kind % KINDS, a, b, c)),
        _ => {
            use DeploymentState::{Completed, Paused, RolledBack, Updating};
            let id = pick(state.deployments().map(|d| d.id), a, 9999.into());
            let state = [Updating, Completed, Paused, RolledBack][usize::from(b) % 4];
            Command::UpdateDeployment { id, state, message: format!("message {}", c % 2) }
        }
    };
    cluster.ids = ids.clone();
    // Mostly with commands that they go with.
    let goes = matches!(kind % KINDS, 5..=7 | 11 | 12) || kind == 19;
    if goes && c % 3 == 0 { with_registry_auth(command, a) } else { command }
}

fn with_registry_auth(command: Command, a: u8) -> Command {
    let auth = RegistryAuth::Token(format!("token {}", a % 3));
    let registry = if a.is_multiple_of(5) { "elsewhere.lan" } else { "docker.io" };
    let auths = [(registry.to_owned(), auth)].into();
    Command::WithRegistryAuth { auths, command: Box::new(command) }
}
