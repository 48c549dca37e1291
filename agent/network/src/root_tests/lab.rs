//! Hosts and containers made of network namespaces, and packets between them.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{BridgeConfig, BridgeNetworks, Firewall, Netns, NftProgram};

/// How long a connection that should work may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one that should not is waited for.
const IMPATIENCE: Duration = Duration::from_millis(400);

/// A host's address towards the outside, and the outside's.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(super) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Moves the calling thread into a namespace for good.
pub(super) fn move_into(path: &Path) {
    let file = File::open(path).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// A network namespace that goes when it is dropped.
pub(super) struct Space {
    name: String,
}

impl Space {
    pub(super) fn new(role: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("shoal-test-{}-{number}-{role}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let space = Self { name };
        space.run("ip", &["link", "set", "lo", "up"]);
        space
    }

    pub(super) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub(super) fn netns(&self) -> Netns {
        Netns::AtPath(self.path())
    }

    /// Runs a program inside and returns what it says.
    pub(super) fn run(&self, program: &str, args: &[&str]) -> String {
        let mut all = vec!["netns", "exec", &self.name, program];
        all.extend(args);
        run("ip", &all)
    }

    /// The same; `None` if the program fails.
    pub(super) fn try_run(&self, program: &str, args: &[&str]) -> Option<String> {
        let mut all = vec!["netns", "exec", &self.name, program];
        all.extend(args);
        let output = Command::new("ip").args(&all).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Lays a wire from here to `peer`, with this name and an address of /24 at each end.
    pub(super) fn wire(&self, peer: &Self, name: &str, here: Ipv4Addr, there: Ipv4Addr) {
        let ends = ["link", "add", name, "type", "veth", "peer", "name", name, "netns"];
        self.run("ip", &[&ends[..], &[&peer.name]].concat());
        for (space, address) in [(self, here), (peer, there)] {
            space.run("ip", &["address", "add", &format!("{address}/24"), "dev", name]);
            space.run("ip", &["link", "set", name, "up"]);
        }
    }

    /// Calls a function inside.
    pub(super) fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        let inside = move || {
            move_into(&path);
            act()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Serves a TCP and a UDP port for ever; each answer is the peer's address.
    pub(super) fn serve(&self, port: u16) {
        let (tcp, udp) = self.enter(|| {
            // Both families.
            let any = (Ipv6Addr::UNSPECIFIED, port);
            (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
        });
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let answer = |mut stream: TcpStream| {
                    let peer = stream.peer_addr()?.ip().to_canonical().to_string();
                    stream.write_all(peer.as_bytes())
                };
                // A client that went away is its own affair.
                let _ = stream.and_then(answer);
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(peer.ip().to_canonical().to_string().as_bytes(), peer);
            }
        });
    }

    /// Asks a server who we are, by TCP.
    pub(super) fn ask(&self, address: impl Into<IpAddr>, port: u16) -> String {
        let address = address.into();
        self.enter(|| ask(address, port, PATIENCE))
            .unwrap_or_else(|error| panic!("{} to {address}:{port}: {error}", self.name))
    }

    /// The same by UDP.
    pub(super) fn ask_udp(&self, address: impl Into<IpAddr>, port: u16) -> String {
        let address = address.into();
        let ask = || {
            let socket = UdpSocket::bind((any_like(address), 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(b"?", (address, port))?;
            let mut buffer = [0; 64];
            let (len, from) = socket.recv_from(&mut buffer)?;
            assert_eq!(from, SocketAddr::from((address, port)));
            Ok::<_, io::Error>(String::from_utf8_lossy(&buffer[..len]).into_owned())
        };
        self.enter(ask)
            .unwrap_or_else(|error| panic!("{} to {address}:{port}/udp: {error}", self.name))
    }

    /// A client that asks by UDP from one socket, again and again.
    pub(super) fn udp_client(&self, address: impl Into<IpAddr>, port: u16) -> UdpSocket {
        let address = address.into();
        self.enter(|| {
            let socket = UdpSocket::bind((any_like(address), 0)).unwrap();
            socket.connect((address, port)).unwrap();
            socket
        })
    }

    /// Serves a UDP port for ever; each answer is this text.
    pub(super) fn serve_udp(&self, port: u16, answer: &'static str) {
        let socket = self.enter(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(answer.as_bytes(), peer);
            }
        });
    }

    /// Whether somebody answers at once.
    pub(super) fn answers(&self, address: impl Into<IpAddr>, port: u16) -> bool {
        let address = address.into();
        self.enter(|| ask(address, port, IMPATIENCE)).is_ok()
    }

    /// Asserts that nobody answers.
    pub(super) fn cannot_ask(&self, address: impl Into<IpAddr>, port: u16) {
        let address = address.into();
        let answer = self.enter(|| ask(address, port, IMPATIENCE));
        assert!(answer.is_err(), "{} reached {address}:{port}: {answer:?}", self.name);
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Not asserted: a panic here would hide the one that is under way.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Serves a TCP port for ever: whatever is said on a connection is answered by this text.
pub(super) fn serve_lines(space: &Space, port: u16, answer: &'static str) {
    let listener = space.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                    if stream.write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// A connection that stays open, to where [`serve_lines`] serves.
pub(super) struct Line(TcpStream);

impl Line {
    pub(super) fn to(from: &Space, address: IpAddr, port: u16) -> Self {
        let stream = from.enter(|| TcpStream::connect((address, port)).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Who answers.
    pub(super) fn ask(&mut self) -> io::Result<String> {
        self.0.write_all(b"?")?;
        let mut answer = [0; 64];
        let length = self.0.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }
}

/// Asks once; `None` when nobody answers soon, so this is for what may not be answered.
pub(super) fn ask_with(client: &UdpSocket) -> Option<String> {
    ask_for(client, IMPATIENCE)
}

/// Asks once what is to be answered, however busy the machine is.
pub(super) fn ask_once(client: &UdpSocket) -> String {
    ask_for(client, PATIENCE).expect("an answer")
}

fn ask_for(client: &UdpSocket, patience: Duration) -> Option<String> {
    client.set_read_timeout(Some(patience)).unwrap();
    // What an earlier packet ran into is reported here.
    let _ = client.send(b"?");
    let mut buffer = [0; 64];
    let len = client.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

/// Asks until somebody answers.
pub(super) fn ask_until(client: &UdpSocket) -> Option<String> {
    let tries = PATIENCE.as_millis() / IMPATIENCE.as_millis();
    (0..tries).find_map(|_| ask_with(client))
}

fn any_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn ask(address: IpAddr, port: u16, patience: Duration) -> io::Result<String> {
    let address = SocketAddr::new(address, port);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A host with an outside, and the state directory of its agent.
pub(super) struct Lab {
    pub(super) host: Space,
    pub(super) outside: Space,
    pub(super) state: tempfile::TempDir,
}

impl Lab {
    pub(super) fn new() -> Self {
        let (host, outside) = (Space::new("host"), Space::new("outside"));
        host.wire(&outside, "up0", HOST, OUTSIDE);
        // Somebody outside who knows the way to the containers, were it open.
        let gateway = HOST.to_string();
        outside.run("ip", &["route", "add", "172.20.0.0/14", "via", &gateway]);
        host.run("ip", &["route", "add", "default", "via", &OUTSIDE.to_string()]);
        Self { host, outside, state: tempfile::tempdir().unwrap() }
    }

    /// Runs a test with a runtime whose threads are all on the host.
    pub(super) fn block_on<T: Send>(&self, test: impl AsyncFnOnce() -> T + Send) -> T {
        self.host.enter(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap()
                .block_on(test())
        })
    }

    /// The agent's driver, as after a start. Call it inside [`Lab::block_on`].
    pub(super) fn driver(&self) -> BridgeNetworks {
        self.driver_with(NftProgram::default())
    }

    /// The same with another packet filter.
    pub(super) fn driver_with(&self, firewall: impl Firewall + 'static) -> BridgeNetworks {
        let dir = self.state.path();
        let config = BridgeConfig::new(dir.join("state"), dir.join("run"));
        BridgeNetworks::with_firewall(config, Box::new(firewall)).unwrap()
    }
}
