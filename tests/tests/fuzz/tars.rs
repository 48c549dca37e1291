//! Tar archives, changed member by member, field by field, and packed.

use std::io::{Read as _, Write as _};

use rand::Rng as _;
use rand::rngs::StdRng;

use super::bytes::{one, part, pick};

pub(crate) const BLOCK: usize = 512;

/// The archive, unpacked as far as it goes, and not without end.
pub(crate) fn plain(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let bound = 4 << 20;
    let _ = match packed {
        [0x1f, 0x8b, ..] => {
            flate2::read::MultiGzDecoder::new(packed).take(bound).read_to_end(&mut bytes)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => match zstd::stream::read::Decoder::new(packed) {
            Ok(decoder) => decoder.take(bound).read_to_end(&mut bytes),
            Err(_) => Ok(0),
        },
        _ => packed.take(bound).read_to_end(&mut bytes),
    };
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("a vector takes it");
    encoder.finish().expect("a vector takes it")
}

/// Packed or not, and now and then not whole.
pub(crate) fn packed(random: &mut StdRng, bytes: Vec<u8>) -> Vec<u8> {
    let mut packed = match random.random_range(0..4) {
        0 => gzip(&bytes),
        1 => zstd::encode_all(bytes.as_slice(), 1).expect("a vector takes it"),
        _ => bytes,
    };
    if random.random_bool(0.03) {
        let end = part(random, packed.len()).start;
        packed.truncate(end);
    }
    if random.random_bool(0.03) && !packed.is_empty() {
        let at = random.random_range(0..packed.len());
        packed[at] ^= 1 << random.random_range(0..8);
    }
    packed
}

/// Headers with the bodies that follow them.
pub(crate) fn members(archive: &[u8]) -> Vec<Vec<u8>> {
    let mut members: Vec<Vec<u8>> = Vec::new();
    let mut body = 0;
    for block in archive.chunks(BLOCK) {
        if body == 0 && block.iter().all(|byte| *byte == 0) {
            continue;
        }
        if body == 0 {
            let size = block.get(124..135).and_then(|field| std::str::from_utf8(field).ok());
            let size = size.and_then(|text| usize::from_str_radix(text.trim(), 8).ok());
            body = size.unwrap_or(0).div_ceil(BLOCK);
            // Links and directories have none, whatever they say.
            if matches!(block.get(156), Some(b'1'..=b'6')) {
                body = 0;
            }
            members.push(block.to_vec());
        } else {
            body -= 1;
            members.last_mut().expect("its header").extend_from_slice(block);
        }
    }
    members
}

const NAMES: [&str; 26] = [
    "../canary/evil",
    "/canary/evil",
    "up/evil",
    "root/canary/evil",
    "abs/evil",
    "a/../b",
    ".",
    "/",
    "./",
    "..",
    "etc/link/evil",
    "up",
    "srv/data",
    "srv/.wh.gone",
    ".wh.canary",
    "srv/.wh..wh..opq",
    ".wh..wh..opq",
    ".wh.",
    ".wh..",
    ".wh.../x",
    "d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/f",
    "\u{0}",
    "dev/null",
    "usr/bin/busybox",
    "loop/x",
    "é",
];
const RECORDS: [(&str, &str); 16] = [
    ("path", "../canary/evil"),
    ("path", "/canary/dir/evil"),
    ("path", ""),
    ("linkpath", "/canary/secret"),
    ("linkpath", "../../canary"),
    ("size", "0"),
    ("size", "512"),
    ("size", "18446744073709551615"),
    ("uid", "4294967295"),
    ("gid", "77777"),
    ("mtime", "-1.5"),
    ("mtime", "9223372036854775807.9"),
    ("SCHILY.xattr.user.a", "b\nc=d\0"),
    ("SCHILY.xattr.trusted.overlay.opaque", "y"),
    ("SCHILY.xattr.security.capability", "\u{1}\0\0\u{2}"),
    ("GNU.sparse.major", "1"),
];

pub(crate) fn change(random: &mut StdRng, members: &mut Vec<Vec<u8>>, others: &[Vec<u8>]) {
    if members.is_empty() {
        members.extend(others.iter().cloned());
        return;
    }
    let at = random.random_range(0..members.len());
    match random.random_range(0..12) {
        0 => drop(members.remove(at)),
        1 => {
            let times = pick(random, &[1, 1, 1, 1, 1, 30, 70]);
            let copy = members[at].clone();
            members.splice(at..at, std::iter::repeat_n(copy, times));
        }
        2 => {
            let with = random.random_range(0..members.len());
            members.swap(at, with);
        }
        3 | 4 if !others.is_empty() => members.insert(at, one(random, others).clone()),
        5 => {
            let (key, value) = pick(random, &RECORDS);
            members.insert(at, extended(random, key, value));
        }
        6 => {
            let name = pick(random, &NAMES).repeat(if random.random_bool(0.05) { 40 } else { 1 });
            members.insert(at, long_name(pick(random, b"LK"), &name));
        }
        _ => field(random, &mut members[at]),
    }
}

/// Changes one field of a header, whose checksum is right again afterwards.
fn field(random: &mut StdRng, member: &mut [u8]) {
    if member.len() < BLOCK {
        return;
    }
    let (header, body) = member.split_at_mut(BLOCK);
    let name = pick(random, &NAMES).as_bytes();
    match random.random_range(0..9) {
        0 | 1 => put(header, 0, 100, name),
        2 | 3 => put(header, 157, 100, name),
        4 => header[156] = pick(random, b"01234567xgLKSV\0"),
        5 => {
            let octal =
                ["0000000000", "00000001000", "77777777777", "-1", "", "9", "0000644", "4755"];
            let at = pick(random, &[100, 108, 116, 124, 136, 329, 337]);
            let length = if matches!(at, 124 | 136) { 12 } else { 8 };
            put(header, at, length, pick(random, &octal).as_bytes());
        }
        6 => {
            // A number of base 256.
            let at = pick(random, &[108, 116, 124, 136]);
            let first = pick(random, &[0x80, 0xff]);
            let rest = pick(random, &[0, 2, 0xff]);
            header[at..at + 8].copy_from_slice(&[first, rest, rest, rest, rest, rest, 2, rest]);
        }
        7 => put(header, 257, 8, pick(random, &["ustar\u{0}00", "ustar  \u{0}", ""]).as_bytes()),
        _ if !body.is_empty() => {
            let at = random.random_range(0..body.len());
            body[at] = random.random();
        }
        _ => put(header, 345, 155, name),
    }
    seal(header);
}

pub(crate) fn put(header: &mut [u8], at: usize, length: usize, value: &[u8]) {
    header[at..at + length].fill(0);
    let value = &value[..value.len().min(length)];
    header[at..at + value.len()].copy_from_slice(value);
}

pub(crate) fn seal(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn with_body(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut member = vec![0; BLOCK];
    put(&mut member, 0, 100, b"extended");
    put(&mut member, 124, 12, format!("{:011o}", body.len()).as_bytes());
    put(&mut member, 257, 8, b"ustar\x0000");
    member[156] = kind;
    seal(&mut member);
    member.extend_from_slice(body);
    member.resize(member.len().next_multiple_of(BLOCK), 0);
    member
}

/// A PAX header with one record or a few, whose lengths are mostly right.
fn extended(random: &mut StdRng, key: &str, value: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let records = [(key, value), pick(random, &RECORDS)];
    for (key, value) in &records[..random.random_range(1..=2)] {
        let value = value.repeat(if random.random_bool(0.02) { 500 } else { 1 });
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length = length.to_string().len() + rest;
        }
        if random.random_bool(0.05) {
            length = length.wrapping_add_signed(pick(random, &[-1, 1, 10, -20]));
        }
        body.extend(format!("{length} {key}={value}\n").into_bytes());
    }
    with_body(b'x', &body)
}

fn long_name(kind: u8, name: &str) -> Vec<u8> {
    with_body(kind, format!("{name}\0").as_bytes())
}
