//! The bytes of what agents and managers say to each other, as the first version has them.

use std::path::Path;
use std::sync::Arc;

use prost::Message;
use shoal_types::assignment::{AssignedTask, AssignmentChange, Rejection};
use shoal_types::id::TaskId;
use shoal_types::level::Level;
use shoal_types::object::{
    EngineDescription, Meta, Network, NodeDescription, Slot, TaskNetwork, TaskStatus,
};
use shoal_types::spec::{Driver, NetworkSpec, Platform};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::{golden_spec, pairs, pb, words};

fn description() -> NodeDescription {
    NodeDescription {
        hostname: "h1".to_owned(),
        platform: Platform { architecture: "x86_64".to_owned(), os: "linux".to_owned() },
        engine: EngineDescription { version: "0.1.0".to_owned(), labels: pairs("disk=ssd") },
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
        }],
        desired_state: DesiredState::Running,
        level: Level::new(1),
    }
}

fn network() -> Network {
    let driver = Driver { name: "bridge".to_owned(), ..Driver::default() };
    let spec = NetworkSpec { name: "back".to_owned(), driver, ..NetworkSpec::default() };
    let meta = Meta { version: 9, spec_version: 1, ..Meta::default() };
    Network { id: 5.into(), meta, spec, stack_id: None, predefined: false }
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
    let beat = pb::HeartbeatRequest { session_id: id.clone(), unable: request.unable.clone() };
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
