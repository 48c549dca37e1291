//! What somebody on the wire, or another host, sends to get further than it may.

use super::*;

/// A host of the cluster (2) that is another's: it has the tunnel and a device of the mesh, and does as it
/// likes with them, without rules of its own. `what` it sends by its device leaves from `source`.
struct Mallory<'a> {
    host: &'a Space,
}

/// The device that mallory sends by.
const DEVICE: &str = "evil0";

impl<'a> Mallory<'a> {
    /// Takes over a host on which there is no agent. Its packets leave by the wire with this name, from this
    /// address.
    fn new(host: &'a Space, wire: &str, from: Ipv4Addr, to: Ipv4Addr, mac: &str) -> Self {
        let words = format!(
            "link add {DEVICE} type vxlan id {} dstport {} local {from} dev {wire} nolearning",
            ingress::NETWORK,
            ingress::PORT
        );
        host.run("ip", &words.split(' ').collect::<Vec<_>>());
        // Answers are for the node that it is.
        let own = ingress::mac(home(2)).to_string();
        host.run("ip", &["link", "set", DEVICE, "address", &own, "arp", "off"]);
        host.run("ip", &["link", "set", DEVICE, "up"]);
        let to = to.to_string();
        let fdb = ["fdb", "add", mac, "dev", DEVICE, "dst", &to, "via", wire, "self", "permanent"];
        host.run("bridge", &fdb);
        Self { host }
    }

    /// Sends a packet to `to` as `source`, to whoever has this hardware address, and says whether something comes
    /// back by its own device within a while.
    fn send(&self, mac: &str, source: &str, to: Ipv4Addr, port: u16) -> bool {
        let host = self.host;
        let (own, target) = (format!("{source}/32"), format!("{to}/32"));
        host.run("ip", &["address", "replace", &own, "dev", "lo"]);
        host.run("ip", &["route", "replace", &target, "dev", DEVICE, "src", source]);
        host.run("ip", &["neigh", "replace", &to.to_string(), "lladdr", mac, "dev", DEVICE]);
        let answers = host.answers(to, port);
        let said = ask_with(&host.udp_client(to, port)).is_some();
        host.run("ip", &["route", "del", &target, "dev", DEVICE]);
        if *source != home(2).to_string() {
            host.run("ip", &["address", "del", &own, "dev", "lo"]);
        }
        answers || said
    }
}

/// How often an address and port was asked, whoever asks and whether it answers or not.
struct Counter<'a> {
    space: &'a Space,
}

impl<'a> Counter<'a> {
    fn new(space: &'a Space) -> Self {
        Self::of(space, "meta l4proto { tcp, udp }")
    }

    fn of(space: &'a Space, which: &str) -> Self {
        let chain = "type filter hook input priority -400; policy accept;";
        let rules = format!("table ip count {{ chain in {{ {chain} {which} counter; }}; }}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rules).unwrap();
        space.run("nft", &["-f", &file.path().to_string_lossy()]);
        Self { space }
    }

    fn packets(&self) -> u64 {
        let text = self.space.run("nft", &["list", "table", "ip", "count"]);
        let count = text.split("packets ").nth(1).unwrap();
        count.split(' ').next().unwrap().parse().unwrap()
    }
}

/// Two hosts that lead to a container of the second, and know a third host, which is mallory's.
fn cluster_with_mallory() -> (Cluster, Space) {
    let cluster = Cluster::new(3);
    let route = |host: u8, to: u8| {
        let (at, by) = (home(to).to_string(), tunnel::ifname("sh"));
        cluster.host(host).run("ip", &["route", "add", &at, "dev", &by]);
    };
    // The wire does not check what the tunnel would: who says that he is mallory is.
    let own = format!("{}/32", home(2));
    cluster.host(2).run("ip", &["address", "add", &own, "dev", "lo"]);
    (0..2).for_each(|to| route(2, to));
    // No host is strict by itself.
    for host in 0..3 {
        cluster.host(host).run("sysctl", &["-qw", "net.ipv4.conf.all.rp_filter=0"]);
    }
    let web = cluster.serve(1, "web");
    for host in 0..2 {
        cluster.with(host, &WEB, async |_| ());
    }
    (cluster, web)
}

const MAC_OF_1: &str = "02:74:0a:09:00:02";

#[test]
fn by_the_mesh_comes_what_asks_for_a_published_port_and_nothing_else() {
    if skip_without_root() {
        return;
    }
    let (cluster, web) = cluster_with_mallory();
    web.serve(81);
    cluster.host(1).serve(22);
    let container: Ipv4Addr = "172.20.0.2".parse().unwrap();
    assert!(cluster.host(1).answers(container, 80), "that is where it is");
    let counter = Counter::new(&web);
    let own = home(2).to_string();
    let wire = tunnel::ifname("sh");
    let mallory = Mallory::new(cluster.host(2), &wire, home(2), home(1), MAC_OF_1);
    // What it may: ask for a published port, also in the name of a client.
    let before = counter.packets();
    assert!(mallory.send(MAC_OF_1, &own, home(1), 8080));
    assert!(counter.packets() > before);
    let before = counter.packets();
    mallory.send(MAC_OF_1, "203.0.113.50", home(1), 8080);
    assert!(counter.packets() > before, "a client's address is whatever it is");
    // What it may not; and nobody hears of it.
    let before = counter.packets();
    let host = Counter::new(cluster.host(1));
    let (own, foreign) = (own.as_str(), home(0).to_string());
    let attempts: [(&str, Ipv4Addr, u16); 10] = [
        (own, container, 80),
        (own, container, 81),
        (own, outside(1), 22),
        (own, home(1), 22),
        (own, home(1), 80),
        (own, "172.20.0.1".parse().unwrap(), 22),
        (own, OUTSIDE, 7000),
        // As another host, as a container, as the host itself, as its loopback.
        (&foreign, home(1), 8080),
        ("172.20.0.77", home(1), 8080),
        ("198.51.100.12", home(1), 8080),
    ];
    cluster.client.serve(7000);
    let outer = Counter::new(&cluster.client);
    for (source, to, port) in attempts {
        let answered = mallory.send(MAC_OF_1, source, to, port);
        assert!(!answered, "{source} to {to}:{port}");
        assert_eq!(counter.packets(), before, "{source} to {to}:{port}");
    }
    assert_eq!(outer.packets(), 0);
    // The outer packets arrived; of what was in them the host itself got those for its own address.
    assert!(host.packets() > 0);
}

#[test]
fn an_answer_is_taken_from_whom_was_asked() {
    if skip_without_root() {
        return;
    }
    let (cluster, web) = cluster_with_mallory();
    // The backend keeps silent, so that the client waits.
    web.run("nft", &["add", "table", "ip", "mute"]);
    let mute = "{ type filter hook output priority 0; policy drop; }";
    web.run("nft", &["add", "chain", "ip", "mute", "out", mute]);
    let client = cluster.client.udp_client(outside(0), 8080);
    assert_eq!(ask_with(&client), None);
    let port = client.local_addr().unwrap().port();
    let mac_of_0 = ingress::mac(home(0)).to_string();
    let wire = tunnel::ifname("sh");
    let mallory = Mallory::new(cluster.host(2), &wire, home(2), home(0), &mac_of_0);
    let forge = |by: &str, source: Ipv4Addr| {
        let host = mallory.host;
        host.run("ip", &["address", "replace", &format!("{source}/32"), "dev", "lo"]);
        let to = OUTSIDE.to_string();
        // By the tunnel's wire: to the host that was asked, as if it were a router.
        let next = home(0).to_string();
        let route = ["route", "replace", &to, "via", &next, "dev", by, "onlink"];
        host.run("ip", &route);
        if by == DEVICE {
            host.run("ip", &["neigh", "replace", &next, "lladdr", &mac_of_0, "dev", by]);
        }
        host.enter(|| {
            let socket = std::net::UdpSocket::bind((source, 8080)).unwrap();
            socket.send_to(b"forged", (OUTSIDE, port)).unwrap();
        });
        host.run("ip", &["route", "del", &to, "dev", by]);
        host.run("ip", &["address", "del", &format!("{source}/32"), "dev", "lo"]);
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        client.recv(&mut [0; 16]).is_ok()
    };
    assert!(!forge(DEVICE, home(1)), "in the name of the host that was asked");
    assert!(!forge(&wire, home(1)), "without the mesh");
    assert!(!forge("up0", home(1)), "from outside");
    // A true one still comes.
    web.run("nft", &["delete", "table", "ip", "mute"]);
    assert_eq!(ask_once(&client), "web");
}

#[test]
fn packets_of_the_mesh_are_taken_from_the_tunnel_alone() {
    if skip_without_root() {
        return;
    }
    let (cluster, web) = cluster_with_mallory();
    cluster.host(1).serve(22);
    let counter = Counter::new(&web);
    // From the wire outside, to the host's address there, and to that in the tunnel; in mallory's own name
    // and in that of a host.
    for (from, to) in [(outside(2), outside(1)), (home(2), home(1)), (home(0), home(1))] {
        let host = cluster.host(2);
        host.run("ip", &["address", "replace", &format!("{from}/32"), "dev", "lo"]);
        let (at, by) = (to.to_string(), outside(1).to_string());
        if to != outside(1) {
            host.run("ip", &["route", "replace", &at, "via", &by, "dev", "up0"]);
        }
        let mallory = Mallory::new(host, "up0", from, to, MAC_OF_1);
        let own = home(2).to_string();
        for (source, to, port) in [
            (own.as_str(), home(1), 8080),
            ("203.0.113.50", home(1), 8080),
            ("203.0.113.50", outside(1), 22),
        ] {
            assert!(!mallory.send(MAC_OF_1, source, to, port), "{from}: {source} {to}:{port}");
        }
        host.run("ip", &["link", "del", DEVICE]);
    }
    // Asked without it, past the host's own address, from outside.
    cluster.client.run("ip", &["route", "add", "10.9.0.0/24", "via", &outside(1).to_string()]);
    cluster.client.cannot_ask(home(1), 8080);
    assert_eq!(counter.packets(), 0);
    // Nor does the kernel take them while the tables are away: none would be answered by the mesh.
    cluster.host(1).run("nft", &["flush", "ruleset"]);
    let service = Counter::of(cluster.host(1), "meta l4proto { tcp, udp } th dport 22");
    let mallory = Mallory::new(cluster.host(2), "up0", outside(2), outside(1), MAC_OF_1);
    assert!(!mallory.send(MAC_OF_1, "203.0.113.50", outside(1), 22));
    assert!(!mallory.send(MAC_OF_1, "203.0.113.50", "172.20.0.2".parse().unwrap(), 80));
    assert_eq!((service.packets(), counter.packets()), (0, 0));
    // They did come in, and are of the kind that would be taken.
    let device = ingress::ifname("sh");
    let received = format!("/sys/class/net/{device}/statistics/rx_packets");
    let received: u64 = cluster.host(1).run("cat", &[&received]).trim().parse().unwrap();
    assert!(received > 0);
}
