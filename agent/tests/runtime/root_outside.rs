//! An image whose directories are links, files or pipes must not reach the host through them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use shoal_agent::runtime::{Exit, Runtime, RuntimeError};
use shoal_agent_planning::oci::{MountConfig, MountKind};

use crate::host::{Host, able, id, shell};

/// What is at a path: inode, time of its last change, content or link's target.
type Seen = BTreeMap<PathBuf, (u64, i64, i64, Vec<u8>)>;

fn look(at: &Path, seen: &mut Seen) {
    let meta = fs::symlink_metadata(at).unwrap();
    let content = if meta.is_file() {
        fs::read(at).unwrap()
    } else if meta.is_symlink() {
        fs::read_link(at).unwrap().into_os_string().into_encoded_bytes()
    } else {
        Vec::new()
    };
    seen.insert(at.to_owned(), (meta.ino(), meta.mtime(), meta.mtime_nsec(), content));
    if meta.is_dir() {
        for entry in fs::read_dir(at).unwrap() {
            look(&entry.unwrap().path(), seen);
        }
    }
}

fn snapshot(at: &Path) -> Seen {
    let mut seen = Seen::new();
    look(at, &mut seen);
    seen
}

/// A directory of the host with everything in it that a careless runtime would delete or use.
fn make_canary(at: &Path) {
    for dir in ["", "pts", "shm", "mqueue", "self/attr", "fs/cgroup"] {
        fs::create_dir_all(at.join(dir)).unwrap();
    }
    for file in ["ptmx", "core", "passwd", "group", "hosts", "resolv.conf", "pts/ptmx"] {
        fs::write(at.join(file), "precious").unwrap();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Absolute,
    Relative,
    LinkedParent,
    Dangling,
    File,
    Pipe,
}

/// Puts something in the place of a directory of the image.
fn plant(layer: &Path, path: &str, kind: Kind, canary: &Path) {
    let at = layer.join(path);
    let _ = fs::remove_dir(&at);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    let below = canary.strip_prefix("/").unwrap();
    // The same path inside, so that those who resolve it in the root find a directory.
    let inside = || fs::create_dir_all(layer.join(below)).unwrap();
    match kind {
        Kind::Absolute => {
            inside();
            symlink(canary, &at).unwrap();
        }
        Kind::Relative => {
            inside();
            symlink(Path::new("../../../../../../../../..").join(below), &at).unwrap();
        }
        Kind::LinkedParent => {
            inside();
            symlink(canary.parent().unwrap(), layer.join("door")).unwrap();
            symlink(Path::new("/door").join(canary.file_name().unwrap()), &at).unwrap();
        }
        Kind::Dangling => symlink(canary.join("missing"), &at).unwrap(),
        Kind::File => fs::write(&at, "a file").unwrap(),
        Kind::Pipe => {
            let mode = rustix::fs::Mode::from_raw_mode(0o644);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, &at, kind, mode, 0).unwrap();
        }
    }
}

/// What the container prints, or why there is none.
async fn attempt(host: &mut Host) -> Result<String, RuntimeError> {
    let hosts = host.home().join("hosts");
    fs::write(&hosts, "127.0.0.1 bound\n").unwrap();
    let mut config = shell(
        "test -c /dev/null && test -c /dev/pts/ptmx && test -w /dev/shm && test -d /dev/mqueue \
         && test -L /dev/stdout && test -d /sys/kernel && test -e /proc/self/attr \
         && cat /etc/hosts",
    );
    config.mounts = vec![MountConfig {
        destination: "/etc/hosts".into(),
        kind: MountKind::Bind { source: hosts },
        read_only: false,
    }];
    let spec = host.spec(&config);
    let id = id("hostile");
    let outcome = async {
        host.runtime.prepare(&id, spec).await?;
        host.runtime.start(&id).await?;
        let Exit { .. } = host.exits.recv().await.unwrap();
        Ok(host.log(&id).await)
    }
    .await;
    host.runtime.remove(&id).await.unwrap();
    outcome
}

#[tokio::test]
async fn no_directory_of_an_image_leads_to_the_host() {
    if !able() {
        return;
    }
    let kinds = [
        Kind::Absolute,
        Kind::Relative,
        Kind::LinkedParent,
        Kind::Dangling,
        Kind::File,
        Kind::Pipe,
    ];
    for path in ["dev", "dev/pts", "dev/shm", "dev/mqueue", "proc", "sys", "etc"] {
        for kind in kinds {
            let mut host = Host::new();
            let canary = host.home().join("outside/canary");
            make_canary(&canary);
            if path == "etc" {
                fs::remove_dir_all(host.layer().join("etc")).unwrap();
            }
            plant(host.layer(), path, kind, &canary);
            let before = (snapshot(canary.parent().unwrap()), snapshot(host.layer()));
            let outcome = attempt(&mut host).await;
            let after = (snapshot(canary.parent().unwrap()), snapshot(host.layer()));
            assert!(before == after, "{path} as {kind:?} changed {:?}", changed(&before, &after));
            let no_directory = matches!(kind, Kind::File | Kind::Pipe);
            match outcome {
                Ok(text) => {
                    assert!(!no_directory || path.starts_with("dev/"), "{path} as {kind:?} ran");
                    assert_eq!(text, "127.0.0.1 bound\n", "{path} as {kind:?}");
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(no_directory && !path.starts_with("dev/"), "{path} {kind:?}: {text}");
                    assert!(text.contains(&format!("/{path}")), "{path} {kind:?}: {text}");
                }
            }
            host.assert_clean().await;
        }
    }
}

fn changed(before: &(Seen, Seen), after: &(Seen, Seen)) -> Vec<PathBuf> {
    let differs = |a: &Seen, b: &Seen| -> Vec<PathBuf> {
        a.iter().filter(|(k, v)| b.get(*k) != Some(v)).map(|(k, _)| k.clone()).collect()
    };
    let (a, b) = (before, after);
    [differs(&a.0, &b.0), differs(&b.0, &a.0), differs(&a.1, &b.1), differs(&b.1, &a.1)].concat()
}
