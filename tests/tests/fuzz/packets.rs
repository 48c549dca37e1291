//! What comes out of the tunnel: packets of other hosts, which are joined, and large ones of the kernel's, which are
//! cut.

use shoal_agent_planning::segment::{Header, Merger, Offload, split};

use super::bytes::mutated;
use super::driver::{Answer, BOUNDS, Target, fuzz};

/// Packets of a batch at most, as the tunnel has it.
const BATCH: usize = 256;

/// A batch is packets with their length before each.
fn read(mut input: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while let (Some((len, rest)), true) = (input.split_first_chunk(), packets.len() < BATCH) {
        let (packet, rest) = rest.split_at(rest.len().min(u16::from_le_bytes(*len).into()));
        packets.push(packet.to_vec());
        input = rest;
    }
    packets
}

fn written(packets: &[Vec<u8>]) -> Vec<u8> {
    let one = |packet: &Vec<u8>| [&(packet.len() as u16).to_le_bytes()[..], packet].concat();
    packets.iter().flat_map(one).collect()
}

fn cut(header: &Header, packet: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut segments = split(packet, header).map_err(|error| error.to_string())?;
    let mut out = vec![0; segments.longest()];
    let next = || segments.write_next(&mut out).map(|len| out[..len].to_vec());
    Ok(std::iter::from_fn(next).collect())
}

/// A stream over IPv4, one over IPv6, and datagrams, as one host cuts them and another gets them.
fn seeds() -> Vec<Vec<u8>> {
    let tcp = [
        &[0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0x11, 0x11, 0, 0][..],
        &[9; 500],
    ];
    let tcp = tcp.concat();
    let udp = [&[0x12, 0x34, 0, 53, 0x01, 0xfc, 0x11, 0x11][..], &[7; 500]].concat();
    let v4 = |protocol, rest: &[u8]| {
        let len = (20 + rest.len() as u16).to_be_bytes();
        let ip =
            [0x45, 0, len[0], len[1], 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        [&ip[..], rest].concat()
    };
    let v6 = |protocol, rest: &[u8]| {
        let len = (rest.len() as u16).to_be_bytes();
        let ip = [&[0x60, 0, 0, 0, len[0], len[1], protocol, 64][..], &[0xfd; 32]].concat();
        [ip, rest.to_vec()].concat()
    };
    let header = |kind: u8, start: u16, offset: u16| {
        let [size, start, offset] = [100_u16, start, offset].map(u16::to_ne_bytes);
        let bytes = [[1, kind], [0, 0], size, start, offset].concat();
        Header::parse(bytes.try_into().unwrap()).unwrap()
    };
    let large = [
        (header(1, 20, 16), v4(6, &tcp)),
        (header(4, 40, 16), v6(6, &tcp)),
        (header(5, 20, 6), v4(17, &udp)),
        (header(5, 40, 6), v6(17, &udp)),
    ];
    let mut seeds: Vec<Vec<u8>> =
        large.iter().map(|(header, packet)| written(&cut(header, packet).unwrap())).collect();
    // And one with its header before it, as the kernel hands it over.
    seeds.extend(
        large.iter().map(|(header, packet)| written(&[[&header.bytes()[..], packet].concat()])),
    );
    seeds
}

#[test]
fn packets_of_the_tunnel() {
    let target = Target { name: "packets", seeds: seeds(), bounds: BOUNDS };
    fuzz(
        &target,
        |random, corpus| mutated(random, corpus, &[]),
        |input| {
            let packets = read(input);
            let mut joined = packets.clone();
            let mut merger = Merger::default();
            merger.merge(&mut joined, Offload::TcpAndUdp);
            let mut again = Vec::new();
            let mut large = 0;
            for run in merger.runs() {
                let whole: Vec<u8> = merger.parts(run, &joined).flatten().copied().collect();
                match run.header.gso {
                    Some(_) => again.extend(cut(&run.header, &whole).unwrap()),
                    None => again.push(whole),
                }
                large += usize::from(run.header.gso.is_some());
            }
            let sorted = |mut packets: Vec<Vec<u8>>| {
                packets.sort();
                packets
            };
            assert_eq!(sorted(again), sorted(packets.clone()), "cut again it is the same");
            let first = packets.first().and_then(|packet| packet.split_first_chunk());
            let Some((header, packet)) = first else { return Answer::Read("nothing".to_owned()) };
            let Some(header) = Header::parse(*header) else {
                return Answer::Refused("a kind that was not asked for".to_owned());
            };
            match cut(&header, packet) {
                Ok(pieces) => {
                    let bytes: usize = pieces.iter().map(Vec::len).sum();
                    assert!(bytes >= packet.len(), "nothing of it is lost");
                    let kind = (header.gso.map(|(gso, _)| gso), pieces.len() > 1, large > 0);
                    Answer::Read(format!("{kind:?}"))
                }
                Err(error) => Answer::Refused(error),
            }
        },
    );
}
