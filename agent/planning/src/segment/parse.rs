//! Where things are in the headers of IP, TCP and UDP (RFC 791, 8200, 9293, 768).

use super::checksum;

pub(crate) struct Ipv4;

impl Ipv4 {
    /// Without options.
    pub(crate) const LEN: usize = 20;
    pub(crate) const TOTAL: usize = 2;
    pub(crate) const ID: usize = 4;
    /// Flags and the place of a fragment.
    pub(crate) const FRAGMENT: usize = 6;
    pub(crate) const PROTOCOL: usize = 9;
    pub(crate) const CHECKSUM: usize = 10;
    pub(crate) const ADDRESSES: usize = 12;

    pub(crate) fn header_len(packet: &[u8]) -> usize {
        usize::from(packet[0] & 0x0f) * 4
    }
}

pub(crate) struct Ipv6;

impl Ipv6 {
    pub(crate) const LEN: usize = 40;
    pub(crate) const PAYLOAD: usize = 4;
    pub(crate) const NEXT: usize = 6;
    pub(crate) const ADDRESSES: usize = 8;
}

pub(crate) struct Tcp;

impl Tcp {
    /// Without options.
    pub(crate) const LEN: usize = 20;
    pub(crate) const SEQUENCE: usize = 4;
    /// From here to the options, without the checksum, it is the same in pieces of one.
    pub(crate) const ACKNOWLEDGED: usize = 8;
    pub(crate) const OFFSET: usize = 12;
    pub(crate) const FLAGS: usize = 13;
    pub(crate) const WINDOW: usize = 14;
    pub(crate) const CHECKSUM: usize = 16;
    pub(crate) const URGENT: usize = 18;
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
    pub(crate) const CWR: u8 = 0x80;

    pub(crate) fn header_len(transport: &[u8]) -> usize {
        usize::from(transport[Self::OFFSET] >> 4) * 4
    }
}

/// Flags that only the last piece of one has.
pub(crate) const ACROSS_LAST: u8 = Tcp::FIN | Tcp::PSH;
/// Flags that only the first one has.
pub(crate) const ACROSS_FIRST: u8 = Tcp::CWR;

pub(crate) struct Udp;

impl Udp {
    pub(crate) const LEN: usize = 8;
    /// The port that it goes to.
    pub(crate) const TO: usize = 2;
    pub(crate) const LENGTH: usize = 4;
    pub(crate) const CHECKSUM: usize = 6;
}

pub(crate) fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// What carries the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// Which packets are in order with each other: addresses, ports, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    transport: Transport,
    addresses: [u8; 32],
    ports: [u8; 4],
}

/// A packet that could be a piece of a large one, as far as its form goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) flow: Flow,
    pub(crate) v4: bool,
    pub(crate) transport: Transport,
    /// Where TCP or UDP begins.
    pub(crate) ip: usize,
    /// Where the payload does.
    pub(crate) headers: usize,
    /// Bytes of it.
    pub(crate) payload: usize,
}

impl Piece {
    /// Reads the headers; `None` for what is no plain TCP or UDP: options of IPv4, extensions of IPv6, fragments,
    /// other protocols, lengths that do not fit.
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        let (v4, ip, protocol, addresses) = match packet.first()? >> 4 {
            4 => {
                let header = packet.get(..Ipv4::LEN)?;
                let fragment = get16(header, Ipv4::FRAGMENT) & 0x3fff != 0;
                let total = usize::from(get16(header, Ipv4::TOTAL));
                if Ipv4::header_len(header) != Ipv4::LEN || fragment || total != packet.len() {
                    return None;
                }
                let mut addresses = [0; 32];
                addresses[..8].copy_from_slice(&header[Ipv4::ADDRESSES..]);
                (true, Ipv4::LEN, header[Ipv4::PROTOCOL], addresses)
            }
            6 => {
                let header = packet.get(..Ipv6::LEN)?;
                if usize::from(get16(header, Ipv6::PAYLOAD)) + Ipv6::LEN != packet.len() {
                    return None;
                }
                let addresses = header[Ipv6::ADDRESSES..].try_into().ok()?;
                (false, Ipv6::LEN, header[Ipv6::NEXT], addresses)
            }
            _ => return None,
        };
        let rest = &packet[ip..];
        let (transport, len) = match protocol {
            6 if rest.len() >= Tcp::LEN => (Transport::Tcp, Tcp::header_len(rest)),
            17 if rest.len() >= Udp::LEN => {
                let fits = usize::from(get16(rest, Udp::LENGTH)) == rest.len();
                (Transport::Udp, fits.then_some(Udp::LEN)?)
            }
            _ => return None,
        };
        let least = if transport == Transport::Tcp { Tcp::LEN } else { Udp::LEN };
        if len < least || len > rest.len() {
            return None;
        }
        let ports = [rest[0], rest[1], rest[2], rest[3]];
        let flow = Flow { transport, addresses, ports };
        Some(Self { flow, v4, transport, ip, headers: ip + len, payload: rest.len() - len })
    }

    /// The sum of the pseudo header, for this many bytes of TCP or UDP.
    pub(crate) fn pseudo(&self, packet: &[u8], len: u16) -> u64 {
        let addresses = if self.v4 { Ipv4::ADDRESSES } else { Ipv6::ADDRESSES };
        let protocol = match self.transport {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        };
        let start = checksum::word(len) + checksum::word(protocol);
        checksum::sum(&packet[addresses..self.ip], start)
    }

    /// Whether its checksums say that nothing has changed. A large packet has none that could.
    pub(crate) fn is_whole(&self, packet: &[u8]) -> bool {
        let rest = &packet[self.ip..];
        let Ok(len) = u16::try_from(rest.len()) else { return false };
        // UDP without a checksum would have one afterwards.
        let none = self.transport == Transport::Udp && get16(rest, Udp::CHECKSUM) == 0;
        let ip = !self.v4 || checksum::is_whole(checksum::sum(&packet[..self.ip], 0));
        !none && ip && checksum::is_whole(checksum::sum(rest, self.pseudo(packet, len)))
    }
}
