//! Ports that answer on every node. The tunnel's place is taken by a wire between the hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use imbl::OrdSet;
use serde_json::Value;
use shoal_agent_ground::testing::skip_without_root;
use shoal_agent_planning::network::ingress::{self, Backend, Ingress, Port};
use shoal_agent_planning::network::ruleset::Vips;
use shoal_agent_planning::tunnel;

use super::*;

mod attackers;
mod echoes;
mod local;
mod restarts;
mod six;
mod sticky;

const TCP: Port = (Protocol::Tcp, 8080);
const UDP: Port = (Protocol::Udp, 8080);
/// Of a server that takes much.
const COUNTING: Port = (Protocol::Tcp, 8081);

/// The only backend of most: on the second host.
const WEB: [(u8, &str); 1] = [(1, "web")];

/// Hosts on one wire towards the outside and on another one between them, and somebody outside.
struct Cluster {
    client: Space,
    hosts: Vec<Lab>,
    /// What both wires hang on.
    switch: Space,
}

/// A host's address in the tunnel.
fn home(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, host + 1)
}

/// And towards the outside.
fn outside(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, host + 11)
}

/// Who serves on a host, as another one or the same is told.
fn backend(told: u8, at: u8, name: &str) -> Backend {
    if at == told { Backend::Here(name.to_owned()) } else { Backend::Far(home(at)) }
}

impl Cluster {
    fn new(hosts: u8) -> Self {
        let (switch, client) = (Space::new("switch"), Space::new("client"));
        for bridge in ["outer", "inner"] {
            switch.run("ip", &["link", "add", bridge, "type", "bridge"]);
            switch.run("ip", &["link", "set", bridge, "up"]);
        }
        let cluster = Self { client, hosts: Vec::new(), switch };
        cluster.plug(&cluster.client, "up0", "outer", "client");
        let address = format!("{OUTSIDE}/24");
        cluster.client.run("ip", &["address", "add", &address, "dev", "up0"]);
        let all = (0..hosts).map(|number| {
            let host = Space::new("host");
            cluster.plug(&host, "up0", "outer", &format!("o{number}"));
            let address = format!("{}/24", outside(number));
            host.run("ip", &["address", "add", &address, "dev", "up0"]);
            host.run("ip", &["route", "add", "default", "via", &OUTSIDE.to_string()]);
            cluster.plug_tunnel(&host, number);
            // A host that is strict about where packets come from.
            host.run("sysctl", &["-qw", "net.ipv4.conf.all.rp_filter=1"]);
            let state = tempfile::tempdir().unwrap();
            Lab { host, outside: Space::new("nobody"), state }
        });
        let hosts = all.collect();
        Self { hosts, ..cluster }
    }

    fn plug(&self, space: &Space, ifname: &str, bridge: &str, port: &str) {
        let peer = space.path().file_name().unwrap().to_string_lossy().into_owned();
        let ends = ["link", "add", port, "type", "veth", "peer", "name", ifname, "netns", &peer];
        self.switch.run("ip", &ends);
        self.switch.run("ip", &["link", "set", port, "master", bridge, "up"]);
        space.run("ip", &["link", "set", ifname, "up"]);
    }

    fn plug_tunnel(&self, host: &Space, number: u8) {
        let ifname = tunnel::ifname("sh");
        self.plug(host, &ifname, "inner", &format!("i{number}"));
        host.run("ip", &["link", "set", &ifname, "mtu", &tunnel::MTU.to_string()]);
    }

    fn host(&self, host: u8) -> &Space {
        &self.hosts[usize::from(host)].host
    }

    /// What a host is told, with its own container of this name, where there is one.
    fn ingress(&self, host: u8, backends: &[(u8, &str)]) -> Ingress {
        let all = 0..u8::try_from(self.hosts.len()).unwrap();
        let peers = all.filter(|other| *other != host);
        let mut slots: Vec<Backend> =
            backends.iter().map(|(at, name)| backend(host, *at, name)).collect();
        slots.sort();
        Ingress {
            home: Some(home(host)),
            peers: peers.map(|peer| (home(peer), Some(outside(peer).into()))).collect(),
            ports: [TCP, COUNTING, UDP].map(|port| (port, slots.clone())).to_vec().into(),
            ..Ingress::default()
        }
    }

    /// Does something with a host's driver once it was told who serves, as after a start of the agent.
    fn with<T: Send>(
        &self,
        host: u8,
        backends: &[(u8, &str)],
        act: impl AsyncFnOnce(&BridgeNetworks) -> T + Send,
    ) -> T {
        let lab = &self.hosts[usize::from(host)];
        lab.block_on(async || {
            let driver = lab.driver();
            self.tell(&driver, host, backends).await;
            act(&driver).await
        })
    }

    async fn tell(&self, driver: &BridgeNetworks, host: u8, backends: &[(u8, &str)]) -> Contested {
        let ingress = self.ingress(host, backends);
        let remote = ingress.peers.keys().copied().map(IpAddr::V4).collect();
        driver.lead(remote, Vips::new(), ingress).await.unwrap()
    }

    /// Tells every host who serves.
    fn lead(&self, backends: &[(u8, &str)]) {
        for host in 0..u8::try_from(self.hosts.len()).unwrap() {
            self.with(host, backends, async |_| ());
        }
    }

    /// A container whose port 80 is published everywhere. It says who asks, or by UDP who it is itself.
    fn serve(&self, host: u8, name: &'static str) -> Space {
        let lab = &self.hosts[usize::from(host)];
        lab.block_on(async || {
            let driver = lab.driver();
            driver.ensure_network(net("front")).await.unwrap();
            let space = Space::new(name);
            driver.attach(request(name, "front"), space.netns()).await.unwrap();
            let ports = [(TCP, 80), (COUNTING, 81), (UDP, 53)];
            let shared = ports.map(|((protocol, port), target_port)| SharedPort {
                protocol,
                port,
                target_port,
            });
            driver.share(name.to_owned(), shared.to_vec()).await.unwrap();
            space.serve(80);
            space.serve_udp(53, name);
            space
        })
    }

    fn cleanup(&self) {
        for lab in &self.hosts {
            lab.block_on(async || {
                let driver = lab.driver();
                driver.lead(OrdSet::new(), Vips::new(), Ingress::default()).await.unwrap();
                driver.cleanup_all().await.unwrap();
            });
            assert_eq!(links_of(&lab.host), [tunnel::ifname("sh")]);
            assert_eq!(lab.host.run("nft", &["list", "tables"]), "");
            let rules = lab.host.run("ip", &["rule"]);
            assert!(!rules.lines().any(|rule| rule.starts_with('6')), "{rules}");
            let routes = lab.host.try_run("ip", &["route", "show", "table", "7563375"]);
            assert_eq!(routes.unwrap_or_default(), "");
            assert_eq!(lab.host.run("ip", &["route", "show", "dev", &tunnel::ifname("sh")]), "");
        }
    }
}

/// So many hosts, the second of which has the only container behind the ports; each knows.
fn cluster_with_web(hosts: u8) -> (Cluster, Space) {
    let cluster = Cluster::new(hosts);
    let web = cluster.serve(1, "web");
    cluster.lead(&WEB);
    (cluster, web)
}

/// Which backends answer somebody who asks by one new flow after the other.
fn answering(space: &Space, at: Ipv4Addr) -> BTreeSet<String> {
    (0..48).filter_map(|_| ask_with(&space.udp_client(at, 8080))).collect()
}

/// Takes what is sent, and says how much it was.
fn serve_counting(space: &Space, port: u16) {
    let listener = space.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let count = |mut stream: TcpStream| {
                let mut all = Vec::new();
                stream.read_to_end(&mut all)?;
                stream.write_all(all.len().to_string().as_bytes())
            };
            let _ = stream.and_then(count);
        }
    });
}

/// Sends so much that segments are as large as they may be, and returns how much has arrived.
fn send_much(space: &Space, at: Ipv4Addr, port: u16) -> std::io::Result<String> {
    space.enter(|| {
        let mut stream = TcpStream::connect_timeout(&(at, port).into(), Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&[7; 500_000])?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    })
}

#[test]
fn whichever_host_is_asked_the_client_is_known() {
    if skip_without_root() {
        return;
    }
    let (cluster, web) = cluster_with_web(3);
    serve_counting(&web, 81);
    for host in 0..3 {
        assert_eq!(cluster.client.ask(outside(host), 8080), OUTSIDE.to_string(), "host {host}");
        assert_eq!(answering(&cluster.client, outside(host)), ["web".to_owned()].into());
        let much = send_much(&cluster.client, outside(host), 8081).unwrap();
        assert_eq!(much, "500000", "host {host}");
    }
    // Everything is as it should be, and stays so.
    for host in 0..3 {
        cluster.with(host, &WEB, async |driver| {
            let repaired = driver.repair().await.unwrap();
            assert!(repaired.is_clean(), "host {host}: {repaired:?}");
            let deeds = driver.deeds();
            driver.repair().await.unwrap();
            assert_eq!(driver.deeds(), deeds, "host {host}: there is nothing to do");
        });
    }
    cluster.cleanup();
}

#[test]
fn who_is_on_a_host_is_led_as_from_outside() {
    if skip_without_root() {
        return;
    }
    let (cluster, _web) = cluster_with_web(3);
    let other = cluster.serve(0, "other");
    cluster.with(0, &WEB, async |driver| {
        driver.share("other".to_owned(), Vec::new()).await.unwrap();
    });
    let in_tunnel = |host: u8| home(host).to_string();
    // A container of a host without a backend, and the host itself by each of its addresses.
    assert_eq!(other.ask(outside(0), 8080), in_tunnel(0));
    assert_eq!(other.ask([172, 20, 0, 1], 8080), in_tunnel(0));
    for at in [outside(0), Ipv4Addr::LOCALHOST, home(0)] {
        assert_eq!(cluster.host(0).ask(at, 8080), in_tunnel(0), "{at}");
        let answers = answering(cluster.host(0), at);
        assert_eq!(answers, ["web".to_owned()].into(), "{at}");
    }
    // Others, also by a host that is none of both, and by the one that has the backend.
    assert_eq!(cluster.host(0).ask(outside(2), 8080), in_tunnel(2));
    assert_eq!(other.ask(outside(2), 8080), in_tunnel(2));
    assert_eq!(cluster.host(0).ask(outside(1), 8080), outside(0).to_string());
    // The host that has it: by itself, and by way of another.
    assert_eq!(cluster.host(1).ask(outside(0), 8080), in_tunnel(0));
    assert_eq!(cluster.host(1).ask(Ipv4Addr::LOCALHOST, 8080), "172.20.0.1");
    // What is on the loopback beside it is still found there.
    cluster.host(0).serve(9000);
    assert_eq!(cluster.host(0).ask(Ipv4Addr::LOCALHOST, 9000), "127.0.0.1");
    cluster.cleanup();
}

#[test]
fn backends_answer_in_turn_wherever_they_are_until_they_are_withdrawn() {
    if skip_without_root() {
        return;
    }
    let cluster = Cluster::new(2);
    let _here = cluster.serve(0, "here");
    let _too = cluster.serve(0, "too");
    let _there = cluster.serve(1, "there");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    cluster.lead(&[(0, "here"), (0, "too"), (1, "there")]);
    for host in 0..2 {
        let all: BTreeSet<String> = names(&["here", "there", "too"]);
        assert_eq!(answering(&cluster.client, outside(host)), all, "host {host}");
    }
    // One that keeps asking from one socket goes over when his is withdrawn, by each host.
    for host in 0..2 {
        cluster.lead(&[(0, "here"), (0, "too"), (1, "there")]);
        let client = cluster.client.udp_client(outside(host), 8080);
        let first = ask_once(&client);
        let left = if first == "there" { (0, "here") } else { (1, "there") };
        cluster.with(host, &[(0, "here"), (0, "too"), (1, "there")], async |driver| {
            assert_eq!(ask_once(&client), first, "nothing has changed");
            cluster.tell(driver, host, &[left]).await;
        });
        let next = ask_until(&client).unwrap();
        // Who is led to another host gets any that is there, as that one has heard of nothing.
        let any = left.0 != host && ["here", "too"].contains(&left.1) && next == "too";
        assert!(next == left.1 || any, "host {host}: {next}, not {}", left.1);
    }
    cluster.lead(&[(1, "there")]);
    for host in 0..2 {
        assert_eq!(answering(&cluster.client, outside(host)), names(&["there"]), "host {host}");
    }
    // One that does not serve any more goes on for hosts that have not heard, until it gives up its port. Without
    // any it is refused at once; also where one host does not know yet that another has none.
    cluster.with(1, &[], async |_| ());
    assert_eq!(answering(&cluster.client, outside(0)), names(&["there"]));
    cluster.with(1, &[], async |driver| {
        driver.share("there".to_owned(), Vec::new()).await.unwrap();
    });
    let refused = |at: Ipv4Addr| {
        let tcp = cluster.client.enter(|| TcpStream::connect((at, 8080)).unwrap_err());
        assert_eq!(tcp.kind(), std::io::ErrorKind::ConnectionRefused, "{at}");
    };
    refused(outside(0));
    cluster.with(0, &[], async |_| ());
    for host in 0..2 {
        refused(outside(host));
        let udp = cluster.client.udp_client(outside(host), 8080);
        udp.send(b"?").unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let error = udp.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "host {host}");
    }
    cluster.cleanup();
}

#[test]
fn a_port_that_somebody_has_is_his_until_he_lets_go() {
    if skip_without_root() {
        return;
    }
    let cluster = Cluster::new(2);
    let _web = cluster.serve(1, "web");
    let at = outside(0);
    let own = cluster.host(0).enter(|| std::net::UdpSocket::bind(("0.0.0.0", 8080)).unwrap());
    cluster.with(1, &WEB, async |_| ());
    cluster.with(0, &WEB, async |driver| {
        let contested = cluster.tell(driver, 0, &WEB).await;
        let holder = contested[&UDP].clone();
        let me = format!("process {} (", std::process::id());
        assert!(contested.len() == 1 && holder.starts_with(&me), "{contested:?}");
        // He goes on, and the rest is led all the same, by other hosts too.
        let client = cluster.client.udp_client(at, 8080);
        client.send(b"?").unwrap();
        let (_, from) = own.recv_from(&mut [0; 8]).unwrap();
        own.send_to(b"mine", from).unwrap();
        let mut answer = [0; 8];
        let len = client.recv(&mut answer).unwrap();
        assert_eq!(&answer[..len], b"mine");
        assert_eq!(cluster.client.ask(at, 8080), OUTSIDE.to_string());
        assert_eq!(answering(&cluster.client, outside(1)), ["web".to_owned()].into());
        drop(own);
        assert_eq!(cluster.tell(driver, 0, &WEB).await, Contested::new());
        assert_eq!(ask_until(&client).as_deref(), Some("web"), "also who has been there before");
        // And now nobody else gets it.
        let bind = || cluster.host(0).enter(|| std::net::UdpSocket::bind(("0.0.0.0", 8080)));
        assert!(bind().is_err());
        driver.lead(OrdSet::new(), Vips::new(), Ingress::default()).await.unwrap();
        bind().unwrap();
        // What a container of this host has published is named.
        let port = port(8080, Protocol::Tcp, 80);
        driver.ensure_network(net("front")).await.unwrap();
        let (_local, _) = container(driver, "local", &["front"]).await;
        driver.publish("local".to_owned(), vec![port]).await.unwrap();
        let contested = cluster.tell(driver, 0, &WEB).await;
        let expected: Contested = BTreeMap::from([(TCP, "container `local`".to_owned())]);
        assert_eq!(contested, expected);
        assert_eq!(cluster.client.ask(at, 8080), OUTSIDE.to_string());
    });
}

/// An agent that starts anew leads on before it was told anything.
#[test]
fn a_restart_of_the_agent_interrupts_nobody() {
    if skip_without_root() {
        return;
    }
    let (cluster, _web) = cluster_with_web(2);
    let client = cluster.client.udp_client(outside(0), 8080);
    assert_eq!(ask_once(&client), "web");
    for host in [1, 0] {
        let lab = &cluster.hosts[host];
        let before = of_mesh(&lab.host).unwrap();
        lab.block_on(async || {
            let driver = lab.driver();
            // It does not know yet that the table is its own, and replaces it by the same.
            let repaired = driver.repair().await.unwrap();
            assert!(repaired.is_clean(), "{host}: {repaired:?}");
            assert_eq!(of_mesh(&lab.host).unwrap(), before);
            assert_eq!(ask_once(&client), "web");
            assert_eq!(cluster.client.ask(outside(0), 8080), OUTSIDE.to_string());
            let free = lab.host.enter(|| std::net::UdpSocket::bind(("0.0.0.0", 8080)).is_ok());
            assert!(!free, "it is held again");
        });
    }
    cluster.cleanup();
}

/// The packet filter of a kernel that cannot judge what leaves by one device.
struct OldKernel;

impl Firewall for OldKernel {
    fn apply(&self, script: String) -> BoxFuture<'_, Result<(), FirewallError>> {
        if script.contains("hook egress") {
            let message = "Operation not supported".to_owned();
            return ready(Err(FirewallError::Refused { message })).boxed();
        }
        async move { NftProgram::default().apply(script).await }.boxed()
    }

    fn list(&self, table: String) -> BoxFuture<'_, Result<Option<Value>, FirewallError>> {
        async move { NftProgram::default().list(table).await }.boxed()
    }

    fn gates(&self) -> BoxFuture<'_, Result<Vec<Value>, FirewallError>> {
        async { NftProgram::default().gates().await }.boxed()
    }
}

#[test]
fn a_host_whose_kernel_can_have_no_mesh_leads_to_its_own_alone() {
    if skip_without_root() {
        return;
    }
    let cluster = Cluster::new(2);
    let _here = cluster.serve(0, "here");
    let _there = cluster.serve(1, "there");
    let backends = [(0, "here"), (1, "there")];
    let lab = &cluster.hosts[0];
    lab.block_on(async || {
        let driver = lab.driver_with(OldKernel);
        for _ in 0..2 {
            cluster.tell(&driver, 0, &backends).await;
            for _ in 0..16 {
                let client = cluster.client.udp_client(outside(0), 8080);
                assert_eq!(ask_once(&client), "here");
            }
            assert!(of_mesh(&lab.host).is_none(), "there is no device");
            assert!(driver.repair().await.unwrap().is_clean());
        }
        let deeds = driver.deeds();
        driver.repair().await.unwrap();
        assert_eq!(driver.deeds(), deeds, "there is nothing to do");
    });
    cluster.cleanup();
}

/// Each thing of the mesh that somebody can delete or turn.
fn harms() -> Vec<String> {
    let chains = ["guard", "admit", "input", "forward", "steer", "ask", "asked", "fit"];
    let chains = chains.map(|chain| format!("nft flush chain inet shoal {chain}"));
    let device = ingress::ifname("sh");
    let far = ingress::mac(home(1));
    let fixed = [
        format!("ip link del {device}"),
        format!("ip link set {device} down"),
        format!("ip link set {device} mtu 1300"),
        format!("ip link set {device} arp on"),
        format!("ip address flush dev {device}"),
        format!("ip address add 192.0.2.9/24 dev {device}"),
        format!("bridge fdb del {far} dev {device}"),
        format!("bridge fdb replace {far} dev {device} dst 192.0.2.7"),
        "ip route flush table 7563375".to_owned(),
        format!("ip route del {} dev {}", home(1), tunnel::ifname("sh")),
        "ip rule del pref 62".to_owned(),
        format!("ip rule del pref 61 iif {device}"),
        format!("sysctl -qw net.ipv4.conf.{device}.rp_filter=0"),
        format!("sysctl -qw net.ipv4.conf.{device}.route_localnet=0"),
        "nft delete table netdev shoal".to_owned(),
        "nft flush chain netdev shoal egress".to_owned(),
        "nft flush map netdev shoal far_macs".to_owned(),
        "nft flush set inet shoal ingress".to_owned(),
        "nft flush map inet shoal ingress_slots".to_owned(),
        "nft flush set inet shoal mesh".to_owned(),
        "nft flush ruleset".to_owned(),
    ];
    [&fixed[..], &chains[..]].concat()
}

fn do_harm(host: &Space, harm: &str) {
    let words: Vec<&str> = harm.split(' ').collect();
    host.run(words[0], &words[1..]);
}

#[test]
fn whatever_somebody_deletes_of_the_mesh_is_put_back() {
    if skip_without_root() {
        return;
    }
    let (cluster, _web) = cluster_with_web(2);
    cluster.with(0, &WEB, async |driver| {
        let own = [outside(0), Ipv4Addr::LOCALHOST];
        for harm in harms() {
            do_harm(cluster.host(0), &harm);
            let repaired = driver.repair().await.unwrap();
            assert!(!repaired.is_clean(), "{harm}");
            assert_eq!(cluster.client.ask(outside(0), 8080), OUTSIDE.to_string(), "{harm}");
            for at in own {
                assert_eq!(cluster.host(0).ask(at, 8080), home(0).to_string(), "{harm}");
            }
            let deeds = driver.deeds();
            driver.repair().await.unwrap();
            assert_eq!(driver.deeds(), deeds, "{harm}: all of it was put right");
        }
        // The tunnel is made anew: the device goes with it, and is made anew as well.
        cluster.host(0).run("ip", &["link", "del", &tunnel::ifname("sh")]);
        driver.repair().await.unwrap();
        assert_eq!(links_of(cluster.host(0)), Vec::<String>::new());
        cluster.plug_tunnel(cluster.host(0), 0);
        driver.repair().await.unwrap();
        assert_eq!(cluster.client.ask(outside(0), 8080), OUTSIDE.to_string());
    });
    cluster.cleanup();
}

#[test]
fn what_is_deleted_is_heard_of() {
    if skip_without_root() {
        return;
    }
    let (cluster, _web) = cluster_with_web(2);
    let lab = &cluster.hosts[0];
    lab.block_on(async || {
        let driver = Arc::new(lab.driver());
        cluster.tell(&driver, 0, &WEB).await;
        let keeping = keep(&driver).unwrap();
        let before = of_mesh(&lab.host).unwrap();
        for harm in harms() {
            // It begins while something is away, and never pauses.
            let client = cluster.client.udp_client(outside(0), 8080);
            do_harm(&lab.host, &harm);
            let start = Instant::now();
            loop {
                let now = of_mesh(&lab.host);
                if now.as_ref() == Some(&before) {
                    break;
                }
                let differs: Option<Vec<_>> = now.map(|now| {
                    before.iter().zip(now).filter(|(one, other)| *one != other).collect()
                });
                assert!(start.elapsed() < BACK, "{harm}: {differs:#?}");
                // What an earlier packet ran into is reported here.
                let _ = client.send(b"?");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(cluster.client.ask(outside(0), 8080), OUTSIDE.to_string(), "{harm}");
            assert_eq!(ask_until(&client).as_deref(), Some("web"), "{harm}");
        }
        keeping.abort();
    });
}

/// How long what was deleted may be away.
const BACK: Duration = Duration::from_secs(4);

/// All of the mesh that a host has; `None` while something is missing.
fn of_mesh(host: &Space) -> Option<Vec<String>> {
    let device = ingress::ifname("sh");
    let tunnel = tunnel::ifname("sh");
    let link = host.try_run("ip", &["-o", "-d", "link", "show", "dev", &device])?;
    let addresses = host.try_run("ip", &["-4", "-o", "address", "show", "dev", &device])?;
    // Without the number of the link, and what is told of it in passing.
    let unnumbered = |text: &str| text.split_once(": ").map(|(_, rest)| rest.to_owned());
    let link = link.split(" promiscuity").next()?.to_owned();
    let fdb = host.try_run("bridge", &["fdb", "show", "dev", &device])?;
    let mut found = vec![
        unnumbered(&link)?,
        unnumbered(&addresses)?,
        fdb,
        host.try_run("ip", &["route", "show", "table", "7563375"])?,
        host.try_run("ip", &["route", "show", "dev", &tunnel])?,
        host.try_run("ip", &["rule"])?,
    ];
    for setting in ["rp_filter", "route_localnet"] {
        let name = format!("net.ipv4.conf.{device}.{setting}");
        found.push(host.try_run("sysctl", &[&name])?);
    }
    for family in ["inet", "bridge", "netdev"] {
        found.push(host.try_run("nft", &["-s", "list", "table", family, "shoal"])?);
    }
    Some(found)
}
