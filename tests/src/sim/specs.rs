//! Specs that a user might write. What a service is called decides what cannot change about it.

use std::sync::Arc;
use std::time::Duration;

use shoal_manager_state::{ClusterState, Command};
use shoal_types::level::Level;
use shoal_types::object::{NodeDescription, TunnelDescription, TunnelKey, TunnelKind};
use shoal_types::resources::{NANO_CPUS_PER_CPU, ResourceRequirements, Resources};
use shoal_types::spec::{
    Affinity, ContainerSpec, Driver, EndpointSpec, FailureAction, Locality,
    NetworkAttachmentConfig, NetworkKind, NetworkSpec, Placement, Platform, PortConfig, Protocol,
    PublishMode, RestartCondition, RestartPolicy, ServiceMode, ServiceSpec, TaskRuntime, TaskSpec,
    UpdateConfig, UpdateOrder,
};

use super::random::Random;

const GIB: u64 = 1 << 30;

/// What a host says of itself.
pub(crate) fn description(hostname: &str, random: &mut Random) -> NodeDescription {
    let memory_bytes = random.pick(&[4, 8, 8, 16]) * GIB;
    let level = if random.chance(50) { NEWER_LEVEL } else { Level::FIRST };
    let number = hostname.bytes().fold(0, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(byte));
    let tunnel = TunnelDescription {
        public_key: TunnelKey([number; 32]),
        port: 51820,
        addr: Some([192, 0, 2, number].into()),
        kind: TunnelKind::Kernel,
        keys: None,
    };
    NodeDescription {
        hostname: hostname.to_owned(),
        platform: Platform { architecture: "amd64".to_owned(), os: "linux".to_owned() },
        resources: Resources {
            nano_cpus: random.pick(&[2, 4, 8]) * NANO_CPUS_PER_CPU,
            memory_bytes,
            generic_resources: Vec::new(),
        },
        level,
        tunnel: Some(tunnel),
        ..NodeDescription::default()
    }
}

/// What programs have that were upgraded.
pub(crate) const NEWER_LEVEL: Level = Level::DUAL;

/// What a node must be able to do for tasks of this service. Those whose name begins with "new" stand
/// for specs with something that the newest level brought, such as clients that stay
/// with a task, and of what came before ports on every node.
fn level(name: &str) -> Level {
    if name.starts_with("new") { NEWER_LEVEL } else { Level::FIRST }
}

/// What is planned, as if the service's spec had in it what its name stands for.
pub(crate) fn with_level(view: &ClusterState, mut planned: Command) -> Command {
    if let Command::CreateTask { service_id, level: needed, .. } = &mut planned
        && let Some(service) = view.service(*service_id)
    {
        *needed = level(&service.spec.name);
    }
    planned
}

/// A network. Those of the shop span nodes, and have IPv6 beside IPv4.
pub(crate) fn network(name: &str) -> NetworkSpec {
    let kind = if name.starts_with("shop") { NetworkKind::Overlay } else { NetworkKind::Bridge };
    let driver = Driver { name: kind.as_str().to_owned(), ..Driver::default() };
    let enable_ipv6 = kind == NetworkKind::Overlay;
    NetworkSpec { name: name.to_owned(), driver, enable_ipv6, ..NetworkSpec::default() }
}

/// Whose network a service shares, by its name.
fn network_of(name: &str) -> Option<String> {
    (name == "new-side").then(|| "db".to_owned())
}

/// A service. Those whose name ends in "-all" are global, those with "-roll" start first, and "-side" shares the network
/// of another one.
pub(crate) fn service(name: &str, networks: &[&str], random: &mut Random) -> ServiceSpec {
    let mode = if name.ends_with("-all") {
        ServiceMode::Global {}
    } else {
        ServiceMode::Replicated { replicas: random.below(6) }
    };
    let update = random.chance(70).then(|| update_config(name, random));
    let everywhere = level(name) >= Level::INGRESS;
    let (mode_of_ports, numbers, chance): (_, &[u16], _) = if everywhere {
        (PublishMode::Ingress, &[0, 8080, 8081, 8090], 80)
    } else {
        (PublishMode::Host, &[8080, 8081], 20)
    };
    let task_template = task(networks, random);
    let network_of = network_of(name);
    let alone = network_of.is_none();
    ServiceSpec {
        name: name.to_owned(),
        labels: Default::default(),
        task_template: Arc::new(TaskSpec { network_of, ..task_template }),
        mode,
        rollback_config: update.as_ref().and_then(|config| {
            random.chance(30).then(|| UpdateConfig { delay: Duration::ZERO, ..config.clone() })
        }),
        update_config: update.or_else(|| {
            starts_first(name)
                .then(|| UpdateConfig { order: UpdateOrder::StartFirst, ..Default::default() })
        }),
        endpoint_spec: (alone && random.chance(chance)).then(|| {
            let published_port = random.pick(numbers);
            EndpointSpec {
                ports: vec![PortConfig {
                    name: String::new(),
                    protocol: Protocol::Tcp,
                    target_port: 80,
                    published_port,
                    publish_mode: mode_of_ports,
                    host_ip: None,
                }],
                affinity: (everywhere && random.chance(30)).then_some(Affinity::ClientIp),
                locality: (everywhere && published_port == 8081).then_some(Locality::PreferLocal),
                ..EndpointSpec::default()
            }
        }),
    }
}

fn starts_first(name: &str) -> bool {
    name.contains("-roll")
}

fn update_config(name: &str, random: &mut Random) -> UpdateConfig {
    use FailureAction::{Continue, Pause, Rollback};
    UpdateConfig {
        parallelism: random.below(4),
        delay: random.pick(&[Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2)]),
        failure_action: random.pick(&[Pause, Continue, Rollback, Rollback]),
        monitor: random.pick(&[None, Some(Duration::ZERO), Some(Duration::from_secs(2))]),
        max_failure_ratio: random.pick(&[0.0, 0.0, 0.5]),
        order: if starts_first(name) { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst },
    }
}

/// A container image; the fake agents know what becomes of it.
pub(crate) fn good_image(random: &mut Random) -> String {
    format!("good:{}", random.below(3))
}

fn image(random: &mut Random) -> String {
    match random.below(10) {
        0 => "bad:1".to_owned(),
        1 => "once:1".to_owned(),
        _ => good_image(random),
    }
}

fn task(networks: &[&str], random: &mut Random) -> TaskSpec {
    let container = ContainerSpec { image: image(random), ..ContainerSpec::default() };
    let joins = |name: &&str| NetworkAttachmentConfig {
        target: (*name).to_owned(),
        ..NetworkAttachmentConfig::default()
    };
    TaskSpec {
        runtime: TaskRuntime::Container(container),
        resources: random.chance(40).then(|| ResourceRequirements {
            reservations: Some(Resources {
                nano_cpus: random.below(4) * NANO_CPUS_PER_CPU / 2,
                memory_bytes: random.below(4) * GIB,
                generic_resources: Vec::new(),
            }),
            ..ResourceRequirements::default()
        }),
        restart_policy: random.chance(60).then(|| restart_policy(random)),
        placement: random.chance(30).then(|| placement(random)),
        networks: networks.iter().map(joins).collect(),
        network_of: None,
        log_driver: None,
        force_update: random.below(2),
    }
}

fn restart_policy(random: &mut Random) -> RestartPolicy {
    use RestartCondition::{Any, None as Never, OnFailure};
    let delay = random.pick(&[0, 1, 5]);
    RestartPolicy {
        condition: random.pick(&[Any, Any, OnFailure, Never]),
        delay: random.chance(70).then(|| Duration::from_secs(delay)),
        max_attempts: random.pick(&[0, 0, 2]),
        window: random.chance(30).then(|| Duration::from_secs(20)),
    }
}

fn placement(random: &mut Random) -> Placement {
    let constraints = ["node.labels.disk==ssd", "node.labels.disk!=ssd", "node.role==worker"];
    Placement {
        constraints: random
            .chance(70)
            .then(|| random.pick(&constraints).to_owned())
            .into_iter()
            .collect(),
        max_replicas: random.pick(&[0, 0, 1, 2]),
        ..Placement::default()
    }
}

/// Another version of a service: one part of it is written anew.
pub(crate) fn changed(old: &ServiceSpec, random: &mut Random) -> ServiceSpec {
    let mut spec = old.clone();
    let networks: Vec<&str> =
        old.task_template.networks.iter().map(|n| n.target.as_str()).collect();
    let other = service(&old.name, &networks, random);
    match random.below(6) {
        0 | 1 => spec.mode = other.mode,
        2 => spec.task_template = other.task_template,
        3 => {
            let task = Arc::make_mut(&mut spec.task_template);
            if let TaskRuntime::Container(container) = &mut task.runtime {
                container.image = image(random);
            }
        }
        4 => spec.endpoint_spec = other.endpoint_spec,
        _ => return other,
    }
    spec
}
