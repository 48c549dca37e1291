//! The words the node's networks are described in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A bridge network as the user wants it on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Identity of the network; interface names derive from it.
    pub id: String,
    /// What people call it; used in messages only.
    pub name: String,
    /// The user's subnet; `None` lets the node choose one from its pools.
    pub subnet: Option<Ipv4Net>,
    /// The user's gateway; `None` is the first usable address of the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// Addresses are given from this part of the subnet only.
    pub ip_range: Option<Ipv4Net>,
    /// Addresses that no container gets.
    #[serde(default)]
    pub reserved: BTreeSet<Ipv4Addr>,
    /// No way in or out: containers reach each other and the gateway address, nothing else.
    pub internal: bool,
    /// Bytes per packet on the bridge and its ports; `None` is the node's default.
    pub mtu: Option<u32>,
    /// Labels, kept for people.
    pub labels: BTreeMap<String, String>,
    /// It spans hosts: managers hand out its addresses, and a container reaches everybody, also those on
    /// its own bridge, through the host, which knows who is where.
    #[serde(default)]
    pub routed: bool,
}

/// A network as it is on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// Identity of the network.
    pub id: String,
    /// Name of the bridge interface on the host.
    pub bridge: String,
    /// The subnet in force.
    pub subnet: Ipv4Net,
    /// Address of the bridge, and of the default route of its containers.
    pub gateway: Ipv4Addr,
    /// Bytes per packet.
    pub mtu: u32,
    /// No way in or out.
    pub internal: bool,
    /// It spans hosts.
    #[serde(default)]
    pub routed: bool,
}

/// The wish to connect one container to one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// The container.
    pub container: String,
    /// Id of a network that [`leases::Leases::ensure_network`](super::leases::Leases::ensure_network)
    /// knows.
    pub network: String,
    /// Names under which the container is known on this network.
    pub aliases: BTreeSet<String>,
    /// The address the user asks for; `None` lets the node choose.
    pub address: Option<Ipv4Addr>,
}

/// One end of a container on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The container.
    pub container: String,
    /// The network.
    pub network: String,
    /// Address with the length of the subnet's prefix; on a network that spans hosts, of 32 bits.
    pub address: Ipv4Net,
    /// Gateway of the subnet.
    pub gateway: Ipv4Addr,
    /// Hardware address inside the container.
    pub mac: Mac,
    /// Interface name inside the container: `eth0`, `eth1`, …
    pub ifname: String,
    /// Interface name on the host (the bridge port).
    pub host_ifname: String,
    /// Bytes per packet.
    pub mtu: u32,
    /// The container's default route leaves through this attachment.
    pub default_route: bool,
    /// What else is reached by the gateway: on a network that spans hosts, its subnet.
    #[serde(default)]
    pub behind_gateway: Vec<Ipv4Net>,
    /// Names under which the container is known on this network.
    pub aliases: BTreeSet<String>,
}

/// Transport protocols that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// The name nftables and people use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A protocol that cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown protocol `{0}`, expected tcp, udp or sctp")]
pub struct UnknownProtocol(String);

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            other => Err(UnknownProtocol(other.to_owned())),
        }
    }
}

/// A port of the host that leads to a port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Address of the host it answers on; `0.0.0.0` is every address of the host. Never widened.
    pub host_ip: Ipv4Addr,
    /// Port of the host; 0 in a request asks for any free one.
    pub host_port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Port of the container.
    pub target_port: u16,
}

impl PublishedPort {
    /// Whether both cannot be held at once: same transport and port, and one address includes the
    /// other.
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && (self.host_ip == other.host_ip
                || self.host_ip.is_unspecified()
                || other.host_ip.is_unspecified())
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}->{}/{}", self.host_ip, self.host_port, self.target_port, self.protocol)
    }
}

/// A port that answers on every node and leads to a port of a container. Several containers of a host may have
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SharedPort {
    /// Transport.
    pub protocol: Protocol,
    /// Port of every node.
    pub port: u16,
    /// Port of the container.
    pub target_port: u16,
}

impl fmt::Display for SharedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}/{}", self.port, self.target_port, self.protocol)
    }
}

/// A 48-bit hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The locally administered address that belongs to an IPv4 address: whoever gets the one gets
    /// the other, so what neighbours remember of an address stays true when its holder changes.
    #[must_use]
    pub fn of_address(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x73, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// Text that is no hardware address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is no hardware address of six hexadecimal pairs")]
pub struct InvalidMac(String);

impl TryFrom<String> for Mac {
    type Error = InvalidMac;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0u8; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2);
            match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
                Some(value) => *byte = value,
                None => return Err(InvalidMac(text)),
            }
        }
        if pairs.next().is_some() { Err(InvalidMac(text)) } else { Ok(Self(bytes)) }
    }
}
