//! Two hosts without a network: what one seals, the other opens.

#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::net::{Ipv4Addr, SocketAddr};

use bytes::BytesMut;
use gotatun::packet::Packet;
use gotatun::x25519::PublicKey;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rustix::io::Errno;

use super::flow::until_it_cannot;
use super::table::{Change, Table};
use super::udp::Addressed;

const MTU: u16 = 1420;

/// A host, its key and where it is.
struct Host {
    table: Table,
    key: PublicKey,
    at: SocketAddr,
    inner: Ipv4Addr,
}

impl Host {
    fn new(number: u8) -> Self {
        let mut table = Table::default();
        table.set_key([number; 32]);
        let key = gotatun::x25519::StaticSecret::from([number; 32]);
        let at = SocketAddr::from(([192, 0, 2, number], 51820));
        let inner = Ipv4Addr::new(10, 0, 0, number);
        Self { table, key: PublicKey::from(&key), at, inner }
    }

    /// Learns of a peer and of what it has.
    fn learn(&mut self, other: &Host, allowed: &[&str]) {
        if let Some(stranger) = self.table.stranger(other.key) {
            self.table.add(other.key, stranger);
        }
        let allowed = allowed.iter().map(|net| net.parse().unwrap()).collect();
        let change =
            Change { endpoint: Some(other.at), keepalive: None, replace_allowed: true, allowed };
        self.table.change(&other.key, &change);
    }

    fn seal(&self, packets: &[Vec<u8>]) -> Vec<Addressed> {
        let mut packets = packets.iter().map(|bytes| whole(bytes)).collect();
        let mut sealed = Vec::new();
        self.table.seal(&mut packets, MTU, &mut sealed);
        sealed
    }

    /// What it gets out of packets that come from there, and what it answers.
    fn open(&self, from: SocketAddr, packets: &[Addressed]) -> (Vec<Vec<u8>>, Vec<Addressed>) {
        let mut packets = packets.iter().map(|(packet, _)| (whole(packet), from)).collect();
        let (mut opened, mut answers) = (Vec::new(), Vec::new());
        self.table.open(&mut packets, MTU, &mut opened, |more| answers.append(more));
        (opened.iter().map(|packet| packet.to_vec()).collect(), answers)
    }
}

fn whole(bytes: &[u8]) -> Packet {
    Packet::from_bytes(BytesMut::from(bytes))
}

/// A packet of IPv4 with nothing but its number in it.
fn packet(from: Ipv4Addr, to: Ipv4Addr, number: u8) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 21, 0, 0, 0, 0, 64, 253, 0, 0];
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.push(number);
    bytes
}

/// Two that know each other.
fn two() -> (Host, Host) {
    let (mut one, mut two) = (Host::new(1), Host::new(2));
    one.learn(&two, &["10.0.0.2/32"]);
    two.learn(&one, &["10.0.0.1/32"]);
    (one, two)
}

/// Keys are agreed on, after a packet with this number that gets there.
fn agreed() -> (Host, Host) {
    let (one, two) = two();
    let sent = packet(one.inner, two.inner, 0);
    let asks = one.seal(std::slice::from_ref(&sent));
    let (_, answers) = two.open(one.at, &asks);
    let (_, data) = one.open(two.at, &answers);
    assert_eq!(two.open(one.at, &data).0, [sent]);
    (one, two)
}

#[test]
fn what_has_waited_for_keys_comes_after_them_in_order() {
    let (one, two) = two();
    let sent: Vec<_> = (0..9).map(|number| packet(one.inner, two.inner, number)).collect();
    let asks = one.seal(&sent);
    assert_eq!(asks.len(), 1, "one handshake for all of them");
    let (opened, answers) = two.open(one.at, &asks);
    assert_eq!((opened.len(), answers.len()), (0, 1));
    let (opened, data) = one.open(two.at, &answers);
    assert!(opened.is_empty());
    let (opened, answers) = two.open(one.at, &data);
    assert_eq!((opened, answers.len()), (sent, 0));
    // The other way without another handshake.
    let answer = packet(two.inner, one.inner, 7);
    let sealed = two.seal(std::slice::from_ref(&answer));
    assert_eq!(one.open(two.at, &sealed).0, [answer]);
}

#[test]
fn nobody_uses_a_session_before_the_answer_is_sent_by_which_the_other_one_has_it() {
    let (one, two) = two();
    let mut asks = one.seal(&[packet(one.inner, two.inner, 1)]);
    asks.iter_mut().for_each(|(_, from)| *from = one.at);
    let mut sent = 0;
    two.table.open(&mut asks, MTU, &mut Vec::new(), |answers| {
        assert!(two.table.at(one.inner.into()).unwrap().is_held());
        sent += answers.len();
    });
    assert_eq!(sent, 1);
    assert!(!two.table.at(one.inner.into()).unwrap().is_held());
}

#[test]
fn what_comes_twice_is_believed_once() {
    let (one, two) = agreed();
    let sent = packet(one.inner, two.inner, 1);
    let sealed = one.seal(std::slice::from_ref(&sent));
    assert_eq!(two.open(one.at, &sealed).0, [sent]);
    assert_eq!(two.open(one.at, &sealed).0, Vec::<Vec<u8>>::new());
}

#[test]
fn who_sends_from_an_address_of_others_is_not_believed() {
    let (one, mut two) = agreed();
    let foreign = Ipv4Addr::new(10, 0, 0, 3);
    let forged = one.seal(&[packet(foreign, two.inner, 1)]);
    assert_eq!(forged.len(), 1);
    assert_eq!(two.open(one.at, &forged).0, Vec::<Vec<u8>>::new(), "nobody's");
    two.learn(&Host::new(3), &["10.0.0.3/32"]);
    let forged = one.seal(&[packet(foreign, two.inner, 2)]);
    assert_eq!(two.open(one.at, &forged).0, Vec::<Vec<u8>>::new(), "another's");
    // What is not of IP, or shorter than it says.
    let mut short = packet(one.inner, two.inner, 3);
    short[3] = 99;
    let odd = one.seal(&[short]);
    assert_eq!(two.open(one.at, &odd).0, Vec::<Vec<u8>>::new());
}

#[test]
fn a_peer_is_answered_where_it_has_proved_to_be() {
    let (one, two) = agreed();
    let elsewhere = SocketAddr::from(([198, 51, 100, 9], 7));
    let sealed = one.seal(&[packet(one.inner, two.inner, 1)]);
    // Somebody who only repeats it is nowhere.
    two.open(one.at, &sealed);
    two.open(elsewhere, &sealed);
    let answer = packet(two.inner, one.inner, 2);
    let to = |sealed: Vec<Addressed>| sealed.iter().map(|(_, to)| *to).collect::<Vec<_>>();
    assert_eq!(to(two.seal(std::slice::from_ref(&answer))), [one.at]);
    two.open(elsewhere, &one.seal(&[packet(one.inner, two.inner, 3)]));
    assert_eq!(to(two.seal(&[answer])), [elsewhere]);
}

#[test]
fn what_is_broken_on_its_way_or_from_strangers_comes_to_nothing() {
    let (one, two) = agreed();
    let mut random = StdRng::seed_from_u64(7);
    let mut stranger = Host::new(9);
    stranger.learn(&two, &["10.0.0.2/32"]);
    let asks = stranger.seal(&[packet(stranger.inner, two.inner, 1)]);
    let (opened, answers) = two.open(stranger.at, &asks);
    assert_eq!((opened.len(), answers.len()), (0, 0), "a stranger is not answered");
    for round in 0..2000 {
        let sealed = match round % 3 {
            0 => vec![(whole(&asks[0].0), two.at)],
            _ => one.seal(&[packet(one.inner, two.inner, 1)]),
        };
        let mut bytes = sealed[0].0.to_vec();
        match round % 4 {
            0 => bytes.truncate(random.random_range(0..bytes.len())),
            1 => bytes = (0..random.random_range(0..200)).map(|_| random.random()).collect(),
            _ => {
                // Nobody reads the three bytes after the first one.
                let at = (random.random_range(0..bytes.len() - 3) + 4) % bytes.len();
                bytes[at] ^= 1 << random.random_range(0..8);
            }
        }
        let (opened, answers) = two.open(one.at, &[(whole(&bytes), one.at)]);
        assert_eq!((opened.len(), answers.len()), (0, 0), "{bytes:?}");
    }
}

#[test]
fn many_handshakes_from_one_address_have_to_prove_that_they_are_from_there() {
    let (_, two) = two();
    let mut last = 0;
    for _ in 0..200 {
        let mut again = Host::new(1);
        again.learn(&two, &["10.0.0.2/32"]);
        let asks = again.seal(&[packet(again.inner, two.inner, 1)]);
        let (_, answers) = two.open(again.at, &asks);
        last = answers.first().map_or(last, |(answer, _)| answer[0]);
    }
    assert_eq!(last, 3, "a cookie (section 5.4.7 of the paper)");
}

#[test]
fn an_address_is_of_who_was_given_it_last() {
    let mut host = Host::new(1);
    let (two, three) = (Host::new(2), Host::new(3));
    let (wide, narrow) = ("10.0.0.0/24", "10.0.0.7/32");
    host.learn(&two, &[wide, narrow]);
    host.learn(&three, &[narrow]);
    let nets = |host: &Host, of: &Host| {
        let (_, peer) = host.table.peers().find(|(key, _)| **key == of.key).unwrap();
        peer.link().allowed().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        (nets(&host, &two), nets(&host, &three)),
        (vec![wide.to_owned()], vec![narrow.to_owned()])
    );
    let to = |host: &Host, last: u8| {
        let sealed = host.seal(&[packet(host.inner, Ipv4Addr::new(10, 0, 0, last), 1)]);
        sealed.first().map(|(_, to)| *to)
    };
    assert_eq!((to(&host, 7), to(&host, 8)), (Some(three.at), Some(two.at)));
    host.table.remove(&three.key);
    // What waits for keys is not asked for them again.
    assert_eq!(
        host.table.at([10, 0, 0, 7].into()).map(|peer| peer.link().endpoint),
        Some(Some(two.at))
    );
    host.learn(&two, &[]);
    assert!(host.table.at([10, 0, 0, 8].into()).is_none());
}

#[test]
fn another_key_ends_what_was_agreed_on_and_the_same_one_does_not() {
    let (mut one, two) = agreed();
    one.table.set_key([1; 32]);
    assert_eq!(one.seal(&[packet(one.inner, two.inner, 1)])[0].0[0], 4, "data");
    one.table.set_key([5; 32]);
    assert_eq!(one.seal(&[packet(one.inner, two.inner, 1)])[0].0[0], 1, "a handshake");
}

#[test]
fn a_thread_that_panics_is_heard_of_as_one_that_cannot_go_on() {
    assert!(until_it_cannot(|| Errno::BADFD).contains("interface was deleted"));
    assert_eq!(until_it_cannot(|| std::panic::panic_any(())), "one of its threads panicked");
}
