//! Layers of images: tar archives with PAX records, packed or not, whose writer means harm.
//!
//! Each is unpacked in a directory beside others that must stay as they are, and the thread that does it
//! has nothing else: its root directory is a file system in memory with these alone, so that `/` in a link
//! leads to what is watched, and an escape harms nobody.

use std::collections::BTreeMap;
use std::fs;
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

use super::bytes::{mutate, one};
use super::driver::{Answer, Bounds, Report, Settings, Target, corpus, hunt, tell};
use super::tars::{self, BLOCK, change, members, packed, plain};

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

/// An archive of the corpus, changed member by member, field by field, and packed.
fn make(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let seeds: Vec<Vec<u8>> = (0..2).map(|_| plain(one::<Vec<u8>>(random, corpus))).collect();
    let mut members = members(&seeds[0]);
    for _ in 0..1 << random.random_range(0..4) {
        change(random, &mut members, &tars::members(&seeds[1]));
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
    packed(random, bytes)
}
