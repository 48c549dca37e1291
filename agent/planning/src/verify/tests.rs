use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_types::id::NodeId;
use shoal_types::object::{TunnelKey, TunnelKind};
use shoal_types::time::Timestamp;

use super::*;
use crate::network::Family;
use crate::network::fence::FenceRule;
use crate::network::links;
use crate::node::host::{Action, Observed, ObservedLinks, Plan, Tables, Way};
use crate::tunnel::{self, Side};

fn told(all: &[Difference]) -> Vec<String> {
    all.iter().map(|d| format!("{}: {} / {}", d.subject, d.expected, d.found)).collect()
}

/// Searches where packets up to a size pass: what was found, and what was tried for it.
fn search(full: u32, passes: u32) -> (u32, Vec<u32>) {
    let (mut search, mut tried) = (Search::new(full), Vec::new());
    loop {
        match search.next() {
            Tried::Ended(found) => return (found, tried),
            Tried::Next(size) => {
                assert!(tried.len() < 20, "{tried:?}");
                tried.push(size);
                search.learn(size, size <= passes);
            }
        }
    }
}

#[test]
fn the_largest_packet_that_passes_is_found_with_few() {
    assert_eq!(search(1420, 1420), (1420, vec![1420]));
    assert_eq!(search(1420, 9000), (1420, vec![1420]));
    for passes in 576..1420 {
        let (found, tried) = search(1420, passes);
        assert_eq!(found, passes, "{tried:?}");
        assert!(tried.len() <= 13, "{tried:?}");
    }
    assert_eq!(search(1420, 0), (0, vec![1420, 1280, 576, 128]));
    assert_eq!(search(1420, 500), (128, vec![1420, 1280, 576, 128]));
    assert_eq!(search(8920, 9000), (8920, vec![8920]));
    assert_eq!(search(8920, 0), (0, vec![8920, 1408, 1280, 576, 128]));
    for passes in [576, 1300, 1407, 1408, 1440, 3000, 8919] {
        let (found, tried) = search(8920, passes);
        assert_eq!(found, passes);
        assert!(tried.len() < 18, "{tried:?}");
    }
    assert_eq!(search(1280, 200), (128, vec![1280, 576, 128]));
    assert_eq!(search(1280, 1280), (1280, vec![1280]));
}

#[test]
fn an_echo_is_known_by_its_token_alone() {
    let token = [7; 16];
    let sent = echo(1420, 5, 9, token);
    assert_eq!(sent.len(), 1400);
    // As the kernel answers: another type, a header before it.
    let answer = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[12..16].copy_from_slice(&[10, 9, 0, 2]);
        packet.extend(&sent);
        packet[20] = 0;
        change(&mut packet);
        echoed(&packet, 5, token)
    };
    assert_eq!(answer(&|_| {}), Some(([10, 9, 0, 2].into(), 9, 1420)));
    assert_eq!(answer(&|p| p[20] = 8), None, "a request");
    assert_eq!(answer(&|p| p[25] = 6), None, "somebody else's");
    assert_eq!(answer(&|p| p[40] = 8), None, "who does not know the token");
    assert_eq!(answer(&|p| p[0] = 0x65), None);
    for length in 0..60 {
        assert_eq!(answer(&|p| p.truncate(length)).map(|(_, _, size)| size < 60), {
            (length >= 44).then_some(true)
        });
    }
    // RFC 1071: the sum of what has its checksum is none.
    let sum: u32 = sent.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
}

#[test]
fn who_leaves_some_out_leaves_out_different_ones() {
    let nodes: Vec<NodeId> = (0..10_u128).map(NodeId::from).collect();
    let of = |own: u128| {
        let others = nodes.iter().copied().filter(|node| *node != NodeId::from(own));
        sample(own.into(), others.collect(), 3)
    };
    let ids = |all: &[u128]| all.iter().copied().map(NodeId::from).collect::<Vec<_>>();
    assert_eq!(of(0), ids(&[1, 2, 3]));
    assert_eq!(of(8), ids(&[9, 0, 1]));
    assert_eq!(of(9), ids(&[0, 1, 2]));
    let mut tried: BTreeMap<NodeId, usize> = BTreeMap::new();
    for own in 0..10 {
        for node in of(own) {
            *tried.entry(node).or_default() += 1;
        }
    }
    assert!(tried.len() == 10 && tried.values().all(|times| *times == 3), "{tried:?}");
    assert_eq!(sample(5.into(), Vec::new(), 3), []);
    assert_eq!(sample(5.into(), ids(&[3]), 3), ids(&[3]));
}

#[test]
fn what_lasts_is_known_since_it_was_first_seen() {
    let (mut known, at) = (Known::default(), |s| Timestamp::ZERO + Duration::from_secs(s));
    let rule = || Difference::missing("rule");
    let route = || Difference::missing("route");
    known.failed(&rule(), at(1));
    known.failed(&rule(), at(2));
    let since = |known: &mut Known, all, now| -> Vec<u64> {
        known.findings(all, now).iter().map(|f| f.known_since.as_nanos() / 1_000_000_000).collect()
    };
    assert_eq!(since(&mut known, vec![rule(), route()], at(5)), [1, 5]);
    assert_eq!(since(&mut known, vec![route()], at(6)), [5]);
    assert_eq!(since(&mut known, vec![rule(), route()], at(7)), [7, 5]);
    known.put_right(&rule());
    assert_eq!(since(&mut known, vec![rule()], at(9)), [9]);
}

#[test]
fn a_bridge_that_is_gone_is_told_once_and_by_its_name() {
    let bridge = || "shb1".to_owned();
    let link = |action| Action::Link(action);
    let actions = vec![
        Action::AddRule(Family::V4, FenceRule::CloseBridge(bridge())),
        link(links::Action::CreateBridge {
            ifname: bridge(),
            mac: crate::network::Mac([2; 6]),
            mtu: 1420,
        }),
        link(links::Action::AddAddress {
            ifname: bridge(),
            address: "10.0.0.1/24".parse().unwrap(),
        }),
        link(links::Action::SetUp { ifname: bridge() }),
        link(links::Action::Remove { ifname: "shbx".to_owned() }),
        Action::Set { name: "ipv4/conf/shb1/route_localnet".to_owned(), value: "1".to_owned() },
        Action::Set { name: "ipv4/ip_forward".to_owned(), value: "1".to_owned() },
        Action::AddRemote([10, 0, 0, 9].into(), Way::default()),
        Action::TurnRemote([10, 0, 0, 8].into(), Way { by: Side::Second, largest: Some(1300) }),
        Action::PutTables,
    ];
    let missing_ports = ["shv1", "shv2"].map(str::to_owned).into();
    let plan = Plan { actions, missing_ports, ..Plan::default() };
    let settings = BTreeMap::from([("ipv4/ip_forward".to_owned(), "0".to_owned())]);
    let observed = Observed {
        links: Some(ObservedLinks::default()),
        settings: Some(settings),
        tables: Some(Tables::Absent),
        ..Observed::default()
    };
    let under_way = BTreeSet::from(["shv2".to_owned()]);
    let all = of_host(&plan, &observed, Vec::new(), &under_way);
    assert_eq!(
        told(&all),
        [
            "routing rule of IPv4 64: iif shb1 prohibit: present / missing",
            "link shb1: a bridge / missing",
            "link shbx: absent / present",
            "setting net.ipv4.ip_forward: 1 / 0",
            "route to 10.0.0.9 by the tunnel: present / missing",
            "route to 10.0.0.8 by the tunnel: interface 1 / interface 0",
            "mtu of the route to 10.0.0.8 by the tunnel: 1300 / as the tunnel",
            "nftables tables: those of the agent / missing",
            "link shv1: present / missing",
        ]
    );
    // Of tables that were compared the differences stand for themselves.
    let element = Difference::missing("element x of set y");
    let all = of_host(&plan, &observed, vec![element.clone()], &under_way);
    assert!(all.contains(&element) && !told(&all).iter().any(|d| d.contains("nftables")));
}

#[test]
fn what_is_other_of_a_tunnel_is_named_with_the_peer() {
    let (own, far) = (TunnelKey([1; 32]), TunnelKey([2; 32]));
    let peer = tunnel::TunnelPeer {
        endpoint: "192.0.2.2:51820".parse().unwrap(),
        allowed: ["10.0.0.2/32".parse().unwrap()].into(),
        keepalive: Some(Duration::from_secs(25)),
    };
    let desired = tunnel::Desired {
        listen_port: 51820,
        mtu: 1420,
        address: Some([10, 9, 0, 1].into()),
        peers: [(far, peer)].into(),
    };
    let nodes = BTreeMap::from([(far, "b".to_owned())]);
    let differences = |observed: &tunnel::Observed| {
        let told = desired.told();
        let actions = tunnel::plan(TunnelKind::Userspace, own, &desired, &told, observed);
        of_tunnel("shwg0", own, &desired, observed, &actions, &nodes)
    };
    let mut observed = tunnel::Observed::default();
    assert_eq!(told(&differences(&observed)), ["process of the tunnel: runs / does not answer"]);
    let actions = tunnel::plan(TunnelKind::Userspace, own, &desired, &desired.told(), &observed);
    for action in actions {
        observed.perform(own, &action);
    }
    assert_eq!(differences(&observed), []);

    observed.addresses = ["10.9.0.7/32".parse().unwrap()].into();
    let device = observed.device.as_mut().unwrap();
    device.listen_port = Some(7);
    let seen = device.peers.get_mut(&far).unwrap();
    seen.allowed = ["0.0.0.0/0".parse().unwrap()].into();
    seen.keepalive = None;
    device.peers.insert(own, tunnel::SeenPeer::default());
    let link = observed.link.as_mut().unwrap();
    (link.up, link.mtu) = (false, 1500);
    assert_eq!(
        told(&differences(&observed)),
        [
            "port of the tunnel: 51820 / 7",
            &format!("peer {own}: absent / present"),
            "keepalive of peer b: 25 s / 0 s",
            "allowed address 10.0.0.2/32 of peer b: present / missing",
            "allowed address 0.0.0.0/0 of peer b: absent / present",
            "mtu of shwg0: 1420 / 1500",
            "link shwg0: up / down",
            "address 10.9.0.7/32 on shwg0: absent / present",
            "address 10.9.0.1/32 on shwg0: present / missing",
        ]
    );
    observed.device.as_mut().unwrap().peers.clear();
    assert!(told(&differences(&observed)).contains(&"peer b: present / missing".to_owned()));
}
