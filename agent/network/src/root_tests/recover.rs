//! Restarts, drift and cleaning up.

use futures::FutureExt as _;
use shoal_agent_ground::testing::skip_without_root;
use shoal_agent_planning::node::look::Look;

use super::*;

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[test]
fn a_new_agent_finds_everything_again() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        let state = driver.ensure_network(net("front")).await.unwrap();
        let (web, at) = container(&driver, "web", &["front"]).await;
        let before = driver.attachments("web");
        let wanted = vec![tcp(8080, 80), tcp(0, 80)];
        let ports = driver.publish("web".to_owned(), wanted.clone()).await.unwrap();
        // Killed: nothing is told, its sockets go.
        drop(driver);

        let driver = lab.driver();
        let repaired = driver.collect(set(&["web"]), set(&["front"])).await.unwrap();
        assert!(repaired.is_clean(), "{repaired:?}");
        assert_eq!(driver.ensure_network(net("front")).await.unwrap(), state);
        assert_eq!(driver.attach(request("web", "front"), web.netns()).await.unwrap(), before[0]);
        assert_eq!(driver.publish("web".to_owned(), wanted).await.unwrap(), ports);
        assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err());
        assert_eq!(lab.outside.ask(HOST, 8080), OUTSIDE.to_string());
        assert_eq!(lab.host.ask(at[0], 80), gateway(&state).to_string());
    });
}

#[test]
fn drift_is_found_and_put_right() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        let state = driver.ensure_network(net("front")).await.unwrap();
        let (web, _) = container(&driver, "web", &["front"]).await;
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        assert!(driver.repair().await.unwrap().is_clean());

        let breakages: [&[&str]; 4] = [
            &["nft", "flush", "ruleset"],
            &["nft", "flush", "chain", "inet", "shoal", "prerouting"],
            &["nft", "flush", "map", "inet", "shoal", "published_any"],
            &["nft", "add", "rule", "inet", "shoal", "forward", "accept"],
        ];
        for breakage in breakages {
            lab.host.run(breakage[0], &breakage[1..]);
            let repaired = driver.repair().await.unwrap();
            assert!(repaired.table_replaced, "{breakage:?}");
            assert_eq!(lab.outside.ask(HOST, 8080), OUTSIDE.to_string(), "{breakage:?}");
            assert!(driver.repair().await.unwrap().is_clean(), "{breakage:?}");
        }

        // A change that meets a table somebody destroyed puts it back as well.
        lab.host.run("nft", &["flush", "ruleset"]);
        driver.publish("web".to_owned(), vec![tcp(8081, 80)]).await.unwrap();
        assert_eq!(lab.outside.ask(HOST, 8081), OUTSIDE.to_string());

        let bridge = state.bridge.as_str();
        lab.host.run("ip", &["address", "flush", "dev", bridge]);
        lab.host.run("ip", &["link", "set", bridge, "down"]);
        let repaired = driver.repair().await.unwrap();
        assert_eq!(repaired.links.len(), 2, "{repaired:?}");
        assert_eq!(lab.outside.ask(HOST, 8081), OUTSIDE.to_string());

        // The bridge gone altogether: its port is put on the new one.
        lab.host.run("ip", &["link", "del", bridge]);
        driver.repair().await.unwrap();
        assert_eq!(lab.outside.ask(HOST, 8081), OUTSIDE.to_string());

        // A port gone: only its container can bring it back.
        let host_ifname = driver.attachments("web")[0].host_ifname.clone();
        lab.host.run("ip", &["link", "del", &host_ifname]);
        let repaired = driver.repair().await.unwrap();
        let lost = ("web".to_owned(), "front".to_owned());
        assert_eq!(repaired.lost_attachments, BTreeSet::from([lost]));
        // Told where links are looked at, and not each second until it is back.
        assert!(driver.put_right(&Look::settings()).await.unwrap().is_clean());
        driver.attach(request("web", "front"), web.netns()).await.unwrap();
        assert_eq!(lab.outside.ask(HOST, 8081), OUTSIDE.to_string());
        assert!(driver.repair().await.unwrap().is_clean());

        // Links that nobody knows.
        lab.host.run("ip", &["link", "add", "shb0000000000", "type", "bridge"]);
        let repaired = driver.repair().await.unwrap();
        assert_eq!(repaired.links, ["remove shb0000000000"]);
    });
}

/// It is to be attached again, after a restart too, and is not told as if somebody had taken it away.
#[test]
fn what_the_agent_has_not_finished_nobody_has_changed() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let web = Space::new("web");
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        // Given up where it waits first: it is written down, and there are no links.
        assert!(driver.attach(request("web", "front"), web.netns()).now_or_never().is_none());
        assert!(!driver.attachments("web").is_empty());
        drop(driver);

        let driver = lab.driver();
        let key = ("web".to_owned(), "front".to_owned());
        driver.collect(set(&["web"]), set(&["front"])).await.unwrap();
        for look in [Look::settings(), Look::everything()] {
            let repaired = driver.put_right(&look).await.unwrap();
            assert!(repaired.is_clean(), "{look:?}: {repaired:?}");
            assert_eq!(*driver.lost().borrow(), BTreeSet::from([key.clone()]), "{look:?}");
        }
        driver.attach(request("web", "front"), web.netns()).await.unwrap();
        assert_eq!(*driver.lost().borrow(), BTreeSet::new());
        assert!(driver.repair().await.unwrap().is_clean());
    });
}

#[test]
fn a_container_can_come_back_in_another_namespace() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        let state = driver.ensure_network(net("front")).await.unwrap();
        let (first, at) = container(&driver, "web", &["front"]).await;
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        // The old namespace still lives when the new one is attached.
        let second = Space::new("again");
        let attached = driver.attach(request("web", "front"), second.netns()).await.unwrap();
        assert_eq!(attached.v4.as_ref().unwrap().address.addr(), at[0]);
        second.serve(80);
        assert_eq!(lab.outside.ask(HOST, 8080), OUTSIDE.to_string());
        assert!(!first.run("ip", &["-o", "link"]).contains("eth0"));
        // Attached again and again.
        for _ in 0..3 {
            driver.attach(request("web", "front"), second.netns()).await.unwrap();
        }
        assert_eq!(lab.host.ask(at[0], 80), gateway(&state).to_string());
    });
}

#[test]
fn the_hosts_own_namespace_is_refused() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let error = driver.attach(request("web", "front"), lab.host.netns()).await.unwrap_err();
        assert!(error.to_string().ends_with("is the host's own"), "{error}");
        let gone = Netns::AtPath("/run/netns/shoal-test-none".into());
        let error = driver.attach(request("web", "front"), gone).await.unwrap_err();
        assert!(matches!(error, NetworkError::OpenNetns { .. }), "{error}");
        assert_eq!(driver.attachments("web"), []);
    });
}

#[test]
fn subnets_in_use_on_the_host_are_avoided() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.host.run("ip", &["address", "add", "172.20.0.9/24", "dev", "up0"]);
    lab.host.run("ip", &["route", "add", "172.20.1.0/24", "via", &OUTSIDE.to_string()]);
    lab.block_on(async || {
        let driver = lab.driver();
        let state = driver.ensure_network(net("front")).await.unwrap();
        assert_eq!(state.subnets[0].subnet.to_string(), "172.20.2.0/24");
        let subnet = SubnetConfig::from("198.51.100.0/25".parse::<ipnet::IpNet>().unwrap());
        let wanted = NetworkConfig { subnets: vec![subnet], ..net("mine") };
        let error = driver.ensure_network(wanted).await.unwrap_err().to_string();
        assert!(error.contains("overlaps 198.51.100.0/2"), "{error}");
        assert!(error.contains("used by a route by interface `up0`"), "{error}");
        // Managers are told of the same, and of nothing that the driver has made itself.
        let told = host_subnets("sh").await.unwrap();
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            ["172.20.0.0/24", "172.20.1.0/24", "198.51.100.0/24"]
                .map(|subnet| format!("{subnet} by interface up0"))
        );
    });
}

#[test]
fn nothing_is_left() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        for id in ["front", "back"] {
            driver.ensure_network(net(id)).await.unwrap();
        }
        let (web, _) = container(&driver, "web", &["front", "back"]).await;
        let (_gone, _) = container(&driver, "gone", &["back"]).await;
        driver.publish("gone".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        assert_eq!(links_of(&lab.host).len(), 5);

        // Orphans only.
        driver.collect(set(&["web"]), set(&[])).await.unwrap();
        assert_eq!(links_of(&lab.host).len(), 4);
        std::net::TcpListener::bind("0.0.0.0:8080").unwrap();

        // One after the other, twice each.
        for _ in 0..2 {
            driver.detach("web".to_owned(), "back".to_owned(), None).await.unwrap();
            driver.remove_network("back".to_owned()).await.unwrap();
        }
        assert_eq!(links_of(&lab.host).len(), 2);
        let error = driver.remove_network("front".to_owned()).await.unwrap_err();
        assert_eq!(error.to_string(), "network `front` still connects 1 container(s)");

        // An agent that knows nothing any more cleans up what is there, too.
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        drop(driver);
        std::fs::remove_dir_all(lab.state.path().join("state")).unwrap();
        std::fs::remove_dir_all(lab.state.path().join("run")).unwrap();
        lab.driver().cleanup_all().await.unwrap();
        assert_eq!(links_of(&lab.host), Vec::<String>::new());
        assert_eq!(lab.host.run("nft", &["list", "ruleset"]), "");
        assert!(!web.run("ip", &["-o", "link"]).contains("eth"));
    });
}

#[test]
fn the_real_driver_honours_the_contract() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let (one, two) = (Space::new("one"), Space::new("two"));
    lab.block_on(async || {
        contract::honour(&lab.driver(), [one.netns(), two.netns()]).await;
    });
    assert_eq!(links_of(&lab.host), Vec::<String>::new());
}
