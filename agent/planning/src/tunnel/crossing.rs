//! From the links of one epoch of keys to those of the next, without the loss of a packet.
//!
//! Both interfaces take what comes as long as both epochs are there, so each node decides for itself by which one it sends
//! to another, and may change that at any moment. It does when keys were agreed on there: then the other node knows this
//! one's new key, with the same addresses as by the old one, and whatever is sent is understood at once. A link by which
//! nothing would be lost, as no keys are agreed on there any more, is not waited for; but who has no key of the present
//! epoch is reached by no other.

use std::collections::BTreeMap;
use std::time::Duration;

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

/// What is missing until packets go to a node by the present epoch's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// It has said no key of that epoch, as far as is known here.
    Key,
    /// No keys were agreed on with it there.
    Agreement,
}

/// Nodes to which packets go by the former epoch's links.
pub type Lagging = BTreeMap<NodeId, Lacks>;

/// By which links packets go to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parting {
    /// Of which epochs there are links.
    pub epochs: TunnelEpochs,
    /// Whom packets go to by those of the former one.
    pub lagging: Lagging,
}

impl Parting {
    /// By the links of which epoch packets go to a node.
    #[must_use]
    pub fn epoch_for(&self, node: NodeId) -> u64 {
        match self.epochs.former {
            Some(former) if self.lagging.contains_key(&node) => former,
            _ => self.epochs.present,
        }
    }

    /// To how many nodes packets go by the former epoch's links because of this.
    #[must_use]
    pub fn count(&self, why: Lacks) -> u32 {
        let count = self.lagging.values().filter(|lacks| **lacks == why).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// Remembers which nodes are reached by the links of the present epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Crossing {
    /// With the key by which they are.
    crossed: BTreeMap<NodeId, TunnelKey>,
}

impl Crossing {
    /// Those of these other nodes to which packets go by the links of the former epoch still, by what the devices of both
    /// say of their peers; all others are reached by those of the present one. Who has crossed does not go back.
    pub fn lagging<'a>(
        &mut self,
        epochs: TunnelEpochs,
        peers: impl IntoIterator<Item = &'a Peer>,
        present: Option<&Device>,
        former: Option<&Device>,
    ) -> Lagging {
        let mut lagging = Lagging::new();
        let mut crossed = BTreeMap::new();
        let seen = |device: Option<&Device>, key: TunnelKey| -> Option<Duration> {
            let seen: &SeenPeer = device?.peers.get(&key)?;
            seen.handshake_age.filter(|age| *age < GOOD)
        };
        for peer in peers {
            let node = peer.node_id;
            let key = |epoch: u64| Some(peer.end(epoch, epochs.present)?.public_key);
            let before = epochs.former.and_then(key);
            match (before, key(epochs.present)) {
                (_, Some(now))
                    if self.crossed.get(&node) == Some(&now)
                        || seen(present, now).is_some_and(|age| age >= SETTLED) =>
                {
                    crossed.insert(node, now);
                }
                (Some(before), Some(_)) if seen(former, before).is_some() => {
                    lagging.insert(node, Lacks::Agreement);
                }
                (Some(_), None) => drop(lagging.insert(node, Lacks::Key)),
                // Nothing would be lost, or there is no other way.
                (_, Some(_)) | (None, None) => {}
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
    fn peer(node: u8, first: Option<u64>, other: Option<u64>) -> Peer {
        let node_id = NodeId::from(u128::from(node));
        let other = other.map(|epoch| end(node, epoch));
        Peer {
            node_id,
            public_key: key(node, first.unwrap_or_default()),
            addr: [192, 0, 2, node].into(),
            port: 51820,
            tunnel_address: None,
            keys: PeerKeys { epoch: first, other, cluster: None },
        }
    }

    /// A device that has agreed on keys with these so many seconds ago.
    fn device(epoch: u64, ages: &[(u8, Option<u64>)]) -> Device {
        let seen = |(node, age): &(u8, Option<u64>)| {
            let handshake_age = age.map(Duration::from_secs);
            (key(*node, epoch), SeenPeer { handshake_age, ..SeenPeer::default() })
        };
        Device { peers: ages.iter().map(seen).collect(), ..Device::default() }
    }

    fn lag(nodes: &[(u8, Lacks)]) -> Lagging {
        nodes.iter().map(|(node, lacks)| (NodeId::from(u128::from(*node)), *lacks)).collect()
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
            let peers = [peer(1, Some(8), Some(7))];
            let (former, present) = (device(7, &[(1, former)]), device(8, &[(1, present)]));
            let mut crossing = Crossing::default();
            let lagging = crossing.lagging(BOTH, &peers, Some(&present), Some(&former));
            let expected: &[_] = if stays { &[(1, Lacks::Agreement)] } else { &[] };
            assert_eq!(lagging, lag(expected), "{former:?} {present:?}");
        }
    }

    #[test]
    fn who_has_not_said_a_key_of_the_present_epoch_is_reached_by_the_former() {
        let peers = [peer(1, Some(7), None), peer(2, Some(8), None), peer(3, None, None)];
        let former = device(7, &[(1, Some(9)), (2, Some(9)), (3, Some(9))]);
        let present = device(8, &[(1, Some(9)), (2, Some(9))]);
        let mut crossing = Crossing::default();
        // The third has one key for ever, which is of the present epoch: there is no other link to it.
        let lagging = crossing.lagging(BOTH, &peers, Some(&present), Some(&former));
        assert_eq!(lagging, lag(&[(1, Lacks::Key)]));
        let parting = Parting { epochs: BOTH, lagging };
        assert_eq!([1, 2].map(|node: u128| parting.epoch_for(node.into())), [7, 8]);
        assert_eq!([Lacks::Key, Lacks::Agreement].map(|why| parting.count(why)), [1, 0]);
        // Also before any keys were agreed on there: that of the present epoch has nobody of its name.
        for former in [Some(device(7, &[(1, None)])), None] {
            let lagging = crossing.lagging(BOTH, &peers, Some(&present), former.as_ref());
            assert_eq!(lagging, lag(&[(1, Lacks::Key)]));
        }
    }

    #[test]
    fn who_is_reached_by_neither_takes_the_first_way_that_there_is() {
        let peers = [peer(1, Some(8), Some(7))];
        let mut crossing = Crossing::default();
        let mut at = |former, present| {
            let (former, present) = (device(7, &[(1, former)]), device(8, &[(1, present)]));
            crossing.lagging(BOTH, &peers, Some(&present), Some(&former))
        };
        assert_eq!(at(None, None), lag(&[]));
        // A firewall lets the one port through alone.
        let lagging = at(Some(1), None);
        assert_eq!(lagging, lag(&[(1, Lacks::Agreement)]));
        assert_eq!(Parting { epochs: BOTH, lagging }.count(Lacks::Agreement), 1);
        assert_eq!(at(Some(9), Some(6)), lag(&[]));
        assert_eq!(at(Some(9), None), lag(&[]), "it has crossed");
    }

    #[test]
    fn who_has_crossed_does_not_go_back() {
        let peer_of_both = peer(1, Some(8), Some(7));
        let former = device(7, &[(1, Some(9))]);
        let mut crossing = Crossing::default();
        let mut at = |age, peer: &Peer| {
            crossing.lagging(BOTH, [peer], Some(&device(8, &[(1, age)])), Some(&former))
        };
        assert_eq!(at(Some(5), &peer_of_both), lag(&[(1, Lacks::Agreement)]));
        assert_eq!(at(Some(6), &peer_of_both), lag(&[]));
        // Keys are agreed on again and again.
        assert_eq!(at(Some(5), &peer_of_both), lag(&[]));
        assert_eq!(at(None, &peer_of_both), lag(&[]));
        // But by a key of its own, which it has lost and made anew.
        let other = Peer { public_key: key(77, 8), ..peer_of_both };
        assert_eq!(at(Some(5), &other), lag(&[(1, Lacks::Agreement)]));
        // In the next epoch it begins anew.
        let next = TunnelEpochs { present: 9, former: Some(8) };
        let peers = [peer(1, Some(9), Some(8))];
        let mut crossing = Crossing::default();
        let (present, former) = (device(9, &[(1, None)]), device(8, &[(1, Some(5))]));
        let lagging = crossing.lagging(next, &peers, Some(&present), Some(&former));
        assert_eq!(lagging, lag(&[(1, Lacks::Agreement)]));
        // And there is nothing to wait for where there is one epoch.
        let one = TunnelEpochs { present: 9, former: None };
        assert_eq!(crossing.lagging(one, &peers, Some(&present), Some(&former)), lag(&[]));
    }
}
