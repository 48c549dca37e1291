//! What is mounted into a container: where it comes to lie, and what holds for all of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use shoal_agent_planning::oci::{ContainerConfig, MountConfig, MountKind};
use shoal_agent_runtime::{ContainerSpec, Runtime};

use crate::host::{Host, able, id, shell};

fn bind(source: impl Into<PathBuf>, destination: &str) -> MountConfig {
    let kind = MountKind::Bind { source: source.into() };
    MountConfig { destination: destination.into(), kind, read_only: false }
}

fn tmpfs(destination: &str) -> MountConfig {
    let kind = MountKind::Tmpfs { size_bytes: Some(64 << 10), mode: 0o1777 };
    MountConfig { destination: destination.into(), kind, read_only: false }
}

fn with(script: &str, mounts: Vec<MountConfig>) -> ContainerConfig {
    ContainerConfig { mounts, ..shell(script) }
}

fn dir(at: PathBuf) -> PathBuf {
    fs::create_dir_all(&at).unwrap();
    at
}

/// A mount of the host that goes with the test.
struct HostMount(PathBuf);

impl HostMount {
    fn tmpfs(at: PathBuf) -> Self {
        mount("tmpfs", &at, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
        Self(at)
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn links_of_the_image_are_resolved_inside_and_their_ends_made() {
    if !able() {
        return;
    }
    for (user, read_only) in [("", false), ("1000:1000", true)] {
        resolved_inside(user, read_only).await;
    }
}

async fn resolved_inside(user: &str, read_only: bool) {
    let mut host = Host::new();
    let layer = host.layer().to_owned();
    symlink("../run/systemd/resolve/stub-resolv.conf", layer.join("etc/resolv.conf")).unwrap();
    symlink("/var/lib/nowhere", layer.join("dangling")).unwrap();
    symlink("tmp", layer.join("link")).unwrap();
    let resolv = host.home().join("resolv.conf");
    fs::write(&resolv, "nameserver 192.0.2.1\n").unwrap();
    let data = dir(host.home().join("data"));
    fs::write(data.join("file"), "data\n").unwrap();
    let m = dir(host.home().join("m"));
    symlink("/elsewhere", m.join("link")).unwrap();
    let mounts = vec![
        bind(&data, "/m/link"),
        bind(&m, "/m"),
        bind(&data, "/dangling"),
        bind(&data, "/link/deep/er"),
        bind(&resolv, "/etc/resolv.conf"),
    ];
    let script = "cat /etc/resolv.conf /run/systemd/resolve/stub-resolv.conf; cat /dangling/file \
                  /var/lib/nowhere/file /tmp/deep/er/file /elsewhere/file; readlink /m/link; \
                  touch /written 2>/dev/null && echo writable";
    let config = ContainerConfig { read_only, ..with(script, mounts) };
    let spec = ContainerSpec { user: user.to_owned(), ..host.spec(&config) };
    let (status, out, err) = host.run_spec(spec).await;
    let expected =
        "nameserver 192.0.2.1\nnameserver 192.0.2.1\ndata\ndata\ndata\ndata\n/elsewhere\n";
    let expected = format!("{expected}{}", if read_only { "" } else { "writable\n" });
    assert_eq!(out, expected, "{status} {err}");
    assert!(!Path::new("/elsewhere").exists());
    host.assert_clean().await;
}

#[tokio::test]
async fn a_mount_that_fails_is_named_with_its_cause() {
    if !able() {
        return;
    }
    let host = Host::new();
    let data = dir(host.home().join("data"));
    let file = host.home().join("file");
    fs::write(&file, "").unwrap();
    symlink("/proc/self", host.layer().join("sneaky")).unwrap();
    let missing = host.home().join("missing");
    let table = [
        (bind(&data, "/bin/plain"), "/bin/plain", "on a file"),
        (bind(&data, "/bin/plain/x"), "/bin/plain/x", "Not a directory"),
        (bind(&file, "/tmp"), "/tmp", "on a directory"),
        (bind(&missing, "/data"), "/data", "No such file"),
        (bind(&data, "/sneaky/attr"), "/sneaky/attr", "/proc/self/attr"),
        (bind(&data, "/sys/nothing"), "/sys/nothing", "Read-only"),
    ];
    for (mount, place, cause) in table {
        let id = id("refused");
        let spec = host.spec(&with("true", vec![mount]));
        let refused = async {
            host.runtime.prepare(&id, spec).await?;
            host.runtime.start(&id).await
        };
        let error = refused.await.unwrap_err().to_string();
        host.runtime.remove(&id).await.unwrap();
        assert!(error.contains(&format!(" on {place}: ")), "{error}");
        assert!(error.contains(cause) && !error.contains("rootfs"), "{error}");
    }
    host.assert_clean().await;
}

#[tokio::test]
async fn read_only_holds_for_everything_below() {
    if !able() {
        return;
    }
    let host = Host::new();
    let source = dir(host.home().join("source"));
    let _top = HostMount::tmpfs(source.clone());
    mount_change(&source, MountPropagationFlags::SHARED).unwrap();
    let sub = dir(source.join("sub"));
    let _sub = HostMount::tmpfs(sub.clone());
    let _deep = HostMount::tmpfs(dir(sub.join("deep")));
    let later = dir(source.join("later"));
    let script = "for d in /m /m/sub /m/sub/deep; do touch $d/written 2>&1; done; \
                  touch /rw/sub/deep/written && echo open; while ! test -e /rw/go; do usleep 5000; \
                  done; ls /m/later /rw/later";
    let read_only = MountConfig { read_only: true, ..bind(&source, "/m") };
    let id = id("reader");
    host.start(&id, &with(script, vec![read_only, bind(&source, "/rw")])).await;
    let _later = HostMount::tmpfs(later.clone());
    fs::write(later.join("appeared"), "").unwrap();
    fs::write(source.join("go"), "").unwrap();
    let mut host = host;
    host.exit(&id).await;
    let text = host.log(&id).await;
    assert_eq!(text.matches("Read-only file system").count(), 3, "{text}");
    assert!(text.contains("open\n"), "the judge can tell: {text}");
    assert!(!text.contains("appeared"), "{text}");
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn what_docker_users_mount_among_the_kernels_own_is_mounted() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let data = dir(host.home().join("data"));
    fs::write(data.join("file"), "data\n").unwrap();
    let node = fs::metadata("/dev/null").unwrap();
    let read_only = |m: MountConfig| MountConfig { read_only: true, ..m };
    let table = [
        (vec![bind(&data, "/dev/shm")], "cat /dev/shm/file", "data\n"),
        (vec![bind(&data, "/dev/own/dir")], "cat /dev/own/dir/file", "data\n"),
        (vec![tmpfs("/dev/more")], "echo x > /dev/more/y && echo made", "made\n"),
        (
            vec![bind("/dev/zero", "/dev/my/zero")],
            "test -c /dev/my/zero && echo device",
            "device\n",
        ),
        (
            vec![bind("/dev", "/dev")],
            "test -c /dev/null && test ! -w /dev/kmsg-none && echo ok",
            "ok\n",
        ),
        (
            vec![read_only(bind("/sys", "/sys"))],
            "ls /sys/firmware; test -d /sys/kernel && echo ok",
            "ok\n",
        ),
        (
            vec![bind("/sys/fs/cgroup", "/sys/fs/cgroup")],
            "test -n \"$(ls /sys/fs/cgroup)\" && echo ok",
            "ok\n",
        ),
        (vec![bind(data.join("file"), "/proc/uptime")], "cat /proc/uptime", "data\n"),
        (
            vec![bind("/proc", "/proc")],
            "head -c 1 /proc/kcore; test -d /proc/self && echo ok",
            "ok\n",
        ),
        (vec![read_only(bind("/sys", "/host/sys"))], "test -d /host/sys/kernel && echo ok", "ok\n"),
    ];
    let before: Vec<_> = device_links();
    for (mounts, script, expected) in table {
        let place = mounts[0].destination.clone();
        let (status, out, err) = host.run(&with(script, mounts)).await;
        assert_eq!(out, expected, "{}: {status} {err}", place.display());
    }
    assert_eq!(before, device_links(), "the host's own devices");
    assert_eq!(node.permissions(), fs::metadata("/dev/null").unwrap().permissions());
    host.assert_clean().await;
}

fn device_links() -> Vec<(String, Option<PathBuf>)> {
    let names = ["ptmx", "fd", "stdin", "stdout", "stderr", "core", "kcore"];
    names.map(|n| (n.to_owned(), fs::read_link(Path::new("/dev").join(n)).ok())).to_vec()
}

#[tokio::test]
async fn standard_streams_belong_to_the_containers_user() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let script = "echo out > /dev/stdout && echo err > /dev/stderr && : < /dev/stdin && echo read";
    for (tty, open_stdin) in [(false, false), (false, true), (true, false)] {
        let config = ContainerConfig { tty, ..shell(script) };
        let user = "1000:1000".to_owned();
        let spec = ContainerSpec { user, open_stdin, ..host.spec(&config) };
        let (status, out, err) = host.run_spec(spec).await;
        let all = format!("{out}{err}").replace('\r', "");
        assert!(status.is_success(), "tty {tty}, stdin {open_stdin}: {all}");
        for line in ["out\n", "err\n", "read\n"] {
            assert!(all.contains(line), "tty {tty}, stdin {open_stdin}: {all}");
        }
    }
    // A device that is not the container's alone keeps its owner.
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(fs::metadata("/dev/null").unwrap().uid(), 0);
}

/// As `/etc/hosts` is: root in the container does with it what it likes.
#[tokio::test]
async fn a_copied_file_is_the_containers_own_and_small() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let source = host.home().join("hosts");
    fs::write(&source, "before\n").unwrap();
    let script = "cat /etc/hosts; chmod 4755 /etc/hosts; \
        dd if=/dev/zero of=/etc/hosts bs=65536 count=64 2>&1 | grep -o 'No space left'; \
        wc -c < /etc/hosts; cat /proc/self/mountinfo";
    let mut config = shell(script);
    config.mounts = vec![MountConfig {
        destination: "/etc/hosts".into(),
        kind: MountKind::Copy { source: source.clone() },
        read_only: false,
    }];
    let id = id("copies");
    host.runtime.prepare(&id, host.spec(&config)).await.unwrap();
    // Its address is known only now.
    fs::write(&source, "after\n").unwrap();
    host.runtime.start(&id).await.unwrap();
    assert_eq!(host.exit(&id).await.code, Some(0));
    let log = host.log(&id).await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[..2], ["after", "No space left"], "{log}");
    let size: usize = lines[2].parse().unwrap();
    assert!((32 * 1024..=80 * 1024).contains(&size), "{size} bytes");
    // The host has none of it: neither the mode nor the bytes.
    let mode = std::os::unix::fs::PermissionsExt::mode(&source.metadata().unwrap().permissions());
    assert_eq!((fs::read(&source).unwrap(), mode & 0o7111), (b"after\n".to_vec(), 0));
    // Nor is there any other mount that could be filled, or reached by anybody from outside.
    for line in &lines[3..] {
        let (mount, kind) = line.split_once(" - ").unwrap();
        let mount: Vec<&str> = mount.split(' ').collect();
        let kind: Vec<&str> = kind.split(' ').collect();
        let is_read_only = mount[5].split(',').any(|o| o == "ro");
        match kind[0] {
            "proc" | "sysfs" | "cgroup" | "cgroup2" | "devpts" | "mqueue" => {}
            "tmpfs" if is_read_only || kind[2].contains("size=") => {}
            // The container's own layer, below a directory that is root's alone.
            "overlay" if mount[4] == "/" => {
                let mode = host.config.state_dir.metadata().unwrap().permissions();
                assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
            }
            // Masks are /dev/null of the container, or of the host where it has none.
            "devtmpfs" if mount[3] == "/null" => {}
            _ => panic!("{line}"),
        }
        if mount[4] == "/etc/hosts" {
            assert_eq!(kind[0], "tmpfs");
            for option in ["nosuid", "nodev", "noexec"] {
                assert!(mount[5].split(',').any(|o| o == option), "{option}: {line}");
            }
        }
    }
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}
