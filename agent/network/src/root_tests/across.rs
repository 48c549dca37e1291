//! Networks that span hosts. The tunnel's place is taken by a wire that carries packets without asking
//! for hardware addresses.

mod local;
mod resets;
mod six;
mod sticky;

use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::OrdSet;
use ipnet::IpNet;
use shoal_agent_ground::testing::skip_without_root;
use shoal_agent_planning::network::ruleset::Vips;
use shoal_agent_planning::node::look::Look;
use shoal_agent_planning::tunnel;

use super::*;

const SUBNET: &str = "10.0.5.0/24";
const OTHER: &str = "10.0.6.0/24";

/// A network as managers have made it.
fn wide(id: &str, subnet: &str) -> NetworkConfig {
    let subnets = subnet.split(' ').map(|one| SubnetConfig::from(one.parse::<IpNet>().unwrap()));
    NetworkConfig { subnets: subnets.collect(), routed: true, ..net(id) }
}

fn at(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn set(addresses: &[&str]) -> OrdSet<IpAddr> {
    addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect()
}

/// Joins two hosts.
fn join_hosts(one: &Lab, other: &Lab) {
    let ifname = tunnel::ifname("sh");
    let peer = other.host.path().file_name().unwrap().to_string_lossy().into_owned();
    let ends = ["link", "add", &ifname, "type", "veth", "peer", "name", &ifname, "netns", &peer];
    one.host.run("ip", &ends);
    for lab in [one, other] {
        // The same address at both ends: each takes what the other sends without asking for it.
        let set = ["link", "set", &ifname, "address", "02:00:00:00:00:01", "arp", "off", "up"];
        lab.host.run("ip", &set);
        // What the tunnel has no need of, a wire does.
        let name = format!("net.ipv6.conf.{ifname}.accept_dad=0");
        lab.host.run("sysctl", &["-qw", &name]);
    }
}

async fn join(driver: &BridgeNetworks, name: &str, addresses: &[(&str, &str)]) -> Space {
    let space = Space::new(name);
    for (network, address) in addresses {
        let request = AttachRequest { address: Some(at(address)), ..request(name, network) };
        let attached = driver.attach(request, space.netns()).await.unwrap();
        assert_eq!(attached.v4.unwrap().address.to_string(), format!("{address}/32"));
    }
    space.serve(80);
    space
}

/// Runs a part of a test on each of two hosts that are joined.
struct Pair {
    here: Lab,
    there: Lab,
}

impl Pair {
    fn new() -> Self {
        let (here, there) = (Lab::new(), Lab::new());
        join_hosts(&here, &there);
        Self { here, there }
    }
}

#[test]
fn containers_of_a_network_reach_each_other_wherever_they_are() {
    if skip_without_root() {
        return;
    }
    let Pair { here, there } = Pair::new();
    let (far, far_driver) = there.block_on(async || {
        let driver = there.driver();
        driver.ensure_network(wide("w", SUBNET)).await.unwrap();
        driver.lead(set(&["10.0.5.2", "10.0.5.3"]), Vips::new(), Ingress::default()).await.unwrap();
        (join(&driver, "far", &[("w", "10.0.5.9")]).await, driver)
    });
    here.block_on(async || {
        let driver = here.driver();
        driver.ensure_network(wide("w", SUBNET)).await.unwrap();
        driver.ensure_network(wide("x", OTHER)).await.unwrap();
        driver.lead(set(&["10.0.5.9", "10.0.6.9"]), Vips::new(), Ingress::default()).await.unwrap();
        let one = join(&driver, "one", &[("w", "10.0.5.2")]).await;
        let two = join(&driver, "two", &[("w", "10.0.5.3")]).await;
        let three = join(&driver, "three", &[("x", "10.0.6.3")]).await;
        // Each sees who asks, on the same host and on another one.
        assert_eq!(one.ask(at("10.0.5.3"), 80), "10.0.5.2");
        assert_eq!(two.ask(at("10.0.5.2"), 80), "10.0.5.3");
        assert_eq!(one.ask(at("10.0.5.9"), 80), "10.0.5.2");
        assert_eq!(one.ask_udp(at("10.0.5.9"), 80), "10.0.5.2");
        assert_eq!(far.ask(at("10.0.5.3"), 80), "10.0.5.9");
        // Out, with the host's address; and published.
        here.outside.serve(7000);
        assert_eq!(one.ask(OUTSIDE, 7000), HOST.to_string());
        driver.publish("one".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        assert_eq!(here.outside.ask(HOST, 8080), OUTSIDE.to_string());
        // The host itself reaches what is on it.
        assert_eq!(here.host.ask(at("10.0.5.2"), 80), "10.0.5.1");
        // Another network is not reached, on no host, and neither is another host's service.
        three.cannot_ask(at("10.0.5.2"), 80);
        three.cannot_ask(at("10.0.5.9"), 80);
        far.cannot_ask(at("10.0.6.3"), 80);
        // Everything is as it should be, and stays so.
        let repaired = driver.repair().await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");
        // Who has gone is not led to any more.
        driver.lead(set(&[]), Vips::new(), Ingress::default()).await.unwrap();
        one.cannot_ask(at("10.0.5.9"), 80);
        let routes = here.host.run("ip", &["route", "show", "dev", &tunnel::ifname("sh")]);
        assert_eq!(routes, "");
        driver.cleanup_all().await.unwrap();
        assert_eq!(links_of(&here.host), [tunnel::ifname("sh")]);
    });
    there.block_on(async || drop(far_driver));
}

#[test]
fn what_did_not_fit_is_made_to_fit_when_that_is_asked_for_again() {
    if skip_without_root() {
        return;
    }
    let Pair { here, there: _there } = Pair::new();
    here.block_on(async || {
        let driver = here.driver();
        driver.ensure_network(wide("w", SUBNET)).await.unwrap();
        driver.lead(set(&["10.0.5.9"]), Vips::new(), Ingress::default()).await.unwrap();
        let by = tunnel::ifname("sh");
        let fit = || driver.fit(1420, [(at("10.0.5.9").into(), 1300)].into());
        here.host.run("ip", &["link", "set", &by, "down"]);
        fit().await.unwrap_err();
        here.host.run("ip", &["link", "set", &by, "up"]);
        fit().await.unwrap();
        let route = here.host.run("ip", &["route", "show", "dev", &by]);
        assert!(route.contains("10.0.5.9") && route.contains("mtu 1300"), "{route}");
    });
}

#[test]
fn nothing_but_the_network_passes_the_tunnel() {
    if skip_without_root() {
        return;
    }
    let Pair { here, there } = Pair::new();
    here.block_on(async || {
        let driver = here.driver();
        driver.ensure_network(wide("w", SUBNET)).await.unwrap();
        driver.ensure_network(net("front")).await.unwrap();
        driver.lead(set(&["10.0.5.9"]), Vips::new(), Ingress::default()).await.unwrap();
        let _one = join(&driver, "one", &[("w", "10.0.5.2")]).await;
        let (local, local_at) = container(&driver, "local", &["front"]).await;
        here.host.serve(22);
        let by = tunnel::ifname("sh");
        // Another host that says what it likes.
        let send = |source: &str, to: &str, port: u16| {
            let host = &there.host;
            host.run("ip", &["address", "replace", &format!("{source}/32"), "dev", "lo"]);
            let route = ["route", "replace", to, "dev", &by, "src", source];
            host.run("ip", &route);
            let answers = host.answers(at(to), port);
            host.run("ip", &["route", "del", to, "dev", &by]);
            host.run("ip", &["address", "del", &format!("{source}/32"), "dev", "lo"]);
            answers
        };
        assert!(send("10.0.5.9", "10.0.5.2", 80), "an endpoint of the network reaches another");
        assert!(!send("10.0.6.9", "10.0.5.2", 80), "an address of another network");
        assert!(!send("198.51.100.7", "10.0.5.2", 80), "an address of no network");
        assert!(!send("10.0.5.9", "10.0.5.1", 22), "the host by its address on the bridge");
        assert!(!send("10.0.5.9", &HOST.to_string(), 22), "the host by its own address");
        assert!(!send("10.0.5.9", &local_at[0].to_string(), 80), "a network of this host alone");
        assert!(!send("10.0.5.9", &OUTSIDE.to_string(), 7000), "what is behind the host");
        // Nor does anything else leave by it.
        here.host.run("ip", &["route", "add", "203.0.113.0/24", "dev", &by]);
        there.host.run("ip", &["address", "add", "203.0.113.9/32", "dev", "lo"]);
        there.host.run("ip", &["route", "add", "172.16.0.0/12", "dev", &by]);
        there.host.serve(80);
        local.cannot_ask(at("203.0.113.9"), 80);
    });
}

#[test]
fn a_container_speaks_for_its_own_address_alone() {
    if skip_without_root() {
        return;
    }
    let Pair { here, there } = Pair::new();
    here.block_on(async || {
        let driver = here.driver();
        driver.ensure_network(wide("w", SUBNET)).await.unwrap();
        driver.lead(set(&["10.0.5.9"]), Vips::new(), Ingress::default()).await.unwrap();
        let victim = join(&driver, "victim", &[("w", "10.0.5.2")]).await;
        let mallory = join(&driver, "mallory", &[("w", "10.0.5.3")]).await;
        assert_eq!(mallory.ask(at("10.0.5.2"), 80), "10.0.5.3");
        // An address that is on another host, and one that nobody has: given to nobody here, and still
        // not to be used.
        for stolen in ["10.0.5.9", "10.0.5.77", "192.0.2.1"] {
            mallory.run("ip", &["address", "add", &format!("{stolen}/32"), "dev", "eth0"]);
            let route = ["route", "replace", "10.0.5.2", "via", "10.0.5.1", "dev", "eth0", "src"];
            mallory.run("ip", &[&route[..], &[stolen]].concat());
            mallory.cannot_ask(at("10.0.5.2"), 80);
            mallory.run("ip", &["address", "del", &format!("{stolen}/32"), "dev", "eth0"]);
        }
        mallory.run("ip", &["route", "replace", "10.0.5.2", "via", "10.0.5.1", "dev", "eth0"]);
        assert_eq!(mallory.ask(at("10.0.5.2"), 80), "10.0.5.3");
        drop(victim);
    });
    drop(there);
}

#[test]
fn a_port_that_is_looked_at_alone_is_on_its_bridge() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let (_web, _) = container(&driver, "web", &["front"]).await;
        for port in links_of(&lab.host) {
            let repaired = driver.put_right(&Look::link(port)).await.unwrap();
            assert!(repaired.is_clean(), "{repaired:?}");
        }
    });
}

#[test]
fn routes_into_the_tunnel_are_put_back() {
    if skip_without_root() {
        return;
    }
    let Pair { here, there } = Pair::new();
    here.block_on(async || {
        let driver = here.driver();
        driver.ensure_network(wide("w", SUBNET)).await.unwrap();
        driver.lead(set(&["10.0.5.8", "10.0.5.9"]), Vips::new(), Ingress::default()).await.unwrap();
        let by = tunnel::ifname("sh");
        let routes = || {
            let text = here.host.run("ip", &["route", "show", "dev", &by]);
            let first = text.lines().filter_map(|line| line.split(' ').next());
            first.map(|to| IpAddr::from(at(to))).collect::<OrdSet<_>>()
        };
        assert_eq!(routes(), set(&["10.0.5.8", "10.0.5.9"]));
        here.host.run("ip", &["route", "del", "10.0.5.8", "dev", &by]);
        here.host.run("ip", &["route", "add", "10.0.5.66", "dev", &by]);
        let repaired = driver.repair().await.unwrap();
        assert_eq!(repaired.links.len(), 2, "{repaired:?}");
        assert_eq!(routes(), set(&["10.0.5.8", "10.0.5.9"]));
        // The tunnel is made anew: so are its routes.
        here.host.run("ip", &["link", "del", &by]);
        driver.repair().await.unwrap();
        join_hosts(&here, &there);
        driver.repair().await.unwrap();
        assert_eq!(routes(), set(&["10.0.5.8", "10.0.5.9"]));
        // A network that comes later finds those of its endpoints that were told of before.
        driver.lead(set(&["10.0.5.9", "10.0.6.9"]), Vips::new(), Ingress::default()).await.unwrap();
        assert_eq!(routes(), set(&["10.0.5.9"]));
        driver.ensure_network(wide("x", OTHER)).await.unwrap();
        assert_eq!(routes(), set(&["10.0.5.9", "10.0.6.9"]));
        driver.remove_network("w".to_owned()).await.unwrap();
        assert_eq!(routes(), set(&["10.0.6.9"]));
    });
}

#[test]
fn a_service_is_reached_by_one_address_wherever_its_backends_are() {
    if skip_without_root() {
        return;
    }
    let Pair { here, there } = Pair::new();
    let (_far, far_driver) = there.block_on(async || {
        let driver = there.driver();
        driver.ensure_network(wide("w", SUBNET)).await.unwrap();
        driver.lead(set(&["10.0.5.2", "10.0.5.3"]), Vips::new(), Ingress::default()).await.unwrap();
        let far = join(&driver, "far", &[("w", "10.0.5.9")]).await;
        far.serve_udp(53, "far");
        (far, driver)
    });
    here.block_on(async || {
        let driver = here.driver();
        driver.ensure_network(wide("w", SUBNET)).await.unwrap();
        let remote = || set(&["10.0.5.9"]);
        let vip = at("10.0.5.50");
        let of = |backends: &[&str]| {
            let backends: Vec<IpAddr> = backends.iter().map(|b| at(b).into()).collect();
            Vips::from(vec![(IpAddr::from(vip), backends)])
        };
        driver.lead(remote(), of(&["10.0.5.3", "10.0.5.9"]), Ingress::default()).await.unwrap();
        let one = join(&driver, "one", &[("w", "10.0.5.2")]).await;
        let two = join(&driver, "two", &[("w", "10.0.5.3")]).await;
        // Neither another network nor one of this host alone is led there.
        driver.ensure_network(wide("x", OTHER)).await.unwrap();
        driver.ensure_network(net("front")).await.unwrap();
        let stranger = join(&driver, "stranger", &[("x", "10.0.6.3")]).await;
        let (local, _) = container(&driver, "local", &["front"]).await;
        for _ in 0..4 {
            stranger.cannot_ask(vip, 80);
            local.cannot_ask(vip, 80);
        }
        two.serve_udp(53, "two");
        // Both answer in turn, each knows who asks; also a backend that asks for its own service.
        let ask = || one.udp_client(vip, 53);
        let answers: BTreeSet<String> = (0..64).filter_map(|_| ask_with(&ask())).collect();
        assert_eq!(answers, ["far", "two"].map(str::to_owned).into());
        assert_eq!(one.ask(vip, 80), "10.0.5.2");
        let selves: BTreeSet<String> = (0..64).map(|_| two.ask(vip, 80)).collect();
        assert_eq!(selves, ["10.0.5.1", "10.0.5.3"].map(str::to_owned).into());
        // One that keeps asking from one socket goes over to another backend when his is withdrawn.
        let client = ask();
        let first = ask_once(&client);
        let left = if first == "far" { "10.0.5.3" } else { "10.0.5.9" };
        driver.lead(remote(), of(&[left]), Ingress::default()).await.unwrap();
        let second = ask_until(&client).unwrap();
        assert_ne!(first, second);
        driver.lead(remote(), of(&["10.0.5.3", "10.0.5.9"]), Ingress::default()).await.unwrap();
        // One that is withdrawn is not asked again; without any it is refused, at once.
        driver.lead(remote(), of(&["10.0.5.9"]), Ingress::default()).await.unwrap();
        for _ in 0..16 {
            assert_eq!(ask_once(&ask()), "far");
        }
        driver.lead(remote(), of(&[]), Ingress::default()).await.unwrap();
        let refused = one.enter(|| std::net::TcpStream::connect((vip, 80)).unwrap_err());
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        let repaired = driver.repair().await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");
    });
    there.block_on(async || drop(far_driver));
}
