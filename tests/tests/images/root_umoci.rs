//! The same image unpacked by us and by umoci has to look the same.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use shoal_tests::image::ImageBuilder;
use shoal_tests::skip::skip;
use tar::{EntryType, Header};

use crate::host::{Host, Mount, run};

/// Everything about one file that an image determines.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
    links: u64,
    device: u64,
    content: Vec<u8>,
    capability: Option<Vec<u8>>,
}

fn look(path: &Path) -> Look {
    let stat = std::fs::symlink_metadata(path).unwrap();
    let content = if stat.is_symlink() {
        std::fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else if stat.is_file() {
        std::fs::read(path).unwrap()
    } else {
        Vec::new()
    };
    let mut value = vec![0; 64];
    let capability = rustix::fs::lgetxattr(path, "security.capability", value.as_mut_slice());
    let capability = capability.ok().map(|length| value[..length].to_vec());
    Look {
        mode: stat.mode(),
        owner: (stat.uid(), stat.gid()),
        mtime: stat.mtime(),
        // Directories count differently under overlayfs.
        links: if stat.is_dir() { 0 } else { stat.nlink() },
        device: stat.rdev(),
        content,
        capability,
    }
}

fn walk(dir: &Path, prefix: &str, all: &mut BTreeMap<String, Look>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}/{}", path.file_name().unwrap().display());
        let found = look(&path);
        if path.is_dir() && !path.is_symlink() {
            walk(&path, &name, all);
        }
        all.insert(name, found);
    }
}

fn entry(kind: EntryType, path: &str, link: &str, mode: u32, owner: (u64, u64)) -> Header {
    let mut header = Header::new_ustar();
    header.set_path(path).unwrap();
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.0);
    header.set_gid(owner.1);
    header.set_mtime(1_600_000_000);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_size(0);
    header.set_cksum();
    header
}

/// A base with everything that a tar archive can hold.
fn base() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut push = |header: &Header| tar.append(header, std::io::empty()).unwrap();
    push(&entry(EntryType::Directory, "etc/", "", 0o755, (0, 0)));
    push(&entry(EntryType::Directory, "var/", "", 0o2750, (3, 4)));
    push(&entry(EntryType::Directory, "usr/", "", 0o711, (1, 1)));
    push(&entry(EntryType::Directory, "var/cache/", "", 0o1777, (0, 0)));
    push(&entry(EntryType::Regular, "var/cache/old", "", 0o4711, (1000, 1001)));
    push(&entry(EntryType::Directory, "gone/", "", 0o755, (0, 0)));
    push(&entry(EntryType::Regular, "gone/x", "", 0o600, (0, 0)));
    push(&entry(EntryType::Regular, "etc/a", "", 0o640, (5, 6)));
    push(&entry(EntryType::Link, "etc/b", "etc/a", 0o640, (5, 6)));
    push(&entry(EntryType::Symlink, "etc/s", "../var", 0o777, (7, 8)));
    push(&entry(EntryType::Char, "null", "", 0o666, (0, 0)));
    push(&entry(EntryType::Fifo, "pipe", "", 0o620, (9, 9)));
    push(&entry(EntryType::Directory, "dir2file/", "", 0o700, (0, 0)));
    push(&entry(EntryType::Regular, "dir2file/x", "", 0o600, (0, 0)));
    push(&entry(EntryType::Regular, "file2dir", "", 0o600, (0, 0)));
    push(&entry(EntryType::Directory, "file2dir2/", "", 0o700, (0, 0)));
    let capability = b"\x01\0\0\x02\x0a\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    tar.append_pax_extensions([("SCHILY.xattr.security.capability", &capability[..])]).unwrap();
    tar.append(&entry(EntryType::Regular, "etc/ping", "", 0o755, (0, 0)), std::io::empty())
        .unwrap();
    let long = "l".repeat(90) + "/" + &"m".repeat(90) + "/" + &"n".repeat(90);
    tar.append_pax_extensions([("path", long.as_bytes())]).unwrap();
    tar.append(&entry(EntryType::Regular, "short", "", 0o644, (0, 0)), std::io::empty()).unwrap();
    tar.into_inner().unwrap()
}

/// Changes on top: hidden files and directories, kinds that change, an implied parent.
fn change() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut push = |header: &Header| tar.append(header, std::io::empty()).unwrap();
    push(&entry(EntryType::Regular, ".wh.gone", "", 0, (0, 0)));
    push(&entry(EntryType::Directory, "var/", "", 0o711, (3, 4)));
    push(&entry(EntryType::Directory, "var/cache/", "", 0o700, (1, 1)));
    push(&entry(EntryType::Regular, "var/cache/.wh..wh..opq", "", 0, (0, 0)));
    push(&entry(EntryType::Regular, "var/cache/new", "", 0o644, (0, 0)));
    push(&entry(EntryType::Regular, "etc/.wh.s", "", 0, (0, 0)));
    push(&entry(EntryType::Regular, "dir2file", "", 0o604, (2, 2)));
    push(&entry(EntryType::Directory, "file2dir/", "", 0o705, (2, 2)));
    push(&entry(EntryType::Regular, "file2dir/in", "", 0o644, (2, 2)));
    push(&entry(EntryType::Directory, "etc/", "", 0o751, (0, 0)));
    push(&entry(EntryType::Regular, "usr/implied", "", 0o644, (0, 0)));
    tar.into_inner().unwrap()
}

#[tokio::test]
async fn our_layers_under_overlayfs_are_what_umoci_unpacks() {
    if skip() {
        return;
    }
    let host = Host::new();
    let layout = host.dir.path().join("layout");
    let busybox = std::fs::read("/bin/busybox").unwrap();
    ImageBuilder::new()
        .raw_layer(base())
        .raw_layer(change())
        .file("/bin/busybox", &busybox, 0o755)
        .symlink("/bin/sh", "busybox")
        .build()
        .unwrap()
        .write_layout(&layout, "all")
        .unwrap();
    let bundle = host.dir.path().join("bundle");
    let image = format!("{}:all", layout.display());
    run("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);

    let loaded = host.store.load(&layout, None).await.unwrap();
    let lower: Vec<_> =
        loaded[0].layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let merged = host.dir.path().join("merged");
    let _mount = Mount::new("overlay", &format!("ro,lowerdir={}", lower.join(":")), &merged);

    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    walk(&merged, "", &mut ours);
    walk(&bundle.join("rootfs"), "", &mut theirs);
    // Directories nobody mentions get the time of unpacking there, and so does one that a layer
    // changes without mentioning it.
    for path in ours.keys().chain(theirs.keys()).cloned().collect::<Vec<_>>() {
        if path.starts_with("/lll") && !path.ends_with('n') || path == "/usr" {
            for all in [&mut ours, &mut theirs] {
                if let Some(look) = all.get_mut(&path) {
                    look.mtime = 0;
                }
            }
        }
    }
    let names = |all: &BTreeMap<String, Look>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs));
    for (path, look) in &ours {
        assert_eq!(look, &theirs[path], "{path}");
    }
    assert!(ours.contains_key("/etc/ping") && ours.contains_key("/var/cache/new"));
    assert!(!ours.contains_key("/gone") && !ours.contains_key("/var/cache/old"));
}
