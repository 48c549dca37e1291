//! Large packets: what the kernel hands over at once is cut before it is encrypted, and joined again after.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::thread;

use nix::sys::socket::{setsockopt, sockopt};
use shoal_agent_planning::tunnel::MTU;
use shoal_agent_tunnel::Tunnel as _;
use shoal_agent_tunnel::contract::Harm as _;

use crate::lab::{Host, PATIENCE, able, able_with_process, block_on, pair, until};
use crate::packets::next;
use crate::wire::{DATA, Listener, is_fragment, message};

/// Bytes of a stream.
const STREAM: usize = 8 << 20;
/// Bytes of the headers of UDP and of its IP.
const HEADERS: usize = 28;

/// What a stream says: no two parts of it are alike.
fn text(seed: u32) -> Vec<u8> {
    (0..STREAM as u32 / 4).flat_map(|at| (at ^ seed.rotate_left(16)).to_be_bytes()).collect()
}

/// Sends a stream from one host to the other, and one back at the same time.
pub(crate) fn stream(from: &Host, to: &Host, at: IpAddr) {
    let listener = to.space.enter(|| TcpListener::bind((at, 7001)).unwrap());
    let address = listener.local_addr().unwrap();
    let client = from.space.enter(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
    let (served, _) = listener.accept().unwrap();
    let both = |mut stream: &TcpStream, own: u32, other: u32| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || stream.write_all(&text(own)).unwrap());
            let mut received = vec![0; STREAM];
            stream.read_exact(&mut received).unwrap();
            assert!(received == text(other));
        });
    };
    thread::scope(|scope| {
        scope.spawn(|| both(&client, 1, 2));
        both(&served, 2, 1);
    });
}

/// Bytes of a packet that is on the interface, if it is of TCP from there.
fn tcp(frame: &[u8], from: &Host) -> Option<usize> {
    let v4 = frame.first()? >> 4 == 4 && frame.get(9) == Some(&6);
    (v4 && frame.get(12..16)? == from.inner().octets()).then_some(frame.len())
}

#[test]
fn a_stream_arrives_whole_in_packets_that_are_large_inside_and_fit_the_wire_outside() {
    if !able() {
        return;
    }
    let (one, two) = pair();
    let mut insides = [Listener::new(&one, &one.ifname), Listener::new(&two, &two.ifname)];
    let mut wire = Listener::new(&two, "up0");
    stream(&one, &two, two.inner().into());
    for inside in &mut insides {
        for host in [&one, &two] {
            let large = inside.count(|frame| tcp(frame, host) > Some(MTU as usize));
            assert!(large > 10, "{large} large packets of {}", host.inner());
        }
    }
    let data = |frame: &[u8]| message(frame, &one) == Some(DATA);
    assert!(wire.count(data) > 10);
    assert_eq!(wire.count(is_fragment), 0, "they fit the wire");
}

#[test]
fn so_does_one_over_ipv6() {
    if !able() {
        return;
    }
    let (one, two) = pair();
    let address =
        |host: &Host| -> IpAddr { format!("fd00::{}", host.inner().octets()[3]).parse().unwrap() };
    for (host, other) in [(&one, &two), (&two, &one)] {
        let mut desired = host.desired(&[other]);
        let peer = desired.peers.get_mut(&other.key()).unwrap();
        peer.allowed.insert(address(other).into());
        block_on(host.tunnel.ensure(desired)).unwrap();
        let own = format!("{}/128", address(host));
        host.space.run("ip", &["address", "add", &own, "dev", &host.ifname, "nodad"]);
        host.space.run("ip", &["route", "add", "fd00::/64", "dev", &host.ifname]);
    }
    stream(&one, &two, address(&two));
}

#[test]
fn what_does_not_fit_the_way_is_cut_once_more() {
    if !able() {
        return;
    }
    let (one, two) = pair();
    for host in [&one, &two] {
        host.space.run("ip", &["link", "set", "up0", "mtu", "1280"]);
    }
    stream(&one, &two, two.inner().into());
}

/// As after an upgrade of the agent: the interface is the one that another process has had.
#[test]
fn the_next_process_takes_the_interface_over_with_large_packets() {
    if !able_with_process() {
        return;
    }
    let (one, two) = pair();
    let (index, process) = (one.index(&one.ifname), one.process().unwrap());
    one.kill();
    until("the end of the process", || (!process.exists()).then_some(()));
    one.ensure(&[&two]);
    assert_eq!(one.index(&one.ifname), index);
    stream(&one, &two, two.inner().into());
}

#[test]
fn datagrams_stay_what_they_were_however_they_are_handed_over() {
    if !able() {
        return;
    }
    let (one, two) = pair();
    let (from, to) = (one.socket(7000), two.socket(7000));
    let at = to.local_addr().unwrap();
    // Keys are agreed on first, and what waits for them meanwhile arrives.
    from.send_to(b"hello", at).unwrap();
    assert_eq!(next(&to), b"hello");
    for size in [1, 200, MTU as usize - HEADERS] {
        let all: Vec<Vec<u8>> = (0..40_u8).map(|number| vec![number; size]).collect();
        for datagram in &all {
            from.send_to(datagram, at).unwrap();
        }
        assert!(all.iter().all(|datagram| next(&to) == *datagram), "{size}");
    }
    // As one, which the kernel leaves to the tunnel to cut where it can.
    setsockopt(&from, sockopt::UdpGsoSegment, &500).unwrap();
    let large: Vec<u8> = (0..4200_u32).map(|at| at as u8).collect();
    from.send_to(&large, at).unwrap();
    assert!(large.chunks(500).all(|datagram| next(&to) == datagram));
}

#[test]
fn what_comes_while_the_process_has_no_turn_waits_for_it() {
    if !able_with_process() {
        return;
    }
    let (one, two) = pair();
    let (from, to) = (one.socket(7000), two.socket(7000));
    setsockopt(&to, sockopt::RcvBufForce, &(16 << 20)).unwrap();
    let at = to.local_addr().unwrap();
    from.send_to(b"hello", at).unwrap();
    assert_eq!(next(&to), b"hello");
    let process = one.process().unwrap();
    // SIGSTOP, and SIGCONT below (signal(7)).
    process.signal(19).unwrap();
    for number in 1..=3000_u32 {
        from.send_to(&number.to_be_bytes(), at).unwrap();
    }
    process.signal(18).unwrap();
    for number in 1..=3000_u32 {
        assert_eq!(next(&to), number.to_be_bytes());
    }
}
