//! From the links of one epoch of keys to those of the next, without the loss of a packet.
//!
//! Both interfaces take what comes as long as both epochs are there, so each node decides for itself by which one it sends
//! to another, and may change that at any moment. It does when keys were agreed on there: then the other node knows this
//! one's new key, with the same addresses as by the old one, and whatever is sent is understood at once. A link by which
//! nothing would be lost, as no keys are agreed on there any more, is not waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use shoal_types::assignment::Peer;
use shoal_types::id::NodeId;
use shoal_types::object::{TunnelEpochs, TunnelKey};

use super::{Device, SeenPeer};

/// Until when keys are good that were agreed on (`Reject-After-Time` of WireGuard).
const GOOD: Duration = Duration::from_secs(180);
/// How long keys have to be agreed on before packets are trusted to them. One who has answered the other does not know
/// whether the answer has come, and a process sends by such keys at once; if it got lost, the other asks again after 5 s
/// (`Rekey-Timeout`), and keys are new. And a device may be told of a peer's many addresses in several parts, of which the
/// first is enough to agree.
const SETTLED: Duration = Duration::from_secs(6);

/// Remembers which nodes are reached by the links of the present epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crossing {
    /// With the key by which they are.
    crossed: BTreeMap<NodeId, TunnelKey>,
}

impl Crossing {
    /// The nodes to which packets go by the links of the former epoch still, by what the devices of both say of their
    /// peers; all others are reached by those of the present one. Who has crossed does not go back.
    pub fn lagging(
        &mut self,
        epochs: TunnelEpochs,
        peers: &OrdMap<NodeId, Arc<Peer>>,
        present: Option<&Device>,
        former: Option<&Device>,
    ) -> BTreeSet<NodeId> {
        let mut lagging = BTreeSet::new();
        let mut crossed = BTreeMap::new();
        let seen = |device: Option<&Device>, key: TunnelKey| -> Option<Duration> {
            let seen: &SeenPeer = device?.peers.get(&key)?;
            seen.handshake_age.filter(|age| *age < GOOD)
        };
        for (node, peer) in peers {
            let key = |epoch: u64| Some(peer.end(epoch, epochs.present)?.public_key);
            let by_former = epochs.former.and_then(key).and_then(|key| seen(former, key));
            let now = key(epochs.present);
            let has_crossed = now.is_some_and(|now| {
                self.crossed.get(node) == Some(&now)
                    || seen(present, now).is_some_and(|age| age >= SETTLED)
            });
            if by_former.is_some() && !has_crossed {
                lagging.insert(*node);
            } else {
                crossed.extend(now.map(|now| (*node, now)));
            }
        }
        self.crossed = crossed;
        lagging
    }
}

#[cfg(test)]
mod tests {
    use shoal_types::assignment::PeerKeys;
    use shoal_types::object::TunnelEnd;

    use super::*;

    const BOTH: TunnelEpochs = TunnelEpochs { present: 8, former: Some(7) };

    fn key(node: u8, epoch: u64) -> TunnelKey {
        let mut bytes = [node; 32];
        bytes[0] = u8::try_from(epoch).unwrap();
        TunnelKey(bytes)
    }

    fn end(node: u8, epoch: u64) -> TunnelEnd {
        TunnelEnd { epoch, public_key: key(node, epoch), port: 51820 }
    }

    /// A node that has said that it has keys of these epochs.
    fn peer(node: u8, first: Option<u64>, other: Option<u64>) -> (NodeId, Arc<Peer>) {
        let node_id = NodeId::from(u128::from(node));
        let other = other.map(|epoch| end(node, epoch));
        let peer = Peer {
            node_id,
            public_key: key(node, first.unwrap_or_default()),
            addr: [192, 0, 2, node].into(),
            port: 51820,
            tunnel_address: None,
            keys: PeerKeys { epoch: first, other, cluster: None },
        };
        (node_id, Arc::new(peer))
    }

    /// A device that has agreed on keys with these so many seconds ago.
    fn device(epoch: u64, ages: &[(u8, Option<u64>)]) -> Device {
        let seen = |(node, age): &(u8, Option<u64>)| {
            let handshake_age = age.map(Duration::from_secs);
            (key(*node, epoch), SeenPeer { handshake_age, ..SeenPeer::default() })
        };
        Device { peers: ages.iter().map(seen).collect(), ..Device::default() }
    }

    fn nodes(nodes: &[u8]) -> BTreeSet<NodeId> {
        nodes.iter().map(|node| NodeId::from(u128::from(*node))).collect()
    }

    #[test]
    fn a_node_crosses_when_keys_are_agreed_on_there() {
        // What is seen of a link in the former epoch and in the present one, and whether it stays in the former.
        let cases = [
            (Some(30), None, true),
            (Some(30), Some(5), true),
            (Some(30), Some(6), false),
            (Some(179), Some(181), true),
            // Nothing would be lost there.
            (None, None, false),
            (Some(180), None, false),
        ];
        for (former, present, stays) in cases {
            let peers = [peer(1, Some(8), Some(7))].into_iter().collect();
            let (former, present) = (device(7, &[(1, former)]), device(8, &[(1, present)]));
            let mut crossing = Crossing::default();
            let lagging = crossing.lagging(BOTH, &peers, Some(&present), Some(&former));
            assert_eq!(lagging, nodes(if stays { &[1] } else { &[] }), "{former:?} {present:?}");
        }
    }

    #[test]
    fn who_has_not_said_a_key_of_the_present_epoch_is_reached_by_the_former() {
        let peers = [peer(1, Some(7), None), peer(2, Some(8), None), peer(3, None, None)];
        let peers = peers.into_iter().collect();
        let former = device(7, &[(1, Some(9)), (2, Some(9)), (3, Some(9))]);
        let present = device(8, &[(1, Some(9)), (2, Some(9))]);
        let mut crossing = Crossing::default();
        // The third has one key for ever, which is of the present epoch: there is no other link to it.
        let lagging = crossing.lagging(BOTH, &peers, Some(&present), Some(&former));
        assert_eq!(lagging, nodes(&[1]));
        // No device, nothing to lose.
        assert_eq!(crossing.lagging(BOTH, &peers, Some(&present), None), nodes(&[]));
    }

    #[test]
    fn who_has_crossed_does_not_go_back() {
        let peers: OrdMap<_, _> = [peer(1, Some(8), Some(7))].into_iter().collect();
        let former = device(7, &[(1, Some(9))]);
        let mut crossing = Crossing::default();
        let mut at = |age, peers: &OrdMap<NodeId, Arc<Peer>>| {
            crossing.lagging(BOTH, peers, Some(&device(8, &[(1, age)])), Some(&former))
        };
        assert_eq!(at(Some(5), &peers), nodes(&[1]));
        assert_eq!(at(Some(6), &peers), nodes(&[]));
        // Keys are agreed on again and again.
        assert_eq!(at(Some(5), &peers), nodes(&[]));
        assert_eq!(at(None, &peers), nodes(&[]));
        // But by a key of its own, which it has lost and made anew.
        let (node, mut other) = peer(1, Some(8), Some(7));
        Arc::make_mut(&mut other).public_key = key(77, 8);
        assert_eq!(at(Some(5), &std::iter::once((node, other)).collect()), nodes(&[1]));
        // In the next epoch it begins anew.
        let next = TunnelEpochs { present: 9, former: Some(8) };
        let peers = std::iter::once(peer(1, Some(9), Some(8))).collect();
        let mut crossing = Crossing::default();
        let (present, former) = (device(9, &[(1, None)]), device(8, &[(1, Some(5))]));
        assert_eq!(crossing.lagging(next, &peers, Some(&present), Some(&former)), nodes(&[1]));
        // And there is nothing to wait for where there is one epoch.
        let one = TunnelEpochs { present: 9, former: None };
        assert_eq!(crossing.lagging(one, &peers, Some(&present), Some(&former)), nodes(&[]));
    }
}
