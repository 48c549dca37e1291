//! What the networks of a node should look like, decided without touching them.
//!
//! - [`leases`]: who holds which subnet, address and host port; the durable book of the node.
//! - [`pool`]: choosing subnets and addresses.
//! - [`ruleset`]: the node's whole nftables table, derived from the leases, its difference to
//!   another and its text.
//! - [`links`]: bridges and veth ports, (desired, observed) -> ordered actions.
//! - [`advertise`]: the address that a host tells others.
//! - [`files`]: `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.
//!
//! IPv4 only for now. Everything here is pure: planning twice changes nothing.

pub mod advertise;
pub mod files;
pub mod leases;
pub mod links;
pub mod names;
pub mod pool;
mod publish;
pub mod ruleset;
mod spec;
mod types;

pub use spec::UnsupportedSpec;
pub use types::{
    AttachRequest, Attached, InvalidMac, Mac, NetworkConfig, NetworkState, Protocol, PublishedPort,
    UnknownProtocol,
};
