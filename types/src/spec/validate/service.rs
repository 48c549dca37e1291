//! Rules for services.

use std::collections::BTreeMap;

use super::{Check, container};
use crate::constraint::Constraint;
use crate::resources::{Cpus, GenericResource, Limits, ResourceRequirements, Resources};
use crate::spec::{
    Affinity, EndpointMode, EndpointSpec, Labels, Locality, NetworkAttachmentConfig, NetworkKind,
    Placement, PortConfig, PublishMode, ServiceMode, ServiceSpec, TaskRuntime, TaskSpec,
    UpdateConfig, UpdateOrder,
};

/// The fewest CPUs that may be named, in billionths (as in SwarmKit): the kernel's quota is 1 ms of
/// 1 s at least.
const NANO_CPUS_MIN: u64 = 1_000_000;

/// What is said of fewer.
const CPUS_TOO_LITTLE: &str = "is too little: expected at least 0.001 CPU, or 0 for none";

/// The least memory a reservation may name, in bytes (as in SwarmKit).
const MEMORY_BYTES_MIN: u64 = 4 << 20;

/// The least memory a limit may name, in bytes: with less a container cannot start (as in Docker).
const MEMORY_BYTES_LIMIT_MIN: u64 = 6 << 20;

/// The most processes a limit may name: the kernel has no more numbers for them.
const PIDS_MAX: u64 = 4_194_304;

/// Replicas of one service at the most.
const REPLICAS_MAX: u64 = 1_000_000;

/// Restarts that a policy may count at the most: as many ended tasks of a slot are remembered.
const MAX_ATTEMPTS_MAX: u64 = 100;

/// Aliases of a service on one network at the most: its names go to every node of the network, and those of a task
/// in one piece to what answers them there.
const ALIASES_MAX: usize = 64;

/// Bytes of one label's key and value together at the most.
const LABEL_LEN_MAX: usize = 64 << 10;

pub(super) fn service(c: &mut Check, spec: &ServiceSpec) {
    c.name(&spec.name);
    labels(c, &spec.labels);
    c.at("task_template", |c| task(c, &spec.task_template));
    c.at("mode", |c| mode(c, spec.mode));
    c.at("task_template", |c| fixed(c, spec));
    if let Some(config) = &spec.update_config {
        c.at("update_config", |c| update(c, config));
    }
    if let Some(config) = &spec.rollback_config {
        c.at("rollback_config", |c| update(c, config));
    }
    if let Some(endpoint) = &spec.endpoint_spec {
        let host_network = on_host_network(&spec.task_template);
        c.at("endpoint_spec", |c| {
            ports(c, endpoint, host_network);
            choices(c, endpoint, host_network);
        });
    }
}

fn on_host_network(spec: &TaskSpec) -> bool {
    spec.networks.iter().any(|n| NetworkKind::predefined(&n.target) == Some(NetworkKind::Host))
}

pub(super) fn labels(c: &mut Check, labels: &Labels) {
    c.at("labels", |c| {
        for (key, value) in labels {
            c.that(!key.is_empty(), "", "a label has an empty key");
            let fits = key.len() + value.len() <= LABEL_LEN_MAX;
            c.that(fits, key, "is longer with its value than 64 KiB");
        }
    });
}

fn mode(c: &mut Check, mode: ServiceMode) {
    if let ServiceMode::Replicated { replicas } = mode {
        c.at("replicas", |c| {
            c.that(replicas <= REPLICAS_MAX, replicas, "is too many: expected 0 to 1000000");
        });
    }
}

fn task(c: &mut Check, spec: &TaskSpec) {
    let host_network = on_host_network(spec);
    if let TaskRuntime::Container(spec) = &spec.runtime {
        c.at("container", |c| container::container(c, spec, host_network));
    }
    if let Some(resources) = &spec.resources {
        c.at("resources", |c| requirements(c, resources));
    }
    let attempts = spec.restart_policy.as_ref().map_or(0, |p| p.max_attempts);
    c.at("restart_policy.max_attempts", |c| {
        let fits = attempts <= MAX_ATTEMPTS_MAX;
        c.that(fits, attempts, "is too many: expected at most 100, or 0 for no limit");
    });
    if let Some(placement) = &spec.placement {
        c.at("placement", |c| self::placement(c, placement));
    }
    let mut seen = std::collections::BTreeSet::new();
    c.each("networks", &spec.networks, |c, n| {
        c.that(!n.target.is_empty(), "", "names no network");
        c.that(seen.insert(n.target.clone()), &n.target, "is listed twice");
        attachment(c, n);
    });
}

/// What is said of a connection to a network.
pub(super) fn attachment(c: &mut Check, n: &NetworkAttachmentConfig) {
    c.at("aliases", |c| {
        let count = n.aliases.len();
        c.that(count <= ALIASES_MAX, count, "are too many: expected at most 64 aliases");
    });
    c.each("aliases", &n.aliases, |c, alias| {
        let why = "is no name: expected letters, digits, - and _, in parts between dots";
        c.that(container::is_hostname(alias), alias, why);
    });
    c.each("addresses", &n.addresses, |c, address| {
        let same = n.addresses.iter().filter(|other| other.is_ipv4() == address.is_ipv4());
        let why =
            "is one of several of its family: expected one IPv4 and one IPv6 address at the most";
        c.that(same.count() == 1, address, why);
    });
}

/// A fixed address is one task's, and the next one gets it when that has ended.
fn fixed(c: &mut Check, spec: &ServiceSpec) {
    let one = matches!(spec.mode, ServiceMode::Replicated { replicas: 0 | 1 });
    let order = spec.update_config.as_ref().map(|config| config.order).unwrap_or_default();
    let why = match (one, order) {
        (true, UpdateOrder::StopFirst) => return,
        (false, _) => {
            "can be had by one task only: expected a replicated service with at most one replica"
        }
        (true, UpdateOrder::StartFirst) => {
            "can be had by one task at a time only: expected update order stop-first"
        }
    };
    c.each("networks", &spec.task_template.networks, |c, n| {
        c.each("addresses", &n.addresses, |c, address| c.wrong(address, why));
    });
}

fn requirements(c: &mut Check, r: &ResourceRequirements) {
    let limits = r.limits.unwrap_or_default();
    c.at("limits", |c| self::limits(c, &limits));
    let Some(reserved) = &r.reservations else { return };
    c.at("reservations", |c| {
        reservations(c, reserved);
        let over = |have: u64, limit: u64| limit != 0 && have > limit;
        if over(reserved.nano_cpus, limits.nano_cpus) {
            c.wrong(Cpus(reserved.nano_cpus), "CPUs reserved are more than the limit");
        }
        if over(reserved.memory_bytes, limits.memory_bytes) {
            c.wrong(reserved.memory_bytes, "bytes of memory reserved are more than the limit");
        }
        c.each("generic_resources", &reserved.generic_resources, |c, g| match g {
            GenericResource::Discrete { kind, value } => {
                c.that(!kind.is_empty(), "", "has no kind");
                c.that(*value > 0, value, "is not a positive number");
            }
            GenericResource::Named { kind, .. } => c.that(!kind.is_empty(), "", "has no kind"),
        });
    });
}

fn limits(c: &mut Check, limits: &Limits) {
    c.at("nano_cpus", |c| {
        let ok = limits.nano_cpus == 0 || limits.nano_cpus >= NANO_CPUS_MIN;
        c.that(ok, Cpus(limits.nano_cpus), CPUS_TOO_LITTLE);
    });
    c.at("memory_bytes", |c| {
        let ok = limits.memory_bytes == 0 || limits.memory_bytes >= MEMORY_BYTES_LIMIT_MIN;
        c.that(ok, limits.memory_bytes, "is too little: expected at least 6 MiB, or 0 for none");
    });
    c.at("pids", |c| {
        c.that(limits.pids <= PIDS_MAX, limits.pids, "is too many: expected at most 4194304");
    });
}

fn reservations(c: &mut Check, reserved: &Resources) {
    c.at("nano_cpus", |c| {
        let ok = reserved.nano_cpus == 0 || reserved.nano_cpus >= NANO_CPUS_MIN;
        c.that(ok, Cpus(reserved.nano_cpus), CPUS_TOO_LITTLE);
    });
    c.at("memory_bytes", |c| {
        let ok = reserved.memory_bytes == 0 || reserved.memory_bytes >= MEMORY_BYTES_MIN;
        c.that(ok, reserved.memory_bytes, "is too little: expected at least 4 MiB, or 0 for none");
    });
}

fn placement(c: &mut Check, placement: &Placement) {
    c.each("constraints", &placement.constraints, |c, text| {
        if let Err(error) = Constraint::parse(text) {
            c.wrong("", error.to_string());
        }
    });
}

fn update(c: &mut Check, config: &UpdateConfig) {
    c.at("max_failure_ratio", |c| {
        let ratio = config.max_failure_ratio;
        c.that((0.0..=1.0).contains(&ratio), ratio, "is not a ratio: expected 0 to 1");
    });
}

fn ports(c: &mut Check, endpoint: &EndpointSpec, host_network: bool) {
    let mut published = BTreeMap::new();
    c.each("ports", &endpoint.ports, |c, port| {
        c.at("target_port", |c| {
            c.that(port.target_port != 0, port.target_port, "is no port: expected 1 to 65535");
        });
        if port.publish_mode == PublishMode::Ingress && endpoint.mode == EndpointMode::Dnsrr {
            c.wrong("ingress", "cannot be combined with endpoint mode dnsrr: expected mode host");
        }
        if port.publish_mode == PublishMode::Ingress && host_network {
            let why = "leads nowhere on the host's own network, where containers listen themselves";
            c.wrong("ingress", format!("{why}: expected mode host"));
        }
        if let Some(ip) = port.host_ip.filter(|_| port.publish_mode == PublishMode::Ingress) {
            c.wrong("ingress", format!("is on all addresses, and {ip} is one: expected mode host"));
        }
        let elsewhere = port.published_port != 0 && port.published_port != port.target_port;
        if host_network && elsewhere {
            let why = format!("leads to port {} on the host's own network", port.target_port);
            c.wrong(port.published_port, format!("{why}: expected the same port"));
        }
        if let Some(other) = clash(&published, port) {
            c.wrong(port.published_port, format!("is published twice, also for port {other}"));
        }
        published.insert((port.published_port, port.protocol, port.host_ip), port.target_port);
    });
}

/// What says whom clients are led to needs somebody who leads them.
fn choices(c: &mut Check, endpoint: &EndpointSpec, host_network: bool) {
    let why = match endpoint.mode {
        EndpointMode::Dnsrr => {
            "cannot be combined with endpoint mode dnsrr, by which clients choose: expected mode vip"
        }
        EndpointMode::Vip if host_network => {
            "is of no use on the host's own network, where clients ask one task: expected another network"
        }
        EndpointMode::Vip => return,
    };
    if let Some(Affinity::ClientIp) = endpoint.affinity {
        c.at("affinity", |c| c.wrong("client-ip", why));
    }
    if let Some(Locality::PreferLocal) = endpoint.locality {
        c.at("locality", |c| c.wrong("prefer-local", why));
    }
}

type Published = BTreeMap<(u16, crate::spec::Protocol, Option<std::net::IpAddr>), u16>;

fn clash(published: &Published, port: &PortConfig) -> Option<u16> {
    if port.published_port == 0 {
        return None;
    }
    let number = (port.published_port, port.protocol);
    let from = published.range((number.0, number.1, None)..);
    let same = from.take_while(|((port, protocol, _), _)| (*port, *protocol) == number);
    let mut same = same.filter(|((_, _, ip), _)| PortConfig::meet(*ip, port.host_ip));
    same.next().map(|(_, target)| *target)
}
