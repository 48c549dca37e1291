//! A checksum around every stored value, bound to its key.

const CHECKSUM_BYTES: usize = 4;

fn checksum(key: &[u8], payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_be_bytes());
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize().to_be_bytes()
}

/// The value to store under `key`.
pub(crate) fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    [&checksum(key, payload), payload].concat()
}

/// The payload that was stored under `key`; `None` when it is not what was written.
pub(crate) fn open<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, payload) = value.split_at_checked(CHECKSUM_BYTES)?;
    (sum == checksum(key, payload)).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_seen() {
        let value = seal(b"key", b"some payload");
        assert_eq!(open(b"key", &value), Some(b"some payload".as_slice()));
        assert_eq!(open(b"kez", &value), None);
        assert_eq!(open(b"key", &value[..value.len() - 1]), None);
        assert_eq!(open(b"key", b"abc"), None);
        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(b"key", &flipped), None, "bit {bit}");
        }
    }
}
