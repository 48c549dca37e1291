//! Layers as the kernel merges them: what is listed is there, and can be removed.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use shoal_agent_ground::testing::skip_without_root;
use tempfile::TempDir;

use super::super::super::limits::Limits;
use super::super::testing::{Archive, Entry};
use super::super::unpack_layer;
use super::*;

/// `d/` is a directory, `l -> target` a link, everything else a file.
fn entry(text: &str) -> Entry {
    match (text.split_once(" -> "), text.ends_with('/')) {
        (Some((link, target)), _) => Entry::symlink(link, target),
        (None, true) => Entry::dir(text).mode(0o750).owner(7, 7),
        (None, false) => Entry::file(text, b""),
    }
}

struct Image {
    dir: TempDir,
    layers: Vec<PathBuf>,
}

impl Image {
    fn of(layers: &[&[&str]]) -> Self {
        let mut image = Self { dir: TempDir::new().unwrap(), layers: Vec::new() };
        for (n, layer) in layers.iter().enumerate() {
            let entries: Vec<_> = layer.iter().map(|text| entry(text)).collect();
            let dir = image.dir.path().join(n.to_string());
            std::fs::create_dir(&dir).unwrap();
            let outcome = unpack_layer(Archive::of(&entries).as_slice(), &dir, &Limits::default());
            let finished = outcome.layer.unwrap().finished;
            settle(&dir, finished, &image.layers, &Limits::default()).unwrap();
            image.layers.push(dir);
        }
        image
    }

    /// A container's view, mounted nowhere.
    fn mount(&self) -> OwnedFd {
        let dir = |name: &str| {
            let dir = self.dir.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            dir
        };
        let lower: Vec<_> = self.layers.iter().rev().map(|dir| dir.to_str().unwrap()).collect();
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_set_string(&fs, "lowerdir", lower.join(":")).unwrap();
        fsconfig_set_string(&fs, "upperdir", dir("upper")).unwrap();
        fsconfig_set_string(&fs, "workdir", dir("work")).unwrap();
        fsconfig_create(&fs).unwrap();
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
    }
}

fn list(dir: &Path, prefix: &str, all: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        let meta = std::fs::symlink_metadata(entry.path());
        let meta = meta.unwrap_or_else(|error| panic!("{name} is listed, but: {error}"));
        all.push(name.clone());
        if meta.is_dir() {
            list(&entry.path(), &format!("{name}/"), all);
        }
    }
}

#[test]
fn a_whiteout_takes_away_and_creates_nothing() {
    if skip_without_root() {
        return;
    }
    let cases: &[(&[&[&str]], &[&str])] = &[
        (&[&["a/b", "a/c"], &["a/.wh..wh..opq", "a/.wh.b"]], &["a"]),
        (&[&["a/b", "a/c"], &["a/", "a/.wh.b", "a/.wh..wh..opq"]], &["a"]),
        (&[&["a/b/f", "keep"], &[".wh.a"], &["a/b/.wh.f"]], &["keep"]),
        (&[&["d/f"], &[".wh.d", "d/.wh.f"]], &[]),
        (&[&["d/f"], &["d/.wh.f", ".wh.d"]], &[]),
        (&[&["d/f"], &["d/.wh..wh..opq", ".wh.d"]], &[]),
        (&[&["x"], &["new/", "new/.wh.gone"]], &["new", "x"]),
        (&[&["x"], &["no/such/.wh.f", "no/.wh..wh..opq", ".wh.no"]], &["x"]),
        (&[&["x"], &["x/.wh.f", "x/.wh..wh..opq"]], &["x"]),
        (&[&["d/old", "d/sub/f"], &[".wh.d", "d/sub/g"]], &["d", "d/sub", "d/sub/g"]),
        (&[&["d/sub/f"], &["d/.wh..wh..opq"]], &["d"]),
        (&[&["a", "b/c"], &[".wh..wh..opq", "n", "b/d"]], &["b", "b/d", "n"]),
        (&[&["a", "b"], &[".wh..wh..opq", "c"], &[".wh..wh..opq", "d"], &["e"]], &["d", "e"]),
        (&[&["a", "b/c"], &[".wh..wh..opq", "c"], &["b/d", ".wh.c"]], &["b", "b/d"]),
        (&[&["d/f"], &["d/.wh.f", "d/f/g"]], &["d", "d/f", "d/f/g"]),
        (&[&["d/f"], &[".wh.d"], &["d/.wh.f"], &["d/g"]], &["d", "d/g"]),
        (&[&["d/f", "d/g"], &["d/.wh.f"], &["d/.wh.f"]], &["d", "d/g"]),
        (&[&["d/f"], &["d/f", "d/.wh.f"]], &["d", "d/f"]),
        (&[&["d/f"], &["d"], &["d/.wh.f", "d/"]], &["d"]),
        (&[&["a/f"], &["a -> /etc"], &["a/.wh.f"]], &["a"]),
        (&[&["r/f", "r/g"], &["r/", "l -> r", "l/.wh.f"]], &["l", "r", "r/g"]),
        (&[&["r/f"], &["r/", "l -> /r", "l/.wh..wh..opq"]], &["l", "r"]),
        (&[&["r/f", "x"], &["l -> /r", "l/.wh.f"]], &["l", "r", "x"]),
    ];
    for (layers, expected) in cases {
        let image = Image::of(layers);
        let root = image.mount();
        let at = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        let mut all = Vec::new();
        list(&at, "", &mut all);
        all.sort();
        assert_eq!(all, *expected, "{layers:?}");
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let is_dir = std::fs::symlink_metadata(&path).unwrap().is_dir();
            let removed =
                if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.unwrap_or_else(|error| panic!("{}: {error} in {layers:?}", path.display()));
        }
        assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0, "{layers:?}");
    }
}

/// Every way of looking: few names and many, among few and among many.
#[test]
fn as_many_whiteouts_as_there_are_names_and_more() {
    if skip_without_root() {
        return;
    }
    for (wanted, present) in [(3, 3), (3, 300), (40, 30), (40, 300), (300, 1)] {
        let file = |i| format!("d/f{i}");
        let present: Vec<String> = (0..present).map(file).collect();
        let gone: Vec<String> = (0..wanted).map(|i| format!("d/.wh.f{i}")).collect();
        let left: Vec<String> =
            ["d".to_owned()].into_iter().chain(present.iter().skip(wanted).cloned()).collect();
        let (present, gone): (Vec<&str>, Vec<&str>) = (
            present.iter().map(String::as_str).collect(),
            gone.iter().map(String::as_str).collect(),
        );
        let image = Image::of(&[&present, &present, &gone]);
        let mut all = Vec::new();
        let root = image.mount();
        list(&PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())), "", &mut all);
        all.sort();
        let mut left = left;
        left.sort();
        assert_eq!(all, left, "{wanted} of {}", present.len());
    }
}

#[test]
fn an_opaque_root_takes_away_a_bounded_number_of_names() {
    if skip_without_root() {
        return;
    }
    let image = Image::of(&[&["abc", "def"], &["ghi", "abc"]]);
    let dir = image.dir.path().join("top");
    std::fs::create_dir(&dir).unwrap();
    let opaque = Archive::of(&[entry(".wh..wh..opq")]);
    let outcome = unpack_layer(opaque.as_slice(), &dir, &Limits::default());
    let finished = outcome.layer.unwrap().finished;
    let limits = |directory_path_bytes| Limits { directory_path_bytes, ..Limits::default() };
    let error = settle(&dir, finished.clone(), &image.layers, &limits(8)).unwrap_err();
    let text = "the layer has more than 8 bytes of the names that its opaque root takes away";
    assert_eq!(error.to_string(), text);
    settle(&dir, finished, &image.layers, &limits(9)).unwrap();
}

/// The directories that lead to a whiteout are those beneath, and the time of one that the archive
/// mentions is the archive's.
#[test]
fn directories_around_a_whiteout_keep_their_properties() {
    if skip_without_root() {
        return;
    }
    let image =
        Image::of(&[&["a/", "a/b/", "a/b/f", "e/", "e/f"], &["a/b/.wh.f", "e/", "e/.wh.f"]]);
    for path in ["a", "a/b", "e"] {
        let meta = std::fs::symlink_metadata(image.layers[1].join(path)).unwrap();
        let found = (meta.mode() & 0o7777, meta.uid(), meta.mtime());
        assert_eq!(found, (0o750, 7, 1_000_000_000), "{path}");
    }
    assert!(image.layers[1].join("e/f").symlink_metadata().is_ok());
    // What is replaced as a whole has nothing of the one beneath.
    let image = Image::of(&[&["d/", "d/s/", "d/s/f"], &[".wh.d", "d/s/g"]]);
    for path in ["d", "d/s"] {
        let meta = std::fs::symlink_metadata(image.layers[1].join(path)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o755, 0), "{path}");
    }
}
