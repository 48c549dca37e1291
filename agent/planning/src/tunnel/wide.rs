//! Packets that are larger than what every wire takes: how large the interface takes them, and to whom they are sent.
//!
//! The interface takes what the widest wire to another node does, and so do the containers behind it. What passes to
//! which node is found out by trying ([`selftest`](super::selftest)); until then it is sent what passes everywhere. A
//! packet that is too large for a wire gets lost there, and nobody is told, so none is sent that was not seen to pass.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use shoal_types::assignment::Peer;
use shoal_types::id::NodeId;

use super::{FILLED, LARGEST, MTU, OVERHEAD};

/// The smallest packet of IPv6 that is of use, in bytes (RFC 8200, 5): a way that does not take it has to cut it
/// outside.
const LEAST_V6: u32 = 1280;
/// What a wire has to take to be worth it, in bytes: what is only a little wider has room for somebody else's header.
const WORTH: u32 = 2000;
/// Addresses of other nodes of which the wire is looked up at a time, at most.
const ASKED_MAX: usize = 64;

/// The largest packet that the tunnel takes, in bytes, where interfaces that take so much outside lead to other nodes.
#[must_use]
pub fn largest(wires: impl IntoIterator<Item = u32>) -> u32 {
    let wide = wires.into_iter().filter(|wire| *wire >= WORTH).max();
    wide.map_or(MTU, |wire| (wire - OVERHEAD).min(LARGEST))
}

/// Which addresses of other nodes are asked about: all, or some from everywhere among them.
#[must_use]
pub fn asked(own: Option<NodeId>, known: &OrdMap<NodeId, Arc<Peer>>) -> BTreeSet<IpAddr> {
    let others = known.iter().filter(|(node, _)| Some(**node) != own);
    let all: BTreeSet<IpAddr> = others.map(|(_, peer)| peer.addr).collect();
    let step = all.len().div_ceil(ASKED_MAX).max(1);
    all.into_iter().step_by(step).collect()
}

/// The largest packet that is sent to a node at this address before anything was tried, in bytes, by a tunnel that takes
/// `full`. By one that takes more than is usual, packets are filled up, which has to fit a usual wire, too.
#[must_use]
pub const fn usual(full: u32, outside: IpAddr) -> u32 {
    match outside {
        _ if full <= MTU => full,
        IpAddr::V4(_) => MTU,
        IpAddr::V6(_) => MTU / FILLED * FILLED,
    }
}

/// Of which size packets should pass a link, in bytes, by which some do that are so large, and by which up to `full` are
/// sent: wider ones than usual are as they are.
#[must_use]
pub const fn expected(full: u32, passes: u32) -> u32 {
    match full > MTU {
        false => full,
        true if passes < MTU / FILLED * FILLED => MTU,
        true => passes,
    }
}

/// Addresses for which packets have to be smaller than the tunnel takes, with the size in bytes of the largest, where
/// this was found out of nodes ([`SelfTest::sizes`](super::selftest::SelfTest::sizes)).
///
/// A node's own address in the tunnel has what is usual at least without being told: only the host itself sends there,
/// and whoever tries what is larger has to be answered as large.
#[must_use]
pub fn fitting(
    full: u32,
    sizes: &BTreeMap<NodeId, u32>,
    allowed: &BTreeMap<NodeId, BTreeSet<IpNet>>,
    known: &OrdMap<NodeId, Arc<Peer>>,
) -> BTreeMap<IpAddr, u32> {
    let mut fits = BTreeMap::new();
    let mut fit = |node: &NodeId, nets: &BTreeSet<IpNet>| {
        let Some(peer) = known.get(node) else { return };
        let usual = usual(full, peer.addr);
        let bytes = sizes.get(node).copied().unwrap_or(usual);
        let home = peer.tunnel_address.filter(|_| bytes >= usual);
        let others = nets.iter().map(IpNet::addr).filter(|address| Some(*address) != home);
        fits.extend(others.filter_map(|address| {
            let bytes = if address.is_ipv4() { bytes } else { bytes.max(LEAST_V6) };
            (bytes < full).then_some((address, bytes))
        }));
    };
    if full > MTU {
        allowed.iter().for_each(|(node, nets)| fit(node, nets));
    } else {
        // All others have what it takes.
        let some = sizes.keys().filter_map(|node| allowed.get_key_value(node));
        some.for_each(|(node, nets)| fit(node, nets));
    }
    fits
}

#[cfg(test)]
mod tests {
    use shoal_types::assignment::PeerKeys;
    use shoal_types::object::TunnelKey;

    use super::*;

    fn peer(node: u128, addr: &str) -> (NodeId, Arc<Peer>) {
        let node_id = NodeId::from(node);
        let last = u8::try_from(node).unwrap_or_default();
        let peer = Peer {
            node_id,
            public_key: TunnelKey([1; 32]),
            addr: addr.parse().unwrap(),
            port: 51820,
            tunnel_address: Some([10, 9, 0, last].into()),
            keys: PeerKeys::default(),
        };
        (node_id, Arc::new(peer))
    }

    #[test]
    fn the_tunnel_takes_what_the_widest_wire_does_and_never_less_than_usual() {
        for (wires, expected) in [
            (&[][..], 1420),
            (&[1500], 1420),
            (&[1280, 576], 1420),
            (&[1504], 1420),
            (&[1500, 9000], 8920),
            (&[4000, 1500], 3920),
            (&[9001], 8920),
            (&[65_536], 8920),
        ] {
            assert_eq!(largest(wires.iter().copied()), expected, "{wires:?}");
        }
    }

    #[test]
    fn some_nodes_of_many_are_asked_about_from_everywhere_among_them() {
        let of = |count: u8| (0..count).map(|n| peer(n.into(), &format!("192.0.2.{n}"))).collect();
        assert_eq!(asked(Some(0.into()), &of(3)).len(), 2);
        let some = asked(None, &of(200));
        assert!(some.len() <= ASKED_MAX && some.len() > ASKED_MAX / 2, "{}", some.len());
        let last = |at: &IpAddr| matches!(at, IpAddr::V4(at) if at.octets()[3] > 190);
        assert!(some.iter().any(last));
    }

    /// With the size of the largest packet to a container, and to its host, on a node of which so much was found out.
    #[test]
    fn nobody_is_sent_what_was_not_seen_to_pass() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let allowed = BTreeMap::from([
            (2.into(), [net("10.0.0.2/32"), net("10.9.0.2/32"), net("fd00::2/128")].into()),
            (3.into(), [net("10.0.0.3/32"), net("10.9.0.3/32")].into()),
        ]);
        let known = [peer(2, "192.0.2.2"), peer(3, "2001:db8::3")].into_iter().collect();
        for (full, sizes, expected) in [
            (1420, &[][..], &[][..]),
            (1420, &[(2, 1300)], &[("10.0.0.2", 1300), ("10.9.0.2", 1300), ("fd00::2", 1300)]),
            (1420, &[(2, 1216)], &[("10.0.0.2", 1216), ("10.9.0.2", 1216), ("fd00::2", 1280)]),
            (8920, &[], &[("10.0.0.2", 1420), ("10.0.0.3", 1408), ("fd00::2", 1420)]),
            (8920, &[(2, 8920), (3, 8920)], &[]),
            (8920, &[(2, 8920), (3, 1200)], &[("10.0.0.3", 1200), ("10.9.0.3", 1200)]),
            (8920, &[(2, 3000), (3, 8920)], &[("10.0.0.2", 3000), ("fd00::2", 3000)]),
            // What was found out while it took more.
            (1420, &[(2, 8920), (3, 3000)], &[]),
        ] {
            let sizes = sizes.iter().map(|(node, bytes)| (NodeId::from(*node), *bytes)).collect();
            let found = fitting(full, &sizes, &allowed, &known);
            let expected = expected.iter().map(|(at, bytes)| (at.parse().unwrap(), *bytes));
            assert_eq!(found, expected.collect(), "{full} {sizes:?}");
        }
    }

    #[test]
    fn a_link_is_expected_to_take_what_is_usual_and_may_take_more() {
        for (full, passes, whole) in [
            (1420, 0, 1420),
            (1420, 1300, 1420),
            (8920, 0, 1420),
            (8920, 1300, 1420),
            (8920, 1408, 1408),
            (8920, 1440, 1440),
            (8920, 8920, 8920),
        ] {
            assert_eq!(expected(full, passes), whole, "{full} {passes}");
        }
    }
}
