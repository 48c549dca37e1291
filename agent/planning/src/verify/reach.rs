//! Which packets pass to a peer and back: what is sent, whom to, and how large.

use std::net::Ipv4Addr;

use shoal_types::id::NodeId;

use crate::tunnel::{FILLED, LEAST, MTU};

/// What is tried where the largest does not pass, in bytes: what fits a usual wire, however it is filled up; what IPv6
/// promises to take everywhere (RFC 8200, 5); then what every host takes (RFC 791, 3.1). What does not take that is told
/// apart from what takes nothing by one small packet.
const STEPS: [u32; 4] = [MTU / FILLED * FILLED, 1280, LEAST, SMALL];
const SMALL: u32 = 128;
/// Headers of IPv4 without options, and of an ICMP echo (RFC 792), in bytes.
const HEADERS: usize = 20 + 8;
/// What an echo is asked for with, and answered (RFC 792).
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// Bytes by which an answer is known to be ours: nobody else knows them.
const TOKEN: usize = 16;

/// What came of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// This size is to be tried next.
    Next(u32),
    /// The largest that passes; zero if none does.
    Ended(u32),
}

/// The search for the largest packet that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    full: u32,
    /// Largest that has passed.
    passed: u32,
    /// Smallest that has not.
    lost: Option<u32>,
}

impl Search {
    /// For packets up to a size, which is tried first.
    #[must_use]
    pub const fn new(full: u32) -> Self {
        Self { full, passed: 0, lost: None }
    }

    /// What is next.
    #[must_use]
    pub fn next(&self) -> Tried {
        match self.lost {
            None if self.passed >= self.full => Tried::Ended(self.passed),
            None => Tried::Next(self.full),
            Some(lost) if self.passed == 0 => {
                // A little less than the usual largest is not worth a step of its own.
                let skipped = usize::from(self.full <= MTU);
                let below = STEPS.into_iter().skip(skipped).find(|step| *step < lost);
                below.map_or(Tried::Ended(0), Tried::Next)
            }
            // What takes small packets alone is no way for anything; how small does not matter.
            Some(_) if self.passed <= SMALL => Tried::Ended(self.passed),
            Some(lost) if lost - self.passed > 1 => {
                Tried::Next(self.passed + (lost - self.passed) / 2)
            }
            Some(_) => Tried::Ended(self.passed),
        }
    }

    /// The largest that has passed so far; zero before one has.
    #[must_use]
    pub const fn passed(&self) -> u32 {
        self.passed
    }

    /// A packet of this size was answered, or was not.
    pub fn learn(&mut self, size: u32, answered: bool) {
        if answered {
            self.passed = self.passed.max(size);
        } else {
            self.lost = Some(self.lost.map_or(size, |lost| lost.min(size)));
        }
    }
}

/// An echo request of ICMP that makes a packet of `size` bytes with its header of IPv4, which the kernel adds.
#[must_use]
pub fn echo(size: u32, id: u16, sequence: u16, token: [u8; TOKEN]) -> Vec<u8> {
    let length = usize::try_from(size).unwrap_or_default().max(HEADERS + TOKEN) - 20;
    let mut packet = vec![0; length];
    packet[0] = ECHO_REQUEST;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[8..8 + TOKEN].copy_from_slice(&token);
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Of what is an answer to an echo, as a raw socket has it: who has sent it, the sequence number and the size of the
/// packet in bytes. `None` for all else.
#[must_use]
pub fn echoed(packet: &[u8], id: u16, token: [u8; TOKEN]) -> Option<(Ipv4Addr, u16, u32)> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let version = packet.first()? >> 4;
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let echo = packet.get(header..)?;
    let told = echo.get(8..8 + TOKEN)?;
    let word = |at: usize| Some(u16::from_be_bytes([*echo.get(at)?, *echo.get(at + 1)?]));
    let is_ours = version == 4
        && header >= 20
        && echo.first() == Some(&ECHO_REPLY)
        && word(4) == Some(id)
        && told == token;
    is_ours.then(|| Some((source.into(), word(6)?, u32::try_from(packet.len()).ok()?)))?
}

/// Whether an answer of this size counts that has come in parts. What is larger than usual has to come as it was sent: who
/// cuts it has an interface for smaller packets, and so have the containers behind it.
#[must_use]
pub const fn counts(size: u32, in_parts: bool) -> bool {
    !in_parts || size <= MTU
}

/// The Internet's checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    let mut sum: u32 = words.fold(0, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// At most `max` of these nodes, which come in order: those that follow `own` in a ring of all, so that nodes that
/// leave some out leave out different ones, and each is tried by as many as tries itself.
#[must_use]
pub fn sample(own: NodeId, mut all: Vec<NodeId>, max: usize) -> Vec<NodeId> {
    all.sort_unstable();
    all.dedup();
    let next = all.partition_point(|node| *node <= own);
    all.rotate_left(next);
    all.truncate(max);
    all
}
