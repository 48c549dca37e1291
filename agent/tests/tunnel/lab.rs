//! Hosts made of network namespaces, each with a tunnel.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use shoal_agent_container::ProcessIdentity;
use shoal_agent_planning::tunnel::{Desired, MTU, PORT, Side, TunnelPeer};
use shoal_agent_tunnel::{Tunnel as _, TunnelConfig, Tunnels};
use shoal_types::object::{TunnelKey, TunnelKind};

/// Bound of every wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Whether tests of the tunnel can run here; in CI a skip is a failure.
pub(crate) fn able() -> bool {
    let root = rustix::process::geteuid().is_root();
    let tun = File::open("/dev/net/tun").is_ok();
    if !(root && tun) {
        eprintln!("SKIPPED: needs root ({root}) and /dev/net/tun ({tun})");
        assert!(std::env::var_os("CI").is_none(), "in CI a skip is a failure");
    }
    root && tun
}

/// What encrypts, where a test does not say: the process, or what `SHOAL_TEST_TUNNEL` names. A kernel that has
/// WireGuard keeps the same promises.
pub(crate) fn kind() -> TunnelKind {
    match std::env::var("SHOAL_TEST_TUNNEL").as_deref() {
        Ok("kernel") => TunnelKind::Kernel,
        Ok("userspace") | Err(_) => TunnelKind::Userspace,
        Ok(other) => panic!("SHOAL_TEST_TUNNEL={other}: expected kernel or userspace"),
    }
}

/// Whether a test of the process can run here, and it is not the kernel that is asked for.
pub(crate) fn able_with_process() -> bool {
    able() && kind() == TunnelKind::Userspace
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Waits for a condition.
pub(crate) fn until<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = is() {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A network namespace that goes when it is dropped.
pub(crate) struct Space {
    name: String,
}

impl Space {
    pub(crate) fn new(role: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("shoal-tunnel-{}-{number}-{role}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let space = Self { name };
        space.run("ip", &["link", "set", "lo", "up"]);
        space
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs a program inside and returns what it says.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> String {
        run("ip", &[&["netns", "exec", &self.name, program], args].concat())
    }

    /// The same; `None` if the program fails.
    pub(crate) fn try_run(&self, program: &str, args: &[&str]) -> Option<String> {
        let all = [&["netns", "exec", &self.name, program], args].concat();
        let output = Command::new("ip").args(&all).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Calls a function inside, on a thread of its own.
    pub(crate) fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        let inside = move || {
            let file = File::open(path).unwrap();
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Not asserted: a panic here would hide the one that is under way.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A host with a tunnel.
pub(crate) struct Host {
    pub(crate) tunnel: Tunnels,
    pub(crate) ifname: String,
    pub(crate) config: TunnelConfig,
    number: u8,
    pub(crate) space: Space,
    _dir: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new(number: u8) -> Self {
        Self::with(number, |_| ())
    }

    /// A host with one of the two interfaces, without a key.
    pub(crate) fn of(side: Side, kind: TunnelKind) -> Self {
        let host = Self::with(1, |config| {
            (config.side, config.ifname, config.kind) = (side, side.ifname("sh"), Some(kind));
        });
        block_on(host.tunnel.forget()).unwrap();
        host
    }

    pub(crate) fn with(number: u8, change: impl FnOnce(&mut TunnelConfig)) -> Self {
        let space = Space::new(&format!("host{number}"));
        let dir = tempfile::tempdir().unwrap();
        let mut config = TunnelConfig {
            ifname: "shwg0".to_owned(),
            side: Side::First,
            state_dir: dir.path().join("state"),
            run_dir: dir.path().join("run"),
            program: env!("CARGO_BIN_EXE_shoal-agent").into(),
            kind: Some(kind()),
        };
        change(&mut config);
        let opened = config.clone();
        let tunnel = space.enter(|| Tunnels::open(opened).unwrap());
        if tunnel.key().is_none() && config.side == Side::First {
            block_on(tunnel.turn(0)).unwrap();
        }
        let ifname = config.ifname.clone();
        Self { tunnel, ifname, config, number, space, _dir: dir }
    }

    /// The driver anew, as after the agent's restart.
    pub(crate) fn reopen(&mut self) {
        let config = self.config.clone();
        self.tunnel = self.space.enter(|| Tunnels::open(config).unwrap());
    }

    /// By which others know it.
    pub(crate) fn key(&self) -> TunnelKey {
        self.tunnel.key().unwrap().public_key
    }

    /// On the wire.
    pub(crate) fn outer(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.number)
    }

    /// Inside of the tunnel.
    pub(crate) fn inner(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 0, self.number)
    }

    /// A tunnel to these hosts.
    pub(crate) fn desired(&self, others: &[&Self]) -> Desired {
        let peers = others.iter().map(|other| {
            let peer = TunnelPeer {
                endpoint: SocketAddr::from((other.outer(), PORT)),
                allowed: [IpAddr::from(other.inner()).into()].into(),
                keepalive: None,
            };
            (other.key(), peer)
        });
        Desired { listen_port: PORT, mtu: MTU, address: None, peers: peers.collect() }
    }

    pub(crate) fn ensure(&self, others: &[&Self]) {
        block_on(self.tunnel.ensure(self.desired(others))).unwrap();
    }

    /// What the agent's network does with the interface.
    pub(crate) fn address(&self) {
        let inner = format!("{}/32", self.inner());
        self.space.run("ip", &["address", "add", &inner, "dev", &self.ifname]);
        self.space.run("ip", &["route", "add", "10.9.0.0/24", "dev", &self.ifname]);
    }

    /// The process that encrypts, if there is one.
    pub(crate) fn process(&self) -> Option<ProcessIdentity> {
        let text = fs::read(self.config.run_dir.join("tunnel.pid")).ok()?;
        let process: ProcessIdentity = serde_json::from_slice(&text).ok()?;
        process.exists().then_some(process)
    }

    /// Names of all interfaces.
    pub(crate) fn links(&self) -> Vec<String> {
        let text = self.space.run("ip", &["-o", "link"]);
        let name = |line: &str| line.split([':', '@']).nth(1).unwrap().trim().to_owned();
        text.lines().map(name).collect()
    }

    pub(crate) fn index(&self, ifname: &str) -> i32 {
        let line = self.space.run("ip", &["-o", "link", "show", ifname]);
        line.split(':').next().unwrap().parse().unwrap()
    }

    /// A socket at the inner address.
    pub(crate) fn socket(&self, port: u16) -> UdpSocket {
        let at = (self.inner(), port);
        let socket = self.space.enter(|| UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(process) = self.process() {
            let _ = process.signal(9);
        }
    }
}

/// Lays a wire `up0` between two hosts.
pub(crate) fn wire(here: &Host, there: &Host) {
    for host in [here, there] {
        // Of another wire.
        host.space.try_run("ip", &["link", "del", "up0"]);
    }
    let ends = ["link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns"];
    here.space.run("ip", &[&ends[..], &[&there.space.name]].concat());
    for host in [here, there] {
        let outer = format!("{}/24", host.outer());
        host.space.run("ip", &["address", "add", &outer, "dev", "up0"]);
        host.space.run("ip", &["link", "set", "up0", "up"]);
    }
}

/// Two hosts on one wire with a tunnel between them.
pub(crate) fn pair() -> (Host, Host) {
    let (one, two) = (Host::new(1), Host::new(2));
    wire(&one, &two);
    one.ensure(&[&two]);
    two.ensure(&[&one]);
    one.address();
    two.address();
    (one, two)
}
