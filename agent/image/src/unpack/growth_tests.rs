//! What a layer costs grows with what is in it: twice the entries, about twice the work.
//!
//! Measured is what this thread makes the processor do, in our code and in the kernel for us; what
//! else runs on the host counts only where it disturbs, and never in all of several runs.

use std::path::{Path, PathBuf};

use shoal_agent_ground::testing::skip_without_root;
use tar::EntryType;
use tempfile::TempDir;

use super::testing::{Archive, Entry};
use super::*;

/// Twice the entries may cost so many tenths of what they cost once.
const GROWTH_MAX: u64 = 25;
/// Runs of each size before growth counts as proved.
const ATTEMPTS: usize = 12;

/// The layers of an image with `n` entries of a kind.
type Kind = fn(usize) -> Vec<Vec<Entry>>;

fn each(n: usize, entry: impl Fn(usize) -> Entry) -> Vec<Entry> {
    (0..n).map(entry).collect()
}

fn then(n: usize, entries: Vec<Entry>, entry: impl Fn(usize) -> Entry) -> Vec<Entry> {
    entries.into_iter().chain(each(n, entry)).collect()
}

fn dirs(n: usize) -> Vec<Entry> {
    each(n, |i| Entry::dir(&format!("d{i}")))
}

fn files(n: usize) -> Vec<Entry> {
    each(n, |i| Entry::file(&format!("f{i}"), b""))
}

/// Ever more layers that have a directory with a hundred files, and one upon them.
fn then_last(n: usize, entry: impl Fn(usize) -> Entry) -> Vec<Vec<Entry>> {
    let layer = |_| each(100, |i| Entry::file(&format!("d/f{i}"), b""));
    (0..n / 100).map(layer).chain([each(n, entry)]).collect()
}

fn deep(i: usize) -> String {
    format!("p{i}{}", "/x".repeat(40))
}

const KINDS: &[(&str, Kind)] = &[
    ("files", |n| vec![files(n)]),
    ("directories", |n| vec![dirs(n)]),
    ("one directory again and again", |n| vec![each(n, |_| Entry::dir("d"))]),
    ("symbolic links", |n| vec![each(n, |i| Entry::symlink(&format!("l{i}"), "x"))]),
    ("hard links", |n| {
        vec![then(n, files(n), |i| Entry::hard_link(&format!("h{i}"), &format!("f{i}")))]
    }),
    ("devices", |n| vec![each(n, |i| Entry::new(EntryType::Fifo, &format!("p{i}")))]),
    ("attributes", |n| {
        vec![each(n, |i| Entry::file(&format!("f{i}"), b"").pax("SCHILY.xattr.user.k", b"v"))]
    }),
    ("paths through a link", |n| {
        vec![then(n, vec![Entry::symlink("l", "d")], |i| Entry::file(&format!("l/f{i}"), b""))]
    }),
    ("deep paths", |n| vec![each(n / 20, |i| Entry::file(&format!("{}/f", deep(i)), b""))]),
    ("directories in one another's place", |n| {
        let entry = |i| match i % 3 {
            0 => Entry::dir("d"),
            1 => Entry::dir("d/d"),
            _ => Entry::file("d", b""),
        };
        vec![each(n, entry)]
    }),
    ("files in the place of files", |n| vec![then(n, dirs(n), |_| Entry::file("f", b""))]),
    ("files in the place of directories", |n| {
        vec![then(n, dirs(n), |i| Entry::file(&format!("d{i}"), b""))]
    }),
    ("links in the place of links", |n| {
        vec![then(n, dirs(n), |i| Entry::symlink("l", &format!("d{i}")))]
    }),
    ("whiteouts", |n| vec![files(n), each(n, |i| Entry::file(&format!(".wh.f{i}"), b""))]),
    ("whiteouts of nothing", |n| {
        vec![dirs(1), then(n, dirs(n), |i| Entry::file(&format!("d{i}/.wh.x"), b""))]
    }),
    ("whiteouts in directories", |n| {
        let inside = |name: &str| {
            let name = name.to_owned();
            move |i| Entry::file(&format!("d{i}/{name}"), b"")
        };
        vec![each(n, inside("f")), each(n, inside(".wh.f"))]
    }),
    ("whiteouts of own directories", |n| {
        vec![dirs(n), then(n, dirs(n), |i| Entry::file(&format!(".wh.d{i}"), b""))]
    }),
    ("opaque directories", |n| {
        vec![dirs(n), each(n, |i| Entry::file(&format!("d{i}/.wh..wh..opq"), b""))]
    }),
    ("deep whiteouts", |n| {
        let file = |name: &'static str| move |i| Entry::file(&format!("{}/{name}", deep(i)), b"");
        vec![each(n / 20, file("f")), each(n / 20, file(".wh.f"))]
    }),
    ("whiteouts of nothing under ever more layers", |n| {
        then_last(n, |i| Entry::file(&format!("d/.wh.x{i}"), b""))
    }),
    ("whiteouts in no directory under ever more layers", |n| {
        then_last(n, |i| Entry::file(&format!("d/x{i}/.wh.f"), b""))
    }),
    ("new directories under ever more layers", |n| {
        then_last(n, |i| Entry::file(&format!("d/x{i}/f"), b""))
    }),
    ("implied directories", |n| {
        let file = |name: &'static str| move |i| Entry::file(&format!("d{i}/{name}"), b"");
        vec![each(n, file("f")), each(n, file("g"))]
    }),
];

/// What this thread has had of processors (kernel, scheduler statistics): counted when it lets go.
fn processor_nanoseconds() -> u64 {
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// What it costs to unpack these archives.
fn cost(archives: &[Vec<u8>]) -> u64 {
    // In memory, if there is such a file system: what the disk does is not ours.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    let dir = dir.unwrap();
    let mut layers: Vec<PathBuf> = Vec::new();
    let mut spent = 0;
    for (n, archive) in archives.iter().enumerate() {
        let layer = dir.path().join(n.to_string());
        std::fs::create_dir(&layer).unwrap();
        let began = processor_nanoseconds();
        let outcome = unpack_layer(archive.as_slice(), &layer, &Limits::default());
        settle(&layer, outcome.layer.unwrap().finished, &layers, &Limits::default()).unwrap();
        spent += processor_nanoseconds() - began;
        layers.push(layer);
    }
    spent
}

#[test]
fn twice_the_entries_cost_about_twice_the_work() {
    if skip_without_root() {
        return;
    }
    const ENTRIES: usize = 1000;
    for (name, kind) in KINDS {
        let archives = |n| kind(n).iter().map(|layer| Archive::of(layer)).collect::<Vec<_>>();
        let (small, large) = (archives(ENTRIES), archives(2 * ENTRIES));
        let mut seen = Vec::new();
        let linear = (0..ATTEMPTS).any(|_| {
            seen.push((cost(&small), cost(&large)));
            seen.iter().any(|(once, twice)| twice * 10 <= once * GROWTH_MAX)
        });
        assert!(linear, "{name}: in ns, once and twice as many: {seen:?}");
    }
}
