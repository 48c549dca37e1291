//! The encrypted tunnels between nodes, as nodes know them of each other.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv6Net;
use serde::Serialize;

use crate::id::NodeId;
use crate::level::{Level, Leveled as _};
use crate::time::Timestamp;

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
    /// Of which epoch the key is, and what there is beside it. Absent of an agent that has one key for ever.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub keys: Option<DescribedKeys>,
}

impl TunnelDescription {
    /// Without what a cluster below the level that brought epochs would drop.
    #[must_use]
    pub fn within(self, cluster: Level) -> Option<Self> {
        let keys = self.keys.filter(|_| cluster >= Level::KEYS);
        Some(Self { keys, ..self }).filter(|tunnel| tunnel.level() <= cluster)
    }

    /// The keys by which others know the node.
    pub fn public_keys(&self) -> impl Iterator<Item = TunnelKey> + use<> {
        let other = self.keys.and_then(|keys| keys.other).map(|end| end.public_key);
        std::iter::once(self.public_key).chain(other)
    }

    /// Whether the node has done all that there is to do until the links of the former epoch can go: it has a key of
    /// the present one and uses no other links, but to `given_up` nodes at the most that have none. One with one key for
    /// ever is waited for in vain.
    #[must_use]
    pub fn has_followed(&self, epochs: TunnelEpochs, given_up: u32) -> bool {
        self.keys.is_none_or(|keys| {
            keys.epoch == epochs.present && keys.lagging == 0 && keys.lacking <= given_up
        })
    }

    /// Whether the node has said a key of an epoch.
    #[must_use]
    pub fn has_key_of(&self, epoch: u64) -> bool {
        self.keys.is_none_or(|keys| {
            keys.epoch == epoch || keys.other.is_some_and(|other| other.epoch == epoch)
        })
    }
}

/// What a node says of the keys of its tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DescribedKeys {
    /// The epoch of the key that it names first: the present one, once it has been told of that.
    pub epoch: u64,
    /// Its end of the links of another epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<TunnelEnd>,
    /// Nodes whose keys of the present epoch it knows, and that it reaches by links of the former one still.
    pub lagging: u32,
    /// Nodes whose keys of the present epoch it does not know, and that it reaches by links of the former one.
    pub lacking: u32,
}

/// A node's end of the links of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TunnelEnd {
    /// Which epoch.
    pub epoch: u64,
    /// By which others know what comes from it.
    pub public_key: TunnelKey,
    /// UDP port on which it listens.
    pub port: u16,
}

/// Of which epochs there are links between the nodes of a cluster. In each of them every node has another key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TunnelEpochs {
    /// The one whose links are used, where packets pass them.
    pub present: u64,
    /// The one before it, as long as its links are there, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former: Option<u64>,
}

impl TunnelEpochs {
    /// With the next epoch, in which the present one is the former. Only when no former one is left.
    #[must_use]
    pub fn begun(self) -> Option<Self> {
        let next = self.present.checked_add(1).filter(|_| self.former.is_none())?;
        Some(Self { present: next, former: Some(self.present) })
    }

    /// Without the former one, if there is any.
    #[must_use]
    pub fn ended(self) -> Option<Self> {
        self.former.map(|_| Self { former: None, ..self })
    }

    /// All of which there are links.
    pub fn all(self) -> impl Iterator<Item = u64> + Clone {
        std::iter::once(self.present).chain(self.former)
    }
}

/// How far a cluster is with the keys of its tunnels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TunnelKeys {
    /// Of which epochs there are links.
    #[serde(flatten)]
    pub epochs: TunnelEpochs,
    /// When the present one began; zero if that was with the cluster.
    pub since: Timestamp,
    /// What [`TunnelKeySpec::force_rotate`](crate::spec::TunnelKeySpec::force_rotate) was when it did.
    #[serde(skip)]
    pub forced: u64,
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
    fn an_epoch_begins_when_the_one_before_is_over() {
        let first = TunnelEpochs::default();
        assert_eq!(first.ended(), None);
        let both = first.begun().unwrap();
        assert_eq!(both, TunnelEpochs { present: 1, former: Some(0) });
        assert_eq!((both.begun(), both.all().collect::<Vec<_>>()), (None, vec![1, 0]));
        let second = both.ended().unwrap();
        assert_eq!(second, TunnelEpochs { present: 1, former: None });
        assert_eq!(TunnelEpochs { present: u64::MAX, former: None }.begun(), None);
    }

    #[test]
    fn who_has_followed_uses_the_links_of_the_present_epoch() {
        let epochs = TunnelEpochs { present: 4, former: Some(3) };
        let said = |keys: Option<DescribedKeys>| TunnelDescription {
            public_key: TunnelKey([1; KEY_BYTES]),
            port: 51820,
            addr: None,
            kind: TunnelKind::Kernel,
            keys,
        };
        let other =
            Some(TunnelEnd { epoch: 3, public_key: TunnelKey([2; KEY_BYTES]), port: 51821 });
        let keys = |epoch, lagging, lacking| Some(DescribedKeys { epoch, other, lagging, lacking });
        for (keys, given_up, expected) in [
            (None, 0, true),
            (keys(3, 0, 0), 0, false),
            (keys(4, 0, 0), 0, true),
            (keys(4, 1, 0), 1, false),
            (keys(4, 0, 1), 0, false),
            (keys(4, 0, 1), 1, true),
            (keys(4, 0, 2), 1, false),
        ] {
            assert_eq!(said(keys).has_followed(epochs, given_up), expected, "{keys:?}");
        }
        let has = |keys, epochs: [u64; 3]| epochs.map(|epoch| said(keys).has_key_of(epoch));
        assert_eq!(has(keys(4, 0, 0), [2, 3, 4]), [false, true, true]);
        assert_eq!(has(None, [2, 3, 4]), [true; 3]);
        // What a cluster of a lower level does not know is not written down there, and the rest is.
        let newer = said(keys(4, 0, 0));
        assert_eq!(newer.within(Level::KEYS), Some(newer));
        assert_eq!(newer.within(Level::OVERLAY), Some(said(None)));
        assert_eq!(newer.within(Level::FIRST), None);
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
