//! The encrypted tunnels between nodes, as nodes know them of each other.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv6Net;
use serde::Serialize;

use crate::id::NodeId;

/// Where nodes have IPv6 addresses inside of their tunnels: each one the bytes of its IPv4 address after this prefix. So
/// no network has a subnet there. The letters are those of "shoal".
pub const TUNNEL_TWINS: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd73, 0x686f, 0x616c, 0, 0, 0, 0, 0), 96);

/// Bytes of a [`TunnelKey`].
const KEY_BYTES: usize = 32;

/// The public key of a node's tunnel: a point on Curve25519, as WireGuard has it. Its private key never
/// leaves the node, and is never one of these. Written in base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelKey(pub [u8; KEY_BYTES]);

/// Why a text is not a [`TunnelKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a tunnel's key: expected the base64 of {KEY_BYTES} bytes")]
pub struct InvalidTunnelKey;

impl fmt::Display for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        STANDARD.encode(self.0).fmt(f)
    }
}

impl fmt::Debug for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for TunnelKey {
    type Err = InvalidTunnelKey;

    fn from_str(text: &str) -> Result<Self, InvalidTunnelKey> {
        let bytes = STANDARD.decode(text).ok();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(InvalidTunnelKey)
    }
}

impl Serialize for TunnelKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a node says of its end of the tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TunnelDescription {
    /// By which others know what comes from it.
    pub public_key: TunnelKey,
    /// UDP port on which it listens.
    pub port: u16,
    /// Where others send to; where its session comes from if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<IpAddr>,
    /// What does it.
    pub kind: TunnelKind,
}

/// What encrypts on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    /// The kernel's WireGuard.
    Kernel,
    /// A process of the agent's.
    Userspace,
}

/// Links that a node lists at most.
pub const TROUBLED_LINKS_MAX: usize = 16;

/// Links to other nodes that not every packet passes, as a node has found out by trying.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TroubledLinks {
    /// How many there are.
    pub count: u32,
    /// Those by which least passes, [`TROUBLED_LINKS_MAX`] of them.
    pub links: Vec<TroubledLink>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TroubledLink {
    /// The node at its other end.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Where that is said to be reached.
    pub endpoint: SocketAddr,
    /// The largest packet that passes, in bytes; zero if none does.
    pub passes_bytes: u32,
    /// What should pass.
    pub full_bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_written_form() {
        for byte in [0, 1, 0x7f, 0xff] {
            let key = TunnelKey([byte; KEY_BYTES]);
            assert_eq!(key.to_string().parse(), Ok(key));
            assert_eq!(serde_json::to_value(key).unwrap(), key.to_string());
        }
        // As `wg pubkey` writes it.
        let text = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        assert_eq!(text.parse::<TunnelKey>().map(|key| key.to_string()), Ok(text.to_owned()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let short = STANDARD.encode([7; 31]);
        let long = STANDARD.encode([7; 33]);
        for text in ["", "key", "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg", &short, &long] {
            assert_eq!(text.parse::<TunnelKey>(), Err(InvalidTunnelKey), "{text:?}");
        }
    }
}
