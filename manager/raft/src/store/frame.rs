//! The envelope of every stored value: a checksum that is bound to the key, the version of what
//! follows, the payload.
//!
//! ```text
//! checksum   4 bytes   CRC-32 of the key's length (8 bytes, big endian), the key, the version and
//!                      the payload; big endian
//! version    1 byte    how the payload is to be read; 1: a message of storage.proto, in the clear
//! payload    the rest
//! ```
//!
//! Checksum and version stay as they are in every later version, so that whatever a newer program
//! wrote (an encrypted payload, say) is told from damage, and refused by its version.

const CHECKSUM_BYTES: usize = 4;

/// What this program writes, and the newest that it reads.
pub(crate) const VERSION: u8 = 1;

/// Why a stored value has no payload for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is not what was written.
    Damaged,
    /// It is whole, and a newer program wrote it so.
    Newer {
        /// Its version.
        version: u8,
    },
}

fn checksum(key: &[u8], version: u8, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_be_bytes());
    hasher.update(key);
    hasher.update(&[version]);
    hasher.update(payload);
    hasher.finalize().to_be_bytes()
}

/// The value to store under `key`.
pub(crate) fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    seal_as(VERSION, key, payload)
}

pub(super) fn seal_as(version: u8, key: &[u8], payload: &[u8]) -> Vec<u8> {
    [&checksum(key, version, payload), [version].as_slice(), payload].concat()
}

/// The payload that was stored under `key`.
pub(crate) fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], Unreadable> {
    let (sum, rest) = value.split_at_checked(CHECKSUM_BYTES).ok_or(Unreadable::Damaged)?;
    let (version, payload) = rest.split_first().ok_or(Unreadable::Damaged)?;
    if sum != checksum(key, *version, payload) {
        return Err(Unreadable::Damaged);
    }
    match *version {
        VERSION => Ok(payload),
        0 => Err(Unreadable::Damaged),
        version => Err(Unreadable::Newer { version }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_seen() {
        let value = seal(b"key", b"some payload");
        assert_eq!(open(b"key", &value), Ok(b"some payload".as_slice()));
        assert_eq!(open(b"kez", &value), Err(Unreadable::Damaged));
        assert_eq!(open(b"key", &value[..value.len() - 1]), Err(Unreadable::Damaged));
        assert_eq!(open(b"key", b"abcd"), Err(Unreadable::Damaged));
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(b"key", &flipped), Err(Unreadable::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn what_a_newer_program_wrote_is_told_from_damage() {
        let newer = seal_as(2, b"key", b"some payload");
        assert_eq!(open(b"key", &newer), Err(Unreadable::Newer { version: 2 }));
        let never_written = seal_as(0, b"key", b"some payload");
        assert_eq!(open(b"key", &never_written), Err(Unreadable::Damaged));
    }
}
