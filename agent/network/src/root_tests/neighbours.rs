//! What neighbours on the host's wires can reach.

use shoal_agent_ground::testing::skip_without_root;

use super::*;

/// The host's address on its second wire, and the neighbour's there.
const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const SECOND_PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// An address that the host has on no wire.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

/// Gives the host a second wire with a neighbour at its end.
fn second_wire(lab: &Lab) -> Space {
    let peer = Space::new("second");
    lab.host.wire(&peer, "up1", SECOND, SECOND_PEER);
    peer
}

/// Lets a neighbour send packets for the host's loopback, as everybody on a wire may.
fn attack_loopback(neighbour: &Space, host: Ipv4Addr) {
    neighbour.run("ip", &["address", "del", "127.0.0.1/8", "dev", "lo"]);
    neighbour.run("sysctl", &["-qw", "net.ipv4.conf.all.route_localnet=1"]);
    neighbour.run("ip", &["route", "add", "127.0.0.0/8", "via", &host.to_string()]);
}

#[test]
fn a_published_port_answers_only_where_it_was_asked_to() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let second = second_wire(&lab);
    attack_loopback(&lab.outside, HOST);
    lab.outside.run("ip", &["route", "add", "203.0.113.0/24", "via", &HOST.to_string()]);
    second.run("ip", &["route", "add", "198.51.100.0/24", "via", &SECOND.to_string()]);
    let loopback: [Ipv4Addr; 2] = [[127, 0, 0, 1].into(), [127, 0, 0, 2].into()];
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let (_web, _) = container(&driver, "web", &["front"]).await;
        let (sibling, _) = container(&driver, "sibling", &["front"]).await;
        for host_ip in loopback {
            let wanted = vec![PublishedPort { host_ip: host_ip.into(), ..tcp(8080, 80) }];
            driver.publish("web".to_owned(), wanted).await.unwrap();
            // The host itself; nobody else, neither directly nor by a route.
            lab.host.ask(host_ip, 8080);
            for neighbour in [&lab.outside, &second] {
                for address in [HOST, SECOND, loopback[0], loopback[1]] {
                    neighbour.cannot_ask(address, 8080);
                }
            }
            sibling.cannot_ask(HOST, 8080);
        }

        let wanted = vec![PublishedPort { host_ip: SECOND.into(), ..tcp(8080, 80) }];
        driver.publish("web".to_owned(), wanted).await.unwrap();
        lab.host.ask(SECOND, 8080);
        sibling.ask(SECOND, 8080);
        assert_eq!(second.ask(SECOND, 8080), SECOND_PEER.to_string());
        second.cannot_ask(HOST, 8080);
        for address in [HOST, SECOND, loopback[0], loopback[1]] {
            lab.outside.cannot_ask(address, 8080);
        }

        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        for address in [HOST, SECOND] {
            assert_eq!(lab.outside.ask(address, 8080), OUTSIDE.to_string());
            assert_eq!(second.ask(address, 8080), SECOND_PEER.to_string());
        }
        for address in loopback {
            lab.outside.cannot_ask(address, 8080);
        }
    });
}

#[test]
fn an_address_on_no_wire_is_published_to_every_wire() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.host.run("ip", &["address", "add", &format!("{NOWHERE}/32"), "dev", "lo"]);
    lab.outside.run("ip", &["route", "add", &NOWHERE.to_string(), "via", &HOST.to_string()]);
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let (_web, _) = container(&driver, "web", &["front"]).await;
        let wanted = vec![PublishedPort { host_ip: NOWHERE.into(), ..tcp(8080, 80) }];
        driver.publish("web".to_owned(), wanted.clone()).await.unwrap();
        assert_eq!(lab.outside.ask(NOWHERE, 8080), OUTSIDE.to_string());
        lab.outside.cannot_ask(HOST, 8080);
        // A new agent knows it too.
        drop(driver);
        let driver = lab.driver();
        let set = |id: &str| BTreeSet::from([id.to_owned()]);
        let mut kept = set("web");
        kept.insert("sibling".to_owned());
        driver.collect(kept, set("front")).await.unwrap();
        assert_eq!(lab.outside.ask(NOWHERE, 8080), OUTSIDE.to_string());
    });
}

/// A floating address that comes to the host later.
#[test]
fn an_address_that_comes_after_its_port_answers() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let address = format!("{NOWHERE}/32");
    lab.outside.run("ip", &["route", "add", &NOWHERE.to_string(), "via", &HOST.to_string()]);
    lab.block_on(async || {
        let driver = Arc::new(lab.driver());
        driver.ensure_network(net("front")).await.unwrap();
        let (_web, _) = container(&driver, "web", &["front"]).await;
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        keep(&driver).unwrap();
        lab.outside.cannot_ask(NOWHERE, 8080);
        lab.host.run("ip", &["address", "add", &address, "dev", "lo"]);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !lab.outside.answers(NOWHERE, 8080) {
            assert!(std::time::Instant::now() < deadline, "it does not answer");
        }
    });
}
