//! Decompression, chosen by what the bytes are.
//!
//! Media types lie often enough that Docker goes by the first bytes, and so do we.

use std::io::{self, BufReader, Read};

/// What a stream is packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A compression we know by its first bytes and do not read; travels inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("{name} compression is not supported, only gzip, zstd and none are")]
pub(super) struct UnsupportedCompression {
    name: &'static str,
}

/// Largest zstd window, as a power of two: 32 MiB. RFC 8878 asks decoders for 8 MiB; every level
/// up to 20 stays below this, and it bounds what a layer can make us allocate.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;
/// Bytes read from the packed stream at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// Looks at the first bytes without consuming them.
pub(super) fn sniff(head: &[u8]) -> io::Result<Compression> {
    let unsupported = |name| Err(io::Error::other(UnsupportedCompression { name }));
    match head {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        // The second is a skippable frame, which may come first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => unsupported("xz"),
        [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
        _ => Ok(Compression::None),
    }
}

/// A reader of the unpacked bytes, and what the stream was packed with.
pub(super) fn decompress<'a>(
    mut packed: impl Read + 'a,
) -> io::Result<(Box<dyn Read + 'a>, Compression)> {
    let (head, length) = read_head(&mut packed)?;
    let compression = sniff(&head[..length])?;
    let packed = io::Cursor::new(head).take(length as u64).chain(packed);
    let packed = BufReader::with_capacity(BUFFER_BYTES, packed);
    let reader: Box<dyn Read + 'a> = match compression {
        Compression::None => Box::new(packed),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    };
    Ok((reader, compression))
}

/// As many bytes as the longest magic number needs, or fewer when the stream is shorter.
fn read_head(packed: &mut impl Read) -> io::Result<([u8; 8], usize)> {
    let mut head = [0; 8];
    let mut length = 0;
    while length < head.len() {
        match packed.read(&mut head[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((head, length))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn unpacked(packed: &[u8]) -> io::Result<(Vec<u8>, Compression)> {
        let (mut reader, compression) = decompress(packed)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        Ok((out, compression))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_first_bytes_decide() {
        let plain = b"plain".to_vec();
        let zstd = zstd::encode_all(&b"plain"[..], 3).unwrap();
        let two_members = [gzip(b"pla"), gzip(b"in")].concat();
        let skippable = [&b"\x50\x2a\x4d\x18\x02\x00\x00\x00xx"[..], &zstd].concat();
        for (packed, expected) in [
            (plain.clone(), Compression::None),
            (gzip(b"plain"), Compression::Gzip),
            (two_members, Compression::Gzip),
            (zstd, Compression::Zstd),
            (skippable, Compression::Zstd),
        ] {
            assert_eq!(unpacked(&packed).unwrap(), (plain.clone(), expected));
        }
        assert_eq!(unpacked(b"").unwrap(), (Vec::new(), Compression::None));
    }

    #[test]
    fn unsupported_and_corrupt_streams_are_errors() {
        let error = unpacked(b"\xfd7zXZ\x00").unwrap_err().to_string();
        assert!(error.contains("xz"), "{error}");
        let mut broken = gzip(&[7; 1000]);
        let end = broken.len() - 6;
        broken[end] ^= 1;
        assert!(unpacked(&broken).is_err());
        assert!(unpacked(&gzip(&[7; 1000])[..12]).is_err());
    }

    #[test]
    fn a_zstd_window_beyond_the_bound_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        // Longer than the window, so that the frame keeps it.
        let zeros = vec![0; 1 << 20];
        for _ in 0..130 {
            encoder.write_all(&zeros).unwrap();
        }
        let packed = encoder.finish().unwrap();
        assert!(unpacked(&packed).is_err());
    }
}
