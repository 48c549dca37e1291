//! Objects as people read them, in the shape of `docker service inspect --pretty` and its like.

mod tunnel;

use std::collections::BTreeSet;
use std::fmt::Display;

use bytesize::ByteSize;
use serde::Serialize;
use shoal_transport::utc_date;
use shoal_types::object::{
    AssignmentProgress, Cluster, Deployment, NodeSummary, Reachability, Service, TunnelKeys,
};
use shoal_types::resources::{Cpus, ResourceRequirements};
use shoal_types::spec::{
    ContainerSpec, Labels, Mount, NetworkAttachmentConfig, Placement, PortConfig, ServiceMode,
    UpdateConfig,
};

use super::clean;
use super::time::exact;
use super::words::capital;
use crate::commands::node::Usage;

/// Column in which values begin.
const VALUES_AT: usize = 20;

/// Lines of keys and values.
#[derive(Default)]
struct Page(String);

impl Page {
    /// A key with its value, unless that is empty.
    fn entry(&mut self, indent: usize, key: &str, value: impl Display) {
        let key = format!("{:indent$}{key}:", "");
        let value = clean::one_line(&value.to_string()).into_owned();
        let line = format!("{key:<VALUES_AT$} {value}");
        if line.len() > VALUES_AT + 1 {
            self.0.push_str(&line);
            self.0.push('\n');
        }
    }

    /// What the entries below it are about.
    fn title(&mut self, text: &str) {
        self.0.push_str(&format!("{text}:\n"));
    }

    fn labels(&mut self, labels: &Labels) {
        if !labels.is_empty() {
            self.title("Labels");
        }
        for (key, value) in labels {
            let label = format!(" {key}={value}");
            self.0.push_str(&clean::one_line(&label));
            self.0.push('\n');
        }
    }

    fn finish(self) -> String {
        self.0.trim_end().to_owned()
    }
}

/// The word that JSON has for a value.
fn word(value: impl Serialize) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    json.as_str().map(str::to_owned).unwrap_or_default()
}

/// A service and its last deployment.
pub(crate) fn service(service: &Service, deployment: Option<&Deployment>) -> String {
    let spec = &service.spec;
    let template = &spec.task_template;
    let mut page = Page::default();
    page.entry(0, "ID", service.id);
    page.entry(0, "Name", &spec.name);
    page.labels(&spec.labels);
    page.entry(0, "Service Mode", capital(spec.mode.as_str()));
    if let ServiceMode::Replicated { replicas } = spec.mode {
        page.entry(1, "Replicas", replicas);
    }
    if let Some(deployment) = deployment {
        page.title("Deployment");
        page.entry(1, "State", capital(deployment.state.as_str()));
        page.entry(1, "Started", utc_date(deployment.meta.created_at));
        page.entry(1, "Completed", deployment.completed_at.map(utc_date).unwrap_or_default());
        page.entry(1, "Message", &deployment.message);
    }
    if let Some(given) = &template.placement {
        placement(&mut page, given);
    }
    if let Some(config) = &spec.update_config {
        update(&mut page, config);
    }
    if let Some(given) = template.container() {
        container(&mut page, given);
    }
    if let Some(given) = &template.resources {
        resources(&mut page, given);
    }
    let shared = template.network_of.iter().map(|service| format!("service:{service}"));
    let networks: Vec<String> = template.networks.iter().map(network).chain(shared).collect();
    page.entry(0, "Networks", networks.join(" "));
    if let Some(endpoint) = &spec.endpoint_spec {
        page.entry(0, "Endpoint Mode", word(endpoint.mode));
        page.entry(0, "Endpoint Affinity", endpoint.affinity.map(word).unwrap_or_default());
        page.entry(0, "Endpoint Locality", endpoint.locality.map(word).unwrap_or_default());
        ports(&mut page, &service.endpoint.ports);
    }
    page.finish()
}

/// A network that a service joins, with the addresses that its task has there if it names some.
fn network(joined: &NetworkAttachmentConfig) -> String {
    let addresses: Vec<String> = joined.addresses.iter().map(ToString::to_string).collect();
    if addresses.is_empty() {
        return joined.target.clone();
    }
    format!("{} ({})", joined.target, addresses.join(", "))
}

fn placement(page: &mut Page, placement: &Placement) {
    page.title("Placement");
    if !placement.constraints.is_empty() {
        page.entry(1, "Constraints", format!("[{}]", placement.constraints.join(", ")));
    }
    if placement.max_replicas != 0 {
        page.entry(1, "Max Per Node", placement.max_replicas);
    }
}

fn update(page: &mut Page, config: &UpdateConfig) {
    page.title("UpdateConfig");
    page.entry(1, "Parallelism", config.parallelism);
    if !config.delay.is_zero() {
        page.entry(1, "Delay", format!("{:?}", config.delay));
    }
    page.entry(1, "On failure", word(config.failure_action));
    let monitor = config.monitor.unwrap_or(UpdateConfig::DEFAULT_MONITOR);
    page.entry(1, "Monitoring Period", format!("{monitor:?}"));
    page.entry(1, "Max failure ratio", config.max_failure_ratio);
    page.entry(1, "Update order", word(config.order));
}

fn container(page: &mut Page, spec: &ContainerSpec) {
    page.title("ContainerSpec");
    page.entry(1, "Image", &spec.image);
    let words = |words: &Option<Vec<String>>| match words.as_deref() {
        None => String::new(),
        Some([]) => "(none)".to_owned(),
        Some(words) => words.join(" "),
    };
    page.entry(1, "Entrypoint", words(&spec.command));
    page.entry(1, "Args", words(&spec.args));
    page.entry(1, "Env", spec.env.join(" "));
    page.entry(1, "Dir", &spec.dir);
    page.entry(1, "User", &spec.user);
    page.entry(1, "Hostname", &spec.hostname);
    page.entry(1, "Stop Grace Period", spec.stop_grace_period.map(exact).unwrap_or_default());
    page.entry(1, "Drain Timeout", spec.drain_timeout.map(exact).unwrap_or_default());
    page.entry(1, "CapabilityAdd", spec.capability_add.join(" "));
    page.entry(1, "CapabilityDrop", spec.capability_drop.join(" "));
    let sysctls: Vec<String> = spec.sysctls.iter().map(|(k, v)| format!("{k}={v}")).collect();
    page.entry(1, "SysCtls", sysctls.join(" "));
    let ulimits = spec.ulimits.iter().map(|u| format!("{}={}:{}", u.name, u.soft, u.hard));
    page.entry(1, "Ulimits", ulimits.collect::<Vec<_>>().join(" "));
    if !spec.mounts.is_empty() {
        page.title("Mounts");
    }
    spec.mounts.iter().for_each(|given| mount(page, given));
}

fn mount(page: &mut Page, mount: &Mount) {
    page.entry(1, "Target", &mount.target);
    page.entry(2, "Source", &mount.source);
    page.entry(2, "ReadOnly", mount.read_only);
    page.entry(2, "Type", mount.kind.as_str());
}

fn resources(page: &mut Page, resources: &ResourceRequirements) {
    let mut part = |name: &str, nano_cpus: u64, memory_bytes: u64, pids: u64| {
        if (nano_cpus, memory_bytes, pids) == (0, 0, 0) {
            return;
        }
        page.title(&format!("Resources {name}"));
        if nano_cpus != 0 {
            page.entry(1, "CPU", Cpus(nano_cpus));
        }
        if memory_bytes != 0 {
            page.entry(1, "Memory", bytes(memory_bytes));
        }
        if pids != 0 {
            page.entry(1, "Pids", pids);
        }
    };
    if let Some(reserved) = &resources.reservations {
        part("Reservations", reserved.nano_cpus, reserved.memory_bytes, 0);
    }
    if let Some(limits) = &resources.limits {
        part("Limits", limits.nano_cpus, limits.memory_bytes, limits.pids);
    }
}

fn ports(page: &mut Page, ports: &[PortConfig]) {
    if !ports.is_empty() {
        page.title("Ports");
    }
    for port in ports {
        page.entry(1, "PublishedPort", port.published_port);
        page.entry(2, "Protocol", port.protocol.as_str());
        page.entry(2, "TargetPort", port.target_port);
        page.entry(2, "PublishMode", word(port.publish_mode));
        page.entry(2, "HostIP", port.host_ip.map(|ip| ip.to_string()).unwrap_or_default());
    }
}

/// A node.
pub(crate) fn node(summary: &NodeSummary, usage: &Usage) -> String {
    let NodeSummary { node, manager, assignment } = summary;
    let mut page = Page::default();
    page.entry(0, "ID", node.id);
    page.entry(0, "Name", &node.spec.name);
    page.labels(&node.spec.labels);
    page.entry(0, "Hostname", &node.description.hostname);
    page.entry(0, "Role", word(node.spec.role));
    page.entry(0, "Joined at", utc_date(node.meta.created_at));
    page.title("Status");
    page.entry(1, "State", capital(node.status.state.as_str()));
    page.entry(1, "Message", &node.status.message);
    page.entry(1, "Availability", capital(node.spec.availability.as_str()));
    page.entry(1, "Address", node.status.addr.map(|ip| ip.to_string()).unwrap_or_default());
    page.entry(1, "Assignment", assignment.map(progress).unwrap_or_default());
    if let Some(status) = &node.manager_status {
        page.title("Manager Status");
        page.entry(1, "Address", &status.addr);
        let health = manager.unwrap_or_default();
        page.entry(1, "Raft Status", reachability(health.reachability));
        page.entry(1, "Leader", if health.leader { "Yes" } else { "No" });
        page.entry(1, "Feature Level", status.level);
    }
    page.title("Platform");
    page.entry(1, "Operating System", &node.description.platform.os);
    page.entry(1, "Architecture", &node.description.platform.architecture);
    let plugins = &node.description.engine.plugins;
    if !plugins.is_empty() {
        page.title("Plugins");
        let kinds: BTreeSet<&str> = plugins.iter().map(|plugin| &*plugin.kind).collect();
        for kind in kinds {
            let names = plugins.iter().filter(|plugin| plugin.kind == kind);
            let names: Vec<&str> = names.map(|plugin| &*plugin.name).collect();
            page.entry(1, kind, names.join(", "));
        }
    }
    page.title("Resources");
    page.entry(1, "CPUs", Cpus(node.description.resources.nano_cpus));
    page.entry(1, "Memory", bytes(node.description.resources.memory_bytes));
    tunnel::show(&mut page, node);
    page.title("Reserved");
    page.entry(1, "Tasks", usage.tasks);
    page.entry(1, "CPUs", Cpus(usage.reserved.nano_cpus));
    page.entry(1, "Memory", bytes(usage.reserved.memory_bytes));
    page.title("Free");
    page.entry(1, "CPUs", Cpus(usage.free.nano_cpus));
    page.entry(1, "Memory", bytes(usage.free.memory_bytes));
    page.entry(0, "Engine Version", &node.description.engine.version);
    page.entry(0, "Feature Level", node.description.level);
    page.finish()
}

/// The cluster and its settings.
pub(crate) fn cluster(cluster: &Cluster) -> String {
    let mut page = Page::default();
    let spec = &cluster.spec;
    page.entry(0, "ID", cluster.id);
    page.entry(0, "Name", &spec.name);
    page.labels(&spec.labels);
    page.entry(0, "Made at", utc_date(cluster.meta.created_at));
    page.title("Settings");
    page.entry(1, "Task History Retention Limit", spec.task_history_retention_limit);
    page.entry(1, "Heartbeat Period", exact(spec.heartbeat_period));
    page.entry(1, "Certificate Expiry", exact(spec.node_cert_expiry));
    let pools = spec.pools().iter().map(|pool| format!("{} in parts of /{}", pool.base, pool.size));
    page.entry(1, "Default Address Pool", pools.collect::<Vec<_>>().join(", "));
    let expiry = spec.tunnel_keys.period().map_or_else(|| "Never".to_owned(), exact);
    page.entry(1, "Tunnel Key Expiry", expiry);
    let TunnelKeys { epochs, since, forced: _ } = cluster.tunnel_keys;
    page.title("Tunnel Keys");
    page.entry(1, "Epoch", epochs.present);
    page.entry(1, "Since", utc_date(since.max(cluster.meta.created_at)));
    if let Some(former) = epochs.former {
        page.entry(
            1,
            "Changing From",
            format!("Epoch {former} (shoalctl info says who is missing)"),
        );
    }
    page.finish()
}

/// How far a node is with its assignment.
fn progress(progress: AssignmentProgress) -> String {
    let AssignmentProgress { sent, applied } = progress;
    match progress.behind() {
        0 if sent == 0 => "Nothing sent yet".to_owned(),
        0 => format!("Up to date ({sent} sent)"),
        behind => format!("{behind} behind ({sent} sent, {applied} applied)"),
    }
}

/// Whether a manager answers.
pub(crate) const fn reachability(reachability: Reachability) -> &'static str {
    match reachability {
        Reachability::Reachable => "Reachable",
        Reachability::Unreachable => "Unreachable",
        Reachability::Unknown => "Unknown",
    }
}

fn bytes(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use shoal_types::id::{DeploymentId, NodeId, ServiceId};
    use shoal_types::level::Level;
    use shoal_types::object::{
        DescribedKeys, Endpoint, ManagerHealth, ManagerStatus, Meta, Node, NodeDescription,
        NodeStatus, TroubledLink, TroubledLinks, TunnelDescription, TunnelEnd, TunnelKey,
        TunnelKind,
    };
    use shoal_types::resources::{Limits, Resources};
    use shoal_types::spec::{
        Affinity, EndpointSpec, Locality, NodeRole, NodeSpec, Protocol, PublishMode, ServiceSpec,
    };
    use shoal_types::spec::{Platform, TaskRuntime, TaskSpec};
    use shoal_types::time::Timestamp;

    use super::*;

    /// Without ids, which say nothing here.
    fn without_id(text: &str) -> String {
        text.lines().filter(|l| !l.starts_with("ID:")).map(|l| format!("{l}\n")).collect()
    }

    fn meta() -> Meta {
        Meta::created(1, Timestamp::from_secs(1_795_225_380))
    }

    fn spec() -> ServiceSpec {
        let container = ContainerSpec {
            image: "nginx:1".to_owned(),
            args: Some(vec!["-g".to_owned(), "x".to_owned()]),
            command: Some(Vec::new()),
            env: vec!["A=1".to_owned()],
            stop_grace_period: Some(Duration::from_secs(10)),
            drain_timeout: Some(Duration::from_secs(30)),
            ..ContainerSpec::default()
        };
        let port = PortConfig {
            name: String::new(),
            protocol: Protocol::Tcp,
            target_port: 80,
            published_port: 8080,
            publish_mode: PublishMode::Host,
            host_ip: None,
        };
        let limits = Limits { nano_cpus: 500_000_000, memory_bytes: 64 << 20, pids: 0 };
        let network = |target: &str, addresses: &[&str]| NetworkAttachmentConfig {
            target: target.to_owned(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ..NetworkAttachmentConfig::default()
        };
        ServiceSpec {
            name: "web".to_owned(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            task_template: Arc::new(TaskSpec {
                runtime: TaskRuntime::Container(container),
                resources: Some(ResourceRequirements {
                    limits: Some(limits),
                    ..ResourceRequirements::default()
                }),
                restart_policy: None,
                placement: Some(Placement {
                    constraints: vec!["node.role==worker".to_owned()],
                    ..Placement::default()
                }),
                networks: vec![network("n", &[]), network("m", &["10.1.0.7", "fd00::7"])],
                network_of: None,
                log_driver: None,
                force_update: 0,
            }),
            mode: ServiceMode::Replicated { replicas: 3 },
            update_config: Some(UpdateConfig::default()),
            rollback_config: None,
            endpoint_spec: Some(EndpointSpec {
                ports: vec![port],
                affinity: Some(Affinity::ClientIp),
                locality: Some(Locality::PreferLocal),
                ..EndpointSpec::default()
            }),
        }
    }

    #[test]
    fn a_service_on_a_page() {
        let made = Service {
            id: ServiceId::from(1),
            meta: meta(),
            spec: Arc::new(spec()),
            previous_spec: None,
            stack_id: None,
            deployment_id: DeploymentId::from(1),
            networks: [].into(),
            payloads: Default::default(),
            endpoint: Endpoint {
                ports: spec().endpoint_spec.unwrap_or_default().ports,
                ..Endpoint::default()
            },
        };
        let expected = "\
Name:                web
Labels:
 a=b
Service Mode:        Replicated
 Replicas:           3
Placement:
 Constraints:        [node.role==worker]
UpdateConfig:
 Parallelism:        1
 On failure:         pause
 Monitoring Period:  5s
 Max failure ratio:  0
 Update order:       stop-first
ContainerSpec:
 Image:              nginx:1
 Entrypoint:         (none)
 Args:               -g x
 Env:                A=1
 Stop Grace Period:  10s
 Drain Timeout:      30s
Resources Limits:
 CPU:                0.5
 Memory:             64.0 MiB
Networks:            n m (10.1.0.7, fd00::7)
Endpoint Mode:       vip
Endpoint Affinity:   client-ip
Endpoint Locality:   prefer-local
Ports:
 PublishedPort:      8080
  Protocol:          tcp
  TargetPort:        80
  PublishMode:       host
";
        assert_eq!(without_id(&service(&made, None)), expected);
    }

    fn described() -> NodeDescription {
        let link = |(node, passes_bytes): (u8, u32)| TroubledLink {
            node_id: NodeId::from(u128::from(node)),
            endpoint: ([192, 0, 2, node], 51820).into(),
            passes_bytes,
            full_bytes: 1420,
        };
        NodeDescription {
            hostname: "h1".to_owned(),
            platform: Platform { architecture: "x86_64".to_owned(), os: "linux".to_owned() },
            resources: Resources {
                nano_cpus: 2_000_000_000,
                memory_bytes: 8 << 30,
                ..Resources::default()
            },
            tunnel: Some(TunnelDescription {
                public_key: TunnelKey([0xab; 32]),
                port: 51820,
                addr: Some([192, 0, 2, 1].into()),
                kind: TunnelKind::Userspace,
                keys: Some(DescribedKeys {
                    epoch: 7,
                    other: Some(TunnelEnd {
                        epoch: 6,
                        public_key: TunnelKey([0xcd; 32]),
                        port: 51821,
                    }),
                    lagging: 1,
                    lacking: 1,
                }),
            }),
            troubled_links: Some(TroubledLinks {
                count: 20,
                links: [(2, 0), (3, 1216)].map(link).to_vec(),
            }),
            ..NodeDescription::default()
        }
    }

    #[test]
    fn a_node_on_a_page() {
        let made = Node {
            id: NodeId::from(1),
            meta: meta(),
            spec: NodeSpec { role: NodeRole::Manager, ..NodeSpec::default() },
            description: described(),
            status: NodeStatus::default(),
            manager_status: Some(ManagerStatus {
                raft_id: 1,
                addr: "10.0.0.1:4242".to_owned(),
                level: Level::FIRST,
            }),
            tunnel_address: Some("10.0.7.2/24".parse().unwrap()),
        };
        let health = ManagerHealth { leader: true, reachability: Reachability::Reachable };
        let assignment = Some(AssignmentProgress { sent: 7, applied: 5 });
        let made = NodeSummary { node: made, manager: Some(health), assignment };
        let expected = "\
Hostname:            h1
Role:                manager
Joined at:           2026-11-21 01:43 UTC
Status:
 State:              Unknown
 Availability:       Active
 Assignment:         2 behind (7 sent, 5 applied)
Manager Status:
 Address:            10.0.0.1:4242
 Raft Status:        Reachable
 Leader:             Yes
 Feature Level:      1
Platform:
 Operating System:   linux
 Architecture:       x86_64
Resources:
 CPUs:               2
 Memory:             8.0 GiB
Tunnel:
 Public Key:         q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=
 Address:            192.0.2.1
 Port:               51820
 Kind:               userspace
 Key Epoch:          7
 Other Key:          zc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc3Nzc0= of epoch 6
 By Former Keys:     2 nodes
 Inner Address:      10.0.7.2/24
Troubled Links:
 Count:              20
 Link:               to 0000000000000000000000002 at 192.0.2.2:51820: nothing passes
 Link:               to 0000000000000000000000003 at 192.0.2.3:51820: 1216 of 1420 bytes pass
Reserved:
 Tasks:              0
 CPUs:               0
 Memory:             0 B
Free:
 CPUs:               2
 Memory:             8.0 GiB
Feature Level:       1
";
        assert_eq!(without_id(&node(&made, &Usage::of(&made.node, &[]))), expected);
    }

    #[test]
    fn how_far_a_node_is() {
        let cases = [
            (0, 0, "Nothing sent yet"),
            (3, 3, "Up to date (3 sent)"),
            (4, 3, "1 behind (4 sent, 3 applied)"),
            (4, 0, "4 behind (4 sent, 0 applied)"),
        ];
        for (sent, applied, expected) in cases {
            assert_eq!(progress(AssignmentProgress { sent, applied }), expected);
        }
    }
}
