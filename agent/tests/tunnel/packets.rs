//! What passes the tunnel, and what does not.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use shoal_agent_planning::tunnel::PORT;
use shoal_agent_tunnel::Tunnel as _;
use shoal_agent_tunnel::contract::Harm as _;
use shoal_types::object::TunnelKey;

use crate::lab::{Host, able, able_with_process, block_on, pair, until, wire};
use crate::wire::{DATA, INITIATION, Listener, has, message};

const SECRET: &[u8] = b"nobody on the wire may read this";

/// The next datagram.
pub(crate) fn next(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let len = socket.recv(&mut buffer).unwrap();
    buffer[..len].to_vec()
}

/// Asks until it is answered: who sends first has no keys yet, and waits for them.
fn reach(from: &UdpSocket, to: &UdpSocket, word: &[u8]) {
    from.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    to.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let at = to.local_addr().unwrap();
    until("a datagram through the tunnel", || {
        from.send_to(word, at).unwrap();
        let mut buffer = [0; 2048];
        let len = to.recv(&mut buffer).ok()?;
        (buffer[..len] == *word).then_some(())
    });
    for socket in [from, to] {
        socket.set_read_timeout(Some(crate::lab::PATIENCE)).unwrap();
    }
}

#[test]
fn packets_of_every_size_pass_and_none_can_be_read_on_the_wire() {
    if !able() {
        return;
    }
    let (one, two) = pair();
    let mut wire = Listener::new(&two, "up0");
    let mut inside = Listener::new(&two, &two.ifname);
    let (from, to) = (one.socket(7000), two.socket(7000));
    reach(&from, &to, SECRET);
    // 28 bytes of headers; with 1420 inside nothing is cut into pieces.
    for size in [SECRET.len(), 1000, 1420 - 28] {
        let word: Vec<u8> = SECRET.iter().copied().cycle().take(size).collect();
        from.send_to(&word, to.local_addr().unwrap()).unwrap();
        assert_eq!(next(&to), word, "{size}");
    }
    let listener = two.space.enter(|| TcpListener::bind((two.inner(), 7001)).unwrap());
    let mut client = one.space.enter(|| TcpStream::connect((two.inner(), 7001)).unwrap());
    let (mut served, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), one.inner());
    let sent: Vec<u8> = SECRET.iter().copied().cycle().take(1 << 20).collect();
    let writer = std::thread::spawn(move || {
        client.write_all(&sent).unwrap();
        sent
    });
    let mut received = vec![0; 1 << 20];
    served.read_exact(&mut received).unwrap();
    assert!(received == writer.join().unwrap());

    inside.wait("the secret, inside", |frame| has(frame, SECRET));
    wire.wait("data", |frame| message(frame, &one) == Some(DATA));
    assert_eq!(wire.count(|frame| has(frame, SECRET)), 0);
    // All there is between the hosts is the tunnel, and how they find each other.
    let other = |frame: &[u8]| {
        let ipv4 = frame[12..14] == [8, 0];
        ipv4 && message(frame, &one).is_none() && message(frame, &two).is_none()
    };
    assert_eq!(wire.count(other), 0);
    let seen = block_on(one.tunnel.observe()).unwrap().unwrap().device;
    let peer = &seen.peers[&two.key()];
    assert!(peer.tx_bytes > 1 << 20, "{peer:?}");
    assert!(peer.handshake_age.is_some_and(|age| age < Duration::from_secs(60)), "{peer:?}");
}

#[test]
fn what_comes_from_an_address_that_is_not_the_peers_is_dropped() {
    if !able() {
        return;
    }
    let (one, two) = pair();
    let (from, to) = (two.socket(7000), one.socket(7000));
    reach(&from, &to, b"hello");
    let mut inside = Listener::new(&one, &one.ifname);
    two.space.run("ip", &["address", "add", "10.9.0.99/32", "dev", &two.ifname]);
    let spoof = two.space.enter(|| UdpSocket::bind((Ipv4Addr::new(10, 9, 0, 99), 7000)).unwrap());
    for _ in 0..10 {
        spoof.send_to(b"spoofed", to.local_addr().unwrap()).unwrap();
    }
    from.send_to(b"honest", to.local_addr().unwrap()).unwrap();
    assert_eq!(next(&to), b"honest");
    inside.wait("the honest one", |frame| has(frame, b"honest"));
    assert_eq!(inside.count(|frame| has(frame, b"spoofed")), 0);

    // The same once it is the peer's: it was the list that kept it out.
    let mut desired = one.desired(&[&two]);
    let peer = desired.peers.get_mut(&two.key()).unwrap();
    peer.allowed.insert("10.9.0.99/32".parse().unwrap());
    block_on(one.tunnel.ensure(desired)).unwrap();
    spoof.send_to(b"allowed", to.local_addr().unwrap()).unwrap();
    assert_eq!(next(&to), b"allowed");
}

#[test]
fn who_is_not_listed_gets_no_answer_and_a_replay_no_hearing() {
    if !able() {
        return;
    }
    let (one, two) = pair();
    let (from, to) = (two.socket(7000), one.socket(7000));
    reach(&from, &to, b"hello");

    let mut wire = Listener::new(&two, "up0");
    from.send_to(b"once", to.local_addr().unwrap()).unwrap();
    assert_eq!(next(&to), b"once");
    let data = wire.wait("data", |frame| message(frame, &two) == Some(DATA));
    let mut inside = Listener::new(&one, &one.ifname);
    for _ in 0..10 {
        wire.send(&data);
    }
    // As it is, and with a bit changed.
    let mut forged = data;
    *forged.last_mut().unwrap() ^= 1;
    wire.send(&forged);
    from.send_to(b"twice", to.local_addr().unwrap()).unwrap();
    assert_eq!(next(&to), b"twice");
    assert_eq!(inside.count(|frame| has(frame, b"once")), 0);

    // From now on the other is a stranger.
    block_on(one.tunnel.ensure(one.desired(&[]))).unwrap();
    block_on(two.tunnel.remove()).unwrap();
    two.ensure(&[&one]);
    two.address();
    let mut wire = Listener::new(&two, "up0");
    let from = two.socket(7001);
    let asked = |wire: &mut Listener| wire.count(|frame| message(frame, &two) == Some(INITIATION));
    // It asks again after five seconds, which the first one had for its answer.
    until("two attempts of the stranger", || {
        from.send_to(b"stranger", to.local_addr().unwrap()).unwrap();
        (asked(&mut wire) >= 2).then_some(())
    });
    assert_eq!(wire.count(|frame| message(frame, &one).is_some()), 0);
    assert_eq!(inside.count(|frame| has(frame, b"stranger")), 0);
}

/// Each task that comes or goes on a host is such a change.
#[test]
fn a_change_of_a_peer_costs_no_packet_and_no_new_keys() {
    if !able() {
        return;
    }
    let (one, two) = pair();
    let (from, to) = (two.socket(7000), one.socket(7000));
    reach(&from, &to, b"hello");
    let mut wire = Listener::new(&two, "up0");
    let mut desired = one.desired(&[&two]);
    let peer = two.key();
    for round in 0..20_u8 {
        let allowed = &mut desired.peers.get_mut(&peer).unwrap().allowed;
        let net = |round: u8| format!("10.9.1.{round}/32").parse().unwrap();
        allowed.insert(net(round));
        if round % 3 == 2 {
            allowed.remove(&net(round - 1));
        }
        desired.peers.insert(TunnelKey([round; 32]), {
            let mut other = desired.peers[&peer].clone();
            other.allowed = [format!("10.9.2.{round}/32").parse().unwrap()].into();
            other
        });
        block_on(one.tunnel.ensure(desired.clone())).unwrap();
        // One way: nothing that is said back makes up for lost keys.
        from.send_to(&[round], to.local_addr().unwrap()).unwrap();
        assert_eq!(next(&to), [round]);
    }
    let handshakes =
        |frame: &[u8]| [&one, &two].map(|host| message(frame, host)).contains(&Some(INITIATION));
    // Those of the peers that were added go elsewhere, but not from here: they have nothing to say.
    assert_eq!(wire.count(handshakes), 0);
}

#[test]
fn while_the_process_is_away_nothing_leaves_by_another_way() {
    if !able_with_process() {
        return;
    }
    let (one, two) = pair();
    // What is not for the tunnel goes to the other host in clear.
    one.space.run("ip", &["route", "add", "default", "via", &two.outer().to_string()]);
    let (from, to) = (one.socket(7000), two.socket(7000));
    reach(&from, &to, b"hello");
    let (index, mut wire) = (one.index(&one.ifname), Listener::new(&two, "up0"));
    let process = one.process().unwrap();
    one.kill();
    until("the end of the process", || (!process.exists()).then_some(()));
    for _ in 0..10 {
        // Whether it is refused or lost.
        let _ = from.send_to(SECRET, to.local_addr().unwrap());
    }
    // What is said in clear after it is there.
    let plain = one.space.enter(|| UdpSocket::bind((one.outer(), 0)).unwrap());
    plain.send_to(b"in clear", (two.outer(), 9)).unwrap();
    wire.wait("what is in clear", |frame| has(frame, b"in clear"));
    assert_eq!(wire.count(|frame| has(frame, SECRET)), 0);

    one.ensure(&[&two]);
    // The same interface, with its address and route.
    assert_eq!(one.index(&one.ifname), index);
    reach(&from, &to, b"again");
    assert_eq!(wire.count(|frame| has(frame, SECRET)), 0);
}

#[test]
fn a_peer_that_moves_is_followed_and_one_that_was_heard_elsewhere_is_left_there() {
    if !able() {
        return;
    }
    let (mut one, two) = pair();
    let (from, to) = (two.socket(7000), one.socket(7000));
    reach(&from, &to, b"hello");
    // It speaks from another address, as behind a NAT, and is answered there.
    let moved = Ipv4Addr::new(198, 51, 100, 77);
    // The kernel keeps the address that it has spoken from for as long as the host has it.
    two.space.run("ip", &["address", "flush", "dev", "up0"]);
    two.space.run("ip", &["address", "add", &format!("{moved}/24"), "dev", "up0"]);
    reach(&from, &to, b"from elsewhere");
    let at = |one: &Host| {
        let seen = block_on(one.tunnel.observe()).unwrap().unwrap().device;
        seen.peers[&two.key()].endpoint
    };
    until("the new place", || (at(&one) == Some((moved, PORT).into())).then_some(()));
    for _ in 0..2 {
        let done = block_on(one.tunnel.ensure(one.desired(&[&two]))).unwrap().done;
        assert_eq!(done, []);
        // Nobody remembers after a restart; it has been heard from.
        one.reopen();
    }
    // It is said to be somewhere else, which is new.
    let mut desired = one.desired(&[&two]);
    block_on(one.tunnel.ensure(desired.clone())).unwrap();
    let place = (Ipv4Addr::new(198, 51, 100, 78), PORT).into();
    desired.peers.get_mut(&two.key()).unwrap().endpoint = place;
    block_on(one.tunnel.ensure(desired)).unwrap();
    assert_eq!(at(&one), Some(place));
}

/// Nonsense on the socket harms nobody.
#[test]
fn what_is_no_request_is_refused_and_the_device_goes_on() {
    if !able_with_process() {
        return;
    }
    let (one, two) = pair();
    let socket = one.config.run_dir.join("tunnel.sock");
    let ask = |text: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // It may have hung up already.
        let _ = stream.write_all(text);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        said
    };
    let peer = format!("public_key={}\n", "07".repeat(32));
    let refused: [&[u8]; 7] = [
        b"set=2\n\n",
        b"get=1\nset=1\n\n",
        b"set=1\nprivate_key=x\n\n",
        b"set=1\nreplace_peers=true\n\n",
        b"set=1\nfwmark=1\n\n",
        &[b"set=1\n", peer.as_bytes(), b"allowed_ip=10.0.0.0/33\n\n"].concat(),
        &[b"set=1\n", peer.as_bytes(), b"update_only=true\n\n"].concat(),
    ];
    for text in refused {
        assert_eq!(ask(text), "errno=22\n\n", "{}", String::from_utf8_lossy(text));
    }
    for silent in [&b""[..], b"set=1\n", b"\xff\xfe\n\n"] {
        assert_eq!(ask(silent), "", "{silent:?}");
    }
    let (from, to) = (two.socket(7000), one.socket(7000));
    reach(&from, &to, b"still here");
    assert_eq!(block_on(one.tunnel.ensure(one.desired(&[&two]))).unwrap().done, []);
}

/// Three hosts, of which the middle one hears two.
#[test]
fn two_peers_do_not_get_each_others_packets() {
    if !able() {
        return;
    }
    let (one, two) = pair();
    let three = Host::new(3);
    wire(&one, &three);
    // The wire to the second host is gone; what is for it goes nowhere, and not to the third.
    one.ensure(&[&two, &three]);
    three.ensure(&[&one]);
    three.address();
    let (from, to) = (one.socket(7000), three.socket(7000));
    reach(&from, &to, b"hello");
    let mut inside = Listener::new(&three, &three.ifname);
    from.send_to(b"for the second", (two.inner(), 7000)).unwrap();
    from.send_to(b"for the third", (three.inner(), 7000)).unwrap();
    assert_eq!(next(&to), b"for the third");
    inside.wait("its own", |frame| has(frame, b"for the third"));
    assert_eq!(inside.count(|frame| has(frame, b"for the second")), 0);
}
