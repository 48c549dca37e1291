//! One of everything, of which every text is hostile.

use super::*;

/// Clears the screen by both kinds of escape, sets the title, moves back over the line and turns the
/// direction of text.
pub(super) const HOSTILE: &str =
    "x\x1b[2J\u{9b}31m\x1b]0;owned\x07\r\x08\x7f\u{202e}\nhint: run this";

pub(super) fn text() -> String {
    HOSTILE.to_owned()
}

fn meta() -> Meta {
    Meta::created(1, Timestamp::from_secs(1))
}

fn labels() -> Labels {
    [(text(), text())].into()
}

fn service_spec() -> ServiceSpec {
    let container = ContainerSpec {
        image: text(),
        args: Some(vec![text()]),
        env: vec![text()],
        dir: text(),
        user: text(),
        hostname: text(),
        ..ContainerSpec::default()
    };
    ServiceSpec {
        name: text(),
        labels: labels(),
        task_template: Arc::new(TaskSpec::of(TaskRuntime::Container(container))),
        mode: ServiceMode::Replicated { replicas: 1 },
        update_config: None,
        rollback_config: None,
        endpoint_spec: None,
    }
}

pub(super) fn service() -> pb::Service {
    (&Service {
        id: ServiceId::from(1),
        meta: meta(),
        spec: Arc::new(service_spec()),
        previous_spec: None,
        stack_id: None,
        deployment_id: DeploymentId::from(1),
        networks: [].into(),
        payloads: Default::default(),
        endpoint: Endpoint::default(),
    })
        .into()
}

pub(super) fn deployment() -> pb::Deployment {
    (&Deployment {
        id: DeploymentId::from(1),
        meta: meta(),
        service_id: ServiceId::from(1),
        service_version: 1,
        stack_version: Some(1),
        kind: DeploymentKind::Create,
        state: DeploymentState::Paused,
        completed_at: None,
        message: text(),
    })
        .into()
}

pub(super) fn summary() -> pb::ServiceSummary {
    pb::ServiceSummary {
        service: Some(service()),
        running_tasks: 0,
        desired_tasks: 1,
        deployment: Some(deployment()),
    }
}

pub(super) fn task() -> pb::Task {
    let mut status = TaskStatus::new(TaskState::Failed, Timestamp::from_secs(1), HOSTILE);
    status.err = text();
    (&Task {
        id: TaskId::from(1),
        meta: meta(),
        service_id: ServiceId::from(1),
        service_name: text().into(),
        service_labels: labels().into(),
        slot: Slot::Replica(1),
        node_id: Some(NodeId::from(1)),
        spec: service_spec().task_template,
        spec_version: 1,
        endpoint: None,
        networks: [].into(),
        payloads: Default::default(),
        partner: None,
        desired_state: DesiredState::Running,
        start_after: None,
        rejections: 0,
        level: Level::FIRST,
        status,
    })
        .into()
}

pub(super) fn node() -> pb::Node {
    (&Node {
        id: NodeId::from(1),
        meta: meta(),
        spec: NodeSpec { name: text(), labels: labels(), ..NodeSpec::default() },
        description: NodeDescription {
            hostname: text(),
            platform: Platform { architecture: text(), os: text() },
            engine: EngineDescription { version: text(), labels: labels(), plugins: Vec::new() },
            ..NodeDescription::default()
        },
        status: NodeStatus { state: NodeState::Ready, message: text(), ..NodeStatus::default() },
        manager_status: None,
        tunnel_address: None,
    })
        .into()
}

pub(super) fn summary_of_node() -> pb::NodeSummary {
    pb::NodeSummary { node: Some(node()), manager: None, assignment: None }
}

pub(super) fn secret() -> pb::Secret {
    let spec = SecretSpec { name: text(), labels: labels(), ..SecretSpec::default() };
    (&Secret { id: 1.into(), meta: meta(), version: 1, stack_id: None, spec }).into()
}

pub(super) fn config() -> pb::Config {
    let data = text().into_bytes();
    let spec = ConfigSpec { name: text(), labels: labels(), data, ..ConfigSpec::default() };
    (&Config { id: 1.into(), meta: meta(), version: 1, stack_id: None, spec }).into()
}

pub(super) fn network() -> pb::Network {
    (&Network {
        id: NetworkId::from(1),
        meta: meta(),
        spec: NetworkSpec {
            name: text(),
            labels: labels(),
            driver: Driver { name: text(), ..Driver::default() },
            ..NetworkSpec::default()
        },
        stack_id: None,
        predefined: false,
        subnets: vec!["10.0.0.0/24".parse().unwrap()],
    })
        .into()
}

pub(super) fn stack() -> pb::Stack {
    (&Stack {
        id: StackId::from(1),
        meta: meta(),
        spec: Arc::new(StackSpec { name: text(), ..StackSpec::default() }),
        services: [(text(), ServiceId::from(1))].into(),
        networks: [(text(), NetworkId::from(1))].into(),
        secrets: vec![text()],
        configs: vec![text()],
        history: vec![StackRevision {
            spec_version: 1,
            applied_at: Timestamp::from_secs(1),
            spec: Arc::new(StackSpec { name: text(), ..StackSpec::default() }),
            rolled_back: Some(text()),
            by_hand: true,
        }],
    })
        .into()
}

pub(super) fn stack_applied() -> pb::ApplyStackResponse {
    pb::ApplyStackResponse {
        stack_id: StackId::from(1).to_string(),
        created: vec![text()],
        updated: vec![text()],
        unchanged: vec![text()],
        removed: vec![text()],
        kept: vec![text()],
        spec_version: 1,
        deployments: [(text(), deployment_id())].into(),
    }
}

pub(super) fn deployment_id() -> String {
    DeploymentId::from(1).to_string()
}

pub(super) fn user() -> pb::User {
    (&User {
        id: UserId::from(1),
        meta: meta(),
        spec: UserSpec {
            name: text(),
            labels: labels(),
            role: UserRole::Deployer,
            stacks: vec![text()],
            ..UserSpec::default()
        },
    })
        .into()
}

pub(super) fn cluster() -> pb::ClusterView {
    (&Cluster {
        id: ClusterId::from(1),
        meta: meta(),
        spec: ClusterSpec { name: text(), ..ClusterSpec::default() },
        root_ca: RootCa { cert_pem: text(), key_pem: text() },
        join_tokens: JoinTokens::default(),
        level: Level::FIRST,
        tunnel_keys: TunnelKeys::default(),
        former_managers: Vec::new(),
    })
        .into()
}

pub(super) fn volume() -> pb::PlacedVolume {
    let volume = NodeVolume {
        name: text(),
        driver: text(),
        options: labels(),
        labels: labels(),
        mountpoint: text(),
        ..NodeVolume::default()
    };
    let (node_id, used_by) = (NodeId::from(1), vec![text()]);
    (&PlacedVolume { node_id, hostname: text(), volume, used_by }).into()
}

pub(super) fn pruned() -> pb::PrunedNode {
    let pruned = Pruned {
        volumes: vec![text()],
        images: vec![text()],
        containers: vec![text()],
        reclaimed_bytes: 1 << 20,
        errors: vec![text()],
    };
    (&PrunedNode { node_id: NodeId::from(1), hostname: text(), pruned }).into()
}

pub(super) fn usage() -> pb::PlacedUsage {
    let (id, used) = (TaskId::from(1), Used::default());
    let task = NamedUsage { id, name: text(), service: text(), used };
    let (node_id, usage) = (NodeId::from(1), NodeUsage::default());
    (&PlacedUsage { node_id, hostname: text(), usage, tasks: vec![task] }).into()
}

pub(super) fn disk() -> pb::PlacedDisk {
    let (node_id, usage) = (NodeId::from(1), DiskUsage::default());
    (&PlacedDisk { node_id, hostname: text(), usage }).into()
}

pub(super) fn networks() -> pb::PlacedNetworks {
    let finding =
        Finding { subject: text(), expected: text(), found: text(), known_since: Timestamp::ZERO };
    let reach = PeerReach {
        node_id: NodeId::from(2),
        hostname: text(),
        endpoint: Some(text()),
        handshake_age_seconds: None,
        received_bytes: 0,
        sent_bytes: 0,
        full_bytes: 1,
        passes_bytes: 0,
        trouble: Some(text()),
    };
    let networks = NodeNetworks {
        mtu: 1,
        findings: vec![finding],
        notes: vec![text()],
        peers: 9,
        reached: vec![reach],
    };
    (&PlacedNetworks { node_id: NodeId::from(1), hostname: text(), networks }).into()
}

pub(super) fn step() -> pb::TraceStep {
    let (node, why) = (Some(text()), Some(text()));
    (&TraceStep { node, what: text(), verdict: Verdict::Stops, why }).into()
}

pub(super) fn silent() -> pb::Silent {
    (&Silent { node_id: NodeId::from(1), hostname: text(), reason: text() }).into()
}
