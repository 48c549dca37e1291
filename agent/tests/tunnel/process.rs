//! The process that encrypts: what it outlives, what it is given, what it leaves.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, getsid};
use shoal_agent_planning::tunnel::Action;
use shoal_agent_tunnel::contract::Harm as _;
use shoal_agent_tunnel::{Tunnel as _, TunnelConfig, Tunnels};
use shoal_types::object::TunnelKind;

use crate::lab::{Host, able_with_process, block_on, pair, until};

/// Tells the agent of another test where it is.
const PLACE: &str = "SHOAL_TUNNEL_TEST_DIR";

fn config(dir: &Path) -> TunnelConfig {
    TunnelConfig {
        ifname: "shwg0".to_owned(),
        side: shoal_agent_planning::tunnel::Side::First,
        state_dir: dir.join("state"),
        run_dir: dir.join("run"),
        program: env!("CARGO_BIN_EXE_shoal-agent").into(),
        kind: Some(TunnelKind::Userspace),
    }
}

/// Not a test: what an agent does, for the one below.
#[test]
#[ignore = "it is the agent that another test kills"]
fn an_agent_that_is_killed() {
    let Some(dir) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let tunnel = Tunnels::open(config(&dir)).unwrap();
    block_on(tunnel.turn(0)).unwrap();
    let desired = shoal_agent_planning::tunnel::Desired {
        listen_port: 51820,
        mtu: 1420,
        address: None,
        peers: Default::default(),
    };
    block_on(tunnel.ensure(desired)).unwrap();
    fs::write(dir.join("ensured"), "").unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn it_outlives_an_agent_that_is_killed_and_is_found_by_the_next() {
    if !able_with_process() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut host = Host::with(1, |given| *given = config(dir.path()));
    let mut agent = Command::new("ip")
        .args(["netns", "exec"])
        .arg(host.space.path().file_name().unwrap())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "process::an_agent_that_is_killed", "--ignored", "--nocapture"])
        .env(PLACE, dir.path())
        .spawn()
        .unwrap();
    until("a tunnel", || dir.path().join("ensured").exists().then_some(()));
    let process = host.process().unwrap();
    // With everything of its session and its group.
    let group = Pid::from_raw(i32::try_from(agent.id()).unwrap()).unwrap();
    rustix::process::kill_process(group, rustix::process::Signal::KILL).unwrap();
    agent.wait().unwrap();
    host.reopen();
    let done = block_on(host.tunnel.ensure(host.desired(&[]))).unwrap().done;
    assert_eq!(done, []);
    assert_eq!(host.process(), Some(process));
    let pid = Pid::from_raw(process.pid).unwrap();
    assert_eq!(getsid(Some(pid)).unwrap(), pid);
}

#[test]
fn signals_of_a_terminal_do_not_end_it_and_nothing_it_is_given_says_its_key() {
    if !able_with_process() {
        return;
    }
    // Whatever the agent was started with, such as a lock of whoever did.
    let held = tempfile::tempfile().unwrap();
    let inherited = rustix::io::dup(&held).unwrap();
    let leaked = fs::read_link(format!("/proc/self/fd/{}", inherited.as_raw_fd())).unwrap();
    let host = Host::new(1);
    host.ensure(&[]);
    let process = host.process().unwrap();
    let proc = PathBuf::from(format!("/proc/{}", process.pid));
    // SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM.
    for signal in [1, 2, 3, 13, 15] {
        assert!(process.signal(signal).unwrap());
    }
    assert_eq!(block_on(host.tunnel.ensure(host.desired(&[]))).unwrap().done, []);
    assert_eq!(host.process(), Some(process));

    let read = |name: &str| fs::read(proc.join(name)).unwrap();
    let run_dir = host.config.run_dir.to_str().unwrap();
    let command = format!("shoal-agent\0tunnel\0{run_dir}\0");
    assert_eq!(String::from_utf8(read("cmdline")).unwrap(), command);
    assert_eq!(read("environ"), b"");
    assert_eq!(read("comm"), b"shoal-tunnel\n");
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), host.config.run_dir);
    let limits = String::from_utf8(read("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let mut open = Vec::new();
    for entry in fs::read_dir(proc.join("fd")).unwrap().flatten() {
        let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = fs::read_link(entry.path()).unwrap();
        assert_ne!(target, leaked);
        if number < 3 {
            assert_eq!(target, Path::new("/dev/null"), "{number}");
        }
        open.push(target.display().to_string());
    }
    let of_agent = |target: &&String| target.starts_with("pipe:");
    assert_eq!(open.iter().find(of_agent), None, "{open:?}");
    assert!(open.contains(&"/dev/net/tun".to_owned()), "{open:?}");

    // What is in the run directory is root's alone.
    for entry in fs::read_dir(run_dir).unwrap().flatten() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}", entry.path());
    }
}

#[test]
fn what_somebody_breaks_is_whole_again() {
    if !able_with_process() {
        return;
    }
    let host = Host::new(1);
    let desired = host.desired(&[]);
    host.ensure(&[]);
    let key = host.key();
    let file = |name: &str| fs::remove_file(host.config.run_dir.join(name)).unwrap();
    let harms: [(&str, &dyn Fn()); 8] = [
        ("stopped", &|| {
            // It hangs: whoever connects waits.
            host.process().unwrap().signal(19).unwrap();
        }),
        ("killed", &|| host.kill()),
        ("deleted", &|| host.delete_interface()),
        ("set down", &|| {
            host.space.run("ip", &["link", "set", &host.ifname, "down"]);
        }),
        ("another mtu", &|| {
            host.space.run("ip", &["link", "set", &host.ifname, "mtu", "1280"]);
        }),
        ("the socket is gone", &|| file("tunnel.sock")),
        ("the lock is gone", &|| file("tunnel.pid")),
        ("another interface has the name", &|| {
            host.kill();
            host.delete_interface();
            host.space.run("ip", &["link", "add", &host.ifname, "type", "bridge"]);
        }),
    ];
    for (what, harm) in harms {
        harm();
        let state = block_on(host.tunnel.ensure(desired.clone()));
        let state = state.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(state.public_key, key, "{what}");
        let seen = block_on(host.tunnel.observe()).unwrap().unwrap().device;
        assert_eq!((seen.key, seen.listen_port), (Some(key), Some(51820)), "{what}");
        let line = host.space.run("ip", &["-o", "link", "show", &host.ifname]);
        assert!(line.contains("mtu 1420") && line.contains("UP"), "{what}: {line}");
        let again = block_on(host.tunnel.ensure(desired.clone())).unwrap().done;
        assert_eq!(again, [], "{what}");
    }
}

#[test]
fn why_it_ended_is_on_disk_until_the_next_begins() {
    if !able_with_process() {
        return;
    }
    let host = Host::new(1);
    block_on(host.tunnel.ensure(host.desired(&[]))).unwrap();
    host.delete_interface();
    until("its end", || host.process().is_none().then_some(()));
    let words = host.config.run_dir.join("tunnel.ended");
    let text = fs::read_to_string(&words).unwrap();
    assert!(text.contains("deleted"), "{text}");
    let done = block_on(host.tunnel.ensure(host.desired(&[]))).unwrap().done;
    assert_eq!(done[0], Action::StartProcess);
    assert!(!words.exists());
}

#[test]
fn two_agents_on_a_host_do_not_meet() {
    if !able_with_process() {
        return;
    }
    let one = Host::new(1);
    let dir = tempfile::tempdir().unwrap();
    let other = TunnelConfig { ifname: "otherwg0".to_owned(), ..config(dir.path()) };
    // With mounts of its own, as agents of tests have them.
    let tunnel = one.space.enter(|| {
        shoal_agent_container::sys::process::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
        Tunnels::open(other).unwrap()
    });
    block_on(tunnel.turn(0)).unwrap();
    one.ensure(&[]);
    let mut desired = one.desired(&[]);
    desired.listen_port = 51821;
    let state = block_on(tunnel.ensure(desired.clone())).unwrap();
    assert_ne!(state.public_key, one.key());
    assert_eq!(block_on(one.tunnel.ensure(one.desired(&[]))).unwrap().done, []);
    assert_eq!(block_on(tunnel.ensure(desired)).unwrap().done, []);
    assert_eq!(one.links(), ["lo", "shwg0", "otherwg0"]);
    block_on(one.tunnel.remove()).unwrap();
    assert!(block_on(tunnel.observe()).unwrap().is_some());
    assert_eq!(one.links(), ["lo", "otherwg0"]);
    block_on(tunnel.remove()).unwrap();
}

#[test]
fn nothing_is_left_of_it_but_its_key() {
    if !able_with_process() {
        return;
    }
    let (one, two) = pair();
    let process = one.process().unwrap();
    block_on(one.tunnel.remove()).unwrap();
    assert!(!process.exists());
    assert_eq!(one.links(), ["lo", "up0"]);
    assert_eq!(fs::read_dir(&one.config.run_dir).unwrap().count(), 0);
    let kept: Vec<_> = fs::read_dir(&one.config.state_dir).unwrap().flatten().collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].file_name(), "tunnel.key");
    // Its port, too.
    one.space.enter(|| UdpSocket::bind("0.0.0.0:51820").map(drop)).unwrap();
    // One that was killed leaves an interface, which goes as well.
    two.kill();
    block_on(two.tunnel.remove()).unwrap();
    assert_eq!(two.links(), ["lo", "up0"]);
}
