//! What a container can say to its neighbours, frame by frame.

mod six;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use shoal_agent_ground::testing::skip_without_root;
use shoal_agent_planning::network::Mac;

use super::*;
use shoal_agent_container::sys::packet::packet_socket;

/// How long a frame that must arrive may take.
const PATIENCE: Duration = Duration::from_secs(10);

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const EVERYBODY: [u8; 6] = [0xff; 6];
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// A container with a socket for frames.
struct Speaker {
    space: Space,
    at: Ipv4Addr,
    mac: [u8; 6],
    socket: OwnedFd,
}

impl Speaker {
    async fn new(driver: &BridgeNetworks, name: &str) -> Self {
        let space = Space::new(name);
        let attached = driver.attach(request(name, "front"), space.netns()).await.unwrap();
        space.serve(80);
        let line = space.run("ip", &["-o", "link", "show", "eth0"]);
        let index = line.split(':').next().unwrap().parse().unwrap();
        let socket = space.enter(|| packet_socket(index).unwrap());
        let timeout = Some(Duration::from_millis(200));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, timeout).unwrap();
        Self {
            space,
            at: attached.v4.as_ref().unwrap().address.addr(),
            mac: attached.mac.0,
            socket,
        }
    }

    fn say(&self, frame: &[u8]) {
        assert_eq!(send(&self.socket, frame, SendFlags::empty()).unwrap(), frame.len());
    }

    /// Every frame that arrives up to one with this mark.
    fn hear_until(&self, mark: &str) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while Instant::now() < deadline {
            let mut frame = vec![0; 2048];
            let Ok((len, _)) = recv(&self.socket, &mut frame, RecvFlags::empty()) else { continue };
            frame.truncate(len);
            let last = has(&frame, mark);
            heard.push(frame);
            if last {
                return heard;
            }
        }
        panic!("{mark} did not arrive");
    }
}

fn has(frame: &[u8], mark: &str) -> bool {
    frame.windows(mark.len()).any(|window| window == mark.as_bytes())
}

fn ether(to: [u8; 6], from: [u8; 6], kind: u16, body: &[u8], mark: &str) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes(), body, mark.as_bytes(), &[0; 32]].concat()
}

/// RFC 826; `operation` 1 asks, 2 answers.
fn arp(operation: u16, mac: [u8; 6], ip: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let start = [0, 1, 8, 0, 6, 4];
    [&start[..], &operation.to_be_bytes(), &mac, &ip.octets(), &[0; 6], &to.octets()].concat()
}

/// A UDP datagram without a checksum (RFC 768) in a packet with one (RFC 791); the mark is its
/// data.
fn udp(from: Ipv4Addr, to: Ipv4Addr, ports: [u16; 2], mark: &str) -> Vec<u8> {
    let length = u16::try_from(28 + mark.len() + 32).unwrap();
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[8..10].copy_from_slice(&[64, 17]);
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let sum: u32 =
        header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let datagram = [ports[0], ports[1], length - 20, 0].map(u16::to_be_bytes).concat();
    [&header[..], &datagram].concat()
}

/// An IPv6 packet from a link-local address to all nodes. The mark belongs to its body: what comes
/// after a packet is cut off on the way.
fn ipv6(next_header: u8, body: &[u8], mark: &str) -> Vec<u8> {
    let body = [body, mark.as_bytes()].concat();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let mut from = [0; 16];
    from[..2].copy_from_slice(&[0xfe, 0x80]);
    from[15] = 0x66;
    let mut to = [0; 16];
    to[..2].copy_from_slice(&[0xff, 0x02]);
    to[15] = 1;
    [&[0x60, 0, 0, 0][..], &length, &[next_header, 255], &from, &to, &body].concat()
}

/// RFC 4861, 4.2, with a prefix for everybody and a lifetime as a router.
fn router_advertisement() -> Vec<u8> {
    let mut body = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    body.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    body.extend([0x20, 0x01, 0x0d, 0xb8, 0x0b, 0xad, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // The checksum of RFC 4443, 2.3: over addresses, length, header number and body.
    let packet = ipv6(58, &body, "");
    let pseudo = [&packet[8..40], &[0, 0, 0, 48, 0, 0, 0, 58], &body[..]].concat();
    let mut sum: u32 =
        pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6(58, &body, "")
}

/// What one container may not say, with the mark by which it is known.
fn lies(
    mallory: &Speaker,
    victim: &Speaker,
    friend: &Speaker,
    gateway: Ipv4Addr,
) -> Vec<(&'static str, Vec<u8>)> {
    let own = mallory.mac;
    let gateway_mac = Mac::of_address(gateway.into()).0;
    let mut bad: Vec<(&'static str, Vec<u8>)> = Vec::new();
    let mut add = |mark: &'static str, to, from, kind, body: &[u8]| {
        bad.push((mark, ether(to, from, kind, body, mark)));
    };
    // Sent as it is, it would be believed; with the mark it is seen.
    add("<genuine>", ALL_NODES, own, IPV6, &router_advertisement());
    let kinds: [(&str, u8, [u8; 8]); 4] = [
        ("<router advertisement>", 58, [134, 0, 0, 0, 64, 0, 7, 8]),
        ("<router solicitation>", 58, [133, 0, 0, 0, 0, 0, 0, 0]),
        ("<dhcpv6>", 17, [2, 35, 2, 34, 0, 28, 0, 0]),
        ("<tcp over ipv6>", 6, [0x0f, 0xa0, 0, 80, 0, 0, 0, 1]),
    ];
    for (mark, header, body) in kinds {
        add(mark, ALL_NODES, own, IPV6, &ipv6(header, &body, mark));
        add(mark, victim.mac, own, IPV6, &ipv6(header, &body, mark));
    }
    for (operation, to) in [(1, EVERYBODY), (2, victim.mac)] {
        add("<gateway>", to, own, ARP, &arp(operation, own, gateway, victim.at));
        add("<friend>", to, own, ARP, &arp(operation, own, friend.at, victim.at));
        add("<as friend>", to, friend.mac, ARP, &arp(operation, friend.mac, friend.at, victim.at));
        add("<half friend>", to, own, ARP, &arp(operation, friend.mac, friend.at, victim.at));
        add("<as gateway>", to, gateway_mac, ARP, &arp(operation, gateway_mac, gateway, victim.at));
    }
    // One tag or several that the kernel takes off, with a priority and without.
    let tags: [(&str, &[u16]); 8] = [
        ("<802.1Q>", &[0x8100, 0]),
        ("<802.1Q, urgent>", &[0x8100, 0xe000]),
        ("<802.1ad>", &[0x88a8, 0]),
        ("<802.1ad, urgent>", &[0x88a8, 0xe000]),
        ("<802.1ad, 802.1Q>", &[0x88a8, 0, 0x8100, 0]),
        ("<802.1ad twice>", &[0x88a8, 0, 0x88a8, 0]),
        ("<802.1Q, 802.1ad>", &[0x8100, 0, 0x88a8, 0]),
        ("<802.1ad, 802.1Q twice>", &[0x88a8, 0, 0x8100, 0, 0x8100, 0]),
    ];
    for (mark, tag) in tags {
        let mut add = |to, kind: u16, body: &[u8]| {
            let inner = tag[1..].iter().chain([&kind]).flat_map(|n| n.to_be_bytes());
            let inner: Vec<u8> = inner.chain(body.iter().copied()).collect();
            add(mark, to, own, tag[0], &inner);
        };
        for operation in [1, 2] {
            add(victim.mac, ARP, &arp(operation, own, gateway, victim.at));
            add(EVERYBODY, ARP, &arp(operation, own, friend.at, victim.at));
            add(gateway_mac, ARP, &arp(operation, own, friend.at, gateway));
            add(gateway_mac, ARP, &arp(operation, own, victim.at, gateway));
        }
        add(victim.mac, IPV4, &udp(friend.at, victim.at, [4000, 4000], mark));
    }
    let ports = [4000, 4000];
    let mark = "<address of the friend>";
    add(mark, victim.mac, own, IPV4, &udp(friend.at, victim.at, ports, mark));
    let mark = "<hardware address of the friend>";
    add(mark, victim.mac, friend.mac, IPV4, &udp(mallory.at, victim.at, ports, mark));
    let mark = "<dhcp server>";
    add(mark, EVERYBODY, own, IPV4, &udp(mallory.at, Ipv4Addr::BROADCAST, [67, 68], mark));
    bad
}

#[test]
fn a_container_speaks_for_nobody_else() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        let state = driver.ensure_network(net("front")).await.unwrap();
        let victim = Speaker::new(&driver, "victim").await;
        let friend = Speaker::new(&driver, "friend").await;
        let mallory = Speaker::new(&driver, "mallory").await;
        let gateway = gateway(&state);
        // Everybody knows everybody, and so does the host.
        lab.host.ask(victim.at, 80);
        lab.host.ask(friend.at, 80);
        victim.space.ask(friend.at, 80);
        mallory.space.ask(victim.at, 80);
        let bad = lies(&mallory, &victim, &friend, gateway);
        for (_, frame) in &bad {
            mallory.say(frame);
        }
        // What it may: speak for itself, and for an address that nobody has been given.
        let free = Ipv4Addr::new(172, 20, 0, 200);
        let own = mallory.mac;
        let good = ether(EVERYBODY, own, ARP, &arp(1, own, free, victim.at), "<free address>");
        mallory.say(&good);
        let last = udp(mallory.at, victim.at, [4000, 4000], "<itself>");
        mallory.say(&ether(victim.mac, own, IPV4, &last, "<itself>"));
        let heard = victim.hear_until("<itself>");
        assert!(heard.iter().any(|frame| has(frame, "<free address>")));
        let arrived: BTreeSet<&str> = bad
            .iter()
            .map(|(mark, _)| *mark)
            .filter(|mark| heard.iter().any(|frame| has(frame, mark)))
            .collect();
        assert_eq!(arrived, BTreeSet::new());
        assert_eq!(victim.space.run("ip", &["-6", "-o", "address", "show", "dev", "eth0"]), "");
        // Nor did the kernel of the victim learn anything, nor the bridge.
        for (who, others) in
            [(&victim.space, vec![friend.at]), (&lab.host, vec![victim.at, friend.at])]
        {
            let neighbours = who.run("ip", &["neigh"]);
            let is_at = |ip: Ipv4Addr, mac: Mac| {
                let (ip, mac) = (format!("{ip} "), mac.to_string());
                neighbours.lines().any(|l| l.starts_with(&ip) && l.contains(&mac))
            };
            for other in others {
                assert!(is_at(other, Mac::of_address(other.into())), "{neighbours}");
            }
            for other in [gateway, victim.at, friend.at] {
                assert!(!is_at(other, Mac(own)), "{neighbours}");
            }
        }
        assert_eq!(victim.space.ask(friend.at, 80), victim.at.to_string());
        for speaker in [&victim, &friend, &mallory] {
            let addresses =
                speaker.space.run("ip", &["-6", "-o", "address", "show", "dev", "eth0"]);
            assert_eq!(addresses, "");
            assert_eq!(speaker.space.run("ip", &["-6", "route", "show", "default"]), "");
        }
    });
}

#[test]
fn whoever_is_on_two_networks_may_use_both_addresses() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        driver.ensure_network(net("back")).await.unwrap();
        let (both, at) = container(&driver, "both", &["front", "back"]).await;
        let (front, front_at) = container(&driver, "front", &["front"]).await;
        let (back, back_at) = container(&driver, "back", &["back"]).await;
        assert_eq!(both.ask(front_at[0], 80), at[0].to_string());
        assert_eq!(both.ask(back_at[0], 80), at[1].to_string());
        assert_eq!(front.ask(at[0], 80), front_at[0].to_string());
        assert_eq!(back.ask(at[1], 80), back_at[0].to_string());
    });
}
