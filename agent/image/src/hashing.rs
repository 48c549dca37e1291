//! Digests and byte counts taken while data streams by.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
pub(super) use shoal_registry::digest_of;
use shoal_types::image_ref::Digest;

/// Passes a stream through, hashing and counting, and fails beyond a number of bytes.
pub(super) struct HashingReader<R> {
    inner: R,
    hasher: Sha256,
    count: u64,
    limit: u64,
}

/// A stream went beyond its limit; travels inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("more than {limit} bytes")]
pub(super) struct StreamTooLong {
    /// Bytes accepted.
    pub limit: u64,
}

impl<R: Read> HashingReader<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0, limit }
    }

    /// Reads and hashes what is left.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(|_| ())
    }

    /// Digest and length of everything read so far.
    pub(super) fn finish(self) -> (Digest, u64) {
        (Digest::from_bytes(self.hasher.finalize().into()), self.count)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        if self.count > self.limit {
            return Err(io::Error::other(StreamTooLong { limit: self.limit }));
        }
        Ok(count)
    }
}

/// Whether an error came from a [`HashingReader`]'s limit.
pub(super) fn is_too_long(error: &io::Error) -> Option<u64> {
    error.get_ref()?.downcast_ref::<StreamTooLong>().map(|long| long.limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_hashed_counted_and_bounded() {
        let mut reader = HashingReader::new(&b"hello"[..], 5);
        reader.drain().unwrap();
        assert_eq!(reader.finish(), (digest_of(b"hello"), 5));
        let error = HashingReader::new(&b"hello!"[..], 5).drain().unwrap_err();
        assert_eq!(is_too_long(&error), Some(5));
    }
}
