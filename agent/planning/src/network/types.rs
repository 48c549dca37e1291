//! The words the node's networks are described in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use shoal_types::spec::{Wire, WireMode};
use thiserror::Error;

/// A network as the user wants it on this node: a bridge, or the wire of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// Identity of the network; interface names derive from it.
    pub id: String,
    /// What people call it; used in messages only.
    pub name: String,
    /// The user's subnets. Of a family that the network has and that none is of, the node chooses one.
    pub subnets: Vec<SubnetConfig>,
    /// It has IPv6.
    pub ipv6: bool,
    /// It has that alone, and no IPv4.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_v4: bool,
    /// No way in or out: containers reach each other and the gateway address, nothing else.
    pub internal: bool,
    /// Bytes per packet on the bridge and its ports; `None` is the node's default.
    pub mtu: Option<u32>,
    /// Up to which size it has larger ones, where the tunnel to other hosts takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wide: Option<u32>,
    /// Labels, kept for people.
    pub labels: BTreeMap<String, String>,
    /// It spans hosts: managers hand out its addresses, and a container reaches everybody, also those on
    /// its own bridge, through the host, which knows who is where.
    #[serde(default)]
    pub routed: bool,
    /// It is on a wire, and no bridge: managers hand out its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire: Option<Wire>,
}

/// A subnet as the user wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetConfig {
    /// Its addresses.
    pub subnet: IpNet,
    /// The user's gateway; `None` is the first usable address.
    pub gateway: Option<IpAddr>,
    /// Addresses are given from this part only.
    pub ip_range: Option<IpNet>,
    /// Addresses that no container gets.
    #[serde(default)]
    pub reserved: BTreeSet<IpAddr>,
}

impl From<IpNet> for SubnetConfig {
    fn from(subnet: IpNet) -> Self {
        Self { subnet, gateway: None, ip_range: None, reserved: BTreeSet::new() }
    }
}

/// A subnet as it is on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Its addresses.
    pub subnet: IpNet,
    /// Address of the bridge, by which its containers reach everybody else.
    pub gateway: IpAddr,
}

impl Subnet {
    /// Of which family it is.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.gateway)
    }

    /// The host's address on the bridge, with the length of the prefix.
    #[must_use]
    pub fn of_bridge(&self) -> IpNet {
        IpNet::new(self.gateway, self.subnet.prefix_len()).unwrap_or(self.subnet)
    }
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bits of an address.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A network as it is on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// Identity of the network.
    pub id: String,
    /// Name of the bridge interface on the host, if it has one.
    pub bridge: String,
    /// The subnets in force, those of IPv4 first.
    pub subnets: Vec<Subnet>,
    /// Bytes per packet; zero on a wire that says it by itself.
    pub mtu: u32,
    /// No way in or out.
    pub internal: bool,
    /// It spans hosts.
    #[serde(default)]
    pub routed: bool,
    /// Where it is on a wire. Then there is no bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire: Option<Place>,
}

/// The interface of this node that a network is on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Its name.
    pub link: String,
    /// It is a VLAN that the agent makes, as the host has none of that number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Vlan>,
}

/// What people call it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.made {
            Some(Vlan { base, number }) => write!(f, "{base}.{number}"),
            None => f.write_str(&self.link),
        }
    }
}

/// A VLAN (IEEE 802.1Q) of an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vlan {
    /// Name of the interface.
    pub base: String,
    /// Its number.
    pub number: u16,
}

impl NetworkState {
    /// Whether one of its subnets is of IPv6.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        self.of_family(Family::V6).next().is_some()
    }

    /// The bridge's address for its link alone, if the network has IPv6: from no other does the kernel ask where a
    /// container is for whom it forwards a packet.
    #[must_use]
    pub fn link_local(&self) -> Option<IpNet> {
        let address = IpAddr::V6(self.mac().link_local());
        IpNet::new(address, 64).ok().filter(|_| self.has_v6())
    }

    /// Its subnets of one family.
    pub fn of_family(&self, family: Family) -> impl Iterator<Item = &Subnet> {
        self.subnets.iter().filter(move |one| one.family() == family)
    }

    /// The subnet that an address is of.
    #[must_use]
    pub fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|one| one.subnet.contains(&address))
    }

    /// Hardware address of the bridge. Given, because a bridge left to itself changes it with its ports.
    #[must_use]
    pub fn mac(&self) -> Mac {
        let first = self.subnets.first().map(|one| one.gateway);
        Mac::of_address(first.unwrap_or(Ipv4Addr::UNSPECIFIED.into()))
    }
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
    /// The address of IPv4 the user asks for, on a network that has it; `None` lets the node choose.
    pub address: Option<Ipv4Addr>,
    /// That of IPv6, likewise.
    pub address_v6: Option<Ipv6Addr>,
    /// On a wire, the number of the interface that it is on now.
    pub link_index: Option<u32>,
}

impl AttachRequest {
    /// The address of one family that the user asks for.
    #[must_use]
    pub fn address_of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.address.map(IpAddr::V4),
            Family::V6 => self.address_v6.map(IpAddr::V6),
        }
    }
}

/// One end of a container on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The container.
    pub container: String,
    /// The network.
    pub network: String,
    /// Hardware address inside the container.
    pub mac: Mac,
    /// Interface name inside the container: `eth0`, `eth1`, …
    pub ifname: String,
    /// Interface name on the host (the bridge port). On a wire there is none, and the name is nobody's.
    pub host_ifname: String,
    /// Bytes per packet; zero on a wire that says it by itself.
    pub mtu: u32,
    /// What it has of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<AttachedV4>,
    /// What it has of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<AttachedV6>,
    /// Names under which the container is known on this network.
    pub aliases: BTreeSet<String>,
    /// How it is on a wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire: Option<OnWire>,
}

/// How a container is on the wire of an interface of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnWire {
    /// The interface.
    pub link: String,
    /// Its number when the container was connected. With the interface its end on it goes, and another one of the
    /// name has another number.
    pub index: u32,
    /// How it shares it.
    pub mode: WireMode,
}

/// What a container has of IPv4 on one network.
pub type AttachedV4 = AttachedOf<Ipv4Net, Ipv4Addr>;

/// What a container has of IPv6 on one network.
pub type AttachedV6 = AttachedOf<Ipv6Net, Ipv6Addr>;

/// What a container has of a family of addresses on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedOf<Net, Addr> {
    /// Address with the length of the subnet's prefix; on a network that spans hosts, of all its bits.
    pub address: Net,
    /// Gateway of the subnet.
    pub gateway: Addr,
    /// The container's default route of this family leaves through this attachment.
    pub default_route: bool,
    /// What else is reached by the gateway: on a network that spans hosts, its subnets of this family.
    #[serde(default = "Vec::new")]
    pub behind_gateway: Vec<Net>,
}

impl<Net: Copy + Into<IpNet>, Addr: Copy + Into<IpAddr>> AttachedOf<Net, Addr> {
    fn end(&self, direct: bool) -> End {
        End {
            address: self.address.into(),
            gateway: self.gateway.into(),
            default_route: self.default_route,
            behind_gateway: self.behind_gateway.iter().copied().map(Into::into).collect(),
            direct,
        }
    }
}

/// What a container has of one family on one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its address.
    pub address: IpNet,
    /// Gateway of the subnet.
    pub gateway: IpAddr,
    /// The default route leaves here.
    pub default_route: bool,
    /// What else is reached by the gateway.
    pub behind_gateway: Vec<IpNet>,
    /// The default route has no gateway: the host routes behind the interface.
    pub direct: bool,
}

impl Attached {
    /// What it has of each family, of IPv4 first.
    pub fn ends(&self) -> impl Iterator<Item = End> {
        let direct = self.wire.as_ref().is_some_and(|wire| wire.mode.is_routed());
        let v4 = self.v4.as_ref().map(|v4| v4.end(direct));
        v4.into_iter().chain(self.v6.as_ref().map(|v6| v6.end(direct)))
    }

    /// Its address of one family.
    #[must_use]
    pub fn address_of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.as_ref().map(|v4| v4.address.addr().into()),
            Family::V6 => self.v6.as_ref().map(|v6| v6.address.addr().into()),
        }
    }

    /// Whether the container's default route of one family leaves here.
    #[must_use]
    pub fn is_way_out(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4.as_ref().is_some_and(|v4| v4.default_route),
            Family::V6 => self.v6.as_ref().is_some_and(|v6| v6.default_route),
        }
    }

    /// From now on it does.
    pub(super) fn become_way_out(&mut self, family: Family) {
        match family {
            Family::V4 => self.v4.iter_mut().for_each(|v4| v4.default_route = true),
            Family::V6 => self.v6.iter_mut().for_each(|v6| v6.default_route = true),
        }
    }
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

    /// Its number in packets (IANA, protocol numbers).
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
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
    /// Address of the host it answers on. `0.0.0.0` is every address of the host, of those families that
    /// the container has; `::` is every one of IPv6. Never widened.
    pub host_ip: IpAddr,
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
            && (self.answers_at(other.host_ip) || other.answers_at(self.host_ip))
    }

    /// Whether it answers at every address of the host, of whatever family.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        self.host_ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    }

    /// Whether it answers at an address of the host.
    #[must_use]
    pub fn answers_at(&self, address: IpAddr) -> bool {
        let everywhere = match self.host_ip {
            IpAddr::V4(host_ip) => host_ip.is_unspecified(),
            IpAddr::V6(host_ip) => host_ip.is_unspecified() && address.is_ipv6(),
        };
        everywhere || self.host_ip == address
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = SocketAddr::new(self.host_ip, self.host_port);
        write!(f, "{host}->{}/{}", self.target_port, self.protocol)
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
    /// The locally administered address that belongs to an address: whoever gets the one gets
    /// the other, so what neighbours remember of an address stays true when its holder changes.
    ///
    /// No two of IPv4 have the same, and of IPv6 no two of a subnet that differ in their last 40 bits alone. Others
    /// do by chance, which is one in 2^40.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                Self([0x02, 0x73, a, b, c, d])
            }
            IpAddr::V6(address) => {
                let mut mac = [0x06, 0, 0, 0, 0, 0];
                for (number, byte) in address.octets().into_iter().rev().enumerate() {
                    mac[5 - number % 5] ^= byte;
                }
                Self(mac)
            }
        }
    }

    /// The address of IPv6 that a link with this hardware address gives itself, for itself alone (RFC 4291,
    /// appendix A).
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, g] = self.0;
        let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, g))
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
