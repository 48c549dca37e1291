//! Networks.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::Meta;
use crate::id::{NetworkId, NodeId, ServiceId, StackId, TaskId};
use crate::spec::{NetworkKind, NetworkSpec, SubnetPlan, Wire};

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Network {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: NetworkId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// What the user wants.
    pub spec: NetworkSpec,
    /// The stack that it was applied with.
    #[serde(rename = "StackID", skip_serializing_if = "Option::is_none")]
    pub stack_id: Option<StackId>,
    /// Whether it came with the cluster and cannot be removed.
    pub predefined: bool,
    /// The addresses of a network that spans nodes: what its tasks and services have there is chosen from
    /// these, as [`Network::plan`] says. At most one IPv4 address and one IPv6 address each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<IpNet>,
}

impl Network {
    /// Whether nodes lead packets of it to each other, through their tunnels.
    #[must_use]
    pub fn is_overlay(&self) -> bool {
        NetworkKind::of(&self.spec.driver) == Some(NetworkKind::Overlay)
    }

    /// Whether its tasks are on the wire of an interface of their node.
    #[must_use]
    pub fn is_on_wire(&self) -> bool {
        NetworkKind::of(&self.spec.driver).is_some_and(NetworkKind::is_on_wire)
    }

    /// Whether it is one for all nodes: managers choose its addresses.
    #[must_use]
    pub fn spans_nodes(&self) -> bool {
        NetworkKind::of(&self.spec.driver).is_some_and(NetworkKind::spans_nodes)
    }

    /// Whether a task's way out can be there. On a wire that takes a gateway, or a node that routes.
    #[must_use]
    pub fn leads_out(&self) -> bool {
        let gateway = || {
            let routed =
                matches!(Wire::of(&self.spec.driver), Some(Ok(wire)) if wire.mode.is_routed());
            let mut configs = self.spec.ipam.iter().flat_map(|ipam| &ipam.config);
            routed || configs.any(|config| !config.gateway.is_empty())
        };
        !self.spec.internal && (!self.is_on_wire() || gateway())
    }

    /// Subnets that it has on every node, if it has any there.
    pub fn fixed_subnets(&self) -> impl Iterator<Item = IpNet> {
        let named =
            self.spec.ipam.iter().flat_map(|ipam| &ipam.config).filter(|_| !self.spans_nodes());
        let named = named.filter_map(|config| config.subnet.parse().ok());
        self.subnets.iter().copied().chain(named)
    }

    /// What of one of its subnets is given to whom.
    #[must_use]
    pub fn plan(&self, subnet: &IpNet) -> Option<SubnetPlan> {
        let mut configs = self.spec.ipam.iter().flat_map(|ipam| &ipam.config);
        SubnetPlan::of(*subnet, configs.find(|config| config.subnet.parse() == Ok(*subnet)))
    }

    /// What of each of its subnets is given to whom.
    pub fn plans(&self) -> impl Iterator<Item = SubnetPlan> {
        self.subnets.iter().filter_map(|subnet| self.plan(subnet))
    }
}

/// How many addresses of a network are in use, at the moment of the answer: of the family of which fewest are left,
/// since who joins gets one of each. Never stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressCount {
    /// Those of tasks and services.
    pub used: u64,
    /// Those that are left for them.
    pub free: u64,
}

/// One subnet of a network, at the moment of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SubnetUse {
    /// The subnet.
    pub subnet: IpNet,
    /// Each node's own address.
    pub gateway: IpAddr,
    /// Addresses of tasks and services.
    pub used: u64,
    /// Those that are left for them.
    pub free: u64,
}

/// A task that is reached on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkTask {
    /// Its id.
    #[serde(rename = "TaskID")]
    pub task_id: TaskId,
    /// Its name.
    pub name: String,
    /// The node that it is on.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Its addresses there, with the network's prefix length.
    pub addresses: Vec<IpNet>,
}

/// A service that is reached on a network as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkService {
    /// Its id.
    #[serde(rename = "ServiceID")]
    pub service_id: ServiceId,
    /// Its name.
    pub name: String,
    /// Its virtual addresses there.
    #[serde(rename = "VIPs")]
    pub vips: Vec<IpNet>,
}

/// A node that has tasks on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkPeer {
    /// The node.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Its host's name.
    pub name: String,
    /// Its address inside of the tunnel, if it has one.
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
}

/// Who is reached on a network that spans nodes, at the moment of the answer. Never stored. Of each list the first
/// [`NetworkMembers::MAX`] by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkMembers {
    /// Its subnets.
    pub subnets: Vec<SubnetUse>,
    /// Tasks that have a node and have not ended.
    #[serde(rename = "Containers")]
    pub tasks: Vec<NetworkTask>,
    /// Services with virtual addresses.
    pub services: Vec<NetworkService>,
    /// Nodes of the tasks.
    pub peers: Vec<NetworkPeer>,
    /// How many tasks, services and nodes are left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl NetworkMembers {
    /// Tasks, services and nodes that an answer names at the most, of each.
    pub const MAX: usize = 1000;
}

/// A network, and what is only known when asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkSummary {
    /// The network.
    #[serde(flatten)]
    pub network: Network,
    /// Its addresses, if managers choose them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<AddressCount>,
    /// Who is reached there, if one network was asked for and managers choose its addresses.
    #[serde(rename = "Members", skip_serializing_if = "Option::is_none")]
    pub members: Option<NetworkMembers>,
}
