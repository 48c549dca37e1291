//! Large packets, as the kernel exchanges them with a TUN device that has segmentation offload.
//!
//! What a stream sends at once comes from the kernel as one packet of up to 64 KiB with a header before it that
//! says how to cut it ([`split`]), and what belongs together is given back to it as one ([`Merger`]): the way
//! through the kernel is paid once, and not for every 1,400 bytes. On the wire there are the same packets as
//! without: cutting what was joined gives what there was, byte by byte.

mod checksum;
mod header;
mod merge;
mod parse;
mod split;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use header::{Gso, Header};
pub use merge::{Merger, Run};
pub use split::{Segments, SplitError, split};

/// What the kernel and the process of the tunnel exchange as large packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Offload {
    /// Nothing.
    None,
    /// Streams of TCP.
    Tcp,
    /// Runs of UDP, too.
    TcpAndUdp,
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::TcpAndUdp => "tcp and udp",
        })
    }
}
