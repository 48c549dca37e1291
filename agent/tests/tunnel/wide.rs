//! Hosts whose wires take more than usual, beside one whose does not.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use shoal_agent_network::NetworkDriver as _;
use shoal_agent_planning::tunnel::{LARGEST, MTU, wide};
use shoal_agent_tunnel::Tunnel as _;

use crate::lab::{Host, PATIENCE, Space, able, block_on};
use crate::narrow::{Guest, addresses, datagrams, passes, stream};

/// What a wire takes.
const JUMBO: u32 = 9000;
const USUAL: u32 = 1500;

/// Joins hosts by a switch, whose wires take what each of them does.
struct Lan {
    switch: Space,
}

impl Lan {
    fn new(hosts: &[(&Host, u32)]) -> Self {
        let switch = Space::new("switch");
        switch.run("ip", &["link", "add", "br0", "type", "bridge"]);
        switch.run("ip", &["link", "set", "br0", "up"]);
        let name = switch.path().file_name().unwrap().to_string_lossy().into_owned();
        for (host, _) in hosts {
            let port = port_of(host);
            let ends = ["link", "add", "up0", "type", "veth", "peer", "name", &port, "netns"];
            host.space.run("ip", &[&ends[..], &[&name]].concat());
            let outer = format!("{}/24", host.outer());
            host.space.run("ip", &["address", "add", &outer, "dev", "up0"]);
            host.space.run("ip", &["link", "set", "up0", "up"]);
            switch.run("ip", &["link", "set", &port, "master", "br0", "up"]);
        }
        let lan = Self { switch };
        hosts.iter().for_each(|(host, mtu)| lan.take(host, *mtu));
        lan
    }

    /// The wire of a host takes so much from now on.
    fn take(&self, host: &Host, mtu: u32) {
        let mtu = mtu.to_string();
        self.switch.run("ip", &["link", "set", &port_of(host), "mtu", &mtu]);
        host.space.run("ip", &["link", "set", "up0", "mtu", &mtu]);
    }
}

fn port_of(host: &Host) -> String {
    format!("port{}", host.inner().octets()[3])
}

/// The largest packet that a host's tunnel should take.
fn largest(host: &Host, others: &[&Host]) -> u32 {
    let to = others.iter().map(|other| other.outer().into()).collect();
    wide::largest(block_on(host.tunnel.wires(to)).unwrap())
}

fn ensure(host: &Host, others: &[&Host], mtu: u32) {
    let mut desired = host.desired(others);
    (desired.address, desired.mtu) = (Some(host.inner()), mtu);
    for other in others {
        let peer = desired.peers.get_mut(&other.key()).unwrap();
        for address in addresses(other) {
            peer.allowed.insert(address.into());
        }
    }
    block_on(host.tunnel.ensure(desired)).unwrap();
}

/// Lets packets to other hosts be so large.
fn fit(guest: &Guest, widest: u32, sizes: &[(&Host, u32)]) {
    let of = |(to, bytes): &(&Host, u32)| addresses(to).map(|at| (at, *bytes));
    let narrow: BTreeMap<IpAddr, u32> = sizes.iter().flat_map(of).collect();
    guest.runtime.block_on(guest.driver.fit(widest, narrow)).unwrap();
}

/// Sends a datagram that is never cut, and has one come back.
fn uncut(from: &Space, to: &Space, at: IpAddr, mtu: u32) {
    let size = mtu as usize - if at.is_ipv4() { 28 } else { 48 };
    let open = |space: &Space, at: SocketAddr| {
        let socket = space.enter(|| UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        match at.is_ipv4() {
            true => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO).unwrap(),
            false => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO).unwrap(),
        }
        socket
    };
    let served = open(to, (at, 7003).into());
    let any: SocketAddr = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let asking = open(from, any);
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 16 << 10];
    loop {
        assert!(Instant::now() < deadline, "datagrams of {size} bytes to {at} get lost");
        asking.send_to(&vec![3; size], (at, 7003)).unwrap();
        let Ok((len, who)) = served.recv_from(&mut buffer) else { continue };
        served.send_to(&buffer[..len], who).unwrap();
        if asking.recv_from(&mut buffer).is_ok_and(|(len, _)| len == size) {
            return;
        }
    }
}

fn mtu_of(space: &Space, ifname: &str) -> u32 {
    space.run("cat", &[&format!("/sys/class/net/{ifname}/mtu")]).trim().parse().unwrap()
}

/// Streams, and datagrams as large as the sender's interface takes, each way between each two.
fn all_pass(guests: &[(&Host, &Guest)]) {
    for (from, guest) in guests {
        for (to, other) in guests.iter().filter(|(to, _)| to.inner() != from.inner()) {
            for at in addresses(to) {
                stream(&guest.space, &other.space, at);
                datagrams(&guest.space, &other.space, at, mtu_of(&guest.space, "eth0"));
            }
        }
    }
}

#[test]
fn packets_are_as_large_as_the_wires_between_two_hosts_take_beside_hosts_whose_wires_take_less() {
    if !able() {
        return;
    }
    let (one, two, three) = (Host::new(1), Host::new(2), Host::new(3));
    let lan = Lan::new(&[(&one, JUMBO), (&two, JUMBO), (&three, USUAL)]);
    let all = [(&one, [&two, &three]), (&two, [&one, &three]), (&three, [&one, &two])];
    let sizes = all.map(|(host, others)| largest(host, &others));
    assert_eq!(sizes, [LARGEST, LARGEST, MTU]);
    for ((host, others), mtu) in all.iter().zip(sizes) {
        ensure(host, others, mtu);
    }
    let guests = all.map(|(host, others)| Guest::new(host, &others));
    let [here, there, small] = &guests;
    let named = [(&one, here), (&two, there), (&three, small)];
    // Nothing was tried yet. Who was there before has what is larger, too, once it is attached again.
    fit(here, LARGEST, &[(&two, MTU), (&three, MTU)]);
    fit(there, LARGEST, &[(&one, MTU), (&three, MTU)]);
    for (host, guest) in &named[..2] {
        assert_eq!(mtu_of(&guest.space, "eth0"), MTU);
        assert_eq!(guest.driver.lost().borrow().len(), 1);
        guest.attach_again(host);
        assert_eq!(guest.driver.lost().borrow().len(), 0);
        assert_eq!(mtu_of(&guest.space, "eth0"), LARGEST);
        assert!(host.space.run("ip", &["-o", "link"]).matches("mtu 8920").count() >= 3);
    }
    all_pass(&named);

    assert_eq!((passes(&one, &two, LARGEST), passes(&two, &one, LARGEST)), (LARGEST, LARGEST));
    assert_eq!((passes(&one, &three, LARGEST), passes(&three, &one, MTU)), (MTU, MTU));
    fit(here, LARGEST, &[(&three, MTU)]);
    fit(there, LARGEST, &[(&three, MTU)]);
    // Who was told that a way takes less believes it for ten minutes.
    for guest in [here, there] {
        guest.space.run("ip", &["-4", "route", "flush", "cache"]);
        guest.space.run("ip", &["-6", "route", "flush", "cache"]);
    }
    for at in addresses(&two) {
        uncut(&here.space, &there.space, at, LARGEST);
    }
    for at in addresses(&one) {
        uncut(&there.space, &here.space, at, LARGEST);
    }
    all_pass(&named);

    // Whose wire takes more while its tunnel does not, as an earlier agent's: so do its containers not.
    lan.take(&three, JUMBO);
    assert_eq!(passes(&one, &three, LARGEST), MTU);

    // And one whose wire takes less from now on.
    lan.take(&two, USUAL);
    assert_eq!(largest(&two, &[&one, &three]), MTU);
    ensure(&two, &[&one, &three], MTU);
    assert_eq!(passes(&one, &two, LARGEST), MTU);
    fit(there, MTU, &[]);
    fit(here, LARGEST, &[(&two, MTU), (&three, MTU)]);
    all_pass(&named);
}
