//! Cutting what was joined is what there was, whatever there was.

use proptest::prelude::*;

use super::packet::{self, ACK, CWR, FIN, Kind, PSH, Packet, SYN};
use super::{Offload, cut, join};

/// What happens to a packet of a stream on its way.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Well,
    Last(u8),
    Odd(u8),
    Shorter,
    Empty,
    Fragment,
    Broken(u16),
    Cut(u16),
    Lost,
    Twice,
    Late,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        12 => Just(Fate::Well),
        1 => prop::sample::select(vec![PSH, FIN, PSH | FIN]).prop_map(Fate::Last),
        1 => prop::sample::select(vec![SYN | ACK, CWR | ACK, 0, 0xff]).prop_map(Fate::Odd),
        1 => Just(Fate::Shorter),
        1 => Just(Fate::Empty),
        1 => Just(Fate::Fragment),
        1 => any::<u16>().prop_map(Fate::Broken),
        1 => any::<u16>().prop_map(Fate::Cut),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Twice),
        1 => Just(Fate::Late),
    ]
}

/// Packets of some streams, each with its fate.
fn arrivals() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let streams = prop::collection::vec(packet::any_of(1..200), 1..4);
    (streams, prop::collection::vec((0_usize..4, fate()), 0..80)).prop_map(
        |(mut streams, steps)| {
            for (number, stream) in streams.iter_mut().enumerate() {
                stream.flow = number as u8;
                if number % 2 == 0 {
                    stream.ip_options.clear();
                }
            }
            let mut arrived: Vec<(u8, Vec<u8>)> = Vec::new();
            for (number, fate) in steps {
                let number = number % streams.len();
                let now = streams[number].clone();
                let mut packet = now.clone();
                match fate {
                    Fate::Last(flags) => packet.flags |= flags,
                    Fate::Odd(flags) => packet.flags = flags,
                    Fate::Shorter => packet.payload.truncate(packet.payload.len() / 2),
                    Fate::Empty => packet.payload.clear(),
                    Fate::Fragment => packet.fragment = 0x2000 | packet.id & 0xff,
                    _ => {}
                }
                let mut bytes = packet.bytes();
                match fate {
                    Fate::Broken(at) => {
                        let at = usize::from(at) % bytes.len();
                        bytes[at] ^= 0x10;
                    }
                    Fate::Cut(len) => bytes.truncate(usize::from(len) % bytes.len()),
                    _ => {}
                }
                let flow = packet.flow;
                match fate {
                    Fate::Lost => {}
                    Fate::Twice => arrived.extend([(flow, bytes.clone()), (flow, bytes)]),
                    Fate::Late => arrived.insert(arrived.len().saturating_sub(3), (flow, bytes)),
                    _ => arrived.push((flow, bytes)),
                }
                streams[number] = Packet { payload: now.payload.clone(), ..packet.following() };
            }
            arrived
        },
    )
}

proptest! {
    #[test]
    fn joined_and_cut_again_every_packet_is_there_and_each_flow_in_order(
        arrived in arrivals(), able in prop::sample::select(vec![Offload::Tcp, Offload::TcpAndUdp]),
    ) {
        let packets: Vec<Vec<u8>> = arrived.iter().map(|(_, bytes)| bytes.clone()).collect();
        let runs = join(&packets, able);
        let again: Vec<Vec<u8>> =
            runs.iter().flat_map(|(header, packet)| whole_or_cut(header, packet)).collect();
        for flow in packets.iter().map(|packet| looks_like(packet)) {
            // A broken packet may look like one of another flow, and is judged by what it looks like.
            let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                all.iter().filter(|packet| looks_like(packet) == flow).cloned().collect()
            };
            prop_assert_eq!(of(&again), of(&packets));
        }
        let sorted = |mut all: Vec<Vec<u8>>| { all.sort(); all };
        prop_assert_eq!(sorted(again), sorted(packets));
    }

    /// Nothing else than one: it does join.
    #[test]
    fn an_undisturbed_stream_is_one_packet(
        first in packet::any_of(1..1400), count in 2_usize..40, end in 0_usize..1400,
        last in prop::sample::select(vec![0, PSH, FIN, PSH | FIN]),
    ) {
        let first = Packet { ip_options: Vec::new(), flags: ACK, ..first };
        let mut packets: Vec<Packet> =
            std::iter::successors(Some(first), |packet| Some(packet.following())).take(count).collect();
        let ending = packets.last_mut().unwrap();
        ending.payload.truncate(end.max(1));
        if ending.kind.is_tcp() {
            ending.flags |= last;
        }
        let packets: Vec<Vec<u8>> = packets.iter().map(Packet::bytes).collect();
        let runs = join(&packets, Offload::TcpAndUdp);
        prop_assert_eq!(runs.len(), 1);
        prop_assert_eq!(cut(&runs[0].0, &runs[0].1), packets);
    }

    /// The kernel's large packets, cut by the one host and joined by the other, are the same again.
    #[test]
    fn cut_and_joined_again_a_large_packet_is_what_it_was(
        large in packet::any_of(1..30_000), size in 500_u16..1400, last in any::<bool>(),
    ) {
        let mut large = Packet { ip_options: Vec::new(), flags: ACK, ..large };
        if last && large.kind.is_tcp() {
            large.flags |= PSH;
        }
        prop_assume!(large.payload.len() > usize::from(size));
        let (header, bytes) = (large.header(size), large.partial());
        let runs = join(&cut(&header, &bytes), Offload::TcpAndUdp);
        prop_assert_eq!(runs.len(), 1);
        let (joined, packet) = &runs[0];
        prop_assert_eq!((joined.gso, joined.checksum), (header.gso, header.checksum));
        prop_assert_eq!(packet, &bytes);
    }
}

/// Packets that are alone are as they came, even if nobody could cut them.
fn whole_or_cut(header: &super::Header, packet: &[u8]) -> Vec<Vec<u8>> {
    if header.gso.is_none() && packet.is_empty() { vec![Vec::new()] } else { cut(header, packet) }
}

/// The flow that a packet is in: protocol, addresses, ports.
fn looks_like(packet: &[u8]) -> Option<Vec<u8>> {
    let v4 = packet.first()? >> 4 == 4;
    let (protocol, addresses, ports) =
        if v4 { (9, 12..20, usize::from(packet[0] & 15) * 4) } else { (6, 8..40, 40) };
    let parts =
        [packet.get(protocol..=protocol)?, packet.get(addresses)?, packet.get(ports..ports + 4)?];
    Some(parts.concat())
}

#[test]
fn a_batch_leaves_nothing_for_the_next_one() {
    let packets: Vec<Vec<u8>> =
        [Packet::new(Kind::Tcp4), Packet::new(Kind::Tcp4).following()].map(|p| p.bytes()).into();
    let mut merger = super::Merger::default();
    for packet in &packets {
        let mut batch = vec![packet.clone()];
        merger.merge(&mut batch, Offload::Tcp);
        assert_eq!(merger.runs().len(), 1);
        assert_eq!(merger.parts(&merger.runs()[0], &batch).collect::<Vec<_>>(), [&packet[..]]);
    }
}
