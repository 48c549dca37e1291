//! What no tunnel can be.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use shoal_types::object::TunnelKey;

use super::{Desired, LARGEST};

/// The smallest packet that IPv4 promises to take (RFC 791), in bytes.
const MTU_MIN: u32 = 576;
/// The largest that anything is tried with, in bytes.
const MTU_MAX: u32 = LARGEST;
/// Peers of one tunnel at most: as many as the kernel takes (`MAX_PEERS_PER_DEVICE`, messages.h).
const PEERS_MAX: usize = 1 << 20;

/// Why a tunnel cannot be as desired.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Refusal {
    #[error("a tunnel needs a port to listen on, 1 to 65535")]
    NoPort,
    #[error("a tunnel cannot have an mtu of {mtu} bytes: expected {MTU_MIN} to {MTU_MAX}")]
    Mtu { mtu: u32 },
    #[error("a tunnel cannot have {count} peers: expected at most {PEERS_MAX}")]
    TooManyPeers { count: usize },
    #[error("peer {peer} of the tunnel is this host itself")]
    OwnKey { peer: TunnelKey },
    #[error("peer {peer} of the tunnel cannot be reached at {endpoint}")]
    Endpoint { peer: TunnelKey, endpoint: SocketAddr },
    #[error(
        "peer {peer} of the tunnel cannot be kept awake every {every:?}: expected whole seconds, 1 to \
         65535"
    )]
    Keepalive { peer: TunnelKey, every: Duration },
    #[error("peers {first} and {second} of the tunnel both claim {net}")]
    ClaimedTwice { first: TunnelKey, second: TunnelKey, net: IpNet },
}

impl Desired {
    /// Whether a host with this key can have such a tunnel.
    ///
    /// # Errors
    /// The first reason why it cannot.
    pub fn check(&self, own: TunnelKey) -> Result<(), Refusal> {
        if self.listen_port == 0 {
            return Err(Refusal::NoPort);
        }
        if !(MTU_MIN..=MTU_MAX).contains(&self.mtu) {
            return Err(Refusal::Mtu { mtu: self.mtu });
        }
        if self.peers.len() > PEERS_MAX {
            return Err(Refusal::TooManyPeers { count: self.peers.len() });
        }
        let mut claims = BTreeMap::new();
        for (&key, peer) in &self.peers {
            if key == own {
                return Err(Refusal::OwnKey { peer: key });
            }
            let endpoint = peer.endpoint;
            if endpoint.port() == 0 || endpoint.ip().is_unspecified() {
                return Err(Refusal::Endpoint { peer: key, endpoint });
            }
            if let Some(every) = peer.keepalive
                && (every.subsec_nanos() != 0 || !(1..=65535).contains(&every.as_secs()))
            {
                return Err(Refusal::Keepalive { peer: key, every });
            }
            for net in peer.allowed.iter().map(IpNet::trunc) {
                if let Some(first) = claims.insert(net, key).filter(|first| *first != key) {
                    return Err(Refusal::ClaimedTwice { first, second: key, net });
                }
            }
        }
        Ok(())
    }
}
