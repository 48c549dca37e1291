mod join;
mod packet;
mod whole;

use proptest::prelude::*;

use super::{Gso, Header, Merger, Offload, SplitError, split};
use packet::{Kind, Packet, is_right};

/// What a packet with a header is cut to.
fn cut(header: &Header, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = split(packet, header).unwrap();
    let mut out = vec![0xee; segments.longest()];
    std::iter::from_fn(|| segments.write_next(&mut out).map(|len| out[..len].to_vec())).collect()
}

/// What packets are joined to, with the header of each.
fn join(packets: &[Vec<u8>], able: Offload) -> Vec<(Header, Vec<u8>)> {
    let mut packets = packets.to_vec();
    let mut merger = Merger::default();
    merger.merge(&mut packets, able);
    let whole = |run| merger.parts(run, &packets).flatten().copied().collect();
    merger.runs().iter().map(|run| (run.header, whole(run))).collect()
}

#[test]
fn a_header_is_laid_out_as_the_kernel_has_it() {
    let header = Header { checksum: Some((20, 16)), gso: Some((Gso::Tcp4, 1360)), headers: 52 };
    let mut expected = vec![1, 1];
    for word in [52_u16, 1360, 20, 16] {
        expected.extend(word.to_ne_bytes());
    }
    assert_eq!(header.bytes().to_vec(), expected);
    assert_eq!(Header::parse(header.bytes()), Some(header));
    // ECN stands beside the kind; UFO and what nobody knows was not asked for.
    let kind = |kind| Header::parse([0, kind, 0, 0, 0, 0, 0, 0, 0, 0]).map(|header| header.gso);
    assert_eq!(kind(0x84), Some(Some((Gso::Tcp6, 0))));
    assert_eq!(kind(5), Some(Some((Gso::Udp, 0))));
    assert_eq!([3, 2, 6].map(kind), [None, None, None]);
}

#[test]
fn what_does_not_fit_its_header_is_refused() {
    let large = Packet { payload: vec![7; 3000], ..Packet::new(Kind::Tcp4) }.partial();
    let header = Header { checksum: Some((20, 16)), gso: Some((Gso::Tcp4, 1000)), headers: 40 };
    assert_eq!(cut(&header, &large).len(), 3);
    let refused = |header: Header, packet: &[u8]| split(packet, &header).unwrap_err();
    assert_eq!(refused(Header { checksum: None, ..header }, &large), SplitError::Unsaid);
    let nothing = Header { gso: Some((Gso::Tcp4, 0)), ..header };
    assert_eq!(refused(nothing, &large), SplitError::Unsaid);
    let other = Header { gso: Some((Gso::Tcp6, 1000)), ..header };
    assert_eq!(refused(other, &large), SplitError::Version { version: 4 });
    for len in [0, 1, 19, 20, 39, 40] {
        assert!(matches!(refused(header, &large[..len]), SplitError::Short { .. }), "{len}");
    }
    let beyond = Header { checksum: Some((2999, 60)), gso: None, headers: 0 };
    assert!(matches!(refused(beyond, &large), SplitError::Short { .. }));
    let tiny = Header { gso: Some((Gso::Tcp4, 1)), ..header };
    assert!(matches!(refused(tiny, &large), SplitError::Many { size: 1, .. }));
    let before = Header { checksum: Some((4, 16)), ..header };
    assert!(matches!(refused(before, &large), SplitError::Short { .. }));
}

proptest! {
    /// The payload in pieces, each a packet that is right, and in the first and last what belongs there.
    #[test]
    fn a_large_packet_becomes_those_of_the_wire(
        large in packet::any_of(1..20_000), size in 16_u16..9000, shift in any::<u8>(),
    ) {
        let mut large = large;
        if large.kind.is_tcp() {
            large.flags |= shift & (packet::PSH | packet::FIN | packet::CWR);
        }
        let header = large.header(size);
        let pieces = cut(&header, &large.partial());
        prop_assert_eq!(pieces.len(), large.payload.len().div_ceil(usize::from(size)));
        let chunks = large.payload.chunks(usize::from(size));
        for (number, (piece, chunk)) in pieces.iter().zip(chunks).enumerate() {
            let last = number + 1 == pieces.len();
            let flags = large.flags
                & !(if last { 0 } else { packet::PSH | packet::FIN })
                & !(if number == 0 { 0 } else { packet::CWR });
            let before = u32::from(size).wrapping_mul(number as u32);
            let expected = Packet {
                payload: chunk.to_vec(),
                id: large.id.wrapping_add(number as u16),
                sequence: large.sequence.wrapping_add(before),
                flags,
                ..large.clone()
            };
            prop_assert!(is_right(piece));
            prop_assert_eq!(piece, &expected.bytes());
        }
    }

    #[test]
    fn a_checksum_that_is_missing_is_completed(packet in packet::any_of(0..3000)) {
        let header = Header { gso: None, ..packet.header(1) };
        prop_assert_eq!(cut(&header, &packet.partial()), vec![packet.bytes()]);
        // And one that is there is left alone.
        prop_assert_eq!(cut(&Header::default(), &packet.bytes()), vec![packet.bytes()]);
    }

    #[test]
    fn nonsense_is_refused_or_cut_but_breaks_nothing(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        said in any::<[u8; Header::LEN]>(), kind in 0_u8..6, size in 0_u16..40, start in 0_u16..60,
        version in prop::sample::select(vec![0x45_u8, 0x60, 0x4f]),
    ) {
        let [low, high] = size.to_ne_bytes();
        let [from, to] = start.to_ne_bytes();
        let mut said = said;
        (said[1], said[4], said[5], said[6], said[7]) = (kind, low, high, from, to);
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        if let Some(header) = Header::parse(said)
            && let Ok(mut segments) = split(&bytes, &header)
        {
            let mut out = vec![0; segments.longest()];
            let mut payload = 0;
            let mut count = 0;
            while let Some(len) = segments.write_next(&mut out) {
                prop_assert!(len <= out.len());
                (payload, count) = (payload + len, count + 1);
            }
            prop_assert!(count <= bytes.len() && payload >= bytes.len());
        }
    }
}
