//! Networks that have IPv6, beside IPv4 or alone.

mod alone;

use std::net::Ipv6Addr;

use shoal_agent_ground::testing::skip_without_root;

use super::*;

/// A host's address of IPv6 towards the outside, and the outside's.
const HOST_V6: &str = "2001:db8:51::1";
const OUTSIDE_V6: &str = "2001:db8:51::2";
const FORWARD: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const ACCEPT_RA: &str = "/proc/sys/net/ipv6/conf/up0/accept_ra";

fn both(id: &str) -> NetworkConfig {
    NetworkConfig { ipv6: true, ..net(id) }
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A host that has IPv6 towards the outside, which knows the way to the containers, were it open.
fn lab() -> Lab {
    let lab = Lab::new();
    for (space, address) in [(&lab.host, HOST_V6), (&lab.outside, OUTSIDE_V6)] {
        let address = format!("{address}/64");
        space.run("ip", &["address", "add", &address, "dev", "up0", "nodad"]);
    }
    lab.host.run("ip", &["-6", "route", "add", "default", "via", OUTSIDE_V6]);
    lab.outside.run("ip", &["-6", "route", "add", "fd00::/8", "via", HOST_V6]);
    lab
}

/// A namespace attached to networks in turn, with a server on port 80; its addresses of IPv6.
async fn dual(driver: &BridgeNetworks, name: &str, networks: &[&str]) -> (Space, Vec<Ipv6Addr>) {
    let space = Space::new(name);
    let mut addresses = Vec::new();
    for network in networks {
        let attached = driver.attach(request(name, network), space.netns()).await.unwrap();
        addresses.extend(attached.v6.map(|v6| v6.address.addr()));
    }
    space.serve(80);
    (space, addresses)
}

fn gateway_v6(state: &NetworkState) -> IpAddr {
    state.subnets[1].gateway
}

#[test]
fn containers_are_reached_by_both_families_and_see_who_asks() {
    if skip_without_root() {
        return;
    }
    let lab = lab();
    lab.block_on(async || {
        let driver = lab.driver();
        let state = driver.ensure_network(both("front")).await.unwrap();
        let (web, at) = dual(&driver, "web", &["front"]).await;
        let (sibling, sibling_at) = dual(&driver, "sibling", &["front"]).await;
        let by = gateway_v6(&state);
        assert_eq!(sibling.ask(at[0], 80), sibling_at[0].to_string());
        assert_eq!(lab.host.ask(at[0], 80), by.to_string());
        lab.host.serve(9000);
        assert_eq!(web.ask(by, 9000), at[0].to_string());
        // What is not published is closed to whoever knows the way.
        lab.outside.cannot_ask(at[0], 80);
        let wanted = vec![tcp(8080, 80), port(8080, Protocol::Udp, 80)];
        driver.publish("web".to_owned(), wanted).await.unwrap();
        let host = v6(HOST_V6);
        assert_eq!(lab.outside.ask(host, 8080), OUTSIDE_V6);
        assert_eq!(lab.outside.ask_udp(host, 8080), OUTSIDE_V6);
        assert_eq!(lab.outside.ask(HOST, 8080), OUTSIDE.to_string());
        assert_eq!(lab.host.ask(host, 8080), HOST_V6);
        // From a sibling and from itself, by the host's address and by the gateway's.
        assert_eq!(sibling.ask(host, 8080), by.to_string());
        assert_eq!(web.ask(host, 8080), by.to_string());
        assert_eq!(sibling.ask(by, 8080), by.to_string());
        // There is no way back to the loopback: who asks there is told so at once.
        lab.host.cannot_ask(Ipv6Addr::LOCALHOST, 8080);
        // Out, with the host's address.
        lab.outside.serve(7000);
        assert_eq!(web.ask(v6(OUTSIDE_V6), 7000), HOST_V6);
        let repaired = driver.repair().await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");

        driver.unpublish("web".to_owned()).await.unwrap();
        lab.outside.cannot_ask(host, 8080);
        // At one address alone, and at those of IPv6 alone.
        let at_one = PublishedPort { host_ip: host.into(), ..tcp(8081, 80) };
        let at_all = PublishedPort { host_ip: Ipv6Addr::UNSPECIFIED.into(), ..tcp(8082, 80) };
        driver.publish("web".to_owned(), vec![at_one, at_all]).await.unwrap();
        for port in [8081, 8082] {
            assert_eq!(lab.outside.ask(host, port), OUTSIDE_V6);
            lab.outside.cannot_ask(HOST, port);
        }
    });
}

#[test]
fn networks_of_ipv6_are_apart() {
    if skip_without_root() {
        return;
    }
    let lab = lab();
    lab.block_on(async || {
        let driver = lab.driver();
        let front = driver.ensure_network(both("front")).await.unwrap();
        driver.ensure_network(both("other")).await.unwrap();
        driver.ensure_network(net("plain")).await.unwrap();
        let closed = NetworkConfig { internal: true, ..both("closed") };
        let closed = driver.ensure_network(closed).await.unwrap();
        let (web, web_at) = dual(&driver, "web", &["front"]).await;
        let (other, other_at) = dual(&driver, "other", &["other"]).await;
        let (db, db_at) = dual(&driver, "db", &["closed"]).await;
        let (two, two_at) = dual(&driver, "two", &["closed", "front"]).await;
        let (plain, plain_at) = dual(&driver, "plain", &["plain"]).await;
        assert_eq!(plain_at, [Ipv6Addr::UNSPECIFIED; 0]);
        assert_eq!(plain.run("ip", &["-6", "-o", "address", "show", "dev", "eth0"]), "");
        web.cannot_ask(other_at[0], 80);
        other.cannot_ask(web_at[0], 80);
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        assert_eq!(other.ask(v6(HOST_V6), 8080), other_at[0].to_string());
        // Internal: its members and its gateway, and nothing else even with a route.
        assert_eq!(two.ask(db_at[0], 80), two_at[0].to_string());
        let by = gateway_v6(&closed);
        db.run("ip", &["-6", "route", "add", "default", "via", &by.to_string()]);
        lab.host.serve(9000);
        assert_eq!(db.ask(by, 9000), db_at[0].to_string());
        db.cannot_ask(v6(HOST_V6), 9000);
        db.cannot_ask(gateway_v6(&front), 9000);
        db.cannot_ask(v6(HOST_V6), 8080);
        db.cannot_ask(web_at[0], 80);
        lab.outside.serve(7000);
        db.cannot_ask(v6(OUTSIDE_V6), 7000);
        web.cannot_ask(db_at[0], 80);
        lab.outside.cannot_ask(db_at[0], 80);
        assert_eq!(two.ask(v6(OUTSIDE_V6), 7000), HOST_V6);
        // A packet that is too big for the way is said to be so, and goes in parts.
        lab.host.run("ip", &["link", "set", "up0", "mtu", "1300"]);
        lab.outside.run("ip", &["link", "set", "up0", "mtu", "1300"]);
        let client = web.udp_client(v6(OUTSIDE_V6), 7000);
        client.set_read_timeout(Some(std::time::Duration::from_millis(400))).unwrap();
        let mut answer = [0; 64];
        let answered = (0..10).any(|_| {
            // It fails where the error has just been heard of.
            let _ = client.send(&[b'?'; 1400]);
            client.recv(&mut answer).is_ok()
        });
        assert!(answered);
    });
}

#[test]
fn nothing_of_ipv6_passes_while_the_tables_are_away() {
    if skip_without_root() {
        return;
    }
    let lab = lab();
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(both("front")).await.unwrap();
        driver.ensure_network(both("other")).await.unwrap();
        let (web, at) = dual(&driver, "web", &["front"]).await;
        let (other, _) = dual(&driver, "other", &["other"]).await;
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        lab.outside.serve(7000);
        for table in ["inet", "bridge"] {
            lab.host.run("nft", &["delete", "table", table, "shoal"]);
        }
        web.cannot_ask(v6(OUTSIDE_V6), 7000);
        lab.outside.cannot_ask(at[0], 80);
        other.cannot_ask(at[0], 80);
        let repaired = driver.repair().await.unwrap();
        assert!(repaired.table_replaced);
        assert_eq!(web.ask(v6(OUTSIDE_V6), 7000), HOST_V6);
        // Somebody takes away what is the host's own.
        let bridge = links_of(&lab.host).into_iter().find(|name| name.starts_with("shb")).unwrap();
        lab.host.run("ip", &["-6", "address", "flush", "dev", &bridge]);
        lab.host.run("ip", &["-6", "rule", "del", "priority", "61"]);
        lab.host.run("sysctl", &["-qw", "net.ipv6.conf.all.forwarding=0"]);
        driver.repair().await.unwrap();
        assert_eq!(web.ask(v6(OUTSIDE_V6), 7000), HOST_V6);
        assert_eq!(lab.outside.ask(v6(HOST_V6), 8080), OUTSIDE_V6);
        let repaired = driver.repair().await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");
    });
}

/// What an agent knows is on disk, and the next one goes on with it.
#[test]
fn the_host_is_as_it_was_without_ipv6_and_after_it() {
    if skip_without_root() {
        return;
    }
    let lab = lab();
    let setting = |name: &str| lab.host.run("cat", &[name]).trim().to_owned();
    let rules = || lab.host.run("ip", &["-6", "rule"]);
    let before = (setting(FORWARD), setting(ACCEPT_RA), rules());
    assert_eq!((before.0.as_str(), before.1.as_str()), ("0", "1"));
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("plain")).await.unwrap();
        assert_eq!((setting(FORWARD), setting(ACCEPT_RA), rules()), before);
        let sets = lab.host.run("nft", &["list", "sets"]);
        assert!(!sets.contains("lan6") && !sets.contains("own6"), "{sets}");
        driver.ensure_network(both("front")).await.unwrap();
        // The host still listens to its routers.
        assert_eq!((setting(FORWARD).as_str(), setting(ACCEPT_RA).as_str()), ("1", "2"));
        assert!(rules().contains("69:"), "{}", rules());
    });
    lab.block_on(async || {
        let driver = lab.driver();
        let (web, _) = dual(&driver, "web", &["front"]).await;
        lab.outside.serve(7000);
        assert_eq!(web.ask(v6(OUTSIDE_V6), 7000), HOST_V6);
        driver.release("web".to_owned()).await.unwrap();
        driver.remove_network("front".to_owned()).await.unwrap();
        assert_eq!((setting(FORWARD), setting(ACCEPT_RA), rules()), before);
        driver.cleanup_all().await.unwrap();
    });
}

#[test]
fn a_host_without_ipv6_says_so_and_goes_on() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.host.run("sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    lab.block_on(async || {
        let driver = lab.driver();
        let error = driver.ensure_network(both("front")).await.unwrap_err().to_string();
        assert!(error.starts_with("network `front` has IPv6, which this host does not"), "{error}");
        driver.ensure_network(net("plain")).await.unwrap();
        let (web, _) = container(&driver, "web", &["plain"]).await;
        lab.outside.serve(7000);
        assert_eq!(web.ask(OUTSIDE, 7000), HOST.to_string());
    });
}

/// Of either family, on one bridge.
#[test]
fn a_network_has_several_subnets() {
    if skip_without_root() {
        return;
    }
    let lab = lab();
    lab.block_on(async || {
        let driver = lab.driver();
        let of = |text: &str| SubnetConfig::from(text.parse::<ipnet::IpNet>().unwrap());
        let subnets = ["172.21.0.0/30", "172.22.0.0/24", "fd00:21::/126", "fd00:22::/64"].map(of);
        let config = NetworkConfig { subnets: subnets.to_vec(), ..both("front") };
        driver.ensure_network(config).await.unwrap();
        let mut all = Vec::new();
        for name in ["one", "two", "three"] {
            let space = Space::new(name);
            let attached = driver.attach(request(name, "front"), space.netns()).await.unwrap();
            space.serve(80);
            let addresses: Vec<IpAddr> = attached.ends().map(|end| end.address.addr()).collect();
            all.push((space, addresses));
        }
        let subnets = |n: usize| all[n].1.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(subnets(0), ["172.21.0.2", "fd00:21::2"]);
        assert_eq!(subnets(1)[0], "172.22.0.2");
        assert_eq!(subnets(2)[1], "fd00:22::2");
        lab.outside.serve(7000);
        for (space, own) in &all {
            for (_, others) in &all {
                for (address, own) in others.iter().zip(own) {
                    assert_eq!(space.ask(*address, 80), own.to_string());
                }
            }
            assert_eq!(space.ask(OUTSIDE, 7000), HOST.to_string());
            assert_eq!(space.ask(v6(OUTSIDE_V6), 7000), HOST_V6);
        }
        let repaired = driver.repair().await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");
    });
}
