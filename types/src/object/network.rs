//! Networks.

use ipnet::IpNet;
use serde::Serialize;

use super::Meta;
use crate::id::{NetworkId, StackId};
use crate::spec::{NetworkKind, NetworkSpec, SubnetPlan};

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
    /// Whether it spans nodes.
    #[must_use]
    pub fn is_overlay(&self) -> bool {
        NetworkKind::of(&self.spec.driver) == Some(NetworkKind::Overlay)
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
}
