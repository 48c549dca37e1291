//! Why the book refuses.

use std::net::IpAddr;

use ipnet::IpNet;
use shoal_types::spec::{MTU_MAX, MTU_MIN, MTU_MIN_V6};
use thiserror::Error;

use crate::network::{Family, Protocol, PublishedPort, SharedPort};

/// Why the book refuses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LeaseError {
    #[error("unknown network `{network}`")]
    UnknownNetwork { network: String },
    #[error("network `{network}` still connects {containers} container(s)")]
    NetworkInUse { network: String, containers: usize },
    #[error("network `{network}` connects {containers} container(s), its settings cannot change")]
    NetworkChanged { network: String, containers: usize },
    #[error("subnet {subnet} of network `{network}` has host bits set, did you mean {meant}?")]
    SubnetHostBits { network: String, subnet: IpNet, meant: IpNet },
    #[error("subnet {subnet} of network `{network}` has no room for a gateway and a container")]
    SubnetTooSmall { network: String, subnet: IpNet },
    #[error("subnet {subnet} of network `{network}` overlaps {other}, used by {by}")]
    SubnetTaken { network: String, subnet: IpNet, other: IpNet, by: String },
    #[error("gateway {gateway} of network `{network}` is no usable address of subnet {subnet}")]
    GatewayUnusable { network: String, gateway: IpAddr, subnet: IpNet },
    #[error(
        "network `{network}` has a subnet of {family}, {subnet}, and {family} is not enabled on it"
    )]
    FamilyNotEnabled { network: String, subnet: IpNet, family: Family },
    #[error("network `{network}` has neither IPv4 nor IPv6: expected one of them")]
    NoFamily { network: String },
    #[error(
        "network `{network}` has IPv6, which needs an mtu of {MTU_MIN_V6} bytes at least, and has {mtu}"
    )]
    MtuV6 { network: String, mtu: u32 },
    #[error("address {address} is asked for on network `{network}`, which has no {family}")]
    FamilyMissing { network: String, address: IpAddr, family: Family },
    #[error("network `{network}` spans hosts, and managers have given no address on it")]
    AddressMissing { network: String },
    #[error("ip range {range} of network `{network}` is not inside subnet {subnet}")]
    RangeOutside { network: String, range: IpNet, subnet: IpNet },
    #[error("address {address} of network `{network}` is not inside subnet {subnet}")]
    ReservedOutside { network: String, address: IpAddr, subnet: IpNet },
    #[error("mtu {mtu} of network `{network}` is not between {MTU_MIN} and {MTU_MAX}")]
    MtuInvalid { network: String, mtu: u32 },
    #[error("no free subnet for network `{network}` in the address pools of this node")]
    PoolExhausted { network: String },
    #[error("interface name `{ifname}` of `{id}` is taken by `{other}`")]
    NameCollision { ifname: String, id: String, other: String },
    #[error("address {address} is no usable address of network `{network}` ({subnets})")]
    AddressUnusable { address: IpAddr, network: String, subnets: String },
    #[error("address {address} of network `{network}` is held by {holder}")]
    AddressTaken { address: IpAddr, network: String, holder: String },
    #[error("container `{container}` is on network `{network}` with address {address} already")]
    AlreadyAttached { container: String, network: String, address: IpAddr },
    #[error(
        "network `{network}` is on interface `{link}` of this node, which container `{holder}` has: with macvlan_mode \
         passthru one container has it for itself"
    )]
    WireTaken { network: String, link: String, holder: String },
    #[error(
        "network `{network}` is on interface `{link}` of this node, which network `{other}` is on with another driver or \
         mode: on one interface there is macvlan alone, or ipvlan with one mode and one flag"
    )]
    WireDiffers { network: String, link: String, other: String },
    #[error("no free address on network `{network}` ({ranges})")]
    NoFreeAddress { network: String, ranges: String },
    #[error("port already in use: {port} is published by container `{holder}`")]
    PortTaken { port: PublishedPort, holder: String },
    #[error("port {port} is asked for twice by container `{container}`")]
    PortRepeated { port: PublishedPort, container: String },
    #[error("published port {port} of container `{container}` has no target port")]
    TargetMissing { port: PublishedPort, container: String },
    #[error("port {port} of container `{container}` needs a number at both ends")]
    PortWithoutNumber { port: SharedPort, container: String },
    #[error("no free {protocol} port between {low} and {high}")]
    NoFreePort { protocol: Protocol, low: u16, high: u16 },
    #[error(
        "container `{container}` has no network that leads out, so its ports cannot be published"
    )]
    NoWayIn { container: String },
    #[error(
        "port {port} is asked for at an address of {family}, and container `{container}` has no network with {family} \
         that leads out"
    )]
    NoWayInBy { port: PublishedPort, container: String, family: Family },
}
