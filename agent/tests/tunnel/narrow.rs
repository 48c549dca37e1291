//! Containers on hosts between which the way takes less than a wire does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use shoal_agent_network::{
    AttachRequest, BridgeConfig, BridgeNetworks, Netns, NetworkConfig, NetworkDriver as _,
    SubnetConfig,
};
use shoal_agent_planning::network::ingress::Ingress;
use shoal_agent_planning::network::ruleset::Vips;
use shoal_agent_planning::tunnel::{LARGEST, MTU, OVERHEAD, PORT};
use shoal_agent_tunnel::{Tunnel as _, reach, uncut};

use crate::lab::{Host, PATIENCE, Space, able, block_on};
use crate::wire::{Listener, is_fragment};

const SUBNETS: [&str; 2] = ["10.0.5.0/24", "fd00:5::/64"];
/// Bytes of a stream.
const STREAM: usize = 2 << 20;

/// Two routers between two hosts, with a wire between them that takes packets up to a size.
struct Way {
    routers: [Space; 2],
}

impl Way {
    fn new(hosts: [&Host; 2], mtu: u32) -> Self {
        let routers = [Space::new("router1"), Space::new("router2")];
        let name = |space: &Space| {
            space.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap()
        };
        let middle = ["link", "add", "mid0", "type", "veth", "peer", "name", "mid0", "netns"];
        routers[0].run("ip", &[&middle[..], &[&name(&routers[1])]].concat());
        for at in 0..2 {
            let (router, host, other) = (&routers[at], hosts[at], hosts[1 - at]);
            let (own, next) = (format!("169.254.0.{}", at + 1), format!("169.254.0.{}", 2 - at));
            let (outer, far) = (host.outer().to_string(), other.outer().to_string());
            let ends = ["link", "add", "up0", "type", "veth", "peer", "name", "dn0", "netns"];
            host.space.run("ip", &[&ends[..], &[&name(router)]].concat());
            host.space.run("ip", &["address", "add", &format!("{outer}/32"), "dev", "up0"]);
            host.space.run("ip", &["link", "set", "up0", "up"]);
            let by = ["route", "add", "default", "via", &own, "dev", "up0", "onlink"];
            host.space.run("ip", &by);
            router.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
            for link in ["dn0", "mid0"] {
                router.run("ip", &["address", "add", &format!("{own}/32"), "dev", link]);
                router.run("ip", &["link", "set", link, "up"]);
            }
            router.run("ip", &["link", "set", "mid0", "mtu", &mtu.to_string()]);
            router.run("ip", &["route", "add", &outer, "dev", "dn0"]);
            let by = ["route", "add", &far, "via", &next, "dev", "mid0", "onlink"];
            router.run("ip", &by);
        }
        Self { routers }
    }

    /// From now on the routers tell nobody of what they do not take, and perhaps let nothing pass that was cut.
    fn be_black(&self, also_to_parts: bool) {
        for router in &self.routers {
            let silent = "table ip black {
                chain say { type filter hook output priority 0; meta l4proto icmp drop; }
            }";
            let whole = "table ip whole {
                chain pass { type filter hook prerouting priority -500; ip frag-off & 0x3fff != 0 drop; }
            }";
            router.run("nft", &[silent]);
            if also_to_parts {
                router.run("nft", &[whole]);
            }
        }
    }
}

/// A container on a host, with its driver.
pub(crate) struct Guest {
    pub(crate) space: Space,
    pub(crate) driver: BridgeNetworks,
    pub(crate) runtime: tokio::runtime::Runtime,
}

pub(crate) fn addresses_of(host: &Host) -> (Ipv4Addr, Ipv6Addr) {
    let number = host.inner().octets()[3];
    (Ipv4Addr::new(10, 0, 5, number + 10), format!("fd00:5::1{number}").parse().unwrap())
}

pub(crate) fn addresses(host: &Host) -> [IpAddr; 2] {
    let (v4, v6) = addresses_of(host);
    [v4.into(), v6.into()]
}

fn request((v4, v6): (Ipv4Addr, Ipv6Addr)) -> AttachRequest {
    AttachRequest {
        container: "guest".to_owned(),
        network: "wide".to_owned(),
        address: Some(v4),
        address_v6: Some(v6),
        ..AttachRequest::default()
    }
}

impl Guest {
    /// What the worker does when the driver says so.
    pub(crate) fn attach_again(&self, host: &Host) {
        let (request, at) = (request(addresses_of(host)), Netns::AtPath(self.space.path()));
        self.runtime.block_on(self.driver.attach(request, at)).unwrap();
    }

    pub(crate) fn new(host: &Host, others: &[&Host]) -> Self {
        let dir = host.config.state_dir.clone();
        let own = addresses_of(host);
        let space = Space::new("guest");
        let at = space.path();
        let (driver, runtime) = host.space.enter(|| {
            // Its threads are of the host's namespace.
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            let driver = runtime.block_on(async {
                let config = BridgeConfig::new(dir.join("networks"), dir.join("attachments"));
                let driver = BridgeNetworks::open(config).unwrap();
                let subnets = SUBNETS.map(|subnet| {
                    let (gateway, ip_range, reserved) = (None, None, BTreeSet::new());
                    SubnetConfig { subnet: subnet.parse().unwrap(), gateway, ip_range, reserved }
                });
                let config = NetworkConfig {
                    id: "wide".to_owned(),
                    subnets: subnets.to_vec(),
                    routed: true,
                    ipv6: true,
                    mtu: Some(MTU),
                    wide: Some(LARGEST),
                    ..NetworkConfig::default()
                };
                driver.ensure_network(config).await.unwrap();
                driver.attach(request(own), Netns::AtPath(at)).await.unwrap();
                let peers = others.iter().map(|other| (other.inner(), Some(other.outer().into())));
                let (home, peers) = (Some(host.inner()), peers.collect());
                let ingress = Ingress { home, peers, ..Ingress::default() };
                let remote = others
                    .iter()
                    .flat_map(|other| addresses(other).into_iter().chain([other.inner().into()]));
                driver.lead(remote.collect(), Vips::new(), ingress).await.unwrap();
                driver
            });
            (driver, runtime)
        });
        Self { space, driver, runtime }
    }

    fn fit(&self, bytes: Option<u32>, to: &Host) {
        let narrow: BTreeMap<IpAddr, u32> = match bytes {
            Some(bytes) => {
                addresses(to).map(|at| (at, bytes.max(if at.is_ipv4() { 0 } else { 1280 }))).into()
            }
            None => BTreeMap::new(),
        };
        self.runtime.block_on(self.driver.fit(MTU, narrow)).unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(self.driver.cleanup_all());
    }
}

/// Sends a stream each way at the same time; whether all of it arrives in time.
pub(crate) fn stream(from: &Space, to: &Space, at: IpAddr) {
    let listener = to.enter(|| TcpListener::bind((at, 7001)).unwrap());
    let address = listener.local_addr().unwrap();
    let client = from.enter(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
    let (served, _) = listener.accept().unwrap();
    let both = |mut stream: &TcpStream, own: u8, other: u8| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || stream.write_all(&vec![own; STREAM]).unwrap());
            let mut received = vec![0; STREAM];
            stream.read_exact(&mut received).unwrap();
            assert!(received.iter().all(|byte| *byte == other));
        });
    };
    thread::scope(|scope| {
        scope.spawn(|| both(&client, 1, 2));
        both(&served, 2, 1);
    });
}

/// Sends datagrams as large as the interface takes until one is answered: the first may be lost by which the
/// sender learns of the way.
pub(crate) fn datagrams(from: &Space, to: &Space, at: IpAddr, mtu: u32) {
    let size = mtu as usize - if at.is_ipv4() { 28 } else { 48 };
    let served = to.enter(|| UdpSocket::bind((at, 7002)).unwrap());
    let address = served.local_addr().unwrap();
    let any: SocketAddr = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let asking = from.enter(|| UdpSocket::bind(any).unwrap());
    for socket in [&served, &asking] {
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "datagrams of {size} bytes to {at} get lost");
        // Told of what is too large, it says so once.
        let _ = asking.send_to(&vec![3; size], address);
        let mut buffer = [0; 16 << 10];
        let Ok((len, who)) = served.recv_from(&mut buffer) else { continue };
        assert_eq!(len, size);
        let _ = served.send_to(&buffer[..len], who);
        if asking.recv_from(&mut buffer).is_ok_and(|(len, _)| len == size) {
            return;
        }
    }
}

/// Two hosts with a narrow way between them, joined by a tunnel.
fn hosts(mtu: u32) -> ([Host; 2], Way) {
    let (one, two) = (Host::new(1), Host::new(2));
    let way = Way::new([&one, &two], mtu);
    for (host, other) in [(&one, &two), (&two, &one)] {
        let mut desired = host.desired(&[other]);
        desired.address = Some(host.inner());
        let peer = desired.peers.get_mut(&other.key()).unwrap();
        for address in addresses(other) {
            peer.allowed.insert(address.into());
        }
        block_on(host.tunnel.ensure(desired)).unwrap();
    }
    ([one, two], way)
}

/// What routers say of the way outside.
fn outside(host: &Host, other: &Host) -> u32 {
    let to = (other.outer(), PORT).into();
    host.space.enter(|| block_on(uncut(to, MTU + OVERHEAD))).unwrap()
}

pub(crate) fn passes(host: &Host, other: &Host, full: u32) -> u32 {
    let (ifname, home, to) = (host.ifname.clone(), host.inner(), other.inner());
    let came = host.space.enter(|| {
        block_on(reach(&[ifname.clone()].into(), home, vec![(to, ifname)], full, PATIENCE))
    });
    came.unwrap()[&to].passes
}

/// Nobody tells what is too large, and what was cut does not arrive.
#[test]
fn streams_and_datagrams_pass_a_way_that_takes_less_in_silence() {
    if !able() {
        return;
    }
    let ([one, two], way) = hosts(1280);
    way.be_black(true);
    let (here, there) = (Guest::new(&one, &[&two]), Guest::new(&two, &[&one]));
    // What is filled up to a multiple of 16 bytes.
    let inside = 1216;
    assert_eq!((passes(&one, &two, MTU), passes(&two, &one, MTU)), (inside, inside));
    here.fit(Some(inside), &two);
    there.fit(Some(inside), &one);
    let [v4, _] = addresses(&two);
    stream(&here.space, &there.space, v4);
    datagrams(&here.space, &there.space, v4, MTU);
}

/// Who takes less cuts what is larger.
#[test]
fn everything_passes_where_it_is_cut_on_its_way() {
    if !able() {
        return;
    }
    let ([one, two], way) = hosts(1280);
    way.be_black(false);
    let (here, there) = (Guest::new(&one, &[&two]), Guest::new(&two, &[&one]));
    assert_eq!((passes(&one, &two, MTU), passes(&two, &one, MTU)), (MTU, MTU));
    // Nobody says so.
    assert_eq!(outside(&one, &two), 1500);
    for at in addresses(&two) {
        stream(&here.space, &there.space, at);
        datagrams(&here.space, &there.space, at, MTU);
    }
}

#[test]
fn nothing_is_cut_outside_that_is_smaller_inside() {
    if !able() {
        return;
    }
    let ([one, two], _way) = hosts(1400);
    let (here, there) = (Guest::new(&one, &[&two]), Guest::new(&two, &[&one]));
    let cut = |fits: Option<u32>| {
        here.fit(fits, &two);
        there.fit(fits, &one);
        addresses(&two).map(|at| {
            let mut wire = Listener::new(&two, "up0");
            stream(&here.space, &there.space, at);
            datagrams(&here.space, &there.space, at, MTU);
            wire.count(is_fragment)
        })
    };
    assert_eq!((outside(&one, &two), outside(&two, &one)), (1400, 1400));
    let large = cut(None);
    assert!(large.iter().all(|count| *count > 10), "{large:?}");
    assert_eq!(cut(Some(1328)), [0, 0]);
    let routes = || one.space.run("ip", &["route", "show", "dev", &one.ifname]);
    assert!(routes().contains("mtu 1328"), "{}", routes());
    here.fit(None, &two);
    assert!(!routes().contains("mtu"), "{}", routes());
}
