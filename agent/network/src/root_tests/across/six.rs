//! With IPv6 and several subnets.

use super::*;

pub(super) const BOTH: &str = "10.0.5.0/24 10.0.7.0/24 fd00:5::/64 fd00:7::/64";
const OTHER_BOTH: &str = "10.0.6.0/24 fd00:6::/64";

pub(super) fn both(id: &str, subnets: &str) -> NetworkConfig {
    NetworkConfig { ipv6: true, ..wide(id, subnets) }
}

pub(super) async fn enter(
    driver: &BridgeNetworks,
    name: &str,
    network: &str,
    v4: &str,
    v6: &str,
) -> Space {
    let space = Space::new(name);
    let (address, address_v6) = (Some(at(v4)), Some(v6.parse().unwrap()));
    let request = AttachRequest { address, address_v6, ..request(name, network) };
    let attached = driver.attach(request, space.netns()).await.unwrap();
    assert_eq!(attached.v6.unwrap().address.to_string(), format!("{v6}/128"));
    space.serve(80);
    space
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn containers_reach_each_other_by_both_families_wherever_they_are() {
    if skip_without_root() {
        return;
    }
    let Pair { here, there } = Pair::new();
    let (far, far_driver) = there.block_on(async || {
        let driver = there.driver();
        driver.ensure_network(both("w", BOTH)).await.unwrap();
        let remote = set(&["10.0.5.2", "fd00:5::2", "10.0.7.3", "fd00:7::3"]);
        driver.lead(remote, Vips::new(), Ingress::default()).await.unwrap();
        (enter(&driver, "far", "w", "10.0.7.9", "fd00:5::9").await, driver)
    });
    here.block_on(async || {
        let driver = here.driver();
        driver.ensure_network(both("w", BOTH)).await.unwrap();
        driver.ensure_network(both("x", OTHER_BOTH)).await.unwrap();
        let remote = || set(&["10.0.7.9", "fd00:5::9", "fd00:6::9"]);
        let vip = ip("fd00:5::50");
        let vips = || Vips::from(vec![(vip, vec![ip("fd00:7::3"), ip("fd00:5::9")])]);
        driver.lead(remote(), vips(), Ingress::default()).await.unwrap();
        let one = enter(&driver, "one", "w", "10.0.5.2", "fd00:5::2").await;
        let two = enter(&driver, "two", "w", "10.0.7.3", "fd00:7::3").await;
        let three = enter(&driver, "three", "x", "10.0.6.3", "fd00:6::3").await;
        // Each sees who asks, in each subnet, on the same host and on another one.
        assert_eq!(one.ask(ip("fd00:7::3"), 80), "fd00:5::2");
        assert_eq!(one.ask(ip("10.0.7.3"), 80), "10.0.5.2");
        assert_eq!(two.ask(ip("fd00:5::9"), 80), "fd00:7::3");
        assert_eq!(one.ask(ip("fd00:5::9"), 80), "fd00:5::2");
        assert_eq!(one.ask_udp(ip("fd00:5::9"), 80), "fd00:5::2");
        assert_eq!(one.ask(ip("10.0.7.9"), 80), "10.0.5.2");
        assert_eq!(far.ask(ip("fd00:7::3"), 80), "fd00:5::9");
        // By the address of a service; who draws himself sees the gateway.
        for _ in 0..8 {
            assert_eq!(one.ask(vip, 80), "fd00:5::2");
        }
        let seen: BTreeSet<String> = (0..24).map(|_| two.ask(vip, 80)).collect();
        assert_eq!(seen, ["fd00:7::1", "fd00:7::3"].map(str::to_owned).into());
        // Another network is not reached, on no host; nor is a service of it.
        three.cannot_ask(ip("fd00:5::2"), 80);
        three.cannot_ask(ip("fd00:5::9"), 80);
        three.cannot_ask(vip, 80);
        far.cannot_ask(ip("fd00:6::3"), 80);
        let repaired = driver.repair().await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");
        // Routes are put back, and nothing passes while rules stand alone.
        let by = tunnel::ifname("sh");
        here.host.run("ip", &["-6", "route", "del", "fd00:5::9", "dev", &by]);
        driver.repair().await.unwrap();
        assert_eq!(one.ask(ip("fd00:5::9"), 80), "fd00:5::2");
        here.host.run("nft", &["flush", "ruleset"]);
        one.cannot_ask(ip("fd00:5::9"), 80);
        far.cannot_ask(ip("fd00:5::2"), 80);
        driver.repair().await.unwrap();
        assert_eq!(one.ask(ip("fd00:5::9"), 80), "fd00:5::2");
        // Without a backend a service says so at once; who has gone is not led to any more.
        driver.lead(remote(), vec![(vip, vec![])].into(), Ingress::default()).await.unwrap();
        one.cannot_ask(vip, 80);
        driver.lead(set(&[]), Vips::new(), Ingress::default()).await.unwrap();
        one.cannot_ask(ip("fd00:5::9"), 80);
        driver.cleanup_all().await.unwrap();
        let rules = here.host.run("ip", &["-6", "rule"]);
        assert!(!rules.lines().any(|rule| rule.starts_with('6')), "{rules}");
    });
    there.block_on(async || drop(far_driver));
}

/// Two hosts of a network of IPv6 alone. The tunnel itself has IPv4.
#[test]
fn containers_without_ipv4_reach_each_other_wherever_they_are() {
    if skip_without_root() {
        return;
    }
    let Pair { here, there } = Pair::new();
    let alone = || NetworkConfig { without_v4: true, ..both("w", "fd00:5::/64 fd00:7::/64") };
    let enter = async |driver: &BridgeNetworks, name: &str, address: &str| {
        let space = Space::new(name);
        let request = AttachRequest { address_v6: address.parse().ok(), ..request(name, "w") };
        let attached = driver.attach(request, space.netns()).await.unwrap();
        assert_eq!(attached.ends().count(), 1);
        space.serve(80);
        space
    };
    let (far, far_driver) = there.block_on(async || {
        let driver = there.driver();
        driver.ensure_network(alone()).await.unwrap();
        let remote = set(&["fd00:5::2"]);
        driver.lead(remote, Vips::new(), Ingress::default()).await.unwrap();
        (enter(&driver, "far", "fd00:5::9").await, driver)
    });
    here.block_on(async || {
        let driver = here.driver();
        driver.ensure_network(alone()).await.unwrap();
        let vip = ip("fd00:5::50");
        let vips = Vips::from(vec![(vip, vec![ip("fd00:7::3"), ip("fd00:5::9")])]);
        driver.lead(set(&["fd00:5::9"]), vips, Ingress::default()).await.unwrap();
        let one = enter(&driver, "one", "fd00:5::2").await;
        let _two = enter(&driver, "two", "fd00:7::3").await;
        assert_eq!(one.run("ip", &["-4", "route"]), "");
        assert_eq!(one.ask(ip("fd00:7::3"), 80), "fd00:5::2");
        assert_eq!(one.ask(ip("fd00:5::9"), 80), "fd00:5::2");
        assert_eq!(one.ask_udp(ip("fd00:5::9"), 80), "fd00:5::2");
        assert_eq!(far.ask(ip("fd00:5::2"), 80), "fd00:5::9");
        for _ in 0..8 {
            assert_eq!(one.ask(vip, 80), "fd00:5::2");
        }
        let repaired = driver.repair().await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");
        assert_eq!(driver.compare().await.findings, []);
        here.host.run("nft", &["flush", "ruleset"]);
        one.cannot_ask(ip("fd00:5::9"), 80);
        driver.repair().await.unwrap();
        assert_eq!(one.ask(ip("fd00:5::9"), 80), "fd00:5::2");
    });
    there.block_on(async || drop(far_driver));
}

/// A host that has not forwarded before does so for what goes by it, though nothing leaves the network.
#[test]
fn an_internal_network_spans_hosts_that_did_not_forward() {
    if skip_without_root() {
        return;
    }
    let Pair { here, there } = Pair::new();
    let closed = |id: &str| NetworkConfig { internal: true, ..both(id, BOTH) };
    for lab in [&here, &there] {
        let off = ["net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"];
        lab.host.run("sysctl", &[&["-qw"], &off[..]].concat());
    }
    let (far, far_driver) = there.block_on(async || {
        let driver = there.driver();
        driver.ensure_network(closed("w")).await.unwrap();
        let remote = set(&["10.0.5.2", "fd00:5::2"]);
        driver.lead(remote, Vips::new(), Ingress::default()).await.unwrap();
        (enter(&driver, "far", "w", "10.0.7.9", "fd00:5::9").await, driver)
    });
    here.block_on(async || {
        let driver = here.driver();
        driver.ensure_network(closed("w")).await.unwrap();
        let remote = set(&["10.0.7.9", "fd00:5::9"]);
        driver.lead(remote, Vips::new(), Ingress::default()).await.unwrap();
        let one = enter(&driver, "one", "w", "10.0.5.2", "fd00:5::2").await;
        let two = enter(&driver, "two", "w", "10.0.7.3", "fd00:7::3").await;
        assert_eq!(one.ask(at("10.0.7.3"), 80), "10.0.5.2");
        assert_eq!(two.ask(ip("fd00:5::2"), 80), "fd00:7::3");
        assert_eq!(one.ask(at("10.0.7.9"), 80), "10.0.5.2");
        assert_eq!(far.ask(ip("fd00:5::2"), 80), "fd00:5::9");
        here.outside.serve(7000);
        one.cannot_ask(OUTSIDE, 7000);
        driver.cleanup_all().await.unwrap();
        for name in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            assert_eq!(here.host.run("sysctl", &["-n", name]).trim(), "0", "{name}");
        }
    });
    there.block_on(async || drop(far_driver));
}
