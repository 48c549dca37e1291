//! PAX extended header records (POSIX.1-2017, pax, "pax Extended Header").
//!
//! Records are read by their length prefix and not by newlines: a value may hold any byte.

use super::tar_stream::{Mtime, Xattr};

/// Prefix under which extended attributes travel (star's convention, which Docker and Go share).
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";
const SPARSE_PREFIX: &[u8] = b"GNU.sparse.";

/// The records we understand; others (comments, access times, charsets) do not change what is
/// unpacked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Mtime>,
    pub xattrs: Vec<Xattr>,
    pub sparse: bool,
}

/// Why records cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaxError {
    /// The length prefix is no number or does not end at a newline.
    #[error("a record has a wrong length")]
    Length,
    /// A record without `=`.
    #[error("a record has no key")]
    Key,
    /// A number that is none.
    #[error("the record {key:?} has an invalid value")]
    Value {
        /// The record's key.
        key: &'static str,
    },
}

/// Reads all records. An empty value means "as in the header" (POSIX), so it is skipped.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Records, PaxError> {
    let mut records = Records::default();
    while !bytes.is_empty() {
        let (key, value, rest) = split_record(bytes)?;
        bytes = rest;
        if value.is_empty() && !key.starts_with(XATTR_PREFIX) {
            continue;
        }
        match key {
            b"path" => records.path = Some(value.to_vec()),
            b"linkpath" => records.link = Some(value.to_vec()),
            b"size" => records.size = Some(number(value, "size")?),
            b"uid" => records.uid = Some(number(value, "uid")?),
            b"gid" => records.gid = Some(number(value, "gid")?),
            b"mtime" => {
                let time = timestamp(value).ok_or(PaxError::Value { key: "mtime" })?;
                records.mtime = Some(time);
            }
            _ if key.starts_with(SPARSE_PREFIX) => records.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    records.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(records)
}

type Split<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// `<length> <key>=<value>\n`, where the length counts the whole record.
fn split_record(bytes: &[u8]) -> Result<Split<'_>, PaxError> {
    let blank = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or(PaxError::Length)?;
    let length = decimal(&bytes[..blank]).ok_or(PaxError::Length)?;
    let length = usize::try_from(length).map_err(|_| PaxError::Length)?;
    if length < blank + 2 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return Err(PaxError::Length);
    }
    let record = &bytes[blank + 1..length - 1];
    let equals = record.iter().position(|byte| *byte == b'=').ok_or(PaxError::Key)?;
    if equals == 0 {
        return Err(PaxError::Key);
    }
    Ok((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

fn number(value: &[u8], key: &'static str) -> Result<u64, PaxError> {
    decimal(value).ok_or(PaxError::Value { key })
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]`; the fraction of a negative time counts towards zero.
fn timestamp(value: &[u8]) -> Option<Mtime> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9).fold(0_u32, |sum, index| {
        sum * 10 + fraction.get(index).map_or(0, |digit| u32::from(digit - b'0'))
    });
    Some(match (negative, nanoseconds) {
        (false, _) => Mtime { seconds, nanoseconds },
        (true, 0) => Mtime { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Mtime { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length.to_string().len() + body != length {
            length = length.to_string().len() + body;
        }
        let mut out = format!("{length} ").into_bytes();
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
        out.push(b'\n');
        out
    }

    #[test]
    fn a_newline_in_a_value_does_not_hide_the_size_behind_it() {
        let mut bytes = record(b"SCHILY.xattr.security.capability", b"\x01\n\n\x00=\n");
        bytes.extend(record(b"size", b"12345678901"));
        let records = parse(&bytes).unwrap();
        assert_eq!(records.size, Some(12_345_678_901));
        assert_eq!(
            records.xattrs,
            [(b"security.capability".to_vec(), b"\x01\n\n\x00=\n".to_vec())]
        );
    }

    #[test]
    fn malformed_records_are_refused() {
        for (bytes, error) in [
            (&b"x"[..], PaxError::Length),
            (b"5 a=\n\n", PaxError::Length),
            (b"9 a=b\n", PaxError::Length),
            (b"99999999999999999999 a=b\n", PaxError::Length),
            (b"5 ab\n", PaxError::Key),
            (b"6 abc\n", PaxError::Key),
            (b"5 =b\n", PaxError::Key),
            (b"11 size=12x\n", PaxError::Length),
            (b"12 size=12x\n", PaxError::Value { key: "size" }),
            (b"11 size=-5\n", PaxError::Value { key: "size" }),
            (b"12 mtime=1x\n", PaxError::Value { key: "mtime" }),
        ] {
            assert_eq!(parse(bytes).unwrap_err(), error, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn times_keep_nanoseconds_and_signs() {
        for (text, seconds, nanoseconds) in [
            ("1", 1, 0),
            ("1.5", 1, 500_000_000),
            ("1.0000000019", 1, 1),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("7.", 7, 0),
        ] {
            let expected = Mtime { seconds, nanoseconds };
            assert_eq!(timestamp(text.as_bytes()), Some(expected), "{text}");
        }
        for text in ["", ".5", "1.x", "--1", "1e3"] {
            assert_eq!(timestamp(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read(value in proptest::collection::vec(any::<u8>(), 1..300)) {
            let mut bytes = record(b"path", &value);
            bytes.extend(record(b"uid", b"7"));
            let records = parse(&bytes).unwrap();
            prop_assert_eq!(records.path, Some(value));
            prop_assert_eq!(records.uid, Some(7));
        }
    }
}
