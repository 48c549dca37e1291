//! An image whose directories are links, files or pipes must not reach the host through them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use shoal_agent_planning::oci::{ContainerConfig, MountConfig, MountKind};
use shoal_agent_runtime::{ExecSpec, Exit, Runtime, RuntimeError, Stream};

use crate::host::{Host, able, command, finish, id, shell, text};

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

/// Numbers of descriptors that the process may have which becomes the container's program.
const DESCRIPTORS: std::ops::Range<u32> = 3..48;
/// Up to the root directory of whoever sees the host's.
const FAR_UP: &str = "../../../../../../../../../../..";

/// A link that leads through a descriptor of the process that follows it is no way out (CVE-2024-21626):
/// what is mounted over the working directory has it in the directory's place.
#[tokio::test]
async fn no_working_directory_leads_to_the_host() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    fs::create_dir_all(host.layer().join("m/x")).unwrap();
    let canary = host.home().join("canary");
    fs::write(&canary, "of the host").unwrap();
    let mut ran = 0;
    for number in DESCRIPTORS {
        let volume = host.home().join(format!("volume-{number}"));
        fs::create_dir(&volume).unwrap();
        symlink(format!("/proc/self/fd/{number}"), volume.join("x")).unwrap();
        let script = format!("pwd; cat {FAR_UP}{} 2>/dev/null; true", canary.display());
        let mut config = shell(&script);
        config.cwd = "/m/x".into();
        let bind = |source: &Path, destination: &str| MountConfig {
            destination: destination.into(),
            kind: MountKind::Bind { source: source.to_owned() },
            read_only: false,
        };
        // There, the text of a link to a control group leads to something inside, too.
        let groups = Path::new("/sys/fs/cgroup");
        config.mounts = vec![bind(groups, "/sys/fs/cgroup"), bind(&volume, "/m")];
        let id = id("cwd");
        host.runtime.prepare(&id, host.spec(&config)).await.unwrap();
        if host.runtime.start(&id).await.is_ok() {
            host.exit(&id).await;
            ran += 1;
            let said = host.log(&id).await;
            assert!(!said.contains("of the host"), "by descriptor {number}: {said}");
            assert!(said.starts_with('/') && !said.contains("unreachable"), "{number}: {said}");
        }
        host.runtime.remove(&id).await.unwrap();
    }
    assert!(ran > 0, "somewhere inside it can work");
    host.assert_clean().await;
}

/// Nor when a container makes such a link of the directory in which the next execution is to begin.
#[tokio::test]
async fn no_working_directory_of_an_execution_leads_to_the_host() {
    if !able() {
        return;
    }
    let host = Host::new();
    let canary = host.home().join("canary");
    fs::write(&canary, "of the host").unwrap();
    let id = id("cwd");
    let config = ContainerConfig { cwd: "/w".into(), ..command(&["sleep", "1000"]) };
    host.start(&id, &config).await;
    let run = |script: String, cwd: Option<&str>| {
        let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let spec = ExecSpec { argv, cwd: cwd.map(PathBuf::from), ..ExecSpec::default() };
        let (runtime, id) = (&host.runtime, &id);
        async move { Ok::<_, RuntimeError>(finish(runtime.exec(id, spec).await?).await) }
    };
    let mut refused = 0;
    for number in DESCRIPTORS {
        let plant = format!("busybox rm -rf /w; busybox ln -s /proc/self/fd/{number} /w");
        assert_eq!(run(plant, Some("/")).await.unwrap().0, Some(0));
        for cwd in [None, Some("/w")] {
            match run(format!("cat {FAR_UP}{}", canary.display()), cwd).await {
                Ok((_, said)) => assert_eq!(text(&said, Stream::Stdout), "", "{number} {cwd:?}"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 0, "a descriptor that is none is no directory");
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

/// Nor is it for a program's own name, or for an execution's.
#[tokio::test]
async fn no_command_leads_to_the_host() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let program = host.home().join("echo");
    fs::copy(host.layer().join("bin/busybox"), &program).unwrap();
    let argv = |number: u32| {
        let path = format!("/proc/self/fd/{number}/{FAR_UP}{}", program.display());
        [path, "of the host".to_owned()].to_vec()
    };
    for number in DESCRIPTORS {
        let id = id("argv");
        let config = ContainerConfig { argv: argv(number), ..ContainerConfig::default() };
        host.runtime.prepare(&id, host.spec(&config)).await.unwrap();
        if host.runtime.start(&id).await.is_ok() {
            host.exit(&id).await;
            panic!("by descriptor {number}: {}", host.log(&id).await);
        }
        host.runtime.remove(&id).await.unwrap();
    }
    let id = id("joined");
    host.start(&id, &command(&["sleep", "1000"])).await;
    for number in DESCRIPTORS {
        let spec = ExecSpec { argv: argv(number), ..ExecSpec::default() };
        let joined = host.runtime.exec(&id, spec).await;
        assert!(joined.is_err(), "by descriptor {number}");
    }
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}
