//! What stands before every packet on a TUN device with `IFF_VNET_HDR`: `struct virtio_net_hdr` of
//! linux/virtio_net.h, in the byte order of this machine.

/// How a large packet is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gso {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either.
    Udp,
}

impl Gso {
    const TCP4: u8 = 1;
    const TCP6: u8 = 4;
    const UDP_L4: u8 = 5;
    /// Beside the others: the first segment has CWR set.
    const ECN: u8 = 0x80;
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Where the checksum begins that is not complete, and where in that part it is. The field has the sum of
    /// the pseudo header.
    pub checksum: Option<(u16, u16)>,
    /// How it is to be cut, and how many bytes of payload each piece has.
    pub gso: Option<(Gso, u16)>,
    /// Bytes of all headers of a packet that is to be cut: a hint.
    pub headers: u16,
}

impl Header {
    /// Bytes of it.
    pub const LEN: usize = 10;
    const NEEDS_CHECKSUM: u8 = 1;

    /// Reads it; `None` for a kind of packet that was not asked for.
    #[must_use]
    pub fn parse(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1] = bytes;
        let word = |low, high| u16::from_ne_bytes([low, high]);
        let size = word(s0, s1);
        let gso = match kind & !Gso::ECN {
            0 => None,
            Gso::TCP4 => Some((Gso::Tcp4, size)),
            Gso::TCP6 => Some((Gso::Tcp6, size)),
            Gso::UDP_L4 => Some((Gso::Udp, size)),
            _ => return None,
        };
        let needs = flags & Self::NEEDS_CHECKSUM != 0;
        let checksum = needs.then(|| (word(c0, c1), word(o0, o1)));
        Some(Self { checksum, gso, headers: word(h0, h1) })
    }

    /// Writes it.
    #[must_use]
    pub fn bytes(&self) -> [u8; Self::LEN] {
        let (kind, size) = match self.gso {
            None => (0, 0),
            Some((Gso::Tcp4, size)) => (Gso::TCP4, size),
            Some((Gso::Tcp6, size)) => (Gso::TCP6, size),
            Some((Gso::Udp, size)) => (Gso::UDP_L4, size),
        };
        let flags = if self.checksum.is_some() { Self::NEEDS_CHECKSUM } else { 0 };
        let (start, offset) = self.checksum.unwrap_or_default();
        let [h, s, c, o] = [self.headers, size, start, offset].map(u16::to_ne_bytes);
        [flags, kind, h[0], h[1], s[0], s[1], c[0], c[1], o[0], o[1]]
    }
}
