//! What is written is read again, by this version and by later ones; what is damaged is refused.

mod specs;
mod states;

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use shoal_manager_state::testing::{
    TestCluster, cluster_of, cluster_with_nodes, network_spec, node_description, overlay_spec,
    service_spec, with_host_port, with_ingress_port, with_networks,
};
use shoal_manager_state::{
    ClusterState, Command, JoinSecret, ObjectKind, ObjectRef, PredefinedIds, StackIds,
    StackPayloads, UpdateKind, invariant,
};
use shoal_proto::v1 as pb;
use shoal_proto::v1::snapshot_record::Record;
use shoal_types::error_chain::chain;
use shoal_types::id::{IdSource, NodeId, SeededIds, TaskId, UserId};
use shoal_types::level::Level;
use shoal_types::object::{
    ContainerStatus, Deployment, DeploymentState, DescribedKeys, JoinTokens, ManagerStatus,
    NodeDescription, NodeState, NodeStatus, RootCa, Slot, Task, TaskStatus, TunnelEnd,
    TunnelEpochs, TunnelKey,
};
use shoal_types::registry_auth::{RegistryAuth, RegistryAuths};
use shoal_types::spec::{
    AddressPool, ClusterSpec, ConfigSpec, NodeRole, NodeSpec, SecretSpec, StackSpec, TunnelKeySpec,
    UserRole, UserSpec,
};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use self::states::{
    before_stack_versions, full_state, raised, stack_went_back, state_without_users,
    with_addresses, with_changed_keys, with_dual, with_payloads, with_ports,
};
use super::*;

const TIME: Timestamp = Timestamp::from_nanos(1_700_000_000_123_456_789);

fn stack_spec() -> StackSpec {
    StackSpec {
        name: "shop".to_owned(),
        services: BTreeMap::from([("web".to_owned(), service_spec("shop_web", 2))]),
        networks: BTreeMap::from([("back".to_owned(), network_spec("shop_back"))]),
        ..StackSpec::default()
    }
}

fn auths() -> RegistryAuths {
    let basic = RegistryAuth::Basic { username: "ci".to_owned(), password: "hush".to_owned() };
    [
        ("docker.io".to_owned(), basic),
        ("registry.lan:5000".to_owned(), RegistryAuth::Identity("refresh".to_owned())),
    ]
    .into()
}

/// Settings with all that they can have.
fn with_pools() -> ClusterSpec {
    let pool = |base: &str, size| AddressPool { base: base.parse().unwrap(), size };
    let address_pools = vec![pool("10.20.0.0/16", 26), pool("192.168.0.0/16", 24)];
    ClusterSpec { address_pools, ..ClusterSpec::default() }
}

/// Settings of when keys change.
fn with_keys() -> ClusterSpec {
    let tunnel_keys = TunnelKeySpec { period: Some(Duration::from_hours(1)), force_rotate: 3 };
    ClusterSpec { tunnel_keys, ..ClusterSpec::default() }
}

fn cluster_commands(ids: &mut SeededIds) -> Vec<Command> {
    vec![
        Command::CreateCluster {
            id: ids.next_id(),
            spec: ClusterSpec::default(),
            root_ca: RootCa { cert_pem: "certificate".to_owned(), key_pem: "key".to_owned() },
            join_tokens: JoinTokens { agent: "a".to_owned(), manager: "m".to_owned() },
            networks: PredefinedIds {
                bridge: ids.next_id(),
                host: ids.next_id(),
                none: ids.next_id(),
            },
            level: Level::FIRST,
        },
        Command::RaiseLevel { level: Level::new(2) },
        Command::UpdateCluster { expected_spec_version: 7, spec: ClusterSpec::default() },
        Command::RotateJoinToken {
            role: NodeRole::Manager,
            secret: JoinSecret("0123456789012345678901234".to_owned()),
        },
        Command::UpdateCluster { expected_spec_version: 8, spec: with_pools() },
        Command::UpdateCluster { expected_spec_version: 9, spec: with_keys() },
        Command::SetTunnelEpochs {
            from: TunnelEpochs { present: 1, former: None },
            to: TunnelEpochs { present: 2, former: Some(1) },
            forced: 3,
        },
    ]
}

fn node_commands(ids: &mut SeededIds) -> Vec<Command> {
    let id: NodeId = ids.next_id();
    let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    let spec = NodeSpec { role: NodeRole::Manager, labels, ..NodeSpec::default() };
    let status = NodeStatus {
        state: NodeState::Ready,
        message: "connected".to_owned(),
        addr: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))),
        since: TIME,
    };
    let manager =
        ManagerStatus { raft_id: u64::MAX, addr: "10.0.0.1:4242".to_owned(), level: Level::FIRST };
    let description = node_description("host-1");
    vec![
        Command::CreateNode { id, spec: spec.clone(), description: description.clone() },
        Command::UpdateNode { id, expected: 3, spec },
        Command::RemoveNode { id, force: true },
        Command::ReportNode { id, description: Some(description), status: status.clone() },
        Command::ReportNode { id, description: None, status },
        Command::SetManagerStatus { id, status: Some(manager) },
        Command::SetManagerStatus { id, status: None },
    ]
}

fn service_commands(ids: &mut SeededIds) -> Vec<Command> {
    let (id, deployment_id) = (ids.next_id(), ids.next_id());
    let spec = Arc::new(with_host_port(service_spec("web", 3), 8080));
    let update = |expected, kind| Command::UpdateService {
        id,
        expected,
        deployment_id,
        spec: Arc::clone(&spec),
        kind,
    };
    let network = ids.next_id();
    let stack_ids = StackIds {
        stack: ids.next_id(),
        services: BTreeMap::from([("web".to_owned(), (ids.next_id(), ids.next_id()))]),
        networks: BTreeMap::from([("back".to_owned(), ids.next_id())]),
    };
    let stack = stack_ids.stack;
    let back_ids = stack_ids.clone();
    let back = |failed| Command::RollBackStack {
        id: stack,
        expected: 4,
        to: 2,
        ids: back_ids.clone(),
        failed,
    };
    let spec_of_stack = Arc::new(stack_spec());
    let apply_stack = Command::ApplyStack {
        spec: spec_of_stack,
        ids: stack_ids,
        prune: true,
        expected: Some(0),
        payloads: Default::default(),
    };
    let with_auths =
        |command| Command::WithRegistryAuth { auths: auths(), command: Box::new(command) };
    vec![
        Command::CreateService { id, deployment_id, spec: Arc::clone(&spec) },
        update(None, UpdateKind::Rollback),
        update(Some(0), UpdateKind::Update),
        Command::RemoveService { id },
        Command::CreateNetwork { id: network, spec: network_spec("back") },
        Command::RemoveNetwork { id: network },
        apply_stack.clone(),
        Command::RemoveStack { id: stack },
        back(None),
        back(Some(deployment_id)),
        with_auths(update(None, UpdateKind::Update)),
        with_auths(Command::CreateService { id, deployment_id, spec: Arc::clone(&spec) }),
        with_auths(apply_stack),
        Command::CreateNetwork { id: network, spec: overlay_spec("front", Some("10.9.0.0/24")) },
        Command::CreateService {
            id,
            deployment_id,
            spec: Arc::new(with_ingress_port(service_spec("web", 3), 8080)),
        },
    ]
}

fn task_commands(ids: &mut SeededIds) -> Vec<Command> {
    let (id, node_id): (TaskId, NodeId) = (ids.next_id(), ids.next_id());
    let create = |slot, node_id, desired, start_after| Command::CreateTask {
        id,
        service_id: 1.into(),
        service_version: 4,
        slot,
        node_id,
        desired,
        start_after,
        rejections: 0,
        level: Level::FIRST,
    };
    let container = ContainerStatus {
        container_id: "abc".to_owned(),
        pid: 42,
        exit_code: Some(0),
        signal: None,
        oom_killed: true,
    };
    let mut ended = TaskStatus::new(TaskState::Complete, TIME, "finished");
    ended.container_status = Some(container);
    let statuses = vec![(id, ended), (7.into(), TaskStatus::new(TaskState::New, TIME, ""))];
    vec![
        create(Slot::Replica(3), None, DesiredState::Ready, Some(TIME)),
        create(Slot::Node(node_id), Some(node_id), DesiredState::Running, None),
        Command::AssignTask { id, node_id, partner: None },
        Command::ExplainTask { id, err: "no suitable node".to_owned() },
        Command::SetDesired { id, desired: DesiredState::Remove },
        Command::RemoveTask { id },
        Command::OrphanTask { id },
        Command::UpdateTaskStatuses { node_id, statuses },
        Command::ConnectTask {
            id,
            network_id: 9.into(),
            aliases: vec!["db".to_owned()],
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 9, 0, 7)), "fd00::7".parse().unwrap()],
        },
        Command::DisconnectTask { id, network_id: 9.into(), force: true },
        Command::UpdateDeployment {
            id: ids.next_id(),
            state: DeploymentState::RolledBack,
            message: "too many failures".to_owned(),
        },
    ]
}

fn user_spec() -> UserSpec {
    UserSpec {
        name: "ci".to_owned(),
        labels: BTreeMap::from([("team".to_owned(), "shop".to_owned())]),
        role: UserRole::Deployer,
        stacks: vec!["shop".to_owned(), "blog".to_owned()],
        host_access: true,
        expires_at: Some(TIME),
    }
}

fn user_commands(ids: &mut SeededIds) -> Vec<Command> {
    let id: UserId = ids.next_id();
    vec![
        Command::CreateUser { id, spec: user_spec() },
        Command::UpdateUser { id, expected: 3, spec: user_spec() },
        Command::RemoveUser { id },
    ]
}

fn secret_spec() -> SecretSpec {
    SecretSpec {
        name: "shop_db".to_owned(),
        labels: BTreeMap::from([("team".to_owned(), "shop".to_owned())]),
        data: b"hunter2\xff".to_vec(),
        ..SecretSpec::default()
    }
}

fn config_spec() -> ConfigSpec {
    let data = b"listen 80;".to_vec();
    ConfigSpec { name: "shop_web".to_owned(), data, ..ConfigSpec::default() }
}

fn payload_commands(ids: &mut SeededIds) -> Vec<Command> {
    let deployments = BTreeMap::from([("shop_web".to_owned(), ids.next_id())]);
    let (secret, config) = (ids.next_id(), ids.next_id());
    let mut spec = stack_spec();
    spec.secrets.insert("db".to_owned(), "shop_db".to_owned());
    let stack = ids.next_id();
    let ids = StackIds { stack, services: BTreeMap::new(), networks: BTreeMap::new() };
    let payloads = StackPayloads {
        secrets: BTreeMap::from([("db".to_owned(), (secret, secret_spec()))]),
        configs: BTreeMap::from([("web".to_owned(), (config, config_spec()))]),
    };
    vec![
        Command::CreateSecret {
            id: secret,
            spec: secret_spec(),
            replace: true,
            deployments: deployments.clone(),
        },
        Command::RemoveSecret { name: "shop_db".to_owned(), version: Some(3) },
        Command::CreateConfig { id: config, spec: config_spec(), replace: false, deployments },
        Command::RemoveConfig { name: "shop_web".to_owned(), version: None },
        Command::ApplyStack { spec: spec.into(), ids, prune: false, expected: None, payloads },
    ]
}

fn commands() -> Vec<Command> {
    [
        cluster_commands,
        node_commands,
        service_commands,
        task_commands,
        user_commands,
        payload_commands,
    ]
    .map(|commands| commands(&mut SeededIds::new(3)))
    .concat()
}

/// How many there are in `command.proto`.
fn kinds_of_commands() -> usize {
    let files = prost_types::FileDescriptorSet::decode(shoal_proto::FILE_DESCRIPTOR_SET).unwrap();
    let messages = files.file.iter().flat_map(|file| &file.message_type);
    let command = messages.into_iter().find(|message| message.name() == "Command").unwrap();
    command.field.iter().filter(|field| field.oneof_index.is_some()).count()
}

#[test]
fn every_command_survives() {
    let commands = commands();
    let mut kinds: Vec<_> = commands.iter().map(discriminant).collect();
    kinds.sort_by_key(|k| format!("{k:?}"));
    kinds.dedup();
    assert_eq!(kinds.len(), kinds_of_commands(), "a command is missing here");
    for command in commands {
        let decoded = decode_command(&encode_command(TIME, &command)).unwrap();
        assert_eq!(decoded, TimedCommand { time: TIME, command });
    }
}

/// Where the bytes are that earlier versions wrote, in hexadecimal digits.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft/codec/golden")
}

/// What stands in a golden file, or in `missing` what is to stand there.
fn golden_bytes(name: &str, today: &[u8], missing: &mut Vec<String>) -> Option<Vec<u8>> {
    match std::fs::read_to_string(golden().join(format!("{name}.hex"))) {
        Ok(text) => Some(hex::decode(text.trim()).unwrap()),
        Err(_) => {
            missing.push(format!("{name}.hex: {}", hex::encode(today)));
            None
        }
    }
}

/// Every command of [`commands`] with the name of its file: the kind, and the count if there are
/// more of one kind.
fn named_commands() -> Vec<(String, Command)> {
    let mut counts = BTreeMap::<String, u32>::new();
    let name = |command: Command| {
        let kind: String =
            format!("{command:?}").chars().take_while(char::is_ascii_alphanumeric).collect();
        let mut name = String::new();
        for c in kind.chars() {
            if c.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        }
        let count = counts.entry(name.clone()).or_default();
        *count += 1;
        if *count > 1 {
            name = format!("{name}_{count}");
        }
        (name, command)
    };
    commands().into_iter().map(name).collect()
}

/// The golden snapshot that has what is written today, byte for byte; the others lack what came later.
const NEWEST_SNAPSHOT: &str = "snapshot_payloads";

/// If this fails, a manager of today cannot read a log or a snapshot of an earlier one: it is the
/// code that has to change, not the file. A new kind of command or object needs a new file; the
/// test says what is to be in it.
#[test]
fn bytes_of_the_first_version_are_still_read() {
    let mut missing = Vec::new();
    let snapshots = [
        ("snapshot", before_stack_versions(&state_without_users())),
        ("snapshot_users", before_stack_versions(&full_state())),
        ("snapshot_stack_versions", stack_went_back()),
        ("snapshot_levels", raised()),
        ("snapshot_addresses", with_addresses()),
        ("snapshot_ports", with_ports()),
        ("snapshot_dual", with_dual()),
        ("snapshot_keys", with_changed_keys()),
        (NEWEST_SNAPSHOT, with_payloads()),
    ];
    let mut names: Vec<_> = snapshots.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (name, command) in named_commands() {
        let today = encode_command(TIME, &command);
        if let Some(bytes) = golden_bytes(&name, &today, &mut missing) {
            // Of earlier versions the bytes may lack what came later; at this one they are the same.
            assert_eq!(hex::encode(&*today), hex::encode(&bytes), "{name}");
            let read = decode_command(&bytes).unwrap();
            assert_eq!(read, TimedCommand { time: TIME, command }, "{name}");
        }
        names.push(name);
    }
    for (name, state) in snapshots {
        if let Some(bytes) = golden_bytes(name, &written(&state), &mut missing) {
            assert_eq!(read_snapshot(&mut &*bytes).unwrap(), state, "{name}");
            if name == NEWEST_SNAPSHOT {
                assert_eq!(hex::encode(&bytes), hex::encode(written(&state)), "{name}");
            }
        }
    }
    assert!(missing.is_empty(), "golden files are missing:\n{}", missing.join("\n"));
    for file in std::fs::read_dir(golden()).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(names.contains(&name), "nothing reads {}", path.display());
    }
}

/// The snapshot among the golden files has to have all kinds of object.
#[test]
fn the_full_state_has_every_kind_of_object() {
    let mut kinds: Vec<_> = with_payloads().export().iter().map(ObjectRef::kind).collect();
    kinds.dedup();
    assert_eq!(kinds, ObjectKind::ALL);
}

fn why(bytes: &[u8]) -> String {
    chain(&decode_command(bytes).unwrap_err()).to_string()
}

#[test]
fn what_is_no_command_is_refused() {
    assert!(why(&[0xff]).starts_with("failed to decode a command of 1 bytes: "));
    assert!(why(&[]).ends_with("field kind: is missing, or unknown to this version"));
    // Field 2047, which no version has yet.
    let newer = [0x08, 0x01, 0xfa, 0x7f, 0x00];
    assert!(why(&newer).ends_with("field kind: is missing, or unknown to this version"));

    let refused = |kind| why(&pb::Command { time: 1, kind: Some(kind) }.encode_to_vec());
    let assign = pb::AssignTaskCommand { id: 1.to_string(), ..Default::default() };
    let text = refused(pb::command::Kind::AssignTask(assign));
    assert!(text.contains("field AssignTask.id: \"1\" is refused: "), "{text}");
    let kind = pb::DeploymentKind::Create.into();
    let update = pb::UpdateServiceCommand {
        id: NodeId::from(1).to_string(),
        deployment_id: NodeId::from(1).to_string(),
        spec: Some((&service_spec("web", 1)).into()),
        expected: None,
        kind,
    };
    let text = refused(pb::command::Kind::UpdateService(update));
    assert!(text.ends_with("UpdateService.kind: is 1: expected an update or a rollback"), "{text}");
}

fn written(state: &ClusterState) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_snapshot(state, &mut bytes).unwrap();
    bytes
}

#[test]
fn every_object_survives_a_snapshot() {
    for state in [full_state(), with_addresses(), with_ports(), with_dual(), ClusterState::new()] {
        let read = read_snapshot(&mut &*written(&state)).unwrap();
        assert_eq!(read, state);
        assert_eq!(invariant::check(&read), Vec::<String>::new());
        assert_eq!(written(&read), written(&state));
    }
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let whole = written(&full_state());
    for length in 0..whole.len() {
        assert!(read_snapshot(&mut &whole[..length]).is_err(), "cut at {length}");
    }
    let refusal = |bytes: &[u8]| read_snapshot(&mut &*bytes).unwrap_err();
    let longer = [&*whole, &[0]].concat();
    assert!(matches!(refusal(&longer), SnapshotError::TrailingData { .. }));
    let endless = [0xff; 20];
    assert!(matches!(refusal(&endless), SnapshotError::Io { record: 0, .. }));
    let huge = [0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(matches!(refusal(&huge), SnapshotError::TooLong { record: 0, .. }));
    // The second record in place of the first.
    let headless = &whole[1 + usize::from(whole[0])..];
    assert!(matches!(refusal(headless), SnapshotError::Invalid { record: 0, .. }));
}

fn framed(records: &[Record]) -> Vec<u8> {
    let record = |r: &Record| {
        pb::SnapshotRecord { record: Some(r.clone()), task_spec: 0 }
            .encode_length_delimited_to_vec()
    };
    records.iter().flat_map(record).collect()
}

#[test]
fn a_snapshot_of_a_newer_manager_is_refused() {
    let preamble = |format, records| {
        Record::Preamble(pb::SnapshotPreamble { format, records, applied_index: 9 })
    };
    let refusal = |records: &[Record]| read_snapshot(&mut &*framed(records)).unwrap_err();
    assert!(matches!(refusal(&[preamble(3, 0)]), SnapshotError::Format { found: 3 }));
    let volume = Record::Volume(pb::Volume::default());
    let error = refusal(&[preamble(1, 1), volume]);
    assert!(chain(&error).to_string().ends_with("is of a kind unknown to this version"));
    let twice = Record::Cluster((&**full_state().cluster().unwrap()).into());
    let error = refusal(&[preamble(1, 2), twice.clone(), twice]);
    assert!(matches!(error, SnapshotError::Import(_)));
    let read = read_snapshot(&mut &*framed(&[preamble(1, 0)])).unwrap();
    assert_eq!(read.applied_index(), 9);
}

#[test]
fn credentials_survive_a_snapshot_and_belong_to_a_service() {
    let mut cluster = cluster_with_nodes(1).0;
    let (id, deployment_id) = (cluster.ids.next_id(), cluster.ids.next_id());
    let spec = Arc::new(service_spec("web", 1));
    let command = Box::new(Command::CreateService { id, deployment_id, spec });
    cluster.apply(Command::WithRegistryAuth { auths: auths(), command });
    cluster.events();
    let state = cluster.state;
    assert!(state.registry_auth(id, "busybox").is_some());
    assert_eq!(read_snapshot(&mut &*written(&state)).unwrap(), state);

    use pb::snapshot_record::Record;
    let preamble =
        Record::Preamble(pb::SnapshotPreamble { format: 1, records: 1, applied_index: 9 });
    let orphan = pb::ServiceCredentials { service_id: id.to_string(), ..Default::default() };
    let bytes = framed(&[preamble, Record::ServiceCredentials(orphan)]);
    let error = read_snapshot(&mut &*bytes).unwrap_err();
    assert!(matches!(error, SnapshotError::Import(_)), "{error}");
}
