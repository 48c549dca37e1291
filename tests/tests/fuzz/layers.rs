//! Layers of images: tar archives with PAX records, packed or not, whose writer means harm.
//!
//! Each is unpacked in a directory beside others that must stay as they are, and the thread that does it
//! has nothing else: its root directory is a file system in memory with these alone, so that `/` in a link
//! leads to what is watched, and an escape harms nobody.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::UnshareFlags;
use shoal_agent_container::sys::process::unshare;
use shoal_agent_ground::testing::skip_without_root;
use shoal_agent_image::Limits;
use shoal_agent_image::testing::unpack;
use shoal_types::error_chain::chain;
use tempfile::TempDir;

use super::bytes::{mutate, one, part, pick};
use super::driver::{Answer, Bounds, Report, Settings, Target, corpus, hunt, tell};

const BLOCK: usize = 512;
const LAYER: &str = "/layer";
const AGAIN: &str = "/again";
const BENEATH: &str = "/beneath";
const CANARY: &str = "/canary";

/// Small ones, so that inputs reach them.
fn limits() -> Limits {
    Limits {
        layer_bytes: 1 << 20,
        layer_entries: 60,
        directory_path_bytes: 16 << 10,
        path_depth: 16,
        path_bytes: 600,
        extended_header_bytes: 16 << 10,
        ..Limits::default()
    }
}

#[test]
fn layers() {
    if skip_without_root() {
        return;
    }
    let bounds = Bounds {
        time: Duration::from_millis(500),
        time_per_byte: Duration::from_micros(10),
        memory: 64 << 20,
    };
    let target = Target { name: "layers", seeds: corpus("layers"), bounds };
    let settings = Settings::from_environment();
    let jail = TempDir::new().unwrap();
    let run = || {
        enter(jail.path());
        hunt(&target, &settings, make, check)
    };
    // On a thread of its own: what it sees of the file system goes with it.
    let outcome: Result<Report, _> =
        std::thread::scope(|scope| scope.spawn(run).join().expect("the thread has ended"));
    tell(&target, outcome);
}

/// Gives this thread a root directory of its own, in memory.
fn enter(jail: &Path) {
    unshare(UnshareFlags::NEWNS | UnshareFlags::FS).unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("tmpfs", jail, "tmpfs", MountFlags::NOSUID, Some(c"mode=0755,size=64m")).unwrap();
    for dir in ["proc", "canary/dir", "beneath/srv/data", "beneath/etc", "beneath/canary"] {
        fs::create_dir_all(jail.join(dir)).unwrap();
    }
    for file in ["canary/secret", "canary/dir/file", "beneath/srv/gone", "beneath/srv/data/old"] {
        fs::write(jail.join(file), file).unwrap();
    }
    std::os::unix::fs::symlink("/canary", jail.join("beneath/etc/link")).unwrap();
    std::os::unix::fs::symlink("../canary", jail.join("beneath/up")).unwrap();
    mount_bind("/proc", jail.join("proc")).unwrap();
    rustix::process::chroot(jail).unwrap();
    rustix::process::chdir("/").unwrap();
}

/// What can be seen of a file: kind and mode, owner, size, time, links, and what is in it.
type Seen = (u32, u32, u32, u64, i64, u64, Vec<u8>);

/// Everything below a directory, by path.
fn listing(dir: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.starts_with("/proc") {
                continue;
            }
            let meta = fs::symlink_metadata(&path).expect("an inode");
            let kind = meta.file_type();
            let content = if kind.is_file() {
                fs::read(&path).expect("a file")
            } else if kind.is_symlink() {
                fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
            } else if kind.is_char_device() || kind.is_block_device() {
                meta.rdev().to_le_bytes().to_vec()
            } else {
                Vec::new()
            };
            let size = if kind.is_dir() { 0 } else { meta.size() };
            let links = if kind.is_dir() { 0 } else { meta.nlink() };
            let (owner, group) = (meta.uid(), meta.gid());
            all.insert(
                path.clone(),
                (meta.mode(), owner, group, size, meta.mtime(), links, content),
            );
            if kind.is_dir() {
                rest.push(path);
            }
        }
    }
    all
}

fn outside() -> BTreeMap<PathBuf, Seen> {
    let mut all = listing(Path::new("/"));
    all.retain(|path, _| !path.starts_with(LAYER) && !path.starts_with(AGAIN));
    all
}

fn check(packed: &[u8]) -> Answer {
    let before = outside();
    assert!(before.contains_key(Path::new(CANARY)) && before.contains_key(Path::new(BENEATH)));
    let (answer, unpacked) = unpacked(packed, LAYER);
    if matches!(answer, Answer::Read(_)) {
        // Packed in another way it is the same.
        let repacked = zstd::encode_all(plain(packed).as_slice(), 1).expect("a vector takes it");
        let (again, listed) = self::unpacked(&repacked, AGAIN);
        assert_eq!(again, answer, "packed again");
        assert!(listed == unpacked, "packed again it is another layer");
    }
    assert!(outside() == before, "something outside of the layer has changed");
    answer
}

/// Unpacks into a new directory, which is gone afterwards, and says what was in it.
fn unpacked(packed: &[u8], dir: &str) -> (Answer, BTreeMap<PathBuf, Seen>) {
    let dir = Path::new(dir);
    let _ = fs::remove_dir_all(dir);
    fs::create_dir(dir).unwrap();
    let limits = limits();
    let outcome = unpack(packed, dir, &[PathBuf::from(BENEATH)], &limits);
    let found = listing(dir);
    within(&found, dir, &limits);
    fs::remove_dir_all(dir).unwrap();
    let strip = |(path, mut seen): (PathBuf, Seen)| {
        // What the archive says nothing of has the time of its making.
        if seen.4 > 1_780_000_000 {
            seen.4 = 0;
        }
        (path.strip_prefix(dir).expect("below it").to_owned(), seen)
    };
    let found: BTreeMap<PathBuf, Seen> = found.into_iter().map(strip).collect();
    let answer = match outcome {
        Ok(layer) => {
            assert!(layer.entries <= limits.layer_entries, "{layer:?}");
            assert!(layer.content_bytes <= limits.layer_bytes, "{layer:?}");
            let kinds: std::collections::BTreeSet<u32> =
                found.values().map(|seen| seen.0 & 0o170_000).collect();
            let linked = found.values().any(|seen| seen.5 > 1);
            Answer::Read(format!(
                "{:?} {linked}",
                kinds.iter().map(|k| letter(*k)).collect::<String>()
            ))
        }
        Err(error) => {
            let text = chain(&error).to_string();
            assert!(text.len() < 8192, "a refusal of {} bytes", text.len());
            Answer::Refused(text)
        }
    };
    (answer, found)
}

fn letter(kind: u32) -> char {
    match kind {
        0o040_000 => 'd',
        0o100_000 => 'f',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        _ => 'p',
    }
}

/// Whether a layer, whole or not, is within the limits.
fn within(found: &BTreeMap<PathBuf, Seen>, dir: &Path, limits: &Limits) {
    let (mut bytes, mut inodes) = (0, 0);
    for (path, seen) in found {
        let below = path.strip_prefix(dir).expect("below it");
        let depth = below.components().count();
        assert!(depth <= limits.path_depth, "{} is {depth} deep", path.display());
        if seen.0 & 0o170_000 != 0o040_000 {
            inodes += 1;
            bytes += if seen.5 > 1 { 0 } else { seen.3 };
        }
    }
    assert!(inodes <= limits.layer_entries, "{inodes} files");
    assert!(
        bytes <= limits.layer_bytes + limits.layer_entries * limits.path_bytes as u64,
        "{bytes} bytes"
    );
}

/// The archive, unpacked as far as it goes, and not without end.
fn plain(packed: &[u8]) -> Vec<u8> {
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

/// An archive of the corpus, changed member by member, field by field, and packed.
fn make(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let seeds: Vec<Vec<u8>> = (0..2).map(|_| plain(one::<Vec<u8>>(random, corpus))).collect();
    let mut members = members(&seeds[0]);
    for _ in 0..1 << random.random_range(0..4) {
        change(random, &mut members, &self::members(&seeds[1]));
    }
    let mut bytes = members.concat();
    bytes.extend([0; 2 * BLOCK]);
    if random.random_bool(0.05) {
        mutate(random, &mut bytes, &seeds, &["../", "/", ".wh."]);
    }
    if random.random_bool(0.01) {
        // Nothing but zeros is small when it is packed.
        bytes.extend(vec![0; 8 << 20]);
    }
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
fn members(archive: &[u8]) -> Vec<Vec<u8>> {
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

fn change(random: &mut StdRng, members: &mut Vec<Vec<u8>>, others: &[Vec<u8>]) {
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

fn put(header: &mut [u8], at: usize, length: usize, value: &[u8]) {
    header[at..at + length].fill(0);
    let value = &value[..value.len().min(length)];
    header[at..at + value.len()].copy_from_slice(value);
}

fn seal(header: &mut [u8]) {
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
