//! Networks of IPv6 alone.

use super::*;

fn alone(id: &str) -> NetworkConfig {
    NetworkConfig { without_v4: true, ..both(id) }
}

/// What a space has of IPv4 on an interface: its addresses and routes.
fn of_v4(space: &Space, ifname: &str) -> String {
    let addresses = space.run("ip", &["-4", "-o", "address", "show", "dev", ifname]);
    addresses + &space.run("ip", &["-4", "route", "show", "dev", ifname])
}

#[test]
fn containers_without_ipv4_have_everything_by_ipv6() {
    if skip_without_root() {
        return;
    }
    let lab = lab();
    lab.block_on(async || {
        let driver = lab.driver();
        let state = driver.ensure_network(alone("front")).await.unwrap();
        let (web, at) = dual(&driver, "web", &["front"]).await;
        let (sibling, sibling_at) = dual(&driver, "sibling", &["front"]).await;
        for (space, ifname) in [(&web, "eth0"), (&sibling, "eth0"), (&lab.host, &*state.bridge)] {
            assert_eq!(of_v4(space, ifname), "", "{ifname}");
        }
        let by = state.subnets[0].gateway;
        assert_eq!(sibling.ask(at[0], 80), sibling_at[0].to_string());
        assert_eq!(lab.host.ask(at[0], 80), by.to_string());
        lab.outside.cannot_ask(at[0], 80);
        let local = PublishedPort { host_ip: Ipv4Addr::LOCALHOST.into(), ..tcp(8081, 80) };
        let refused = driver.publish("web".to_owned(), vec![local]).await.unwrap_err();
        assert!(refused.is_refusal() && refused.to_string().contains("of IPv4"), "{refused}");
        // Everywhere is where it is reached; who asks by IPv4 is told at once that it is not.
        let wanted = vec![tcp(8080, 80), port(8080, Protocol::Udp, 80)];
        driver.publish("web".to_owned(), wanted).await.unwrap();
        assert_eq!(lab.outside.ask(v6(HOST_V6), 8080), OUTSIDE_V6);
        assert_eq!(lab.outside.ask_udp(v6(HOST_V6), 8080), OUTSIDE_V6);
        assert_eq!(web.ask(v6(HOST_V6), 8080), by.to_string());
        lab.outside.cannot_ask(HOST, 8080);
        lab.host.cannot_ask(Ipv4Addr::LOCALHOST, 8080);
        lab.outside.serve(7000);
        assert_eq!(web.ask(v6(OUTSIDE_V6), 7000), HOST_V6);
        web.cannot_ask(OUTSIDE, 7000);
        let before = driver.attachments("web");
        drop(driver);

        // Found again by the next agent.
        let driver = lab.driver();
        let keep = ["web", "sibling"].map(str::to_owned).into();
        let repaired = driver.collect(keep, ["front".to_owned()].into()).await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");
        assert_eq!(driver.ensure_network(alone("front")).await.unwrap(), state);
        let again = driver.attach(request("web", "front"), web.netns()).await.unwrap();
        assert_eq!(again, before[0]);
        assert_eq!(lab.outside.ask(v6(HOST_V6), 8080), OUTSIDE_V6);
        assert_eq!(driver.compare().await.findings, []);
        driver.cleanup_all().await.unwrap();
        let rules = lab.host.run("ip", &["rule"]);
        assert!(!rules.lines().any(|rule| rule.starts_with('6')), "{rules}");
    });
}

/// Of each family the way out is by the network that has it, and so is the way in.
#[test]
fn a_container_has_each_family_by_another_network() {
    if skip_without_root() {
        return;
    }
    let lab = lab();
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(alone("six")).await.unwrap();
        driver.ensure_network(net("four")).await.unwrap();
        let (web, _) = dual(&driver, "web", &["six", "four"]).await;
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        lab.outside.serve(7000);
        let by_v4 = || {
            assert_eq!(lab.outside.ask(HOST, 8080), OUTSIDE.to_string());
            assert_eq!(web.ask(OUTSIDE, 7000), HOST.to_string());
        };
        let by_v6 = || {
            assert_eq!(lab.outside.ask(v6(HOST_V6), 8080), OUTSIDE_V6);
            assert_eq!(web.ask(v6(OUTSIDE_V6), 7000), HOST_V6);
        };
        by_v4();
        by_v6();
        let (container, network) = ("web".to_owned(), "six".to_owned());
        driver.detach(container, network, Some(web.netns())).await.unwrap();
        by_v4();
        lab.outside.cannot_ask(v6(HOST_V6), 8080);
        driver.attach(request("web", "six"), web.netns()).await.unwrap();
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        by_v4();
        by_v6();
    });
}

/// Whatever addresses it gives itself.
#[test]
fn who_has_no_ipv4_cannot_speak_it() {
    if skip_without_root() {
        return;
    }
    let lab = lab();
    lab.block_on(async || {
        let driver = lab.driver();
        let plain = driver.ensure_network(net("plain")).await.unwrap();
        for (network, id, speaks) in [
            (plain, "plain", true),
            (driver.ensure_network(alone("front")).await.unwrap(), "front", false),
        ] {
            let space = Space::new(id);
            let attached = driver.attach(request(id, id), space.netns()).await.unwrap();
            let (bridge, mac) = (&*network.bridge, network.mac().to_string());
            space.run("ip", &["address", "add", "10.66.0.2/24", "dev", "eth0"]);
            space.run("ip", &["neigh", "replace", "10.66.0.1", "lladdr", &mac, "dev", "eth0"]);
            space.run(
                "ip",
                &["route", "replace", "default", "via", "10.66.0.1", "src", "10.66.0.2"],
            );
            lab.host.run("ip", &["route", "replace", "10.66.0.0/24", "dev", bridge]);
            let mac = attached.mac.to_string();
            lab.host.run("ip", &["neigh", "replace", "10.66.0.2", "lladdr", &mac, "dev", bridge]);
            if speaks {
                lab.host.serve(9000);
                assert_eq!(space.ask(HOST, 9000), "10.66.0.2", "where there is IPv4");
            } else {
                space.cannot_ask(HOST, 9000);
            }
        }
    });
}
