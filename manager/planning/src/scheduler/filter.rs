//! The filters a node must pass, and what to say when none does.

use std::collections::BTreeMap;

use ipnet::IpNet;
use shoal_manager_state::{ClusterState, usage};
use shoal_types::constraint::{Constraint, same_architecture};
use shoal_types::id::ServiceId;
use shoal_types::level::Level;
use shoal_types::object::{Node, Task};
use shoal_types::resources::{Cpus, Memory, Resources};
use shoal_types::spec::{Availability, Driver, Platform, PortConfig, TaskSpec};

use super::node_info::NodeInfo;

/// What a task asks of a node.
pub(super) struct Need<'a> {
    pub(super) service: ServiceId,
    pub(super) spec: &'a TaskSpec,
    reserved: Resources,
    ports: Vec<&'a PortConfig>,
    constraints: Vec<(&'a str, Option<Constraint>)>,
    max_replicas: u64,
    level: Level,
    /// It joins networks that lead through tunnels.
    spans: bool,
    /// The drivers of its networks that not every kernel has.
    wires: Vec<&'a Driver>,
    /// The subnets of its networks, where they are the same on every node.
    subnets: Vec<IpNet>,
}

impl<'a> Need<'a> {
    pub(super) fn of(view: &'a ClusterState, task: &'a Task) -> Self {
        let joined = || task.networks.iter().filter_map(|one| view.network(one.network_id));
        let placement = task.spec.placement.as_ref();
        Self {
            service: task.service_id,
            spec: &task.spec,
            reserved: usage::reservations(task).cloned().unwrap_or_default(),
            ports: usage::host_ports(task).collect(),
            constraints: constraints(&task.spec).collect(),
            max_replicas: placement.map_or(0, |p| p.max_replicas),
            level: task.level,
            spans: joined().any(|network| network.is_overlay()),
            wires: joined().filter(|n| n.is_on_wire()).map(|n| &n.spec.driver).collect(),
            subnets: joined().filter(|n| !n.is_on_wire()).flat_map(|n| n.fixed_subnets()).collect(),
        }
    }
}

/// Why a node does not take a task, in the order in which it is checked. The text completes
/// "no suitable node (… on 2 nodes)".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    Down,
    Unknown,
    /// It is there, and says that it cannot take what is assigned to it.
    Unable,
    Drained,
    Paused,
    /// The first constraint that does not hold.
    Constraint(String),
    Platform,
    /// The level that is needed.
    Old(Level),
    /// Nobody on it reaches other nodes by the networks that the task joins, nor is reached.
    NoTunnel,
    /// Its kernel does not have the network driver of this name.
    NoDriver(String),
    /// It uses addresses of this subnet of a network for something else.
    Subnet(IpNet),
    /// What is asked for.
    Cpu(u64),
    /// What is asked for, in bytes.
    Memory(u64),
    Port(String),
    MaxReplicas,
}

impl Refusal {
    fn text(&self) -> String {
        match self {
            Self::Down => "node is down".to_owned(),
            Self::Unknown => "node has not been heard of yet".to_owned(),
            Self::Unable => "node cannot take its tasks".to_owned(),
            Self::Drained => "node is drained".to_owned(),
            Self::Paused => "node is paused".to_owned(),
            Self::Constraint(text) => format!("constraint {text} not satisfied"),
            Self::Platform => "unsupported platform".to_owned(),
            Self::Old(needed) => format!("node is too old: feature level {needed} needed"),
            Self::NoTunnel => "node has no tunnel to other nodes".to_owned(),
            Self::NoDriver(name) => {
                format!("network driver {name} is not in the node's kernel")
            }
            Self::Subnet(subnet) => format!("host uses addresses of {subnet} for something else"),
            Self::Cpu(nano_cpus) => {
                format!("insufficient CPU for a reservation of {}", Cpus(*nano_cpus))
            }
            Self::Memory(bytes) => {
                format!("insufficient memory for a reservation of {}", Memory(*bytes))
            }
            Self::Port(port) => format!("host port {port} already in use"),
            Self::MaxReplicas => "max replicas per node limit exceeded".to_owned(),
        }
    }
}

/// Why a node takes no tasks of any kind.
fn absence(node: &Node) -> Refusal {
    if node.is_lost() {
        return Refusal::Down;
    }
    if node.status.unable().is_some() {
        return Refusal::Unable;
    }
    match node.spec.availability {
        _ if !node.is_reachable() => Refusal::Unknown,
        Availability::Pause => Refusal::Paused,
        Availability::Drain | Availability::Active => Refusal::Drained,
    }
}

/// The first filter that the node does not pass.
pub(super) fn first_refusal(need: &Need<'_>, info: &NodeInfo<'_>) -> Option<Refusal> {
    let node = info.node;
    if !node.takes_tasks() {
        return Some(absence(node));
    }
    let holds = |c: &Option<Constraint>| c.as_ref().is_some_and(|c| c.matches(&node.facts()));
    if let Some((text, _)) = need.constraints.iter().find(|(_, c)| !holds(c)) {
        return Some(Refusal::Constraint((*text).to_owned()));
    }
    if !has_platform(need.spec, node) {
        return Some(Refusal::Platform);
    }
    if node.description.level < need.level {
        return Some(Refusal::Old(need.level));
    }
    if need.spans && node.description.tunnel.is_none() {
        return Some(Refusal::NoTunnel);
    }
    if let Some(driver) = need.wires.iter().find(|wire| !node.description.engine.has_driver(wire)) {
        return Some(Refusal::NoDriver(driver.name.clone()));
    }
    let hosts = &node.description.host_subnets;
    let used = |subnet: &&IpNet| hosts.iter().any(|host| host.overlaps(subnet));
    if let Some(subnet) = need.subnets.iter().find(used) {
        return Some(Refusal::Subnet(*subnet));
    }
    let free = node.description.resources.saturating_sub(&info.usage.reserved);
    if need.reserved.nano_cpus > free.nano_cpus {
        return Some(Refusal::Cpu(need.reserved.nano_cpus));
    }
    if need.reserved.memory_bytes > free.memory_bytes {
        return Some(Refusal::Memory(need.reserved.memory_bytes));
    }
    let taken = |port: &&&PortConfig| info.usage.port_holder(port).is_some();
    if let Some(port) = need.ports.iter().find(taken) {
        let name = format!("{}/{}", port.published_port, port.protocol.as_str());
        return Some(Refusal::Port(name));
    }
    let full = need.max_replicas != 0 && info.tasks_of(need.service) >= need.max_replicas;
    full.then_some(Refusal::MaxReplicas)
}

/// Names each filter that refused nodes and how many, the one that refused most first.
pub(super) fn explain(counts: &BTreeMap<Refusal, usize>) -> String {
    if counts.is_empty() {
        return "no suitable node (the cluster has none)".to_owned();
    }
    let mut parts: Vec<(&Refusal, &usize)> = counts.iter().collect();
    parts.sort_by_key(|(refusal, count)| (std::cmp::Reverse(**count), *refusal));
    let parts: Vec<String> = parts
        .into_iter()
        .map(|(refusal, n)| {
            format!("{} on {n} {}", refusal.text(), if *n == 1 { "node" } else { "nodes" })
        })
        .collect();
    format!("no suitable node ({})", parts.join("; "))
}

fn constraints(spec: &TaskSpec) -> impl Iterator<Item = (&str, Option<Constraint>)> {
    let texts = spec.placement.as_ref().map_or(&[][..], |p| &p.constraints);
    // One that cannot be parsed cannot have come past the API; it counts as not met.
    texts.iter().map(|text| (text.as_str(), Constraint::parse(text).ok()))
}

/// Whether the node meets the constraints of the spec.
#[must_use]
pub fn meets_constraints(spec: &TaskSpec, node: &Node) -> bool {
    constraints(spec).all(|(_, c)| c.is_some_and(|c| c.matches(&node.facts())))
}

/// Whether the node is of a platform that the spec allows. An empty list allows all, an empty
/// part of a platform any value.
#[must_use]
pub fn has_platform(spec: &TaskSpec, node: &Node) -> bool {
    let platforms = spec.placement.as_ref().map_or(&[][..], |p| &p.platforms);
    let have = &node.description.platform;
    let fits = |p: &Platform| {
        (p.os.is_empty() || p.os == have.os)
            && (p.architecture.is_empty() || same_architecture(&p.architecture, &have.architecture))
    };
    platforms.is_empty() || platforms.iter().any(fits)
}
