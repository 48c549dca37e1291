//! Nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::{Meta, TroubledLinks, TunnelDescription};
use crate::constraint::NodeFacts;
use crate::id::NodeId;
use crate::level::{Level, Leveled as _};
use crate::resources::Resources;
use crate::spec::{Availability, Driver, NetworkKind, NodeSpec, Platform, overlap};
use crate::time::Timestamp;

/// One host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// Its id, also the name in its certificate.
    #[serde(rename = "ID")]
    pub id: NodeId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What people want of it.
    pub spec: NodeSpec,
    /// What it says of itself when its session begins.
    pub description: NodeDescription,
    /// What managers know of it.
    pub status: NodeStatus,
    /// Its address inside of the tunnels between nodes, with the length of the subnet that managers have set
    /// aside for such addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_address: Option<IpNet>,
    /// Its part in Raft, if it has one. People get it with a [`NodeSummary`].
    #[serde(skip_serializing)]
    pub manager_status: Option<ManagerStatus>,
}

impl Node {
    /// Whether new tasks may be placed on it.
    #[must_use]
    pub fn takes_tasks(&self) -> bool {
        self.status.state == NodeState::Ready && self.spec.availability == Availability::Active
    }

    /// Whether nobody knows what it does, because it is silent or has said good-bye. Nothing waits for
    /// what it still runs.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        matches!(self.status.state, NodeState::Down | NodeState::Disconnected)
    }

    /// Whether its agent is connected, as far as managers know.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.status.state == NodeState::Ready || self.status.unable().is_some()
    }

    /// What placement constraints look at.
    #[must_use]
    pub fn facts(&self) -> NodeFacts<'_> {
        NodeFacts {
            id: self.id,
            hostname: &self.description.hostname,
            role: self.spec.role,
            ip: self.status.addr,
            platform: &self.description.platform,
            node_labels: &self.spec.labels,
            engine_labels: &self.description.engine.labels,
        }
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeDescription {
    /// Host name.
    pub hostname: String,
    /// Platform.
    pub platform: Platform,
    /// What it has for tasks.
    pub resources: Resources,
    /// The agent.
    pub engine: EngineDescription,
    /// What its agent can do.
    pub level: Level,
    /// Its end of the tunnels to other nodes, if it can make any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelDescription>,
    /// Its links to other nodes that not everything passes, if there are any. It tells of those while its session goes
    /// on, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub troubled_links: Option<TroubledLinks>,
    /// Ranges of addresses that it uses for something else than the cluster's networks, the largest ones,
    /// [`HOST_SUBNETS_MAX`] at most; as they were when its session began.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_subnets: Vec<HostSubnet>,
}

impl NodeDescription {
    /// What a cluster of this level can write down of it: older managers drop what they do not know, and
    /// would go apart from the newer ones. Taken apart field by field, so that none is forgotten.
    #[must_use]
    pub fn within(mut self, cluster: Level) -> Self {
        let Self {
            hostname: _,
            platform,
            resources,
            engine,
            level: _,
            tunnel,
            troubled_links,
            host_subnets,
        } = &mut self;
        let Platform { architecture: _, os: _ } = platform;
        let Resources { nano_cpus: _, memory_bytes: _, generic_resources } = resources;
        let EngineDescription { version: _, labels: _, plugins } = engine;
        plugins.retain(|plugin| plugin.level() <= cluster);
        generic_resources.retain(|resource| resource.level() <= cluster);
        *tunnel = tunnel.and_then(|tunnel| tunnel.within(cluster));
        *troubled_links = troubled_links.take().filter(|links| links.level() <= cluster);
        host_subnets.retain(|subnet| subnet.level() <= cluster);
        self
    }
}

/// Ranges of addresses that a node lists at most.
pub const HOST_SUBNETS_MAX: usize = 64;

/// Addresses to which a host has a way that is no business of the cluster's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostSubnet {
    /// Which ones.
    pub subnet: IpNet,
    /// The interface that leads there; empty if none does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub interface: String,
}

impl HostSubnet {
    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &IpNet) -> bool {
        overlap(&self.subnet, other)
    }
}

impl fmt::Display for HostSubnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subnet, interface } = self;
        match interface.as_str() {
            "" => write!(f, "{subnet}"),
            interface => write!(f, "{subnet} by interface {interface}"),
        }
    }
}

/// The agent of a node. Docker's clients call it the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EngineDescription {
    /// Version of the agent.
    #[serde(rename = "EngineVersion")]
    pub version: String,
    /// Labels that it was started with.
    pub labels: BTreeMap<String, String>,
    /// What its kernel has for networks, of that which not every kernel has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<PluginDescription>,
}

impl EngineDescription {
    /// Whether a network with this driver can be made there. What every agent has is not told.
    #[must_use]
    pub fn has_driver(&self, driver: &Driver) -> bool {
        NetworkKind::of(driver).filter(|kind| kind.is_on_wire()).is_none_or(|kind| {
            let named = |plugin: &PluginDescription| plugin.name == kind.as_str();
            self.plugins
                .iter()
                .any(|plugin| plugin.kind == PluginDescription::NETWORK && named(plugin))
        })
    }
}

/// Something of a node that not every node has, as Docker's clients know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PluginDescription {
    /// What it is for.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl PluginDescription {
    /// What drivers of networks are for.
    pub const NETWORK: &str = "Network";

    /// A driver of networks.
    #[must_use]
    pub fn network(kind: NetworkKind) -> Self {
        Self { kind: Self::NETWORK.to_owned(), name: kind.as_str().to_owned() }
    }
}

/// What managers know of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeStatus {
    /// Whether it is there.
    pub state: NodeState,
    /// Why, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Where its session comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<IpAddr>,
    /// When `state` last changed.
    pub since: Timestamp,
}

impl NodeStatus {
    /// Why a node that is there takes no tasks, if that is so.
    #[must_use]
    pub fn unable(&self) -> Option<&str> {
        let why = (self.state == NodeState::Unknown).then_some(self.message.as_str());
        why.filter(|why| !why.is_empty())
    }
}

/// Whether a node is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It has joined, and its agent has not connected yet; or it is there and cannot take what is
    /// assigned to it, see [`NodeStatus::unable`].
    #[default]
    Unknown,
    /// It missed its heartbeats.
    Down,
    /// Its session is alive.
    Ready,
    /// It said good-bye. No agent does so yet; counts as [`Self::Down`].
    Disconnected,
}

impl NodeState {
    /// Docker's name of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Down => "down",
            Self::Ready => "ready",
            Self::Disconnected => "disconnected",
        }
    }
}

/// A manager's part in Raft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ManagerStatus {
    /// Its id in Raft.
    #[serde(rename = "RaftID")]
    pub raft_id: u64,
    /// `host:port` of its API.
    pub addr: String,
    /// What it can do.
    pub level: Level,
}

/// How a manager fares at the moment of the question. Never stored: it would be wrong at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ManagerHealth {
    /// Whether it leads.
    pub leader: bool,
    /// Whether it answers.
    pub reachability: Reachability,
}

/// How far a node is with its assignment at the moment of the question, by the numbers of the messages that
/// its leader has sent in the node's present session. Never stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AssignmentProgress {
    /// The last message that was sent; zero before the first.
    pub sent: u64,
    /// The last message of which the node has said that it is applied, with all before it.
    pub applied: u64,
}

impl AssignmentProgress {
    /// How many messages the node has still to apply.
    #[must_use]
    pub const fn behind(self) -> u64 {
        self.sent.saturating_sub(self.applied)
    }
}

/// A node, and what is only known when asked: how its manager fares, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSummary {
    /// The node.
    pub node: Node,
    /// Of a manager.
    pub manager: Option<ManagerHealth>,
    /// Of a node that has a session with the leader.
    pub assignment: Option<AssignmentProgress>,
}

impl Serialize for NodeSummary {
    /// In one, as Docker has it: `ManagerStatus` with both what is stored and what was asked for. Docker
    /// says nothing of assignments.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Manager<'a> {
            #[serde(flatten)]
            status: &'a ManagerStatus,
            #[serde(flatten)]
            health: ManagerHealth,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Shown<'a> {
            #[serde(flatten)]
            node: &'a Node,
            #[serde(skip_serializing_if = "Option::is_none")]
            manager_status: Option<Manager<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            assignment: Option<AssignmentProgress>,
        }
        let health = self.manager.unwrap_or_default();
        let manager_status =
            self.node.manager_status.as_ref().map(|status| Manager { status, health });
        Shown { node: &self.node, manager_status, assignment: self.assignment }
            .serialize(serializer)
    }
}

/// Whether a manager answers the leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    /// Nobody has tried.
    #[default]
    Unknown,
    /// It does not.
    Unreachable,
    /// It does.
    Reachable,
}
