//! What is joined, and what is not.

use super::packet::{ACK, CWR, ECE, FIN, Kind, PSH, Packet, RST, SYN, URG};
use super::{Gso, Offload, cut, join};

/// As many packets of one stream.
fn stream(kind: Kind, count: usize) -> Vec<Packet> {
    let first = Packet::new(kind);
    std::iter::successors(Some(first), |packet| Some(packet.following())).take(count).collect()
}

fn bytes(packets: &[Packet]) -> Vec<Vec<u8>> {
    packets.iter().map(Packet::bytes).collect()
}

/// How many packets each run has.
fn counts(packets: &[Vec<u8>], able: Offload) -> Vec<usize> {
    let runs = join(packets, able);
    let again: Vec<Vec<u8>> =
        runs.iter().flat_map(|(header, packet)| cut(header, packet)).collect();
    let mut sorted = (again.clone(), packets.to_vec());
    sorted.0.sort();
    sorted.1.sort();
    assert_eq!(sorted.0, sorted.1);
    runs.iter().map(|(header, packet)| cut(header, packet).len()).collect()
}

#[test]
fn a_stream_is_joined_as_far_as_the_kernel_takes_it() {
    for (kind, gso) in [
        (Kind::Tcp4, Gso::Tcp4),
        (Kind::Tcp6, Gso::Tcp6),
        (Kind::Udp4, Gso::Udp),
        (Kind::Udp6, Gso::Udp),
    ] {
        let packets = bytes(&stream(kind, 3));
        let runs = join(&packets, Offload::TcpAndUdp);
        let [(header, large)] = &runs[..] else { panic!("{kind:?}: {runs:?}") };
        let headers = packets[0].len() - 100;
        assert_eq!(header.gso, Some((gso, 100)));
        assert_eq!((large.len(), usize::from(header.headers)), (headers + 300, headers));
        assert_eq!(counts(&packets, Offload::TcpAndUdp), [3]);
        assert_eq!(counts(&packets, Offload::None), [1, 1, 1]);
        let tcp = if kind.is_tcp() { vec![3] } else { vec![1, 1, 1] };
        assert_eq!(counts(&packets, Offload::Tcp), tcp);
    }
}

#[test]
fn what_the_mesh_sends_is_not_joined() {
    for kind in [Kind::Udp4, Kind::Udp6, Kind::Tcp4] {
        let first = Packet { port: crate::network::ingress::PORT, ..Packet::new(kind) };
        let packets = bytes(&[first.clone(), first.following()]);
        let expected: &[usize] = if kind.is_tcp() { &[2] } else { &[1, 1] };
        assert_eq!(counts(&packets, Offload::TcpAndUdp), expected, "{kind:?}");
    }
}

#[test]
fn a_run_ends_where_a_packet_of_ip_or_the_kernel_does() {
    let long = |kind, count| {
        let first = Packet { payload: vec![1; 1000], ..Packet::new(kind) };
        let all = std::iter::successors(Some(first), |packet| Some(packet.following()));
        counts(&bytes(&all.take(count).collect::<Vec<_>>()), Offload::TcpAndUdp)
    };
    assert_eq!(long(Kind::Tcp4, 70), [65, 5]);
    assert_eq!(long(Kind::Udp6, 70), [64, 6]);
    assert_eq!(counts(&bytes(&stream(Kind::Udp4, 130)), Offload::TcpAndUdp), [64, 64, 2]);
}

#[test]
fn the_last_of_a_run_may_be_shorter_and_may_say_that_it_is_the_last() {
    let mut packets = stream(Kind::Tcp4, 5);
    packets[2].payload.truncate(1);
    // It goes on from there, but not in the same run.
    packets[3] = packets[2].following();
    packets[3].payload = vec![3; 100];
    packets[4] = packets[3].following();
    assert_eq!(counts(&bytes(&packets), Offload::Tcp), [3, 2]);
    for flags in [ACK | PSH, ACK | FIN, ACK | PSH | FIN] {
        let mut packets = stream(Kind::Tcp6, 4);
        packets[1].flags = flags;
        assert_eq!(counts(&bytes(&packets), Offload::Tcp), [2, 2], "{flags}");
    }
    let mut packets = stream(Kind::Udp4, 4);
    packets[1].payload.truncate(99);
    assert_eq!(counts(&bytes(&packets), Offload::TcpAndUdp), [2, 2]);
}

#[test]
fn what_differs_from_its_predecessor_is_not_joined_to_it() {
    type Change = fn(&mut Packet);
    let of_tcp: [(&str, Change); 17] = [
        ("gap", |packet| packet.sequence = packet.sequence.wrapping_add(1)),
        ("again", |packet| packet.sequence = packet.sequence.wrapping_sub(100)),
        ("acknowledged", |packet| packet.acknowledged += 1),
        ("window", |packet| packet.window += 1),
        ("options", |packet| packet.options = vec![1, 1, 1, 1]),
        ("reserved", |packet| packet.reserved = 1),
        ("syn", |packet| packet.flags |= SYN),
        ("rst", |packet| packet.flags |= RST),
        ("urg", |packet| packet.flags |= URG),
        ("urgent", |packet| packet.urgent = 1),
        ("ece", |packet| packet.flags |= ECE),
        ("cwr", |packet| packet.flags |= CWR),
        ("no ack", |packet| packet.flags = 0),
        ("nothing", |packet| packet.payload.clear()),
        ("longer", |packet| packet.payload.push(1)),
        ("id", |packet| packet.id = packet.id.wrapping_add(1)),
        ("fragment", |packet| packet.fragment = 0x2000),
    ];
    let of_ip: [(&str, Change); 6] = [
        ("tos", |packet| packet.tos = 0x04),
        ("ecn", |packet| packet.tos = 0x03),
        ("ttl", |packet| packet.ttl -= 1),
        ("may be cut", |packet| packet.fragment = 0),
        ("ip options", |packet| packet.ip_options = vec![1, 1, 1, 1]),
        ("flow", |packet| packet.flow += 1),
    ];
    let v6: [(&str, Change); 3] = [
        ("class", |packet| packet.tos = 0x30),
        ("label", |packet| packet.label += 1),
        ("hop limit", |packet| packet.ttl -= 1),
    ];
    let cases = of_tcp.map(|case| (Kind::Tcp4, case)).into_iter();
    let cases = cases.chain(of_ip.map(|case| (Kind::Tcp4, case)));
    let cases = cases.chain(of_ip.map(|case| (Kind::Udp4, case)));
    let cases = cases.chain(v6.map(|case| (Kind::Tcp6, case)));
    for (kind, (name, change)) in cases.chain(v6.map(|case| (Kind::Udp6, case))) {
        let mut packets = stream(kind, 2);
        change(&mut packets[1]);
        assert_eq!(counts(&bytes(&packets), Offload::TcpAndUdp), [1, 1], "{kind:?}: {name}");
    }
}

#[test]
fn what_has_changed_on_its_way_is_given_to_the_kernel_as_it_came() {
    for kind in Kind::ALL {
        for (broken, left) in [(0, vec![1, 2]), (1, vec![1, 1, 1]), (2, vec![2, 1])] {
            let mut packets = bytes(&stream(kind, 3));
            *packets[broken].last_mut().unwrap() ^= 1;
            // The one after the second is no continuation of it, but of nothing else either.
            assert_eq!(counts(&packets, Offload::TcpAndUdp), left, "{kind:?} {broken}");
        }
    }
    // Its own header, too.
    let mut packets = bytes(&stream(Kind::Tcp4, 2));
    packets[0][11] ^= 1;
    packets[1][11] ^= 1;
    assert_eq!(counts(&packets, Offload::Tcp), [1, 1]);
    // UDP without a checksum has none afterwards.
    let mut packets = bytes(&stream(Kind::Udp4, 2));
    for packet in &mut packets {
        packet[26..28].fill(0);
    }
    assert_eq!(counts(&packets, Offload::TcpAndUdp), [1, 1]);
}

#[test]
fn flows_are_joined_side_by_side_and_nothing_overtakes_what_nobody_can_read() {
    let one = bytes(&stream(Kind::Tcp4, 3));
    let other: Vec<Packet> =
        stream(Kind::Tcp4, 3).into_iter().map(|packet| Packet { flow: 2, ..packet }).collect();
    let other = bytes(&other);
    let mixed: Vec<Vec<u8>> =
        one.iter().zip(&other).flat_map(|(one, other)| [one.clone(), other.clone()]).collect();
    assert_eq!(counts(&mixed, Offload::Tcp), [3, 3]);
    // An acknowledgement in the middle stays in the middle.
    let empty = Packet { payload: Vec::new(), ..stream(Kind::Tcp4, 3)[2].clone() };
    let middle = [one[0].clone(), one[1].clone(), empty.bytes(), one[2].clone()];
    assert_eq!(counts(&middle, Offload::Tcp), [2, 1, 1]);
    let fragment = Packet { fragment: 0x2000, ..Packet::new(Kind::Udp4) };
    let middle = [one[0].clone(), fragment.bytes(), one[1].clone()];
    assert_eq!(counts(&middle, Offload::Tcp), [1, 1, 1]);
}
