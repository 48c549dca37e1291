//! Asked by IPv6.

use std::net::Ipv6Addr;

use super::*;

const CLIENT_V6: &str = "2001:db8:51::2";

/// A host's address of IPv6 towards the outside.
fn outside_v6(host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, u16::from(host) + 0x11)
}

/// Hosts and a client with IPv6 between them.
fn cluster(hosts: u8) -> Cluster {
    let cluster = Cluster::new(hosts);
    let add = |space: &Space, address: String| {
        space.run("ip", &["address", "add", &format!("{address}/64"), "dev", "up0", "nodad"]);
    };
    add(&cluster.client, CLIENT_V6.to_owned());
    for host in 0..hosts {
        add(cluster.host(host), outside_v6(host).to_string());
        cluster.host(host).run("ip", &["-6", "route", "add", "default", "via", CLIENT_V6]);
    }
    cluster
}

/// How somebody on another node is reached by IPv6.
type Reached = fn(Ipv4Addr) -> Backend;

/// Tells a host who serves, all of whom have IPv6.
async fn tell(
    cluster: &Cluster,
    driver: &BridgeNetworks,
    (host, reached): (u8, Reached),
    backends: &[(u8, &str)],
) {
    let mut ingress = cluster.ingress(host, backends);
    let by_v6 = |backend: &Backend| match backend {
        Backend::Far(address) => reached(*address),
        other => other.clone(),
    };
    let of =
        |(port, all): (&_, &Arc<[Backend]>)| (*port, all.iter().map(by_v6).collect::<Vec<_>>());
    ingress.ports = ingress.ports.iter().map(of).collect();
    let remote = ingress.peers.keys().copied().map(IpAddr::V4).collect();
    driver.lead(remote, Vips::new(), ingress).await.unwrap();
}

fn with<T: Send>(
    cluster: &Cluster,
    host: u8,
    act: impl AsyncFnOnce(&BridgeNetworks) -> T + Send,
) -> T {
    let lab = &cluster.hosts[usize::from(host)];
    lab.block_on(async || {
        let driver = lab.driver();
        tell(cluster, &driver, (host, Backend::Both), &WEB).await;
        act(&driver).await
    })
}

/// A container on the second host whose port 80 is published everywhere. It says who asks.
fn serve(cluster: &Cluster) -> Space {
    serve_on(cluster, NetworkConfig { ipv6: true, ..net("front") })
}

fn serve_on(cluster: &Cluster, config: NetworkConfig) -> Space {
    let lab = &cluster.hosts[1];
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(config).await.unwrap();
        let space = Space::new("web");
        driver.attach(request("web", "front"), space.netns()).await.unwrap();
        let ports =
            [TCP, UDP].map(|(protocol, port)| SharedPort { protocol, port, target_port: 80 });
        driver.share("web".to_owned(), ports.to_vec()).await.unwrap();
        space.serve(80);
        space
    })
}

#[test]
fn whichever_host_is_asked_the_client_is_known() {
    if skip_without_root() {
        return;
    }
    let cluster = cluster(3);
    let rules = |host: u8| cluster.host(host).run("ip", &["-6", "rule"]);
    let before = [rules(0), rules(2)];
    let _web = serve(&cluster);
    for host in 0..3 {
        with(&cluster, host, async |_| ());
    }
    for host in 0..3 {
        let (v6, v4) = (outside_v6(host), outside(host));
        assert_eq!(cluster.client.ask(v6, 8080), CLIENT_V6, "host {host}");
        assert_eq!(cluster.client.ask_udp(v6, 8080), CLIENT_V6, "host {host}");
        assert_eq!(cluster.client.ask(v4, 8080), OUTSIDE.to_string(), "host {host}");
    }
    // Who asks from a host itself is known as that host.
    let twin = ingress::twin(home(0)).to_string();
    assert_eq!(cluster.host(0).ask(outside_v6(0), 8080), twin);
    assert_eq!(cluster.host(0).ask_udp(outside_v6(0), 8080), twin);
    cluster.host(0).cannot_ask(Ipv6Addr::LOCALHOST, 8080);
    for host in 0..3 {
        with(&cluster, host, async |driver| {
            let repaired = driver.repair().await.unwrap();
            assert!(repaired.is_clean(), "host {host}: {repaired:?}");
        });
    }
    // What somebody deletes of the mesh is put back.
    let device = ingress::ifname("sh");
    let twin = format!("{}/96", ingress::twin(home(1)));
    cluster.host(1).run("ip", &["address", "del", &twin, "dev", &device]);
    cluster.host(0).run("ip", &["-6", "route", "flush", "table", "7563375"]);
    for host in 0..2 {
        with(&cluster, host, async |driver| driver.repair().await.map(drop).unwrap());
    }
    assert_eq!(cluster.client.ask(outside_v6(0), 8080), CLIENT_V6);
    // Who serves nowhere by IPv6 is not led to by it, and that is said at once.
    cluster.lead(&WEB);
    cluster.client.cannot_ask(outside_v6(0), 8080);
    assert_eq!(cluster.client.ask(outside(0), 8080), OUTSIDE.to_string());
    assert_eq!([rules(0), rules(2)], before);
    cluster.cleanup();
}

/// A task on a network of IPv6 alone is led to by that on every host. Who asks by IPv4 is told so at once.
#[test]
fn who_has_no_ipv4_is_asked_by_ipv6() {
    if skip_without_root() {
        return;
    }
    let cluster = cluster(2);
    let _web = serve_on(&cluster, NetworkConfig { ipv6: true, without_v4: true, ..net("front") });
    for host in 0..2 {
        let lab = &cluster.hosts[usize::from(host)];
        lab.block_on(async || {
            let driver = lab.driver();
            tell(&cluster, &driver, (host, Backend::Six), &WEB).await;
            let repaired = driver.repair().await.unwrap();
            assert!(repaired.is_clean(), "host {host}: {repaired:?}");
        });
    }
    for host in 0..2 {
        assert_eq!(cluster.client.ask(outside_v6(host), 8080), CLIENT_V6, "host {host}");
        assert_eq!(cluster.client.ask_udp(outside_v6(host), 8080), CLIENT_V6, "host {host}");
        let at = (outside(host), 8080);
        let refused = cluster.client.enter(|| TcpStream::connect(at)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "host {host}");
    }
    cluster.cleanup();
}

const MAC_OF_1: &str = "02:74:0a:09:00:02";
/// The device that mallory sends by.
const DEVICE: &str = "evil0";

/// The third host is another's: it has the tunnel and a device of the mesh, and does as it likes with them.
struct Mallory<'a> {
    host: &'a Space,
}

impl<'a> Mallory<'a> {
    fn new(host: &'a Space) -> Self {
        let wire = tunnel::ifname("sh");
        host.run("ip", &["address", "add", &format!("{}/32", home(2)), "dev", "lo"]);
        host.run("ip", &["route", "add", &home(1).to_string(), "dev", &wire]);
        let words = format!(
            "link add {DEVICE} type vxlan id {} dstport {} local {} dev {wire} nolearning",
            ingress::NETWORK,
            ingress::PORT,
            home(2)
        );
        host.run("ip", &words.split(' ').collect::<Vec<_>>());
        let mac = ingress::mac(home(2)).to_string();
        host.run("ip", &["link", "set", DEVICE, "address", &mac, "arp", "off", "up"]);
        let to = home(1).to_string();
        let fdb =
            ["fdb", "add", MAC_OF_1, "dev", DEVICE, "dst", &to, "via", &wire, "self", "permanent"];
        host.run("bridge", &fdb);
        Self { host }
    }

    /// Sends by the mesh, and says whether anything comes back.
    fn send(&self, source: Ipv6Addr, to: Ipv6Addr, port: u16) -> bool {
        let host = self.host;
        let (own, target) = (format!("{source}/128"), format!("{to}/128"));
        let (from, at) = (source.to_string(), to.to_string());
        host.run("ip", &["-6", "address", "replace", &own, "dev", "lo", "nodad"]);
        host.run("ip", &["-6", "route", "replace", &target, "dev", DEVICE, "src", &from]);
        host.run("ip", &["neigh", "replace", &at, "lladdr", MAC_OF_1, "dev", DEVICE]);
        let answers = host.answers(to, port);
        let said = ask_with(&host.udp_client(to, port)).is_some();
        host.run("ip", &["-6", "route", "del", &target, "dev", DEVICE]);
        host.run("ip", &["-6", "address", "del", &own, "dev", "lo"]);
        answers || said
    }

    /// Asks past the mesh, by another of its wires.
    fn asks_by(&self, by: &str, next: &str, to: Ipv6Addr) {
        let at = to.to_string();
        self.host.run("ip", &["-6", "route", "replace", &at, "dev", by]);
        self.host.run("ip", &["neigh", "replace", &at, "lladdr", next, "dev", by]);
        for port in [80, 8080] {
            self.host.cannot_ask(to, port);
        }
        self.host.run("ip", &["-6", "route", "del", &at, "dev", by]);
    }
}

/// Counts what arrives in a namespace by IPv6.
fn count(space: &Space) {
    let chain = "type filter hook input priority -400; policy accept;";
    let rules = format!(
        "table ip6 count {{ chain in {{ {chain} meta l4proto {{ tcp, udp }} counter; }}; }}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules).unwrap();
    space.run("nft", &["-f", &file.path().to_string_lossy()]);
}

fn counted(space: &Space) -> u64 {
    let text = space.run("nft", &["list", "table", "ip6", "count"]);
    text.split("packets ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn by_the_mesh_comes_what_asks_for_a_published_port_and_nothing_else() {
    if skip_without_root() {
        return;
    }
    let cluster = cluster(3);
    let mallory = Mallory::new(cluster.host(2));
    let web = serve(&cluster);
    web.serve(81);
    cluster.host(1).serve(22);
    for host in 0..2 {
        with(&cluster, host, async |_| ());
    }
    count(&web);
    let (own, twin) = (ingress::twin(home(2)), ingress::twin(home(1)));
    // What it may: ask for a published port, also in the name of a client.
    assert!(mallory.send(own, twin, 8080));
    let before = counted(&web);
    assert!(before > 0);
    let client: Ipv6Addr = "2001:db8:99::50".parse().unwrap();
    mallory.send(client, twin, 8080);
    assert!(counted(&web) > before, "a client's address is whatever it is");
    let before = counted(&web);
    // What it may not; and nobody hears of it.
    let line = web.run("ip", &["-6", "-o", "address", "show", "dev", "eth0", "scope", "global"]);
    let container = line.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    let container: Ipv6Addr = container.parse().unwrap();
    let beside = |last: u16| {
        let mut segments = container.segments();
        segments[7] = last;
        Ipv6Addr::from(segments)
    };
    for (source, to, port) in [
        (own, container, 80),
        (own, container, 81),
        (own, outside_v6(1), 22),
        (own, twin, 22),
        (own, twin, 80),
        (own, beside(1), 22),
        // As another host, as a container, as the host itself.
        (ingress::twin(home(0)), twin, 8080),
        (beside(0x77), twin, 8080),
        (outside_v6(1), twin, 8080),
    ] {
        assert!(!mallory.send(source, to, port), "{source} to {to}:{port}");
        assert_eq!(counted(&web), before, "{source} to {to}:{port}");
    }
    // Nor past the mesh: by the wire of the tunnel, and from outside.
    for by in [&*tunnel::ifname("sh"), "up0"] {
        let next = cluster.host(1).run("cat", &[&format!("/sys/class/net/{by}/address")]);
        for to in [container, twin] {
            mallory.asks_by(by, next.trim(), to);
        }
    }
    assert_eq!(counted(&web), before);
    // While the tables are away nothing comes through either.
    cluster.host(1).run("nft", &["flush", "ruleset"]);
    assert!(!mallory.send(client, container, 80));
}
