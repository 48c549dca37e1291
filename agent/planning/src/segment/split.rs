//! One large packet to those that go over the wire.

use super::checksum;
use super::header::{Gso, Header};
use super::parse::{ACROSS_FIRST, ACROSS_LAST, Ipv4, Ipv6, Tcp, Udp, get16, get32, put};

/// The most pieces of one packet, which take memory all at once: more than of 64 KiB with the least size that
/// sockets may ask for, 48 bytes.
const PIECES_MAX: usize = 2048;

/// A packet that does not fit what was said of it. The kernel makes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// It ends before its headers do.
    #[error("a packet of {len} bytes ends before its headers, of {headers}")]
    Short {
        /// Its length.
        len: usize,
        /// What the headers need.
        headers: usize,
    },
    /// It is of another version of IP.
    #[error("a packet of IP version {version}, where another was announced")]
    Version {
        /// That version.
        version: u8,
    },
    /// Nobody says how large its pieces are, or where its checksum is.
    #[error("a large packet without a size of its pieces or without a place of its checksum")]
    Unsaid,
    /// Its pieces are too small.
    #[error("a packet of {len} bytes in pieces of {size}: expected at most {PIECES_MAX} pieces")]
    Many {
        /// Its length.
        len: usize,
        /// The size of a piece.
        size: u16,
    },
}

/// What a packet becomes, in order.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    plan: Plan,
    /// Where the next one's payload begins.
    at: usize,
    number: u16,
}

#[derive(Debug, Clone, Copy)]
enum Plan {
    /// As it is, but for a checksum: where it stands, and what.
    Whole(Option<(usize, [u8; 2])>),
    Cut(Cut),
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    gso: Gso,
    size: usize,
    /// Where TCP or UDP begins.
    transport: usize,
    /// Where the payload does.
    payload: usize,
    /// Sum of the pseudo header without the length.
    pseudo: u64,
    v4: bool,
}

/// Reads a packet as it came, after its header.
///
/// # Errors
/// The packet does not fit its header.
pub fn split<'a>(packet: &'a [u8], header: &Header) -> Result<Segments<'a>, SplitError> {
    let (plan, at) = match header.gso {
        None => (Plan::Whole(complete(packet, header)?), 0),
        Some((gso, size)) => {
            let cut = Cut::new(packet, header, gso, size)?;
            (Plan::Cut(cut), cut.payload)
        }
    };
    Ok(Segments { packet, plan, at, number: 0 })
}

/// The checksum that is to be completed.
fn complete(packet: &[u8], header: &Header) -> Result<Option<(usize, [u8; 2])>, SplitError> {
    let Some((start, offset)) = header.checksum else { return Ok(None) };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    let from = packet.get(start..).filter(|_| packet.len() >= field + 2);
    let from = from.ok_or(SplitError::Short { len: packet.len(), headers: field + 2 })?;
    Ok(Some((field, said(checksum::of(checksum::sum(from, 0)), usize::from(offset)))))
}

/// UDP says with 0 that it has no checksum (RFC 768).
fn said(checksum: [u8; 2], offset: usize) -> [u8; 2] {
    if checksum == [0, 0] && offset == Udp::CHECKSUM { [0xff, 0xff] } else { checksum }
}

impl Cut {
    fn new(packet: &[u8], header: &Header, gso: Gso, size: u16) -> Result<Self, SplitError> {
        let (Some((start, _)), true) = (header.checksum, size > 0) else {
            return Err(SplitError::Unsaid);
        };
        let len = packet.len();
        let short = |headers| SplitError::Short { len, headers };
        let version = packet.first().map(|byte| byte >> 4).ok_or(short(1))?;
        let v4 = match (gso, version) {
            (Gso::Tcp4 | Gso::Udp, 4) => true,
            (Gso::Tcp6 | Gso::Udp, 6) => false,
            _ => return Err(SplitError::Version { version }),
        };
        // Not what the header says of headers, which is a hint.
        let transport = usize::from(start);
        let ip = if v4 { Ipv4::LEN } else { Ipv6::LEN };
        let (fixed, field) = match gso {
            Gso::Tcp4 | Gso::Tcp6 => (Tcp::LEN, Tcp::CHECKSUM),
            Gso::Udp => (Udp::LEN, Udp::CHECKSUM),
        };
        let fixed_end = transport + fixed;
        if transport < ip || len < fixed_end {
            return Err(short(fixed_end.max(ip + fixed)));
        }
        let payload = match gso {
            Gso::Tcp4 | Gso::Tcp6 => transport + Tcp::header_len(&packet[transport..]),
            Gso::Udp => fixed_end,
        };
        let header_end = if v4 { Ipv4::header_len(packet).max(ip) } else { ip };
        if payload < fixed_end || len <= payload || transport < header_end {
            return Err(short(payload.max(fixed_end) + 1));
        }
        if (len - payload).div_ceil(usize::from(size)) > PIECES_MAX {
            return Err(SplitError::Many { len, size });
        }
        let field = [packet[transport + field], packet[transport + field + 1]];
        let whole = u16::try_from(len - transport).map_err(|_| SplitError::Unsaid)?;
        let pseudo = u64::from(u16::from_ne_bytes(field)) + checksum::without(whole);
        Ok(Self { gso, size: usize::from(size), transport, payload, pseudo, v4 })
    }

    /// Changes the headers of a copy to those of one piece.
    fn head(&self, head: &mut [u8], data: &[u8], number: u16, first: bool, last: bool) {
        let whole = head.len() + data.len();
        let transport_len = lower(whole - self.transport);
        let (ip, transport) = head.split_at_mut(self.transport);
        if self.v4 {
            put(ip, Ipv4::TOTAL, lower(whole).to_be_bytes());
            let id = get16(ip, Ipv4::ID).wrapping_add(number);
            put(ip, Ipv4::ID, id.to_be_bytes());
            put(ip, Ipv4::CHECKSUM, [0, 0]);
            let len = Ipv4::header_len(ip);
            put(ip, Ipv4::CHECKSUM, checksum::of(checksum::sum(&ip[..len], 0)));
        } else {
            put(ip, Ipv6::PAYLOAD, lower(whole - Ipv6::LEN).to_be_bytes());
        }
        let field = match self.gso {
            Gso::Tcp4 | Gso::Tcp6 => {
                let before = u32::from(number).wrapping_mul(self.size as u32);
                let sequence = get32(transport, Tcp::SEQUENCE).wrapping_add(before);
                put(transport, Tcp::SEQUENCE, sequence.to_be_bytes());
                if !last {
                    transport[Tcp::FLAGS] &= !ACROSS_LAST;
                }
                if !first {
                    transport[Tcp::FLAGS] &= !ACROSS_FIRST;
                }
                Tcp::CHECKSUM
            }
            Gso::Udp => {
                put(transport, Udp::LENGTH, transport_len.to_be_bytes());
                Udp::CHECKSUM
            }
        };
        put(transport, field, [0, 0]);
        let total = checksum::sum(transport, self.pseudo + checksum::word(transport_len));
        // Headers of TCP and UDP have an even length, so what follows may be added.
        put(transport, field, said(checksum::of(checksum::sum(data, total)), field));
    }
}

/// What a length field can say. Longer packets do not come from here.
fn lower(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

impl Segments<'_> {
    /// Bytes of the longest one.
    #[must_use]
    pub fn longest(&self) -> usize {
        match self.plan {
            Plan::Whole(_) => self.packet.len(),
            Plan::Cut(cut) => (cut.payload + cut.size).min(self.packet.len()),
        }
    }

    /// How many there are, those included that were written.
    #[must_use]
    pub fn count(&self) -> usize {
        match self.plan {
            Plan::Whole(_) => 1,
            Plan::Cut(cut) => (self.packet.len() - cut.payload).div_ceil(cut.size),
        }
    }

    /// Writes the next one to the beginning of `out`, and says how long it is. `None` when there are no more,
    /// or when it does not fit, which it does if there is room for the longest.
    pub fn write_next(&mut self, out: &mut [u8]) -> Option<usize> {
        let rest = self.packet.get(self.at..).filter(|rest| !rest.is_empty())?;
        match self.plan {
            Plan::Whole(checksum) => {
                let out = out.get_mut(..rest.len())?;
                out.copy_from_slice(rest);
                if let Some((field, checksum)) = checksum {
                    put(out, field, checksum);
                }
                self.at = self.packet.len();
                Some(out.len())
            }
            Plan::Cut(cut) => {
                let data = rest.get(..cut.size).unwrap_or(rest);
                let out = out.get_mut(..cut.payload + data.len())?;
                let (head, payload) = out.split_at_mut(cut.payload);
                head.copy_from_slice(&self.packet[..cut.payload]);
                payload.copy_from_slice(data);
                let (first, last) = (self.number == 0, data.len() == rest.len());
                cut.head(head, payload, self.number, first, last);
                self.at += data.len();
                self.number = self.number.wrapping_add(1);
                Some(out.len())
            }
        }
    }
}
