//! Packets, put together word by word: nothing of what is tested makes them.

use std::ops::Range;

use proptest::prelude::*;

use crate::segment::{Gso, Header};

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const URG: u8 = 0x20;
pub(super) const ECE: u8 = 0x40;
pub(super) const CWR: u8 = 0x80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Tcp4, Self::Tcp6, Self::Udp4, Self::Udp6];

    pub(super) fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
    }

    pub(super) fn is_v4(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Udp4)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    /// Which of several connections.
    pub(super) flow: u8,
    /// To which port it goes.
    pub(super) port: u16,
    pub(super) id: u16,
    /// Flags and place of a fragment.
    pub(super) fragment: u16,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) label: u8,
    pub(super) ip_options: Vec<u8>,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) reserved: u8,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) urgent: u16,
    pub(super) options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Packet {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            flow: 1,
            port: 0x3456,
            id: 0xfffe,
            fragment: 0x4000,
            tos: 0,
            ttl: 64,
            label: 3,
            ip_options: Vec::new(),
            sequence: 0xffff_fe00,
            acknowledged: 77,
            reserved: 0,
            flags: ACK,
            window: 501,
            urgent: 0,
            options: Vec::new(),
            payload: vec![0x5a; 100],
        }
    }

    /// What comes after this one in the same stream.
    pub(super) fn following(&self) -> Self {
        let sequence = self.sequence.wrapping_add(self.payload.len() as u32);
        Self { sequence, id: self.id.wrapping_add(1), ..self.clone() }
    }

    fn ip_len(&self) -> usize {
        if self.kind.is_v4() { 20 + self.ip_options.len() } else { 40 }
    }

    fn field(&self) -> usize {
        if self.kind.is_tcp() { 16 } else { 6 }
    }

    /// What the kernel says of it when it is to be cut to this size.
    pub(super) fn header(&self, size: u16) -> Header {
        let gso = match self.kind {
            Kind::Tcp4 => Gso::Tcp4,
            Kind::Tcp6 => Gso::Tcp6,
            Kind::Udp4 | Kind::Udp6 => Gso::Udp,
        };
        let (ip, field) = (self.ip_len() as u16, self.field() as u16);
        Header { checksum: Some((ip, field)), gso: Some((gso, size)), headers: 0 }
    }

    fn without_checksum(&self) -> Vec<u8> {
        let [high, low] = self.port.to_be_bytes();
        let mut transport = vec![0x12, self.flow, high, low];
        if self.kind.is_tcp() {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend(self.acknowledged.to_be_bytes());
            let offset = (5 + self.options.len() / 4) as u8;
            transport.extend([offset << 4 | self.reserved, self.flags]);
            transport.extend(self.window.to_be_bytes());
            transport.extend([0, 0]);
            transport.extend(self.urgent.to_be_bytes());
            transport.extend(&self.options);
        } else {
            transport.extend((8 + self.payload.len() as u16).to_be_bytes());
            transport.extend([0, 0]);
        }
        transport.extend(&self.payload);
        let protocol = if self.kind.is_tcp() { 6 } else { 17 };
        let len = (self.ip_len() + transport.len()) as u16;
        let mut packet = Vec::new();
        if self.kind.is_v4() {
            packet.extend([0x40 | (self.ip_len() / 4) as u8, self.tos]);
            packet.extend(len.to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend(self.fragment.to_be_bytes());
            packet.extend([self.ttl, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, self.flow]);
            packet.extend(&self.ip_options);
            let checksum = !sum(&packet);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            packet.extend([0x60 | self.tos >> 4, self.tos << 4, 0, self.label]);
            packet.extend((len - 40).to_be_bytes());
            packet.extend([protocol, self.ttl]);
            packet.extend([0xfd; 16]);
            packet.extend([0xfc; 15]);
            packet.push(self.flow);
        }
        packet.extend(transport);
        packet
    }

    fn with_checksum(&self, of: impl Fn(&[u8]) -> u16) -> Vec<u8> {
        let mut packet = self.without_checksum();
        let at = self.ip_len() + self.field();
        let checksum = of(&packet);
        packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// As it is on the wire.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.with_checksum(|packet| {
            let from = self.ip_len();
            match !sum(&[pseudo(packet, from), packet[from..].to_vec()].concat()) {
                0 if !self.kind.is_tcp() => 0xffff,
                checksum => checksum,
            }
        })
    }

    /// As the kernel hands it over: with the sum of the pseudo header alone.
    pub(super) fn partial(&self) -> Vec<u8> {
        self.with_checksum(|packet| sum(&pseudo(packet, self.ip_len())))
    }
}

/// As RFC 1071 has it.
fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0_u32;
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn pseudo(packet: &[u8], from: usize) -> Vec<u8> {
    let v4 = packet[0] >> 4 == 4;
    let addresses = if v4 { &packet[12..20] } else { &packet[8..40] };
    let protocol = if v4 { packet[9] } else { packet[6] };
    let len = (packet.len() - from) as u16;
    [addresses, &len.to_be_bytes(), &[0, protocol]].concat()
}

/// Whether its checksums are right, counted anew.
pub(super) fn is_right(packet: &[u8]) -> bool {
    let v4 = packet[0] >> 4 == 4;
    let from = if v4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    let whole = [pseudo(packet, from), packet[from..].to_vec()].concat();
    (!v4 || sum(&packet[..from]) == 0xffff) && sum(&whole) == 0xffff
}

/// Packets as hosts send them, odd ones among them.
pub(super) fn any_of(payload: Range<usize>) -> impl Strategy<Value = Packet> {
    let kind = prop::sample::select(Kind::ALL.to_vec());
    let words = |words: Range<usize>| {
        prop::collection::vec(any::<[u8; 4]>(), words).prop_map(|words| words.concat())
    };
    let tcp = (any::<u32>(), any::<u32>(), 0_u8..2, any::<u16>(), any::<u16>(), words(0..11));
    let ip = (any::<u16>(), any::<u8>(), any::<u8>(), any::<u8>(), words(0..3));
    (kind, ip, tcp, prop::collection::vec(any::<u8>(), payload)).prop_map(
        |(kind, (id, tos, ttl, label, ip_options), tcp, payload)| {
            let (sequence, acknowledged, ecn, window, urgent, options) = tcp;
            let flags = ACK | if ecn == 1 { ECE } else { 0 };
            Packet {
                id,
                tos,
                ttl,
                label,
                ip_options,
                sequence,
                acknowledged,
                flags,
                window,
                urgent,
                options,
                payload,
                ..Packet::new(kind)
            }
        },
    )
}
