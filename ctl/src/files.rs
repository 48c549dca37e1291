//! Reading files that somebody names.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes that are read at the most.
const BYTES_MAX: u64 = 16 << 20;

/// The text of a file, a pipe or a device.
///
/// # Errors
/// The kernel's answer; `FileTooLarge` past the limit; `InvalidData` when it is no UTF-8.
pub(crate) fn text_of(path: &Path) -> io::Result<String> {
    text(File::open(path)?)
}

/// What comes from a reader.
///
/// # Errors
/// As [`text_of`].
pub(crate) fn text(reader: impl Read) -> io::Result<String> {
    let bytes = bytes(reader)?;
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.utf8_error()))
}

/// The bytes of a file, a pipe or a device.
///
/// # Errors
/// As [`text_of`], of which any bytes are fine.
pub(crate) fn bytes_of(path: &Path) -> io::Result<Vec<u8>> {
    bytes(File::open(path)?)
}

/// The same of a reader.
///
/// # Errors
/// As [`bytes_of`].
pub(crate) fn bytes(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        let text = format!("it is larger than {} MiB", BYTES_MAX >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_refused() {
        assert_eq!(text(&b"a"[..]).unwrap(), "a");
        let error = text_of(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than 16 MiB");
        assert_eq!(text(&b"\xff"[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
