//! One TCP stream, as fast as it goes, for every benchmark of a way between two ends.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// Bytes that are written or read at once.
const CHUNK: usize = 128 << 10;

pub(crate) fn connect(to: SocketAddr) -> anyhow::Result<TcpStream> {
    TcpStream::connect_timeout(&to, Duration::from_secs(10)).context("connecting")
}

/// Sends until nobody listens any more.
///
/// # Errors
/// Nobody listens from the beginning.
pub(crate) fn send(to: SocketAddr) -> anyhow::Result<()> {
    let mut stream = connect(to)?;
    let chunk = vec![0x5a; CHUNK];
    while stream.write_all(&chunk).is_ok() {}
    Ok(())
}

/// Who reads what is sent, until it is dropped.
pub(crate) struct Receiver {
    stream: TcpStream,
    chunk: Vec<u8>,
}

impl Receiver {
    pub(crate) fn accept(listener: &TcpListener) -> anyhow::Result<Self> {
        let (stream, _) = listener.accept()?;
        Ok(Self { stream, chunk: vec![0; CHUNK] })
    }

    /// How many bytes come until then.
    pub(crate) fn read_until(&mut self, until: Instant) -> anyhow::Result<usize> {
        let mut bytes = 0;
        while Instant::now() < until {
            match self.stream.read(&mut self.chunk)? {
                0 => bail!("the stream has ended"),
                len => bytes += len,
            }
        }
        Ok(bytes)
    }
}
