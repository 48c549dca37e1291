//! What the networks of a node should look like, decided without touching them.
//!
//! - [`leases`]: who holds which subnet, address and host port; the durable book of the node.
//! - [`pool`]: choosing subnets and addresses.
//! - [`ruleset`]: the node's whole nftables tables, derived from the leases, their difference to
//!   others and their text.
//! - [`fence`]: routing rules that keep closed what the tables do not judge.
//! - [`gates`]: chains of others that judge what the host forwards.
//! - [`guests`]: bridges of others that the host forwards for.
//! - [`ingress`]: ports that answer on every node, and the way to those who answer.
//! - [`settings`]: settings of the whole host, and what they were before.
//! - [`links`]: bridges and veth ports, (desired, observed) -> ordered actions.
//! - [`advertise`]: the address that a host tells others.
//! - [`files`]: `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.
//!
//! Everything here is pure: planning twice changes nothing.

pub mod advertise;
pub mod fence;
pub mod files;
pub mod gates;
pub mod guests;
pub mod ingress;
pub mod leases;
pub mod links;
pub mod names;
pub mod pool;
mod publish;
pub mod ruleset;
pub mod settings;
mod spec;
mod types;

pub use spec::UnsupportedSpec;
pub use types::{
    AttachRequest, Attached, AttachedOf, AttachedV4, AttachedV6, End, Family, InvalidMac, Mac,
    NetworkConfig, NetworkState, OnWire, Place, Protocol, PublishedPort, SharedPort, Subnet,
    SubnetConfig, UnknownProtocol, Vlan,
};
