//! The encrypted tunnel between nodes: one WireGuard interface per host, and a second one while its keys change. What
//! each should be, what it is, and the difference as ordered actions.
//!
//! A peer's allowed addresses are its access list: what comes from a peer with another source is dropped, and
//! what goes to an address that no peer has leaves the host by no tunnel.

mod check;
pub mod crossing;
pub mod held;
mod model;
mod peers;
mod plan;
pub mod selftest;
#[cfg(test)]
mod tests;
pub mod uapi;
pub mod wide;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use shoal_types::object::TunnelKey;

pub use check::Refusal;
pub use peers::{LeftOut, peers};
pub use plan::{Action, AllowedChange, Change, PeerChange, Told, choose, plan};

/// Port on which tunnels listen unless told otherwise, as WireGuard's tools have it.
pub const PORT: u16 = 51820;
/// Bytes that a packet grows by in the tunnel: 40 of an IPv6 header, 8 of UDP, 32 of WireGuard.
pub const OVERHEAD: u32 = 80;
/// The same where the other host is reached by IPv4.
pub const OVERHEAD_V4: u32 = OVERHEAD - 20;
/// The smallest packet that is of use, in bytes: what every host takes (RFC 791, 3.1).
pub const LEAST: u32 = 576;
/// The largest packet inside of the tunnel, in bytes, where the way between hosts takes 1500.
pub const MTU: u32 = 1500 - OVERHEAD;
/// The largest packet inside of the tunnel wherever the way takes more, in bytes: what is left of a jumbo frame.
pub const LARGEST: u32 = 9000 - OVERHEAD;
/// What is encrypted is filled up to a multiple of so many bytes, as far as the interface takes it.
pub(crate) const FILLED: u32 = 16;

/// Which of the two interfaces: epochs of keys take turns with them, so that the links of an epoch are beside those of the
/// one before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// That of the first epoch, which is all that there is while keys do not change.
    #[default]
    First,
    /// The other one.
    Second,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// That of an epoch.
    #[must_use]
    pub const fn of(epoch: u64) -> Self {
        if epoch.is_multiple_of(2) { Self::First } else { Self::Second }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// The name of the interface of the agent with this prefix.
    #[must_use]
    pub fn ifname(self, prefix: &str) -> String {
        match self {
            Self::First => format!("{prefix}wg0"),
            Self::Second => format!("{prefix}wg1"),
        }
    }

    /// Where it listens on a node that was told this port: there, or at the next one.
    #[must_use]
    pub const fn port(self, first: u16) -> u16 {
        match (self, first.checked_add(1)) {
            (Self::First, _) => first,
            (Self::Second, Some(next)) => next,
            (Self::Second, None) => first - 1,
        }
    }
}

/// The name of the first interface of the agent with this prefix.
#[must_use]
pub fn ifname(prefix: &str) -> String {
    Side::First.ifname(prefix)
}

/// Whether an interface is one of the two.
#[must_use]
pub fn is_ours(prefix: &str, ifname: &str) -> bool {
    Side::ALL.iter().any(|side| side.ifname(prefix) == ifname)
}

/// What the tunnel should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// UDP port on which it listens.
    pub listen_port: u16,
    /// The largest packet inside, in bytes.
    pub mtu: u32,
    /// The host's own address inside, if managers have given it one: what it sends into the tunnel itself comes
    /// from there.
    pub address: Option<Ipv4Addr>,
    /// The other hosts.
    pub peers: BTreeMap<TunnelKey, TunnelPeer>,
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPeer {
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// What it may send from, and what is sent to it.
    pub allowed: BTreeSet<IpNet>,
    /// How often something is sent although there is nothing to say, so that a NAT on the way does not
    /// forget us: in whole seconds.
    pub keepalive: Option<Duration>,
}

/// What the tunnel is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The interface, if there is one of this name.
    pub link: Option<Link>,
    /// The host's addresses of IPv4 on it.
    pub addresses: BTreeSet<Ipv4Net>,
    /// What comes by it is dropped if an answer would go elsewhere, as far as that is up to its own setting
    /// (`rp_filter`). While keys change, a node may be sent to by one interface and send by the other.
    pub strict: bool,
    /// Whether a process of the agent's works for it.
    pub process: bool,
    /// What answers for it, if it does.
    pub device: Option<Device>,
}

/// An interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// Whether packets may pass.
    pub up: bool,
    /// The largest packet, in bytes.
    pub mtu: u32,
}

/// Kinds of interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// The kernel's WireGuard.
    Wireguard,
    /// One whose packets go to a process.
    Tun,
    /// Anything else.
    Other,
}

/// What the device behind the interface says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// The public key that belongs to its private one.
    pub key: Option<TunnelKey>,
    /// UDP port on which it listens.
    pub listen_port: Option<u16>,
    /// Whom it knows.
    pub peers: BTreeMap<TunnelKey, SeenPeer>,
}

/// What a device says of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeenPeer {
    /// Where it was last heard from, or is expected.
    pub endpoint: Option<SocketAddr>,
    /// What it may send from, and what is sent to it.
    pub allowed: BTreeSet<IpNet>,
    /// As [`TunnelPeer::keepalive`].
    pub keepalive: Option<Duration>,
    /// How long ago keys were last agreed on with it.
    pub handshake_age: Option<Duration>,
    /// Bytes that came from it.
    pub rx_bytes: u64,
    /// Bytes that went to it.
    pub tx_bytes: u64,
}
