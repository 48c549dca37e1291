//! Channels to the leader, on which calls are passed on.
//!
//! Each caller has one of its own: whoever does not read its answers, or opens streams without end, gets in
//! its own way and in nobody else's, as if it had called the leader itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_transport::{Peer, PeerId};
use tonic::Status;
use tonic::transport::Channel;

use crate::raft::{Leader, PeerConnector};

/// A channel that was not used for so long is let go; what is under way on it goes on.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Channels at most; more make the one that was used least lately go.
const CHANNELS_MAX: usize = 8192;

/// For whom a channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// A member.
    Member(PeerId),
    /// All hosts that want to join: their calls are short.
    Hosts,
}

impl Origin {
    /// Of a peer that this manager vouches for.
    pub(super) fn of(peer: &Peer) -> Option<Self> {
        match peer {
            Peer::Trusted(identity) => Some(Self::Member(identity.id)),
            Peer::Joiner(_) => Some(Self::Hosts),
            Peer::Refused(_) => None,
        }
    }
}

struct Kept {
    leader: Leader,
    channel: Channel,
    used: Instant,
}

/// All of them.
pub(super) struct Pool {
    connector: Arc<dyn PeerConnector>,
    kept: Mutex<BTreeMap<Origin, Kept>>,
}

impl Pool {
    pub(super) fn new(connector: Arc<dyn PeerConnector>) -> Self {
        Self { connector, kept: Mutex::default() }
    }

    /// A channel to the leader for this caller. It connects when it is used.
    ///
    /// # Errors
    /// `UNAVAILABLE`: the leader has no usable address.
    pub(super) async fn channel(&self, origin: Origin, leader: &Leader) -> Result<Channel, Status> {
        if let Some(channel) = self.known(origin, leader) {
            return Ok(channel);
        }
        let made = self.connector.channel(leader.node, &leader.address).await;
        let channel = made.map_err(|error| {
            Status::unavailable(format!("the leader {} cannot be called: {error}", leader.address))
        })?;
        self.keep(origin, leader.clone(), channel.clone());
        Ok(channel)
    }

    fn known(&self, origin: Origin, leader: &Leader) -> Option<Channel> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.get_mut(&origin).filter(|kept| kept.leader == *leader)?;
        known.used = Instant::now();
        Some(known.channel.clone())
    }

    fn keep(&self, origin: Origin, leader: Leader, channel: Channel) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| kept.leader == leader && kept.used.elapsed() < IDLE_MAX);
        if kept.len() >= CHANNELS_MAX
            && let Some(oldest) = kept.iter().min_by_key(|(_, kept)| kept.used).map(|(o, _)| *o)
        {
            kept.remove(&oldest);
        }
        kept.insert(origin, Kept { leader, channel, used: Instant::now() });
    }
}
