//! What a container can say of IPv6 on a network that has it.

use std::net::Ipv6Addr;

use super::*;

/// A container with a socket for frames, on a network that has IPv6.
struct Six {
    speaker: Speaker,
    at: Ipv6Addr,
}

impl Six {
    async fn new(driver: &BridgeNetworks, name: &str) -> Self {
        let speaker = Speaker::new(driver, name).await;
        let attached = driver.attachments(name).remove(0);
        Self { speaker, at: attached.v6.unwrap().address.addr() }
    }

    fn mac(&self) -> [u8; 6] {
        self.speaker.mac
    }
}

/// A packet (RFC 8200), with the checksum of ICMPv6 and UDP, which are at the second and at the sixth byte.
fn packet(from: Ipv6Addr, to: Ipv6Addr, header: u8, body: &[u8], mark: &str) -> Vec<u8> {
    let mut body = [body, mark.as_bytes()].concat();
    body.resize(body.len().next_multiple_of(2), b' ');
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 0], &length, &[0, 0, 0, header], &body];
    let pseudo = pseudo.concat();
    let mut sum: u32 =
        pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let at = if header == 17 { 6 } else { 2 };
    body[at..at + 2].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
    let start = [&[0x60, 0, 0, 0][..], &length, &[header, 255]].concat();
    [&start[..], &from.octets(), &to.octets(), &body].concat()
}

fn datagram(ports: [u16; 2], mark: &str) -> Vec<u8> {
    let length = u16::try_from((8 + mark.len()).next_multiple_of(2)).unwrap();
    [ports[0], ports[1], length, 0].map(u16::to_be_bytes).concat()
}

/// RFC 4861, 4.3 and 4.4: who is asked for (135) or told of (136), with a hardware address.
fn neighbour(kind: u8, target: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let (flags, option) = if kind == 136 { (0xe0, 2) } else { (0, 1) };
    let start = [kind, 0, 0, 0, flags, 0, 0, 0];
    [&start[..], &target.octets(), &[option, 1], &mac].concat()
}

/// Frames and packets, with the mark by which each is known.
type Said = (&'static str, Vec<u8>);

/// Of a router (RFC 4861, 4.2).
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
const ALL: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What one container may not say, with the mark by which it is known.
fn lies(mallory: &Six, victim: &Six, friend: &Six, gateway: Ipv6Addr) -> Vec<Said> {
    let own = mallory.mac();
    let own_link = Mac(own).link_local();
    let friend_link = Mac(friend.mac()).link_local();
    let free = Ipv6Addr::from(u128::from(gateway) + 0x900);
    let foreign: Ipv6Addr = "2001:db8::66".parse().unwrap();
    let mut bad: Vec<Said> = Vec::new();
    let mut add = |mark: &'static str, mac: [u8; 6], from, to, header, body: &[u8]| {
        let packet = packet(from, to, header, body, mark);
        for at in [ALL_NODES, victim.mac()] {
            bad.push((mark, ether(at, mac, IPV6, &packet, "")));
        }
    };
    let sources = [
        ("<as friend>", friend.at),
        ("<as gateway>", gateway),
        ("<as the friend's link>", friend_link),
        ("<as nobody>", free),
        ("<as somebody far>", foreign),
        ("<without an address>", Ipv6Addr::UNSPECIFIED),
    ];
    for (mark, from) in sources {
        add(mark, own, from, victim.at, 17, &datagram([4000, 4000], mark));
    }
    let mark = "<with the friend's hardware address>";
    add(mark, friend.mac(), mallory.at, victim.at, 17, &datagram([4000, 4000], mark));
    // Behind another header, and with a tag.
    let hop = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &ADVERTISEMENT].concat();
    add("<router, hop by hop>", own, own_link, ALL, 0, &hop);
    bad.extend(lies_of_neighbours(mallory, victim, friend, gateway));
    let inner = packet(friend.at, victim.at, 17, &datagram([4000, 4000], "<tag>"), "<tag>");
    let tagged = [&[0, 0][..], &IPV6.to_be_bytes(), &inner].concat();
    bad.push(("<tag>", ether(victim.mac(), own, 0x8100, &tagged, "")));
    bad
}

/// What it says of neighbours, routers and addresses.
fn lies_of_neighbours(mallory: &Six, victim: &Six, friend: &Six, gateway: Ipv6Addr) -> Vec<Said> {
    let own = mallory.mac();
    let own_link = Mac(own).link_local();
    let free = Ipv6Addr::from(u128::from(gateway) + 0x900);
    let foreign: Ipv6Addr = "2001:db8::66".parse().unwrap();
    let mut bad: Vec<Said> = Vec::new();
    let mut add = |mark: &'static str, mac: [u8; 6], from, to, header, body: &[u8]| {
        let packet = packet(from, to, header, body, mark);
        for at in [ALL_NODES, victim.mac()] {
            bad.push((mark, ether(at, mac, IPV6, &packet, "")));
        }
    };
    for (mark, target) in [
        ("<friend is here>", friend.at),
        ("<gateway is here>", gateway),
        ("<nobody is here>", free),
    ] {
        add(mark, own, mallory.at, ALL, 58, &neighbour(136, target, own));
        add(mark, own, own_link, victim.at, 58, &neighbour(136, target, own));
    }
    let mark = "<is that the friend's?>";
    add(mark, own, Ipv6Addr::UNSPECIFIED, ALL, 58, &neighbour(135, friend.at, own)[..24]);
    for from in [own_link, mallory.at] {
        add("<router>", own, from, ALL, 58, &ADVERTISEMENT);
        let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &own_link.octets(), &foreign.octets()];
        add("<redirect>", own, from, victim.at, 58, &redirect.concat());
        let mark = "<dhcpv6 server>";
        add(mark, own, from, victim.at, 17, &datagram([547, 546], mark));
    }
    bad
}

/// What it may: speak as itself, by both of its addresses, say where it is, and that a packet is too big.
fn truths(mallory: &Six, victim: &Six) -> Vec<Said> {
    let own = mallory.mac();
    let own_link = Mac(own).link_local();
    let mut good = Vec::new();
    for (mark, from) in [("<itself>", mallory.at), ("<its link>", own_link)] {
        good.push((mark, packet(from, victim.at, 17, &datagram([4000, 4000], mark), mark)));
    }
    let mark = "<here it is>";
    good.push((mark, packet(own_link, ALL, 58, &neighbour(136, mallory.at, own), mark)));
    let mark = "<too big>";
    let too_big = [2, 0, 0, 0, 0, 0, 5, 0];
    good.push((mark, packet(mallory.at, victim.at, 58, &too_big, mark)));
    let mark = "<last>";
    good.push((mark, packet(mallory.at, victim.at, 17, &datagram([4000, 4000], mark), mark)));
    good
}

#[test]
fn a_container_speaks_for_its_own_addresses_alone() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        let config = NetworkConfig { ipv6: true, ..net("front") };
        let state = driver.ensure_network(config).await.unwrap();
        let IpAddr::V6(gateway) = state.subnets[1].gateway else { panic!("{state:?}") };
        let victim = Six::new(&driver, "victim").await;
        let friend = Six::new(&driver, "friend").await;
        let mallory = Six::new(&driver, "mallory").await;
        lab.host.ask(victim.at, 80);
        victim.speaker.space.ask(friend.at, 80);
        mallory.speaker.space.ask(victim.at, 80);
        let bad = lies(&mallory, &victim, &friend, gateway);
        for (_, frame) in &bad {
            mallory.speaker.say(frame);
        }
        let (own, good) = (mallory.mac(), truths(&mallory, &victim));
        for (_, packet) in &good {
            mallory.speaker.say(&ether(victim.mac(), own, IPV6, packet, ""));
        }
        let heard = victim.speaker.hear_until("<last>");
        let arrived = |all: &[(&'static str, Vec<u8>)]| -> BTreeSet<&'static str> {
            let marks = all.iter().map(|(mark, _)| *mark);
            marks.filter(|mark| heard.iter().any(|frame| has(frame, mark))).collect()
        };
        assert_eq!(arrived(&bad), BTreeSet::new());
        assert_eq!(arrived(&good).len(), good.len());
        // Nobody has learned anything from it.
        for (who, others) in
            [(&victim.speaker.space, [friend.at, gateway]), (&lab.host, [victim.at, friend.at])]
        {
            let neighbours = who.run("ip", &["-6", "neigh"]);
            for other in others {
                let line = neighbours.lines().find(|line| line.starts_with(&format!("{other} ")));
                assert!(!line.unwrap_or_default().contains(&Mac(own).to_string()), "{neighbours}");
            }
        }
        for speaker in [&victim, &friend, &mallory] {
            let space = &speaker.speaker.space;
            let addresses = space.run("ip", &["-6", "-o", "address", "show", "dev", "eth0"]);
            assert_eq!(addresses.lines().count(), 2, "{addresses}");
            let routes = space.run("ip", &["-6", "route", "show", "default"]);
            assert!(routes.starts_with(&format!("default via {gateway} ")), "{routes}");
            assert_eq!(routes.lines().count(), 1, "{routes}");
        }
        assert_eq!(victim.speaker.space.ask(friend.at, 80), victim.at.to_string());
    });
}
