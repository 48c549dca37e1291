//! The bytes of what agents and managers say to each other, and managers among themselves, as the first
//! version has them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use shoal_types::assignment::{
    AssignedTask, AssignmentChange, EndpointNetwork, IngressPort, Peer, PeerKeys, Rejection,
    ServiceVips, TaskEndpoint, VipNetwork,
};
use shoal_types::id::TaskId;
use shoal_types::level::Level;
use shoal_types::object::{
    DescribedKeys, EngineDescription, HostSubnet, Meta, Network, NodeDescription, Slot,
    TaskNetwork, TaskStatus, TroubledLink, TroubledLinks, TunnelDescription, TunnelEnd,
    TunnelEpochs, TunnelKey, TunnelKind,
};
use shoal_types::spec::{
    Affinity, Driver, Locality, NetworkSpec, Platform, Protocol, TaskRuntime, TaskSpec,
};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::{golden_spec, pairs, pb, words};

fn description() -> NodeDescription {
    NodeDescription {
        hostname: "h1".to_owned(),
        platform: Platform { architecture: "x86_64".to_owned(), os: "linux".to_owned() },
        engine: EngineDescription {
            version: "0.1.0".to_owned(),
            labels: pairs("disk=ssd"),
            plugins: Vec::new(),
        },
        level: Level::new(1),
        ..NodeDescription::default()
    }
}

fn task() -> AssignedTask {
    let spec = golden_spec();
    AssignedTask {
        id: 7.into(),
        service_id: 1.into(),
        service_name: "web".to_owned(),
        service_labels: pairs("a=b"),
        slot: Slot::Replica(3),
        node_id: 2.into(),
        ports: spec.endpoint_spec.map(|endpoint| endpoint.ports).unwrap_or_default(),
        spec: spec.task_template,
        networks: vec![TaskNetwork {
            network_id: 5.into(),
            aliases: words("web front"),
            driver_opts: pairs(""),
            addresses: Vec::new(),
            connected: false,
        }],
        payloads: Default::default(),
        partner: None,
        desired_state: DesiredState::Running,
        level: Level::new(1),
    }
}

fn network() -> Network {
    let driver = Driver { name: "bridge".to_owned(), ..Driver::default() };
    let spec = NetworkSpec { name: "back".to_owned(), driver, ..NetworkSpec::default() };
    let meta = Meta { version: 9, spec_version: 1, ..Meta::default() };
    Network { id: 5.into(), meta, spec, stack_id: None, predefined: false, subnets: Vec::new() }
}

fn assignments() -> [pb::AssignmentsMessage; 2] {
    let (id, desired_state) = (TaskId::from(8), DesiredState::Shutdown);
    let rejection = Rejection { why: "too large".to_owned(), desired_state };
    let first = [
        AssignmentChange::UpdateNetwork(Arc::new(network())),
        AssignmentChange::UpdateTask(task()),
    ];
    let next = [
        AssignmentChange::RemoveTask(7.into()),
        AssignmentChange::RemoveNetwork(5.into()),
        AssignmentChange::RejectTask(id, rejection),
    ];
    let message = |kind: pb::AssignmentsKind, applies_to, changes: &[AssignmentChange], more| {
        pb::AssignmentsMessage {
            kind: kind.into(),
            applies_to,
            results_in: applies_to + 1,
            changes: changes.iter().map(Into::into).collect(),
            more,
            term: 7,
        }
    };
    [
        message(pb::AssignmentsKind::Complete, 0, &first, true),
        message(pb::AssignmentsKind::Incremental, 1, &next, false),
    ]
}

fn endpoint() -> TaskEndpoint {
    let texts = |text: &str| words(text).iter().map(|text| text.parse().unwrap()).collect();
    TaskEndpoint {
        task_id: 7.into(),
        service_id: 1.into(),
        service_name: "web".to_owned(),
        slot: Slot::Replica(3),
        node_id: 2.into(),
        networks: vec![EndpointNetwork {
            network_id: 5.into(),
            addresses: texts("10.0.1.7/24 fd00::7/64"),
            aliases: words("web front"),
        }],
        ports: Vec::new(),
        affinity: None,
        locality: None,
        serving: true,
    }
}

fn peer() -> Peer {
    Peer {
        node_id: 2.into(),
        public_key: TunnelKey([0xab; 32]),
        addr: "192.0.2.2".parse().unwrap(),
        port: 51820,
        tunnel_address: None,
        keys: PeerKeys::default(),
    }
}

fn incremental(changes: &[AssignmentChange]) -> pb::AssignmentsMessage {
    pb::AssignmentsMessage {
        kind: pb::AssignmentsKind::Incremental.into(),
        applies_to: 2,
        results_in: 3,
        changes: changes.iter().map(Into::into).collect(),
        more: false,
        term: 7,
    }
}

/// What level 2 has added.
fn overlay() -> pb::AssignmentsMessage {
    let vip = VipNetwork {
        network_id: 5.into(),
        vip: "10.0.1.2/24".parse().unwrap(),
        aliases: words("front"),
    };
    let vips = ServiceVips {
        service_id: 1.into(),
        service_name: "web".to_owned(),
        networks: vec![vip],
        affinity: None,
        locality: None,
    };
    incremental(&[
        AssignmentChange::UpdatePeer(peer().into()),
        AssignmentChange::UpdateEndpoint(endpoint().into()),
        AssignmentChange::UpdateVips(vips.into()),
        AssignmentChange::RemoveVips(3.into()),
        AssignmentChange::RemoveEndpoint(8.into()),
        AssignmentChange::RemovePeer(4.into()),
    ])
}

/// What level 3 has added.
fn ingress() -> pb::AssignmentsMessage {
    let port = |protocol, published_port| IngressPort { protocol, published_port };
    let ports = vec![port(Protocol::Tcp, 8080), port(Protocol::Udp, 53)];
    let tunnel_address = Some("10.0.255.2".parse().unwrap());
    incremental(&[
        AssignmentChange::UpdatePeer(Peer { tunnel_address, ..peer() }.into()),
        AssignmentChange::UpdateEndpoint(TaskEndpoint { ports, ..endpoint() }.into()),
    ])
}

/// What level 4 has added.
fn dual() -> pb::AssignmentsMessage {
    let mut task = task();
    task.level = Level::DUAL;
    task.networks[0].connected = true;
    task.networks[0].addresses =
        ["10.0.1.7/24", "fd00::7/64"].map(|text| text.parse().unwrap()).into();
    if let TaskRuntime::Container(container) = &mut Arc::make_mut(&mut task.spec).runtime {
        container.drain_timeout = Some(Duration::from_secs(30));
    }
    let affinity = Some(Affinity::ClientIp);
    let ports = vec![IngressPort { protocol: Protocol::Tcp, published_port: 8080 }];
    let vip = VipNetwork {
        network_id: 5.into(),
        vip: "fd00::2/64".parse().unwrap(),
        aliases: Vec::new(),
    };
    let vips = ServiceVips {
        service_id: 1.into(),
        service_name: "web".to_owned(),
        networks: vec![vip],
        affinity,
        locality: None,
    };
    incremental(&[
        AssignmentChange::UpdateEndpoint(TaskEndpoint { ports, affinity, ..endpoint() }.into()),
        AssignmentChange::UpdateVips(vips.into()),
        AssignmentChange::UpdateTask(task),
    ])
}

/// The same, later.
fn near() -> pb::AssignmentsMessage {
    let locality = Some(Locality::PreferLocal);
    let ports = vec![IngressPort { protocol: Protocol::Tcp, published_port: 8080 }];
    let vip = VipNetwork {
        network_id: 5.into(),
        vip: "10.0.1.2/24".parse().unwrap(),
        aliases: Vec::new(),
    };
    let vips = ServiceVips {
        service_id: 1.into(),
        service_name: "web".to_owned(),
        networks: vec![vip],
        affinity: None,
        locality,
    };
    incremental(&[
        AssignmentChange::UpdateEndpoint(TaskEndpoint { ports, locality, ..endpoint() }.into()),
        AssignmentChange::UpdateVips(vips.into()),
    ])
}

/// A task that shares the network of another one.
fn shared() -> pb::AssignmentsMessage {
    let spec = TaskSpec {
        networks: Vec::new(),
        network_of: Some("db".to_owned()),
        ..TaskSpec::clone(&golden_spec().task_template)
    };
    let level = Level::SHARED;
    let (spec, partner) = (Arc::new(spec), Some(TaskId::from(9)));
    let (ports, networks) = (Vec::new(), Vec::new());
    let task = AssignedTask { spec, partner, ports, networks, level, ..task() };
    incremental(&[AssignmentChange::UpdateTask(task)])
}

fn session() -> String {
    "0123456789abcdefghijklmno".to_owned()
}

fn started() -> pb::SessionMessage {
    let started = pb::SessionStarted {
        session_id: session(),
        heartbeat_period_nanos: 2_000_000_000,
        term: 7,
        level: 1,
        cluster_level: 1,
    };
    pb::SessionMessage { message: Some(pb::session_message::Message::Started(started)) }
}

fn facts() -> pb::SessionMessage {
    let peer = pb::ManagerPeer { node_id: session(), addr: "10.0.0.1:4242".to_owned() };
    let role = pb::NodeRole::Agent.into();
    let facts = pb::ClusterFacts { managers: vec![peer], role };
    pb::SessionMessage { message: Some(pb::session_message::Message::Facts(facts)) }
}

fn statuses() -> pb::UpdateTaskStatusRequest {
    let mut status = TaskStatus::new(TaskState::Rejected, Timestamp::from_secs(9), "rejected");
    status.err = "the node is too old".to_owned();
    let updates = vec![(&(TaskId::from(7), status)).into()];
    pb::UpdateTaskStatusRequest { session_id: session(), updates }
}

/// Compares a message with its bytes; what is to be in the file, if there is none.
fn compare<M: Message + Default + PartialEq>(name: &str, message: &M) -> Option<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/convert/tests/golden/wire");
    let today = message.encode_to_vec();
    let Ok(text) = std::fs::read_to_string(dir.join(format!("{name}.hex"))) else {
        return Some(format!("{name}.hex: {}", hex(&today)));
    };
    let digits = text.trim();
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    assert!(M::decode(&*bytes).unwrap() == *message, "{name} of an earlier version is misread");
    assert_eq!(hex(&today), digits, "an earlier version misreads {name}");
    None
}

/// Agents and managers of neighbouring versions talk to each other. If this fails, it is the code that
/// has to change, not the file. A new message needs a new file; the test says what is to be in it.
#[test]
fn agents_and_managers_say_what_they_said_in_the_first_version() {
    let [complete, incremental] = assignments();
    let (id, unable) = (session(), "no space left".to_owned());
    let request =
        pb::SessionRequest { description: Some((&description()).into()), unable, term: 6 };
    let beat = pb::HeartbeatRequest {
        session_id: id.clone(),
        unable: request.unable.clone(),
        troubled_links: None,
        tunnel: None,
    };
    let missing = [
        compare("session_request", &request),
        compare("session_started", &started()),
        compare("session_facts", &facts()),
        compare("heartbeat_request", &beat),
        compare("heartbeat_response", &pb::HeartbeatResponse { period_nanos: 2_000_000_000 }),
        compare(
            "assignments_request",
            &pb::AssignmentsRequest { session_id: id.clone(), message_bytes_max: 8 << 20 },
        ),
        compare("assignments_complete", &complete),
        compare("assignments_incremental", &incremental),
        compare("acknowledge_request", &pb::AcknowledgeRequest { session_id: id, applied: 300 }),
        compare("update_task_status_request", &statuses()),
    ];
    let missing: Vec<String> = missing.into_iter().flatten().collect();
    assert!(missing.is_empty(), "golden files are missing:\n{}", missing.join("\n"));
}

/// As above, of what level 2 has added.
#[test]
fn agents_and_managers_say_what_they_said_in_the_second_version() {
    let tunnel = TunnelDescription {
        public_key: TunnelKey([0xcd; 32]),
        port: 51820,
        addr: Some("192.0.2.1".parse().unwrap()),
        kind: TunnelKind::Userspace,
        keys: None,
    };
    let described =
        NodeDescription { level: Level::OVERLAY, tunnel: Some(tunnel), ..description() };
    let request = pb::SessionRequest {
        description: Some((&described).into()),
        unable: String::new(),
        term: 6,
    };
    let missing =
        [compare("session_request_2", &request), compare("assignments_incremental_2", &overlay())];
    let missing: Vec<String> = missing.into_iter().flatten().collect();
    assert!(missing.is_empty(), "golden files are missing:\n{}", missing.join("\n"));
}

/// As above, of what level 3 has added.
#[test]
fn agents_and_managers_say_what_they_said_in_the_third_version() {
    let missing = compare("assignments_incremental_3", &ingress());
    assert_eq!(missing, None, "a golden file is missing");
}

/// As above, of what level 4 has added.
#[test]
fn agents_and_managers_say_what_they_said_in_the_fourth_version() {
    let missing = [
        compare("assignments_incremental_4", &dual()),
        compare("assignments_incremental_4_near", &near()),
        compare("assignments_incremental_4_shared", &shared()),
    ];
    let missing: Vec<String> = missing.into_iter().flatten().collect();
    assert!(missing.is_empty(), "golden files are missing:\n{}", missing.join("\n"));
}

/// As above, of what level 4 has added.
#[test]
fn nodes_say_of_their_links_what_they_said_in_the_fourth_version() {
    let link = |node: u128, endpoint: &str, passes_bytes| TroubledLink {
        node_id: node.into(),
        endpoint: endpoint.parse().unwrap(),
        passes_bytes,
        full_bytes: 1420,
    };
    let links = vec![link(2, "192.0.2.2:51820", 0), link(3, "[2001:db8::3]:300", 1216)];
    let troubled = TroubledLinks { count: 300, links };
    let beat = pb::HeartbeatRequest {
        session_id: session(),
        unable: String::new(),
        troubled_links: Some((&troubled).into()),
        tunnel: None,
    };
    let described =
        NodeDescription { level: Level::DUAL, troubled_links: Some(troubled), ..description() };
    let request = pb::SessionRequest {
        description: Some((&described).into()),
        unable: String::new(),
        term: 6,
    };
    let subnet = |subnet: &str, by: &str| HostSubnet {
        subnet: subnet.parse().unwrap(),
        interface: by.to_owned(),
    };
    let host_subnets = vec![subnet("fd00:1::/64", ""), subnet("192.0.2.0/24", "eth0")];
    let told = NodeDescription { level: Level::SUBNETS, host_subnets, ..description() };
    let told =
        pb::SessionRequest { description: Some((&told).into()), unable: String::new(), term: 6 };
    let missing = [
        compare("session_request_4", &request),
        compare("session_request_subnets_4", &told),
        compare("heartbeat_request_4", &beat),
    ];
    let missing: Vec<String> = missing.into_iter().flatten().collect();
    assert!(missing.is_empty(), "golden files are missing:\n{}", missing.join("\n"));
}

fn log_id(index: u64) -> Option<pb::LogId> {
    Some(pb::LogId { term: 7, node_id: 300, index })
}

fn vote() -> Option<pb::Vote> {
    Some(pb::Vote { term: 7, node_id: 300, committed: true })
}

fn membership() -> pb::Membership {
    let (address, node_id) = ("10.0.0.1:4242".to_owned(), session());
    let configs = vec![pb::VoterSet { ids: vec![300, 301] }];
    pb::Membership { configs, members: vec![pb::RaftMember { id: 300, address, node_id }] }
}

fn append_entries() -> pb::AppendEntriesRequest {
    use pb::log_entry::Payload;
    let commands = pb::CommandBatch { commands: vec![vec![1, 2].into(), vec![3].into()] };
    let payloads = [
        Payload::Blank(pb::BlankEntry {}),
        Payload::Commands(commands),
        Payload::Membership(membership()),
    ];
    let entry = |(index, payload)| pb::LogEntry { log_id: log_id(index), payload: Some(payload) };
    pb::AppendEntriesRequest {
        target: 301,
        vote: vote(),
        prev_log_id: log_id(8),
        entries: (9..).zip(payloads).map(entry).collect(),
        leader_commit: log_id(7),
    }
}

fn snapshot_chunks() -> [pb::SnapshotChunk; 2] {
    use pb::snapshot_chunk::Part;
    let header = pb::SnapshotHeader {
        format: 1,
        snapshot_id: "7-300-9".to_owned(),
        last_log_id: log_id(9),
        last_membership: Some(pb::StoredMembership {
            log_id: log_id(3),
            membership: Some(membership()),
        }),
        data_bytes: 3,
        data_sha256: vec![0xab; 32],
    };
    let start = pb::SnapshotStart { target: 301, vote: vote(), header: Some(header) };
    [Part::Start(start), Part::Data(vec![1, 2, 3].into())]
        .map(|part| pb::SnapshotChunk { part: Some(part) })
}

/// As above, of what managers of neighbouring versions say while one after the other is upgraded.
#[test]
fn managers_say_to_each_other_what_they_said_in_the_first_version() {
    use pb::append_entries_response::Outcome;
    let appended = |outcome| pb::AppendEntriesResponse { outcome: Some(outcome) };
    let ask = pb::VoteRequest { target: 301, vote: vote(), last_log_id: log_id(9) };
    let answer = pb::VoteResponse { vote: vote(), granted: true, last_log_id: log_id(8) };
    let [start, data] = snapshot_chunks();
    let higher = Outcome::HigherVote(vote().unwrap());
    let part = Outcome::AppendedPart(pb::AppendedPart { matching: log_id(9) });
    let missing = [
        compare("append_entries_request", &append_entries()),
        compare("append_entries_all", &appended(Outcome::AppendedAll(pb::AppendedAll {}))),
        compare("append_entries_part", &appended(part)),
        compare("append_entries_conflict", &appended(Outcome::Conflict(pb::AppendConflict {}))),
        compare("append_entries_higher_vote", &appended(higher)),
        compare("vote_request", &ask),
        compare("vote_response", &answer),
        compare("snapshot_chunk_start", &start),
        compare("snapshot_chunk_data", &data),
        compare("install_snapshot_response", &pb::InstallSnapshotResponse { vote: vote() }),
    ];
    let missing: Vec<String> = missing.into_iter().flatten().collect();
    assert!(missing.is_empty(), "golden files are missing:\n{}", missing.join("\n"));
}

/// As above, of how a host of any version joins, and stays a member.
#[test]
fn certificates_are_asked_for_as_in_the_first_version() {
    let (chain_pem, root_pem) = ("chain".to_owned(), "root".to_owned());
    let certificate = Some(pb::Certificate { chain_pem, root_pem: root_pem.clone() });
    let hints =
        pb::NodeHints { hostname: "h1".to_owned(), advertise_addr: "10.0.0.2:4242".to_owned() };
    let (csr_der, node_id, cluster_id) = (vec![0x30, 0x82], session(), session());
    let renew = pb::RenewCertificateRequest { csr_der: csr_der.clone() };
    let local = pb::RenewNodeCertificateRequest { node_id: session(), csr_der: csr_der.clone() };
    let join = pb::IssueNodeCertificateRequest {
        join_token: "SHOAL-1-token".to_owned(),
        csr_der,
        hints: Some(hints),
    };
    let issued = pb::IssueNodeCertificateResponse {
        certificate: certificate.clone(),
        node_id,
        cluster_id: cluster_id.clone(),
    };
    let missing = [
        compare("get_root_certificate_request", &pb::GetRootCertificateRequest {}),
        compare(
            "get_root_certificate_response",
            &pb::GetRootCertificateResponse { root_pem, cluster_id },
        ),
        compare("issue_node_certificate_request", &join),
        compare("issue_node_certificate_response", &issued),
        compare("renew_certificate_request", &renew),
        compare("renew_certificate_response", &pb::RenewCertificateResponse { certificate }),
        compare("renew_node_certificate_request", &local),
    ];
    let missing: Vec<String> = missing.into_iter().flatten().collect();
    assert!(missing.is_empty(), "golden files are missing:\n{}", missing.join("\n"));
}

/// As above, of what level 4 has added.
#[test]
fn keys_that_change_are_said_as_in_the_fourth_version() {
    let end = TunnelEnd { epoch: 6, public_key: TunnelKey([0xef; 32]), port: 51820 };
    let tunnel = TunnelDescription {
        public_key: TunnelKey([0xcd; 32]),
        port: 51821,
        addr: None,
        kind: TunnelKind::Kernel,
        keys: Some(DescribedKeys { epoch: 7, other: Some(end), lagging: 3, lacking: 0 }),
    };
    let beat = pb::HeartbeatRequest {
        session_id: session(),
        unable: String::new(),
        troubled_links: None,
        tunnel: Some((&tunnel).into()),
    };
    let cluster = Some(TunnelEpochs { present: 7, former: Some(6) });
    let other = PeerKeys { epoch: Some(7), other: Some(end), cluster: None };
    let own = PeerKeys { epoch: Some(7), other: None, cluster };
    let told = incremental(&[
        AssignmentChange::UpdatePeer(Peer { keys: other, ..peer() }.into()),
        AssignmentChange::UpdatePeer(Peer { keys: own, ..peer() }.into()),
    ]);
    let missing =
        [compare("heartbeat_request_keys_4", &beat), compare("assignments_keys_4", &told)];
    let missing: Vec<String> = missing.into_iter().flatten().collect();
    assert!(missing.is_empty(), "golden files are missing:\n{}", missing.join("\n"));
}
