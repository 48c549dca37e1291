//! What a container cannot do.

use shoal_agent_runtime::{ContainerSpec, Runtime, RuntimeError};

use crate::host::{Host, able, command, shell};

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches(':').trim()
}

#[tokio::test]
async fn capabilities_and_filter_are_dockers() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let (_, status, _) = host.run(&command(&["cat", "/proc/self/status"])).await;
    for (name, expected) in [
        ("CapEff", "00000000a80425fb"),
        ("CapPrm", "00000000a80425fb"),
        ("CapBnd", "00000000a80425fb"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("Seccomp", "2"),
        ("NoNewPrivs", "0"),
        ("SigIgn", "0000000000000000"),
        ("SigBlk", "0000000000000000"),
        ("Groups", "0 2003"),
    ] {
        assert_eq!(field(&status, name), expected, "{name} in\n{status}");
    }
    let mut config = command(&["cat", "/proc/self/status"]);
    config.no_new_privileges = true;
    config.cap_drop = vec!["ALL".to_owned()];
    let spec = ContainerSpec { user: "1000:0".to_owned(), ..host.spec(&config) };
    let (_, status, _) = host.run_spec(spec).await;
    for (name, expected) in [
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("Uid", "1000\t1000\t1000\t1000"),
        ("Groups", "0"),
    ] {
        assert_eq!(field(&status, name), expected, "{name} in\n{status}");
    }
}

#[tokio::test]
async fn forbidden_calls_are_refused() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    for script in [
        "unshare -m true",
        "unshare -U true",
        "mount -t tmpfs none /tmp",
        "mount -o remount,rw /proc/sys",
        "echo 1 > /proc/sys/kernel/sysrq",
        "echo b > /proc/sysrq-trigger",
        "hostname other",
        "mknod /tmp/vda b 254 0 && cat /tmp/vda > /dev/null",
        "echo max > /sys/fs/cgroup/memory/memory.limit_in_bytes || touch /sys/fs/cgroup/x",
        "cat /proc/kcore | head -c 1 | grep -q .",
        "ls /sys/firmware | grep -q .",
    ] {
        let (status, out, err) = host.run(&shell(script)).await;
        assert_ne!(status.code, Some(0), "{script} was allowed: {out} {err}");
    }
    // And the judge can tell: with the capability, so with the filter open, mounting works.
    let mut config = shell("mount -t tmpfs none /tmp");
    config.cap_add = vec!["SYS_ADMIN".to_owned()];
    let (status, _, err) = host.run(&config).await;
    assert_eq!(status.code, Some(0), "{err}");
    host.assert_clean().await;
}

#[tokio::test]
async fn a_container_sees_its_own_world() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let (_, out, err) =
        host.run(&shell("echo $$; ls /; ip -o link | wc -l; ip -o link show lo up | wc -l")).await;
    assert!(out.starts_with("1\n"), "{out} {err}");
    assert!(out.ends_with("1\n1\n"), "one interface, up: {out} {err}");
    let (status, out, err) = host.run(&shell("ls /sys/fs/cgroup; cat /proc/self/cgroup; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true")).await;
    assert!(out.contains("memory"), "{status}: {out} {err}");
    assert!(!out.contains("/shoal-test"), "the host's path shows: {out}");
    let mut config = shell("echo x > /file");
    config.read_only = true;
    assert_ne!(host.run(&config).await.0.code, Some(0));
    let (_, out, _) = host.run(&shell("ls -la /proc/1/fd /proc/self/fd | grep -v -e pipe -e null -e /proc | grep -- '->'; ls /dev")).await;
    assert!(!out.contains("->"), "descriptors leaked: {out}");
    for device in ["null", "zero", "full", "random", "urandom", "tty", "shm", "pts", "mqueue"] {
        assert!(out.lines().any(|l| l == device), "/dev/{device} in {out}");
    }
}

#[tokio::test]
async fn the_program_of_the_supervisor_cannot_be_overwritten() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    // The image's command is the runtime's own program: it must be neither writable nor harmful.
    let config = command(&["/proc/self/exe"]);
    let id = crate::host::id("exe");
    host.runtime.prepare(&id, host.spec(&config)).await.unwrap();
    let before = std::fs::read(&host.config.program).unwrap();
    // It may fail to start (no dynamic loader in the image) or start and fail.
    if host.runtime.start(&id).await.is_ok() {
        host.exit(&id).await;
    }
    host.runtime.remove(&id).await.unwrap();
    let supervisor = host.runtime.prepare(&id, host.spec(&command(&["true"]))).await.unwrap();
    let exe = format!("/proc/{}/exe", supervisor.supervisor_pid);
    let error = std::fs::OpenOptions::new().write(true).open(exe).unwrap_err();
    assert!(
        matches!(
            error.kind(),
            std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::ExecutableFileBusy
        ),
        "{error}"
    );
    host.runtime.remove(&id).await.unwrap();
    assert!(std::fs::read(&host.config.program).unwrap() == before);
}

#[tokio::test]
async fn what_cannot_be_confined_is_not_prepared() {
    if !able() {
        return;
    }
    let host = Host::new();
    let refused = |change: fn(&mut ContainerSpec)| {
        let mut spec = host.spec(&command(&["true"]));
        change(&mut spec);
        let host = &host;
        async move { host.runtime.prepare(&crate::host::id("no"), spec).await.unwrap_err() }
    };
    let error = refused(|s| {
        s.oci.linux_mut().as_mut().unwrap().set_seccomp(None);
    })
    .await;
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
    let error = refused(|s| {
        s.oci.set_hooks(Some(Default::default()));
    })
    .await;
    assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}");
    host.assert_clean().await;
}
