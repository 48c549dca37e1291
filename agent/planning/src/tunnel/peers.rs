//! Other nodes as peers of the tunnel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use ipnet::IpNet;
use shoal_types::assignment::Peer;
use shoal_types::id::NodeId;
use shoal_types::object::TunnelKey;

use super::TunnelPeer;

/// Why a node is no peer. What an agent says of its own end of the tunnel must not cost the other nodes theirs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LeftOut {
    #[error(
        "has the tunnel key of this node: was one of them made from a copy of the other's disk?"
    )]
    OwnKey,
    #[error("has the same tunnel key as {others:?}: was one made from a copy of another's disk?")]
    SharedKey { others: BTreeSet<NodeId> },
    #[error("cannot be reached at {endpoint}")]
    Unreachable { endpoint: SocketAddr },
}

/// The peers of a node in an epoch in which it has the tunnel key `own`: those of `known` that something is `allowed`
/// for and that have a key of that epoch, and why others of these are none. A key that several nodes have is nobody's, as
/// who is right cannot be told here.
#[must_use]
pub fn peers(
    own: TunnelKey,
    (epoch, present): (u64, u64),
    allowed: &BTreeMap<NodeId, BTreeSet<IpNet>>,
    known: &OrdMap<NodeId, Arc<Peer>>,
    keepalive: Option<Duration>,
) -> (BTreeMap<TunnelKey, TunnelPeer>, BTreeMap<NodeId, LeftOut>) {
    let wanted = || {
        let some = allowed.iter().filter(|(_, nets)| !nets.is_empty());
        some.filter_map(|(node, nets)| {
            let peer = known.get(node)?;
            Some((*node, nets, peer.addr, peer.end(epoch, present)?))
        })
    };
    let mut holders: BTreeMap<TunnelKey, BTreeSet<NodeId>> = BTreeMap::new();
    for (node, _, _, end) in wanted() {
        holders.entry(end.public_key).or_default().insert(node);
    }
    let (mut peers, mut left_out) = (BTreeMap::new(), BTreeMap::new());
    for (node, nets, addr, end) in wanted() {
        let key = end.public_key;
        let endpoint = SocketAddr::new(addr, end.port);
        let others = holders.get(&key).into_iter().flatten().copied();
        let others: BTreeSet<NodeId> = others.filter(|other| *other != node).collect();
        let why = if key == own {
            LeftOut::OwnKey
        } else if !others.is_empty() {
            LeftOut::SharedKey { others }
        } else if endpoint.port() == 0 || endpoint.ip().is_unspecified() {
            LeftOut::Unreachable { endpoint }
        } else {
            peers.insert(key, TunnelPeer { endpoint, allowed: nets.clone(), keepalive });
            continue;
        };
        left_out.insert(node, why);
    }
    (peers, left_out)
}

#[cfg(test)]
mod tests {
    use shoal_types::assignment::PeerKeys;
    use shoal_types::object::TunnelEnd;

    use super::*;
    use crate::tunnel::{Desired, MTU, PORT};

    const OWN: TunnelKey = TunnelKey([1; 32]);

    #[test]
    fn a_node_with_a_key_or_an_address_that_cannot_be_costs_the_others_nothing() {
        let one = |(node, key, addr, port): (u128, u8, &str, u16)| {
            let (public_key, addr) = (TunnelKey([key; 32]), addr.parse().unwrap());
            let node_id = NodeId::from(node);
            (
                node_id,
                Arc::new(Peer {
                    node_id,
                    public_key,
                    addr,
                    port,
                    tunnel_address: None,
                    keys: PeerKeys::default(),
                }),
            )
        };
        let known = [
            (2, 2, "192.0.2.2", PORT),
            (3, 1, "192.0.2.3", PORT),
            (4, 4, "192.0.2.4", PORT),
            (5, 4, "192.0.2.5", PORT),
            (6, 6, "0.0.0.0", PORT),
            (7, 7, "192.0.2.7", 0),
            // Nothing of it is of interest here, its key neither.
            (8, 2, "192.0.2.8", PORT),
            (9, 9, "2001:db8::9", 9),
        ];
        let known = known.into_iter().map(one).collect();
        let nets =
            |node: u8| -> BTreeSet<IpNet> { [format!("10.0.0.{node}/32").parse().unwrap()].into() };
        let mut allowed: BTreeMap<NodeId, _> =
            [2, 3, 4, 5, 6, 7, 9].map(|node| (NodeId::from(u128::from(node)), nets(node))).into();
        // Nobody knows where it is.
        allowed.insert(10.into(), nets(10));
        allowed.insert(8.into(), BTreeSet::new());
        let every = Some(Duration::from_secs(25));
        let (peers, left_out) = peers(OWN, (0, 0), &allowed, &known, every);
        let peer = |endpoint: &str, node| TunnelPeer {
            endpoint: endpoint.parse().unwrap(),
            allowed: nets(node),
            keepalive: every,
        };
        let expected = [
            (TunnelKey([2; 32]), peer("192.0.2.2:51820", 2)),
            (TunnelKey([9; 32]), peer("[2001:db8::9]:9", 9)),
        ];
        assert_eq!(peers, expected.into());
        let unreachable = |text: &str| LeftOut::Unreachable { endpoint: text.parse().unwrap() };
        let expected: [(NodeId, LeftOut); 5] = [
            (3.into(), LeftOut::OwnKey),
            (4.into(), LeftOut::SharedKey { others: [5.into()].into() }),
            (5.into(), LeftOut::SharedKey { others: [4.into()].into() }),
            (6.into(), unreachable("0.0.0.0:51820")),
            (7.into(), unreachable("192.0.2.7:0")),
        ];
        assert_eq!(left_out, expected.into());
        let desired = Desired { listen_port: PORT, mtu: MTU, address: None, peers };
        assert_eq!(desired.check(OWN), Ok(()));
    }

    #[test]
    fn an_epoch_has_the_keys_and_ports_of_its_own() {
        let other = TunnelEnd { epoch: 4, public_key: TunnelKey([4; 32]), port: 51820 };
        let peer = |node: u128, byte: u8, epoch, other| {
            let node_id = NodeId::from(node);
            let peer = Peer {
                node_id,
                public_key: TunnelKey([byte; 32]),
                addr: [192, 0, 2, 7].into(),
                port: 51821,
                tunnel_address: None,
                keys: PeerKeys { epoch, other, cluster: None },
            };
            (node_id, Arc::new(peer))
        };
        let known = [
            peer(2, 5, Some(5), Some(other)),
            // One that has followed no further, and one that has one key for ever.
            peer(3, 3, Some(4), None),
            peer(6, 6, None, None),
        ];
        let known = known.into_iter().collect();
        let nets = |node: u8| [format!("10.0.0.{node}/32").parse().unwrap()].into();
        let allowed = [2, 3, 6].map(|node| (NodeId::from(u128::from(node)), nets(node))).into();
        let of = |epoch| {
            let (peers, left_out) = peers(OWN, (epoch, 5), &allowed, &known, None);
            assert_eq!(left_out, BTreeMap::new());
            let told = peers.iter().map(|(key, peer)| (key.0[0], peer.endpoint.port()));
            told.collect::<Vec<_>>()
        };
        assert_eq!(of(5), [(5, 51821), (6, 51821)]);
        assert_eq!(of(4), [(3, 51821), (4, 51820)]);
        assert_eq!(of(6), []);
    }
}
