//! Unpacking for real: needs root for owners, devices and `trusted.*` attributes.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use shoal_agent_ground::testing::skip_without_root;
use tar::EntryType;
use tempfile::TempDir;

use super::testing::{Archive, Entry};
use super::union::OPAQUE_XATTR;
use super::*;

struct Layer {
    dir: TempDir,
    outcome: Outcome,
}

impl Layer {
    fn with(bytes: &[u8], limits: &Limits) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("canary"), b"alive").unwrap();
        std::fs::create_dir(dir.path().join("fs")).unwrap();
        let outcome = unpack_layer(bytes, &dir.path().join("fs"), limits);
        Self { dir, outcome }
    }

    fn of(entries: &[Entry]) -> Self {
        Self::with(&Archive::of(entries), &Limits::default())
    }

    fn good(entries: &[Entry]) -> Self {
        let layer = Self::of(entries);
        assert!(layer.outcome.layer.is_ok(), "{:?}", layer.outcome.layer);
        layer
    }

    /// On these, lowest first.
    fn lay_upon(&self, beneath: &[&Self]) {
        let beneath: Vec<PathBuf> = beneath.iter().map(|layer| layer.path("")).collect();
        let finished = self.outcome.layer.as_ref().unwrap().finished.clone();
        settle(&self.path(""), finished, &beneath, &Limits::default()).unwrap();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("fs").join(path)
    }

    fn stat(&self, path: &str) -> std::fs::Metadata {
        std::fs::symlink_metadata(self.path(path)).unwrap()
    }

    fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path(path)).unwrap()
    }

    fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 256];
        let length = rustix::fs::lgetxattr(self.path(path), name, value.as_mut_slice()).ok()?;
        value.truncate(length);
        Some(value)
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let stat = self.stat(path);
        stat.file_type().is_char_device() && stat.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        self.xattr(path, OPAQUE_XATTR).as_deref() == Some(b"y")
    }

    /// The error's text; nothing outside the layer may have changed.
    fn refused(&self) -> String {
        assert_eq!(std::fs::read(self.dir.path().join("canary")).unwrap(), b"alive");
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 2);
        let error = self.outcome.layer.as_ref().unwrap_err();
        assert!(error.is_layers_fault(), "{error}");
        let source = std::error::Error::source(error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    }
}

#[test]
fn files_keep_owner_mode_time_and_attributes() {
    if skip_without_root() {
        return;
    }
    let capability =
        b"\x01\x00\x00\x02\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let layer = Layer::good(&[
        Entry::dir("bin").mode(0o2755).owner(7, 8),
        Entry::file("bin/su", b"binary")
            .mode(0o4755)
            .owner(1000, 2000)
            .pax("mtime", b"1234567890.5")
            .pax("SCHILY.xattr.security.capability", capability)
            .pax("SCHILY.xattr.user.note", b"x\ny")
            .pax("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
    ]);
    let stat = layer.stat("bin/su");
    assert_eq!(stat.mode() & 0o7777, 0o4755);
    assert_eq!((stat.uid(), stat.gid()), (1000, 2000));
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_234_567_890, 500_000_000));
    assert_eq!(layer.read("bin/su"), b"binary");
    assert_eq!(layer.xattr("bin/su", "security.capability").unwrap(), capability);
    assert_eq!(layer.xattr("bin/su", "user.note").unwrap(), b"x\ny");
    assert_eq!(layer.xattr("bin/su", "trusted.overlay.redirect"), None);
    let dir = layer.stat("bin");
    assert_eq!(dir.mode() & 0o7777, 0o2755);
    assert_eq!((dir.uid(), dir.gid(), dir.mtime()), (7, 8, 1_000_000_000));
}

#[test]
fn links_devices_and_long_names() {
    if skip_without_root() {
        return;
    }
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let layer = Layer::good(&[
        Entry::file("a", b"one").owner(5, 5),
        Entry::hard_link("b/c", "./a"),
        Entry::hard_link("a", "a"),
        Entry::symlink("s", "/etc/../../anything").owner(3, 4),
        Entry::new(EntryType::Char, "null").device(1, 3).mode(0o666),
        Entry::new(EntryType::Block, "loop").device(7, 0).mode(0o660),
        Entry::new(EntryType::Fifo, "pipe").mode(0o622),
        Entry::file(&long, b"long"),
    ]);
    assert_eq!(layer.stat("a").ino(), layer.stat("b/c").ino());
    assert_eq!(std::fs::read_link(layer.path("s")).unwrap(), PathBuf::from("/etc/../../anything"));
    assert_eq!(layer.stat("s").uid(), 3);
    let null = layer.stat("null");
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.mode() & 0o777), (rustix::fs::makedev(1, 3), 0o666));
    assert!(layer.stat("loop").file_type().is_block_device());
    assert!(layer.stat("pipe").file_type().is_fifo());
    assert_eq!(layer.stat("pipe").mode() & 0o777, 0o622);
    assert_eq!(layer.read(&long), b"long");
}

#[test]
fn whiteouts_become_what_overlayfs_reads() {
    if skip_without_root() {
        return;
    }
    let names = ["etc/gone", "etc/linked", "var/x", "both", "dir/old", "later/x", "raw"];
    let names = names.into_iter().chain(["file", "deep/er/y"]);
    let beneath = Layer::good(&names.map(|name| Entry::file(name, b"old")).collect::<Vec<_>>());
    let layer = Layer::good(&[
        Entry::file("etc/.wh.gone", b""),
        Entry::hard_link("etc/.wh.linked", "nothing"),
        Entry::dir("var"),
        Entry::file("var/.wh..wh..opq", b""),
        Entry::file(".wh..wh.plnk", b""),
        Entry::file("both", b"kept"),
        Entry::file(".wh.both", b""),
        Entry::file("dir/x", b"kept"),
        Entry::file(".wh.dir", b""),
        Entry::file(".wh.later", b""),
        Entry::dir("later"),
        Entry::file(".wh.file", b""),
        Entry::file("file", b"new"),
        Entry::file(".wh.deep", b""),
        Entry::file("deep/er/x", b""),
        Entry::new(EntryType::Char, "raw"),
    ]);
    layer.lay_upon(&[&beneath]);
    assert!(layer.is_whiteout("etc/gone") && layer.is_whiteout("etc/linked"));
    assert!(layer.is_whiteout("raw"));
    assert!(layer.is_opaque("var"));
    assert!(!layer.path(".wh..wh.plnk").exists());
    assert_eq!(layer.read("both"), b"kept");
    assert_eq!(layer.read("dir/x"), b"kept");
    assert!(layer.is_opaque("dir") && layer.is_opaque("later") && layer.is_opaque("deep"));
    assert_eq!(layer.read("file"), b"new");
    assert!(!layer.path(".wh..wh..opq").exists());
}

#[test]
fn a_layer_alone_has_nothing_to_take_away() {
    if skip_without_root() {
        return;
    }
    let layer = Layer::good(&[
        Entry::file(".wh.a", b""),
        Entry::file("d/.wh..wh..opq", b""),
        Entry::new(EntryType::Char, "raw"),
    ]);
    assert_eq!(std::fs::read_dir(layer.path("")).unwrap().count(), 0);
}

#[test]
fn the_later_entry_of_the_same_name_wins() {
    if skip_without_root() {
        return;
    }
    let layer = Layer::good(&[
        Entry::file("a", b"first"),
        Entry::file("a", b"second"),
        Entry::dir("d"),
        Entry::file("d/x", b""),
        Entry::file("d", b"file now"),
        Entry::file("f", b""),
        Entry::dir("f"),
        Entry::file("f/y", b"in"),
        Entry::symlink("l", "/"),
        Entry::file("l", b"not through the link"),
        Entry::dir("m").mode(0o700),
        Entry::file("m/kept", b"k"),
        Entry::dir("m").mode(0o711),
    ]);
    assert_eq!(layer.read("a"), b"second");
    assert_eq!(layer.read("d"), b"file now");
    assert_eq!(layer.read("f/y"), b"in");
    assert_eq!(layer.read("l"), b"not through the link");
    assert_eq!(layer.read("m/kept"), b"k");
    assert_eq!(layer.stat("m").mode() & 0o777, 0o711);
}

#[test]
fn an_absolute_path_means_the_same_below_the_root() {
    if skip_without_root() {
        return;
    }
    let layer = Layer::good(&[Entry::file("/canary", b"inside"), Entry::file("//x/y", b"")]);
    assert_eq!(layer.read("canary"), b"inside");
    assert_eq!(std::fs::read(layer.dir.path().join("canary")).unwrap(), b"alive");
    assert!(layer.path("x/y").exists());
}

#[test]
fn entries_that_would_escape_are_refused_by_name() {
    if skip_without_root() {
        return;
    }
    let table: &[(&[Entry], &str)] = &[
        (&[Entry::file("../canary", b"x")], "\"../canary\" is refused: its path has"),
        (&[Entry::file("a/../../canary", b"x")], "\"a/../../canary\" is refused"),
        (&[Entry::dir("..")], "\"..\" is refused"),
        (&[Entry::symlink("l", "l"), Entry::file("l/x", b"")], "too many symbolic links"),
        (
            &[Entry::symlink("l", &"./x/../".repeat(580)), Entry::dir("x"), Entry::dir("l/x")],
            "\"l/x\" is refused: it leads through too many symbolic links",
        ),
        (&[Entry::file("x/.wh...", b"")], "whiteout of nothing"),
        (&[Entry::hard_link("h", "../canary")], "\"../canary\" is refused"),
        (&[Entry::hard_link("h", "/etc/passwd")], "links to \"/etc/passwd\", which is not in"),
        (&[Entry::symlink("l", ".."), Entry::hard_link("h", "l/canary")], "which is not in"),
        (&[Entry::dir("d"), Entry::hard_link("h", "d")], "links to \"d\""),
        (&[Entry::dir("d"), Entry::file("d/x", b""), Entry::hard_link("d", "d/x")], "\"d/x\""),
        (&[Entry::file("f", b""), Entry::file("f/x", b"")], "\"f\" is not a directory"),
        (&[Entry::file("./", b"x")], "is not a directory"),
        (&[Entry::symlink("s", "")], "its path is empty"),
        (&[Entry::file("p", b"").pax("path", b"a\0b")], "NUL"),
        (&[Entry::file("p", b"").pax("path", &[b'n'; 300])], "longer than 255"),
        (&[Entry::file("p", b"").pax("path", &b"n/".repeat(3000))], "longer than 4095"),
        (&[Entry::file("p", b"").pax("path", &b"n/".repeat(300))], "more than 256 elements"),
        (&[Entry::new(EntryType::new(b'Z'), "z")], "unsupported kind 'Z'"),
    ];
    for (entries, expected) in table {
        let error = Layer::of(entries).refused();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// As it will lead in the container, and as Docker and containerd write: never out of the layer.
#[test]
fn a_path_through_a_link_stays_inside_the_root() {
    if skip_without_root() {
        return;
    }
    for (target, file, found) in [
        ("d", "l/f", "d/f"),
        ("/d", "l/f", "d/f"),
        ("..", "l/canary", "canary"),
        ("/../../..", "l/x/canary", "x/canary"),
        ("new", "l/f", "new/f"),
        ("/new/er/", "l/deep/f", "new/er/deep/f"),
        ("no/../d", "l/f", "d/f"),
        ("d/sub/..", "l/f", "d/f"),
        ("d/up/../new", "l/f", "new/f"),
        ("again", "l/f", "d/f"),
        ("/proc/self/root", "l/f", "proc/self/root/f"),
    ] {
        let layer = Layer::good(&[
            Entry::dir("d/sub"),
            Entry::symlink("d/up", "/d"),
            Entry::symlink("again", "/d/up"),
            Entry::symlink("l", target),
            Entry::file(file, b"inside"),
        ]);
        assert_eq!(layer.read(found), b"inside", "{target} {file}");
        assert!(layer.stat("l").is_symlink());
        assert_eq!(std::fs::read(layer.dir.path().join("canary")).unwrap(), b"alive");
        assert_eq!(std::fs::read_dir(layer.dir.path()).unwrap().count(), 2);
    }
}

/// The link that leads to the directory used last may be another one by now.
#[test]
fn a_link_that_is_replaced_leads_elsewhere() {
    if skip_without_root() {
        return;
    }
    let layer = Layer::good(&[
        Entry::file("a/f", b"in a"),
        Entry::dir("b"),
        Entry::symlink("l", "a"),
        Entry::hard_link("h", "l/f"),
        Entry::file("l/one", b""),
        Entry::symlink("l", "b"),
        Entry::file("l/two", b""),
        Entry::file("l", b"no link"),
        Entry::dir("l"),
        Entry::file("l/three", b""),
    ]);
    assert_eq!(layer.stat("h").ino(), layer.stat("a/f").ino());
    for path in ["a/one", "b/two", "l/three"] {
        assert!(layer.stat(path).is_file(), "{path}");
    }
    assert_eq!(std::fs::read_dir(layer.path("b")).unwrap().count(), 1);
}

/// A hard link to a symbolic link is another name of the link itself.
#[test]
fn a_hard_link_to_a_symbolic_link_does_not_follow_it() {
    if skip_without_root() {
        return;
    }
    let layer = Layer::good(&[Entry::symlink("l", "../canary"), Entry::hard_link("h", "l")]);
    assert_eq!(std::fs::read_link(layer.path("h")).unwrap(), PathBuf::from("../canary"));
}

#[test]
fn limits_are_enforced_and_named() {
    if skip_without_root() {
        return;
    }
    let many: Vec<_> = (0..20).map(|n| Entry::file(&format!("f{n}"), b"")).collect();
    let dirs: Vec<_> = (0..20).map(|n| Entry::dir(&format!("d{n:090}"))).collect();
    let big = [Entry::file("big", &[0; 100_000])];
    let cases: [(&[Entry], Limits, &str); 4] = [
        (&many, Limits { layer_entries: 10, ..Limits::default() }, "more than 10 entries"),
        (&dirs, Limits { directory_path_bytes: 500, ..Limits::default() }, "directory names"),
        (&big, Limits { layer_bytes: 50_000, ..Limits::default() }, "50000 uncompressed bytes"),
        (&many, Limits { layer_bytes: 5_000, ..Limits::default() }, "5000 uncompressed bytes"),
    ];
    for (entries, limits, expected) in cases {
        let error = Layer::with(&Archive::of(entries), &limits).refused();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// 1000:1 and more: the bomb is stopped by what comes out of it.
#[test]
fn a_compression_bomb_stops_at_the_limit() {
    if skip_without_root() {
        return;
    }
    let limits = Limits { layer_bytes: 8 << 20, ..Limits::default() };
    let mut header = tar::Header::new_ustar();
    header.set_path("zeros").unwrap();
    header.set_size(7 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    let zeros = std::io::repeat(0).take(1 << 30);
    let packed = zstd::encode_all(header.as_bytes().chain(zeros), 1).unwrap();
    assert!(packed.len() < 200_000);
    let error = Layer::with(&packed, &limits).refused();
    assert!(error.contains("uncompressed bytes"), "{error}");
}

#[test]
fn truncated_layers_are_refused_but_still_hashed() {
    if skip_without_root() {
        return;
    }
    let good = Archive::of(&[Entry::file("f", &[1; 5000])]);
    let cut = &good[..3000];
    let layer = Layer::with(cut, &Limits::default());
    assert!(layer.refused().contains("\"f\""));
    let (digest, length) = layer.outcome.blob.unwrap();
    assert_eq!((digest, length), (super::super::hashing::digest_of(cut), 3000));
}

#[test]
fn implied_directories_look_like_those_beneath() {
    if skip_without_root() {
        return;
    }
    let lower = Layer::good(&[
        Entry::dir("./").mode(0o751),
        Entry::dir("home").mode(0o700).owner(1, 2).pax("SCHILY.xattr.user.k", b"v"),
        Entry::dir("hidden").mode(0o700),
        Entry::dir("opaque").mode(0o700),
        Entry::dir("opaque/sub").mode(0o711),
        Entry::dir("link").mode(0o700),
    ]);
    let middle = Layer::good(&[
        Entry::file(".wh.hidden", b""),
        Entry::dir("opaque").mode(0o750),
        Entry::file("opaque/.wh..wh..opq", b""),
        Entry::symlink("link", "/etc"),
    ]);
    let top = Layer::good(&[
        Entry::file("home/x", b""),
        Entry::file("hidden/x", b""),
        Entry::file("opaque/sub/x", b""),
        Entry::file("link/x", b""),
    ]);
    middle.lay_upon(&[&lower]);
    top.lay_upon(&[&lower, &middle]);
    let modes: BTreeMap<_, _> = ["", "home", "hidden", "opaque", "opaque/sub", "link"]
        .into_iter()
        .map(|path| (path, top.stat(path).mode() & 0o7777))
        .collect();
    let expected = BTreeMap::from([
        ("", 0o751),
        ("home", 0o700),
        ("hidden", 0o755),
        ("opaque", 0o750),
        ("opaque/sub", 0o755),
        ("link", 0o755),
    ]);
    assert_eq!(modes, expected);
    assert_eq!((top.stat("home").uid(), top.stat("home").gid()), (1, 2));
    assert_eq!(top.xattr("home", "user.k").unwrap(), b"v");
}

/// Entries through links cost what their way is long; a layer that makes each of them go far is
/// refused, one as distributions make them is not.
#[test]
fn ways_through_links_are_bounded_for_the_layer() {
    if skip_without_root() {
        return;
    }
    let usual = (0..2000).map(|i| Entry::file(&format!("lib/{}/f{i}", i % 7), b""));
    let usual: Vec<Entry> = [Entry::dir("usr/lib"), Entry::symlink("lib", "usr/lib")]
        .into_iter()
        .chain(usual)
        .collect();
    Layer::good(&usual);
    let far = "x/".repeat(200);
    let links = ["a", "b"].map(|name| Entry::symlink(name, &format!("/{far}")));
    let ways = (0..2000).map(|i| Entry::file(&format!("{}/f{i}", ["a", "b"][i % 2]), b""));
    let hostile: Vec<Entry> = [Entry::dir(&far)].into_iter().chain(links).chain(ways).collect();
    let error = Layer::of(&hostile).outcome.layer.unwrap_err().to_string();
    assert!(error.ends_with(" steps through symbolic links to its entries"), "{error}");
}
