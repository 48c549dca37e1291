//! Many packets of the wire to few large ones. The rules are those of the kernel's own generic receive offload:
//! what is joined, the kernel could cut again to the same packets.

use std::collections::BTreeMap;
use std::ops::DerefMut;

use super::header::{Gso, Header};
use super::parse::{ACROSS_LAST, Flow, Ipv4, Ipv6, Piece, Tcp, Transport, Udp, get16, get32, put};
use super::{Offload, checksum};
use crate::network::ingress;

/// The longest packet of IP, in bytes.
const PACKET_MAX: usize = 65_535;
/// Pieces of a large UDP packet at most: UDP_MAX_SEGMENTS of the kernel.
const UDP_PIECES_MAX: usize = 64;

/// Packets that are one for the kernel; most are one.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// What is said of it before it.
    pub header: Header,
    first: usize,
    last: usize,
    pieces: usize,
    /// Bytes, headers included.
    len: usize,
    /// What its first one is.
    piece: Option<Piece>,
    next: Option<Expected>,
}

/// What would continue a run.
#[derive(Debug, Clone, Copy)]
struct Expected {
    sequence: u32,
    id: u16,
    /// Whether the first one's checksums have been looked at.
    checked: bool,
}

/// Joins the packets of a batch. It is used again for the next one, so that its memory is.
#[derive(Debug, Default)]
pub struct Merger {
    runs: Vec<Run>,
    /// Which packet comes after a packet, and where its payload begins.
    after: Vec<Option<(usize, usize)>>,
    /// Runs that may go on.
    open: BTreeMap<Flow, usize>,
    /// The one that the packet before has gone to, which is where most go.
    recent: Option<(Flow, usize)>,
}

impl Merger {
    /// Joins what belongs together, in the order of arrival within each flow. The kernel is given what it
    /// takes. The first packet of each run gets the headers of the whole.
    pub fn merge<P: DerefMut<Target = [u8]>>(&mut self, packets: &mut [P], able: Offload) {
        self.runs.clear();
        self.after.clear();
        self.open.clear();
        self.recent = None;
        for at in 0..packets.len() {
            self.after.push(None);
            match Piece::read(&packets[at]) {
                // What it belongs to is not known, so nothing may overtake it.
                None => {
                    self.close_all();
                    self.begin(at, packets[at].len(), None, None);
                }
                Some(piece) => self.take(packets, at, piece, able),
            }
        }
        for run in self.runs.iter_mut().filter(|run| run.pieces > 1) {
            if let Some(piece) = run.piece {
                let last = packets[run.last].get(piece.ip + Tcp::FLAGS).copied();
                run.header = finish(&mut packets[run.first], run, &piece, last.unwrap_or_default());
            }
        }
    }

    /// The runs of the last batch.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The parts of a run, in order: what the kernel is given after the header.
    pub fn parts<'a, P: DerefMut<Target = [u8]>>(
        &'a self,
        run: &Run,
        packets: &'a [P],
    ) -> impl Iterator<Item = &'a [u8]> {
        let mut next = Some((run.first, 0));
        std::iter::from_fn(move || {
            let (at, from) = next?;
            next = self.after.get(at).copied().flatten();
            packets.get(at)?.get(from..)
        })
    }

    fn take<P: DerefMut<Target = [u8]>>(
        &mut self,
        packets: &mut [P],
        at: usize,
        piece: Piece,
        able: Offload,
    ) {
        let flow = piece.flow;
        let open = match self.recent {
            Some((recent, run)) if recent == flow => Some(run),
            _ => self.open.get(&flow).copied(),
        };
        if let Some(number) = open {
            let run = &mut self.runs[number];
            if let Some(goes_on) = continues(run, packets, at, &piece) {
                self.after[run.last] = Some((at, piece.headers));
                run.last = at;
                if !goes_on {
                    self.close(&flow);
                } else {
                    self.recent = Some((flow, number));
                }
                return;
            }
            self.close(&flow);
        }
        let packet = &packets[at];
        let next = may_begin(packet, &piece, able).then(|| Expected {
            sequence: sequence_after(packet, &piece),
            id: get16(packet, Ipv4::ID),
            checked: false,
        });
        let number = self.begin(at, packet.len(), Some(piece), next);
        if next.is_some() {
            self.open.insert(flow, number);
            self.recent = Some((flow, number));
        }
    }

    fn begin(
        &mut self,
        at: usize,
        len: usize,
        piece: Option<Piece>,
        next: Option<Expected>,
    ) -> usize {
        let header = Header::default();
        self.runs.push(Run { header, first: at, last: at, pieces: 1, len, piece, next });
        self.runs.len() - 1
    }

    fn close(&mut self, flow: &Flow) {
        self.open.remove(flow);
        self.recent = self.recent.filter(|(recent, _)| recent != flow);
    }

    fn close_all(&mut self) {
        self.open.clear();
        self.recent = None;
    }
}

fn sequence_after(packet: &[u8], piece: &Piece) -> u32 {
    match piece.transport {
        Transport::Tcp => {
            get32(packet, piece.ip + Tcp::SEQUENCE).wrapping_add(piece.payload as u32)
        }
        Transport::Udp => 0,
    }
}

/// Whether something can be joined to a packet.
fn may_begin(packet: &[u8], piece: &Piece, able: Offload) -> bool {
    match piece.transport {
        // Nothing but data: what else a segment says is said once, at its place.
        Transport::Tcp => {
            let plain = packet[piece.ip + Tcp::FLAGS] == Tcp::ACK;
            able != Offload::None
                && plain
                && packet[piece.ip + Tcp::OFFSET] & 0x0f == 0
                && piece.payload > 0
        }
        // A socket of VXLAN cuts what is joined again, and that of Linux before 6.8.5 drops it.
        Transport::Udp => {
            able == Offload::TcpAndUdp
                && piece.payload > 0
                && get16(packet, piece.ip + Udp::TO) != ingress::PORT
        }
    }
}

/// Takes a packet into a run if it continues it: whether the run may go on after that.
fn continues<P: DerefMut<Target = [u8]>>(
    run: &mut Run,
    packets: &[P],
    at: usize,
    piece: &Piece,
) -> Option<bool> {
    let (first_piece, mut next) = (run.piece?, run.next?);
    let (first, packet): (&[u8], &[u8]) = (&packets[run.first], &packets[at]);
    let fits = piece.headers == first_piece.headers
        && piece.payload > 0
        && piece.payload <= first_piece.payload
        && run.len + piece.payload <= PACKET_MAX;
    if !fits || !same_ip(first, packet, piece.v4) {
        return None;
    }
    let id = next.id.wrapping_add(1);
    if piece.v4 && get16(packet, Ipv4::ID) != id {
        return None;
    }
    let ends = match piece.transport {
        Transport::Tcp => {
            let (first, packet) = (&first[piece.ip..], &packet[piece.ip..]);
            if !same_tcp(first, packet, piece.headers - piece.ip)
                || get32(packet, Tcp::SEQUENCE) != next.sequence
            {
                return None;
            }
            packet[Tcp::FLAGS] & ACROSS_LAST != 0
        }
        Transport::Udp => run.pieces + 1 >= UDP_PIECES_MAX,
    };
    // What has changed on its way must not be given a checksum that says otherwise.
    if !piece.is_whole(packet) || !(next.checked || first_piece.is_whole(first)) {
        return None;
    }
    next = Expected { sequence: sequence_after(packet, piece), id, checked: true };
    run.next = Some(next);
    run.pieces += 1;
    run.len += piece.payload;
    Some(!ends && piece.payload == first_piece.payload)
}

/// Whether the headers of IP are the same, where they are the same in pieces of one.
fn same_ip(first: &[u8], packet: &[u8], v4: bool) -> bool {
    if v4 {
        let same = |from: usize, to: usize| first[from..to] == packet[from..to];
        same(0, Ipv4::TOTAL) && same(Ipv4::FRAGMENT, Ipv4::CHECKSUM)
    } else {
        let same = |from: usize, to: usize| first[from..to] == packet[from..to];
        same(0, Ipv6::PAYLOAD) && same(Ipv6::NEXT, Ipv6::ADDRESSES)
    }
}

/// The same of TCP. The ports are: it is one flow.
fn same_tcp(first: &[u8], packet: &[u8], len: usize) -> bool {
    let same = |from: usize, to: usize| first[from..to] == packet[from..to];
    same(Tcp::ACKNOWLEDGED, Tcp::FLAGS)
        && packet[Tcp::FLAGS] & !ACROSS_LAST == first[Tcp::FLAGS]
        && same(Tcp::WINDOW, Tcp::CHECKSUM)
        && same(Tcp::URGENT, len)
}

/// Gives the first packet of a run the headers of the whole, and says what stands before it.
fn finish(packet: &mut [u8], run: &Run, piece: &Piece, last_flags: u8) -> Header {
    let lower = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
    let whole = lower(run.len - piece.ip);
    if piece.v4 {
        put(packet, Ipv4::TOTAL, lower(run.len).to_be_bytes());
        put(packet, Ipv4::CHECKSUM, [0, 0]);
        let checksum = checksum::of(checksum::sum(&packet[..Ipv4::LEN], 0));
        put(packet, Ipv4::CHECKSUM, checksum);
    } else {
        put(packet, Ipv6::PAYLOAD, whole.to_be_bytes());
    }
    let (gso, field) = match piece.transport {
        Transport::Tcp => {
            packet[piece.ip + Tcp::FLAGS] |= last_flags & ACROSS_LAST;
            (if piece.v4 { Gso::Tcp4 } else { Gso::Tcp6 }, Tcp::CHECKSUM)
        }
        Transport::Udp => {
            put(packet, piece.ip + Udp::LENGTH, whole.to_be_bytes());
            (Gso::Udp, Udp::CHECKSUM)
        }
    };
    let pseudo = checksum::fold(piece.pseudo(packet, whole));
    put(packet, piece.ip + field, pseudo);
    Header {
        checksum: Some((lower(piece.ip), lower(field))),
        gso: Some((gso, lower(piece.payload))),
        headers: lower(piece.headers),
    }
}
