//! Networks.

use serde::Serialize;

use super::{Labels, Options, json};

/// A pluggable driver with its options.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Driver {
    /// Which driver; the default one if empty.
    pub name: String,
    /// For the driver.
    #[serde(skip_serializing_if = "Options::is_empty")]
    pub options: Options,
}

/// What a network is, by its driver: the one place that knows their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkKind {
    /// A bridge on each node that needs it.
    Bridge,
    /// The host's own network.
    Host,
    /// None but the loopback interface.
    Nothing,
    /// Spans nodes.
    Overlay,
    /// On the wire of an interface of each node, where each task has a hardware address of its own.
    Macvlan,
    /// The same, with the hardware address of the interface.
    Ipvlan,
}

impl NetworkKind {
    /// That of a driver; a network that names none is a bridge. `None` for a driver that nobody here
    /// knows.
    #[must_use]
    pub fn of(driver: &Driver) -> Option<Self> {
        match driver.name.as_str() {
            "" | "bridge" => Some(Self::Bridge),
            "host" => Some(Self::Host),
            "none" | "null" => Some(Self::Nothing),
            "overlay" => Some(Self::Overlay),
            "macvlan" => Some(Self::Macvlan),
            "ipvlan" => Some(Self::Ipvlan),
            _ => None,
        }
    }

    /// What every cluster has from the beginning: networks named like their drivers.
    pub const PREDEFINED: [Self; 3] = [Self::Bridge, Self::Host, Self::Nothing];

    /// The kind of the network that every cluster has under this name.
    #[must_use]
    pub fn predefined(name: &str) -> Option<Self> {
        Self::PREDEFINED.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The name of its driver, and of the network that every cluster has of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Nothing => "none",
            Self::Overlay => "overlay",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }

    /// Whether who joins it joins no other.
    #[must_use]
    pub const fn is_exclusive(self) -> bool {
        matches!(self, Self::Host | Self::Nothing)
    }

    /// Whether its tasks are on the wire of an interface of their node: nobody leads packets to them.
    #[must_use]
    pub const fn is_on_wire(self) -> bool {
        matches!(self, Self::Macvlan | Self::Ipvlan)
    }

    /// Whether it is one network for all nodes, of which managers choose the addresses and tell each node who is where.
    #[must_use]
    pub const fn spans_nodes(self) -> bool {
        matches!(self, Self::Overlay) || self.is_on_wire()
    }
}

/// A network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkSpec {
    /// Unique in the cluster.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// `bridge`, `host`, `none`, `overlay`, …
    #[serde(flatten, serialize_with = "json::driver_and_options")]
    pub driver: Driver,
    /// Whether it reaches all nodes; the driver's own scope if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<NetworkScope>,
    /// Whether it has IPv4; yes if absent.
    #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
    pub enable_ipv4: Option<bool>,
    /// Whether it has IPv6.
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    /// Whether nothing outside can be reached.
    pub internal: bool,
    /// Whether containers that are no tasks may join.
    pub attachable: bool,
    /// Whether it is for published ports alone.
    pub ingress: bool,
    /// Addresses.
    #[serde(rename = "IPAM", skip_serializing_if = "Option::is_none")]
    pub ipam: Option<Ipam>,
    /// Takes its settings from this config-only network.
    #[serde(skip_serializing_if = "String::is_empty", serialize_with = "json::network")]
    pub config_from: String,
    /// Whether it only holds settings for others.
    pub config_only: bool,
}

impl NetworkSpec {
    /// Whether it has IPv4.
    #[must_use]
    pub const fn has_ipv4(&self) -> bool {
        !matches!(self.enable_ipv4, Some(false))
    }
}

/// How far a network reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkScope {
    /// One of its own on every node.
    Local,
    /// One across all nodes.
    Swarm,
    /// The host's.
    Global,
}

/// How a network hands out addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ipam {
    /// Address driver.
    #[serde(flatten, serialize_with = "json::driver_and_options")]
    pub driver: Driver,
    /// Subnets.
    pub config: Vec<IpamConfig>,
}

/// One subnet. Texts as the user wrote them; validation parses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct IpamConfig {
    /// CIDR.
    pub subnet: String,
    /// CIDR inside the subnet that addresses are taken from.
    #[serde(rename = "IPRange", skip_serializing_if = "String::is_empty")]
    pub ip_range: String,
    /// The gateway's address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// Addresses never handed out, by name.
    #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "Options::is_empty")]
    pub aux_addresses: Options,
}
