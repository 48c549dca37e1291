//! Whom the device knows: by key, by the number of a session, and by address.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gotatun::noise::handshake::parse_handshake_anon;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::{Packet, WgKind};
use gotatun::x25519::{PublicKey, StaticSecret};
use ip_network::IpNetwork;
use ip_network_table::IpNetworkTable;
use ipnet::IpNet;

/// Handshakes a second from one address before it has to prove that it is there ("under load" in section 5.3 of
/// the paper on WireGuard).
const HANDSHAKES: u64 = 100;

/// Another host.
pub(super) struct Peer {
    link: Mutex<Link>,
}

/// What is agreed on with it.
pub(super) struct Link {
    pub(super) tunn: Tunn,
    /// Where it was when it spoke last, or is said to be.
    pub(super) endpoint: Option<SocketAddr>,
    /// What it may send from, and gets.
    allowed: BTreeSet<IpNet>,
}

impl Peer {
    pub(super) fn link(&self) -> MutexGuard<'_, Link> {
        held(&self.link)
    }

    #[cfg(test)]
    pub(super) fn is_held(&self) -> bool {
        self.link.try_lock().is_err()
    }
}

/// A thread that panics ends the process, so nobody finds what it has left.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This host's key, and what goes with it.
pub(super) struct Own {
    private: StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
}

impl Own {
    pub(super) fn private(&self) -> [u8; 32] {
        self.private.to_bytes()
    }

    /// Reads a packet, and asks for a proof of the address where there are many handshakes: what is to be done, or
    /// what to answer.
    pub(super) fn verify(
        &self,
        from: SocketAddr,
        packet: Packet,
    ) -> Result<WgKind, Option<Packet>> {
        self.limiter.verify_packet(from, packet).map_err(|refused| match refused {
            TunnResult::WriteToNetwork(cookie) => Some(cookie.into()),
            _ => None,
        })
    }
}

/// What a peer is to become; what is `None` stays.
pub(super) struct Change {
    pub(super) endpoint: Option<SocketAddr>,
    /// In seconds; 0: none.
    pub(super) keepalive: Option<u16>,
    pub(super) replace_allowed: bool,
    pub(super) allowed: Vec<IpNet>,
}

/// All of it. Changed by whoever configures; the numbers of sessions by whoever agrees on keys, too.
pub(super) struct Table {
    own: Option<Own>,
    peers: HashMap<PublicKey, Arc<Peer>>,
    ways: Ways,
    numbers: IndexTable,
    sessions: Mutex<HashMap<u32, Arc<Peer>>>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            own: None,
            peers: HashMap::new(),
            ways: Ways(IpNetworkTable::new()),
            numbers: IndexTable::from_os_rng(),
            sessions: Mutex::default(),
        }
    }
}

impl Table {
    pub(super) fn own(&self) -> Option<&Own> {
        self.own.as_ref()
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = (&PublicKey, &Arc<Peer>)> {
        self.peers.iter()
    }

    /// Who has an address.
    pub(super) fn at(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        self.ways.0.longest_match(address).map(|(_, peer)| peer)
    }

    /// Who says that it has sent a packet; that it has is not proved by this.
    pub(super) fn sender(&self, own: &Own, packet: &WgKind) -> Option<Arc<Peer>> {
        let number = match packet {
            WgKind::HandshakeInit(packet) => {
                let half = parse_handshake_anon(&own.private, &own.public, packet).ok()?;
                return self.peers.get(&PublicKey::from(half.peer_static_public)).cloned();
            }
            WgKind::HandshakeResp(packet) => packet.receiver_idx.get(),
            WgKind::CookieReply(packet) => packet.receiver_idx.get(),
            WgKind::Data(packet) => packet.header.receiver_idx.get(),
        };
        held(&self.sessions).get(&number).cloned()
    }

    /// Remembers whose session has the number that goes out with a handshake: answers come with it.
    pub(super) fn note(&self, packet: &WgKind, peer: &Arc<Peer>) {
        let number = match packet {
            WgKind::HandshakeInit(packet) => packet.sender_idx.get(),
            WgKind::HandshakeResp(packet) => packet.sender_idx.get(),
            WgKind::CookieReply(_) | WgKind::Data(_) => return,
        };
        held(&self.sessions).insert(number, Arc::clone(peer));
    }

    /// Forgets sessions that have ended, and begins another second of handshakes.
    pub(super) fn age(&self) {
        held(&self.sessions).retain(|number, _| self.numbers.in_use(*number));
        if let Some(own) = &self.own {
            own.limiter.try_reset_count();
        }
    }

    /// Takes another key. What was agreed on by the former one ends.
    pub(super) fn set_key(&mut self, private: [u8; 32]) {
        let private = StaticSecret::from(private);
        let public = PublicKey::from(&private);
        if self.own.as_ref().is_some_and(|own| own.public == public) {
            return;
        }
        let limiter = Arc::new(RateLimiter::new(&public, HANDSHAKES));
        for peer in self.peers.values() {
            peer.link().tunn.set_static_private(private.clone(), public, Arc::clone(&limiter));
        }
        self.own = Some(Own { private, public, limiter });
    }

    /// The peer of this key, if it is not in the table yet and this host has a key. It costs a multiplication on the curve,
    /// so that is not done by whoever keeps others from the table.
    pub(super) fn stranger(&self, key: PublicKey) -> Option<Peer> {
        let own = self.own.as_ref().filter(|_| !self.peers.contains_key(&key))?;
        let (private, limiter) = (own.private.clone(), Arc::clone(&own.limiter));
        let tunn = Tunn::new(private, key, None, None, self.numbers.clone(), limiter);
        let link = Link { tunn, endpoint: None, allowed: BTreeSet::new() };
        Some(Peer { link: Mutex::new(link) })
    }

    pub(super) fn add(&mut self, key: PublicKey, peer: Peer) {
        self.peers.insert(key, Arc::new(peer));
    }

    /// Carries out a change; what was agreed on stays.
    pub(super) fn change(&mut self, key: &PublicKey, change: &Change) {
        let Some(peer) = self.peers.get(key) else { return };
        let mut link = peer.link();
        if change.endpoint.is_some() {
            link.endpoint = change.endpoint;
        }
        if let Some(seconds) = change.keepalive {
            link.tunn.set_persistent_keepalive(Some(seconds).filter(|seconds| *seconds > 0));
        }
        if change.replace_allowed {
            for net in std::mem::take(&mut link.allowed) {
                self.ways.remove(net);
            }
        }
        let mut lost = Vec::new();
        for net in change.allowed.iter().map(IpNet::trunc) {
            let before = self.ways.insert(net, Arc::clone(peer));
            lost.extend(before.filter(|before| !Arc::ptr_eq(before, peer)).map(|from| (from, net)));
            link.allowed.insert(net);
        }
        // Two links are never held at once.
        drop(link);
        for (from, net) in lost {
            from.link().allowed.remove(&net);
        }
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        let Some(peer) = self.peers.remove(key) else { return };
        for net in std::mem::take(&mut peer.link().allowed) {
            self.ways.remove(net);
        }
        held(&self.sessions).retain(|_, other| !Arc::ptr_eq(&peer, other));
    }
}

impl Link {
    pub(super) fn allowed(&self) -> impl Iterator<Item = &IpNet> {
        self.allowed.iter()
    }
}

/// Who has which addresses: the longest prefix counts.
struct Ways(IpNetworkTable<Arc<Peer>>);

impl Ways {
    /// Gives a net to a peer: who had it.
    fn insert(&mut self, net: IpNet, peer: Arc<Peer>) -> Option<Arc<Peer>> {
        self.0.insert(network(net)?, peer)
    }

    fn remove(&mut self, net: IpNet) {
        if let Some(net) = network(net) {
            self.0.remove(net);
        }
    }
}

/// The same in the types of the table; every net is one.
fn network(net: IpNet) -> Option<IpNetwork> {
    IpNetwork::new_truncate(net.addr(), net.prefix_len()).ok()
}
