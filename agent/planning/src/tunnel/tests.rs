use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;
use shoal_types::object::{TunnelKey, TunnelKind};

use super::uapi::{Answer, AnswerError};
use super::*;

const OWN: TunnelKey = TunnelKey([0xee; 32]);

fn key(number: u16) -> TunnelKey {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    TunnelKey(bytes)
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn peer(number: u16) -> TunnelPeer {
    let [high, low] = number.to_be_bytes();
    TunnelPeer {
        endpoint: SocketAddr::from(([192, 0, high, low], PORT)),
        allowed: [net(&format!("10.0.{high}.{low}/32"))].into(),
        keepalive: None,
    }
}

fn desired(peers: impl IntoIterator<Item = u16>) -> Desired {
    let peers = peers.into_iter().map(|number| (key(number), peer(number))).collect();
    Desired { listen_port: PORT, mtu: MTU, address: None, peers }
}

/// What a host is once everything is done.
fn settled(kind: TunnelKind, desired: &Desired) -> Observed {
    let mut observed = Observed::default();
    for action in plan(kind, OWN, desired, &Told::new(), &observed.clone()) {
        observed.perform(OWN, &action);
    }
    observed
}

const KINDS: [TunnelKind; 2] = [TunnelKind::Kernel, TunnelKind::Userspace];

#[test]
fn from_nothing_a_tunnel_is_made_and_then_nothing_is_left_to_do() {
    for (kind, made) in KINDS.into_iter().zip([Action::CreateLink, Action::StartProcess]) {
        let desired = desired(1..=2);
        let actions = plan(kind, OWN, &desired, &Told::new(), &Observed::default());
        let [first, Action::Configure(change), Action::SetMtu(1420), Action::SetUp] = &actions[..]
        else {
            panic!("{actions:?}")
        };
        assert_eq!(*first, made);
        assert!(change.key);
        assert_eq!(change.listen_port, Some(PORT));
        assert_eq!(change.peers.len(), 2);
        let observed = settled(kind, &desired);
        assert_eq!(plan(kind, OWN, &desired, &desired.told(), &observed), []);
        // After the agent's restart nobody remembers what was told.
        assert_eq!(plan(kind, OWN, &desired, &Told::new(), &observed), []);
    }
}

#[test]
fn one_of_a_thousand_peers_costs_one_change() {
    for kind in KINDS {
        let many = desired(1..=1000);
        let observed = settled(kind, &many);
        for (now, added) in [(desired(1..=1001), true), (desired(2..=1000), false)] {
            let actions = plan(kind, OWN, &now, &many.told(), &observed);
            let [Action::Configure(change)] = &actions[..] else { panic!("{actions:?}") };
            let text = uapi::set(change, &[1; 32]);
            let lines: Vec<&str> = text.lines().collect();
            let number = if added { 1001 } else { 1 };
            let public = format!("public_key={}", hex::encode(key(number).0));
            let expected: &[&str] = if added {
                &[
                    "set=1",
                    &public,
                    "endpoint=192.0.3.233:51820",
                    "replace_allowed_ips=true",
                    "allowed_ip=10.0.3.233/32",
                    "",
                ]
            } else {
                &["set=1", &public, "remove=true", ""]
            };
            assert_eq!(lines, expected);
        }
    }
}

#[test]
fn one_more_address_of_a_peer_names_no_other() {
    let before = desired(1..=2);
    let observed = settled(TunnelKind::Kernel, &before);
    let with = |nets: &[&str]| {
        let mut after = before.clone();
        after.peers.get_mut(&key(1)).unwrap().allowed = nets.iter().map(|n| net(n)).collect();
        let actions = plan(TunnelKind::Kernel, OWN, &after, &before.told(), &observed);
        let [Action::Configure(change)] = &actions[..] else { panic!("{actions:?}") };
        let [(only, change)] = change.peers.iter().collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!(*only, key(1));
        assert_eq!((change.endpoint, change.keepalive_s), (None, None));
        change.allowed.clone()
    };
    let added = with(&["10.0.0.1/32", "10.0.0.7/32"]);
    assert_eq!(added, AllowedChange::Add([net("10.0.0.7/32")].into()));
    let moved = with(&["10.0.0.7/32"]);
    assert_eq!(moved, AllowedChange::Replace([net("10.0.0.7/32")].into()));
    // As it is kept by devices: without a host's bits.
    let wide = with(&["10.0.0.1/32", "10.0.9.9/24"]);
    assert_eq!(wide, AllowedChange::Add([net("10.0.9.0/24")].into()));
}

#[test]
fn a_peer_that_speaks_from_elsewhere_is_left_there_until_it_is_said_to_have_moved() {
    let desired = desired(1..=1);
    let mut observed = settled(TunnelKind::Kernel, &desired);
    let elsewhere = addr("203.0.113.9:4000");
    let seen = observed.device.as_mut().unwrap().peers.get_mut(&key(1)).unwrap();
    seen.endpoint = Some(elsewhere);
    let age = |observed: &Observed, age: Option<u64>| {
        let mut observed = observed.clone();
        let seen = observed.device.as_mut().unwrap().peers.get_mut(&key(1)).unwrap();
        seen.handshake_age = age.map(Duration::from_secs);
        observed
    };
    let said = |port| Told::from([(key(1), addr(&format!("192.0.0.1:{port}")))]);
    // What was told, when it was heard from, whether it is told again.
    let table = [
        (said(PORT), None, false),
        (said(PORT), Some(1000), false),
        (said(1), Some(1), true),
        (said(1), None, true),
        (Told::new(), Some(179), false),
        (Told::new(), Some(180), true),
        (Told::new(), None, true),
    ];
    for (told, heard, again) in table {
        let actions = plan(TunnelKind::Kernel, OWN, &desired, &told, &age(&observed, heard));
        let moved = PeerChange { endpoint: Some(peer(1).endpoint), ..PeerChange::default() };
        let change = Change { peers: [(key(1), moved)].into(), ..Change::default() };
        let expected = if again { vec![Action::Configure(change)] } else { vec![] };
        assert_eq!(actions, expected, "{told:?} {heard:?}");
    }
}

#[test]
fn what_was_lost_is_made_again_and_nothing_else() {
    let desired = desired(1..=3);
    let userspace = settled(TunnelKind::Userspace, &desired);
    let kinds = |observed: &Observed, kind| -> Vec<String> {
        let actions = plan(kind, OWN, &desired, &desired.told(), observed);
        let name = |action: &Action| format!("{action:?}").split(['(', ' ']).next().unwrap().into();
        actions.iter().map(name).collect()
    };
    let killed = Observed { process: false, device: None, ..userspace.clone() };
    let hung = Observed { device: None, ..userspace.clone() };
    let deleted = Observed { link: None, ..userspace.clone() };
    let whole = Observed::default();
    let taken = Observed {
        link: Some(Link { kind: LinkKind::Other, up: true, mtu: MTU }),
        ..whole.clone()
    };
    let down = Observed {
        link: userspace.link.map(|link| Link { up: false, mtu: 1000, ..link }),
        ..userspace.clone()
    };
    let table: [(&Observed, TunnelKind, &[&str]); 9] = [
        (&userspace, TunnelKind::Userspace, &[]),
        // The interface outlives its process, with its addresses and routes.
        (&killed, TunnelKind::Userspace, &["StartProcess", "Configure"]),
        (&hung, TunnelKind::Userspace, &["EndProcess", "StartProcess", "Configure"]),
        (
            &deleted,
            TunnelKind::Userspace,
            &["EndProcess", "StartProcess", "Configure", "SetMtu", "SetUp"],
        ),
        (&whole, TunnelKind::Userspace, &["StartProcess", "Configure", "SetMtu", "SetUp"]),
        (
            &taken,
            TunnelKind::Userspace,
            &["RemoveLink", "StartProcess", "Configure", "SetMtu", "SetUp"],
        ),
        (&down, TunnelKind::Userspace, &["SetMtu", "SetUp"]),
        (
            &userspace,
            TunnelKind::Kernel,
            &["EndProcess", "RemoveLink", "CreateLink", "Configure", "SetMtu", "SetUp"],
        ),
        (&whole, TunnelKind::Kernel, &["CreateLink", "Configure", "SetMtu", "SetUp"]),
    ];
    for (observed, kind, expected) in table {
        assert_eq!(kinds(observed, kind), expected, "{observed:?} {kind:?}");
    }
}

#[test]
fn what_encrypts_already_goes_on_unless_something_else_is_asked_for() {
    let link = |kind| Some(Link { kind, up: true, mtu: MTU });
    let table = [
        (None, None, false, None),
        (None, None, true, Some(TunnelKind::Userspace)),
        (None, link(LinkKind::Other), false, None),
        (None, link(LinkKind::Tun), false, Some(TunnelKind::Userspace)),
        (None, link(LinkKind::Wireguard), false, Some(TunnelKind::Kernel)),
        (Some(TunnelKind::Kernel), link(LinkKind::Tun), true, Some(TunnelKind::Kernel)),
        (Some(TunnelKind::Userspace), None, false, Some(TunnelKind::Userspace)),
    ];
    for (asked, link, process, expected) in table {
        let observed = Observed { link, process, ..Observed::default() };
        assert_eq!(choose(asked, &observed), expected, "{asked:?} {link:?} {process}");
    }
}

#[test]
fn what_no_tunnel_can_be_is_refused_with_what_could() {
    let change = |change: &dyn Fn(&mut Desired)| {
        let mut desired = desired(1..=2);
        change(&mut desired);
        desired.check(OWN).map_err(|refusal| refusal.to_string())
    };
    let first = |desired: &mut Desired, change: &dyn Fn(&mut TunnelPeer)| {
        change(desired.peers.get_mut(&key(1)).unwrap());
    };
    assert_eq!(change(&|_| ()), Ok(()));
    type Harm<'a> = &'a dyn Fn(&mut Desired);
    let table: [(Harm<'_>, &str); 8] = [
        (&|d| d.listen_port = 0, "1 to 65535"),
        (&|d| d.mtu = 575, "575 bytes: expected 576 to 8920"),
        (&|d| d.mtu = 8921, "8921 bytes: expected 576 to 8920"),
        (&|d| d.peers.extend([(OWN, peer(9))]), "is this host itself"),
        (&|d| first(d, &|p| p.endpoint.set_port(0)), "cannot be reached at 192.0.0.1:0"),
        (&|d| first(d, &|p| p.endpoint = addr("0.0.0.0:1")), "cannot be reached at 0.0.0.0:1"),
        (&|d| first(d, &|p| p.keepalive = Some(Duration::from_millis(1500))), "whole seconds"),
        (&|d| first(d, &|p| p.allowed.extend([net("10.0.0.2/32")])), "both claim 10.0.0.2/32"),
    ];
    for (refused, expected) in table {
        let text = change(refused).unwrap_err();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn an_answer_is_read_as_devices_write_it() {
    let public = hex::encode([7; 32]);
    let text = format!(
        "private_key={}\nlisten_port=51820\nfwmark=0\npublic_key={public}\npreshared_key={}\n\
         endpoint=[2001:db8::1]:51820\npersistent_keepalive_interval=25\n\
         last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\nrx_bytes=1\ntx_bytes=2\n\
         allowed_ip=10.0.0.1/32\nallowed_ip=fd00::/64\nof_the_future=1\npublic_key={}\n\
         last_handshake_time_sec=0\npersistent_keepalive_interval=0\nerrno=0\n\n",
        hex::encode([9; 32]),
        hex::encode([0; 32]),
        hex::encode([8; 32]),
    );
    let seen = SeenPeer {
        endpoint: Some(addr("[2001:db8::1]:51820")),
        allowed: [net("10.0.0.1/32"), net("fd00::/64")].into(),
        keepalive: Some(Duration::from_secs(25)),
        handshake_age: None,
        rx_bytes: 1,
        tx_bytes: 2,
    };
    let handshake = Some(Duration::from_secs(1_700_000_000));
    let expected = Answer {
        private_key: Some([9; 32]),
        listen_port: Some(51820),
        peers: [
            (TunnelKey([7; 32]), (seen, handshake)),
            (TunnelKey([8; 32]), (SeenPeer::default(), None)),
        ]
        .into(),
    };
    assert!(uapi::answer(&text) == Ok(expected));
}

#[test]
fn an_answer_that_is_none_says_where_and_never_a_value() {
    let line = |line, key: &str| AnswerError::Line { line, key: key.to_owned() };
    let table = [
        ("", AnswerError::CutOff),
        ("listen_port=1\n", AnswerError::CutOff),
        ("errno=98\n\n", AnswerError::Errno(98)),
        ("errno=x\n", line(1, "errno")),
        ("listen_port=65536\nerrno=0\n", line(1, "listen_port")),
        ("private_key=secret\nerrno=0\n", line(1, "private_key")),
        ("fwmark=1\npublic_key=00\nerrno=0\n", line(2, "public_key")),
    ];
    for (text, expected) in table {
        let Err(error) = uapi::answer(text) else { panic!("{text:?} is understood") };
        assert_eq!(error, expected, "{text:?}");
        assert!(!error.to_string().contains("secret"));
    }
}

fn some_nets() -> impl Strategy<Value = BTreeSet<IpNet>> {
    let net = (0..6_u8, 30..=32_u8).prop_map(|(low, len)| net(&format!("10.0.0.{low}/{len}")));
    proptest::collection::btree_set(net, 0..4)
}

fn some_desired() -> impl Strategy<Value = Desired> {
    let peer = (1..4_u16, some_nets(), proptest::option::of(1..3_u64));
    let address = proptest::option::of((1..3_u8).prop_map(|last| [10, 9, 0, last].into()));
    let peers = proptest::collection::btree_map(1..6_u16, peer, 0..5);
    (peers, 1..3_u16, 1400..1402_u32, address).prop_map(|(peers, listen_port, mtu, address)| {
        let mut claimed = BTreeSet::new();
        let peers = peers.into_iter().map(|(number, (port, nets, keepalive))| {
            let endpoint = addr(&format!("192.0.2.1:{port}"));
            let nets = nets.iter().map(IpNet::trunc).filter(|net| claimed.insert(*net));
            let keepalive = keepalive.map(Duration::from_secs);
            (key(number), TunnelPeer { endpoint, allowed: nets.collect(), keepalive })
        });
        Desired { listen_port, mtu, address, peers: peers.collect() }
    })
}

fn some_kind() -> impl Strategy<Value = TunnelKind> {
    prop_oneof![Just(TunnelKind::Kernel), Just(TunnelKind::Userspace)]
}

fn some_link() -> impl Strategy<Value = Option<Link>> {
    let kind = prop_oneof![Just(LinkKind::Wireguard), Just(LinkKind::Tun), Just(LinkKind::Other)];
    let link = (kind, any::<bool>(), 1400..1402_u32);
    proptest::option::of(link.prop_map(|(kind, up, mtu)| Link { kind, up, mtu }))
}

/// Whether the host is as desired; where a peer is heard from is its own affair.
fn is(observed: &Observed, kind: TunnelKind, desired: &Desired) -> bool {
    let device = observed.device.clone().unwrap_or_default();
    let peers = device.peers.iter().map(|(key, seen)| (*key, (&seen.allowed, seen.keepalive)));
    let wanted = desired.peers.iter().map(|(key, peer)| (*key, (&peer.allowed, peer.keepalive)));
    let link_kind = if kind == TunnelKind::Kernel { LinkKind::Wireguard } else { LinkKind::Tun };
    observed.link == Some(Link { kind: link_kind, up: true, mtu: desired.mtu })
        && desired.address.is_none_or(|own| observed.addresses == [Ipv4Net::from(own)].into())
        && observed.process == (kind == TunnelKind::Userspace)
        && device.key == Some(OWN)
        && device.listen_port == Some(desired.listen_port)
        && peers.collect::<BTreeMap<_, _>>() == wanted.collect()
}

proptest! {
    /// From whatever there was, cut off anywhere, the next plan leads to what is desired, and the one after
    /// that has nothing to do.
    #[test]
    fn a_plan_cut_off_anywhere_is_finished_by_the_next(
        before in some_desired(),
        was in some_kind(),
        after in some_desired(),
        kind in some_kind(),
        link in proptest::option::of(some_link()),
        process in any::<bool>(),
        answers in any::<bool>(),
        cut in 0..8_usize,
        remembers in any::<bool>(),
    ) {
        prop_assert_eq!(after.check(OWN), Ok(()));
        let mut observed = settled(was, &before);
        observed.process &= process;
        observed.link = link.unwrap_or(observed.link);
        observed.device = observed.device.filter(|_| {
            answers && match was {
                TunnelKind::Kernel => observed.link.is_some_and(|l| l.kind == LinkKind::Wireguard),
                TunnelKind::Userspace => observed.process,
            }
        });
        let told = if remembers { before.told() } else { Told::new() };
        for action in plan(kind, OWN, &after, &told, &observed).iter().take(cut) {
            observed.perform(OWN, action);
        }
        for action in plan(kind, OWN, &after, &told, &observed.clone()) {
            observed.perform(OWN, &action);
        }
        prop_assert!(is(&observed, kind, &after), "{:?}", observed);
        prop_assert_eq!(plan(kind, OWN, &after, &after.told(), &observed), []);
    }

    #[test]
    fn whatever_a_device_says_is_read_or_refused(text in "([a-z_]{0,16}=?[0-9a-f:./=\\n]{0,40}\n){0,8}") {
        let _ = uapi::answer(&text);
    }
}
