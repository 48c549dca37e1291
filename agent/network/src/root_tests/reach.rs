//! Who reaches whom.

use shoal_agent_ground::testing::skip_without_root;

use super::*;

#[test]
fn published_ports_answer_everybody_and_see_who_asks() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        let state = driver.ensure_network(net("front")).await.unwrap();
        let (web, at) = container(&driver, "web", &["front"]).await;
        let (sibling, sibling_at) = container(&driver, "sibling", &["front"]).await;
        let wanted = vec![tcp(8080, 80), port(8080, Protocol::Udp, 80)];
        assert_eq!(driver.publish("web".to_owned(), wanted.clone()).await.unwrap(), wanted);

        // Siblings, both ways, and the host, directly.
        assert_eq!(sibling.ask(at[0], 80), sibling_at[0].to_string());
        assert_eq!(lab.host.ask(at[0], 80), gateway(&state).to_string());
        lab.host.serve(9000);
        assert_eq!(web.ask(gateway(&state), 9000), at[0].to_string());

        // From outside: the source address is kept, for both transports.
        assert_eq!(lab.outside.ask(HOST, 8080), OUTSIDE.to_string());
        assert_eq!(lab.outside.ask_udp(HOST, 8080), OUTSIDE.to_string());
        // From the host, by its address and by its loopback.
        assert_eq!(lab.host.ask(HOST, 8080), HOST.to_string());
        assert_eq!(lab.host.ask(Ipv4Addr::LOCALHOST, 8080), gateway(&state).to_string());
        assert_eq!(lab.host.ask_udp(Ipv4Addr::LOCALHOST, 8080), gateway(&state).to_string());
        // From a sibling and from itself, by the host's address and by the gateway's.
        assert_eq!(sibling.ask(HOST, 8080), gateway(&state).to_string());
        assert_eq!(web.ask(HOST, 8080), gateway(&state).to_string());
        assert_eq!(sibling.ask(gateway(&state), 8080), gateway(&state).to_string());

        // Out, with the host's address.
        lab.outside.serve(7000);
        assert_eq!(web.ask(OUTSIDE, 7000), HOST.to_string());

        driver.unpublish("web".to_owned()).await.unwrap();
        lab.outside.cannot_ask(HOST, 8080);
        lab.host.cannot_ask(HOST, 8080);
    });
}

#[test]
fn a_host_address_is_never_widened() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let (_web, _) = container(&driver, "web", &["front"]).await;
        let local = PublishedPort { host_ip: Ipv4Addr::LOCALHOST.into(), ..tcp(8080, 80) };
        let outer = PublishedPort { host_ip: HOST.into(), ..tcp(8081, 80) };
        driver.publish("web".to_owned(), vec![local, outer]).await.unwrap();
        lab.host.ask(Ipv4Addr::LOCALHOST, 8080);
        lab.host.cannot_ask(HOST, 8080);
        lab.outside.cannot_ask(HOST, 8080);
        lab.outside.ask(HOST, 8081);
        lab.host.cannot_ask(Ipv4Addr::LOCALHOST, 8081);
    });
}

#[test]
fn networks_are_apart() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        let front = driver.ensure_network(net("front")).await.unwrap();
        driver.ensure_network(net("other")).await.unwrap();
        let closed = driver.ensure_network(internal("closed")).await.unwrap();
        let (web, web_at) = container(&driver, "web", &["front"]).await;
        let (other, other_at) = container(&driver, "other", &["other"]).await;
        let (db, db_at) = container(&driver, "db", &["closed"]).await;
        let (both, both_at) = container(&driver, "both", &["closed", "front"]).await;

        web.cannot_ask(other_at[0], 80);
        other.cannot_ask(web_at[0], 80);
        // What is not published is closed, to whoever knows the way.
        lab.outside.cannot_ask(web_at[0], 80);
        // But published to the world means to the other network too, with its own address.
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        assert_eq!(other.ask(HOST, 8080), other_at[0].to_string());

        // Internal: its members and its gateway, and nothing else even with a route.
        assert_eq!(both.ask(db_at[0], 80), both_at[0].to_string());
        db.run("ip", &["route", "add", "default", "via", &gateway(&closed).to_string()]);
        lab.host.serve(9000);
        assert_eq!(db.ask(gateway(&closed), 9000), db_at[0].to_string());
        db.cannot_ask(HOST, 9000);
        db.cannot_ask(gateway(&front), 9000);
        db.cannot_ask(HOST, 8080);
        db.cannot_ask(gateway(&closed), 8080);
        db.cannot_ask(web_at[0], 80);
        lab.outside.serve(7000);
        db.cannot_ask(OUTSIDE, 7000);
        web.cannot_ask(db_at[0], 80);
        lab.outside.cannot_ask(db_at[0], 80);
        assert_eq!(lab.host.ask(db_at[0], 80), gateway(&closed).to_string());
        // The way out of somebody who is on both leads by the other network.
        assert_eq!(both.ask(OUTSIDE, 7000), HOST.to_string());

        // The loopback of the host stays its own, whatever a container sends.
        lab.host.serve(9100);
        web.run("ip", &["address", "del", "127.0.0.1/8", "dev", "lo"]);
        web.run("sysctl", &["-qw", "net.ipv4.conf.eth0.route_localnet=1"]);
        let by = gateway(&front).to_string();
        web.run("ip", &["route", "add", "127.0.0.1/32", "via", &by]);
        assert_eq!(web.ask(gateway(&front), 9100), web_at[0].to_string());
        web.cannot_ask(Ipv4Addr::LOCALHOST, 9100);
    });
}

#[test]
fn ports_in_use_are_refused_with_their_holder() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let (_web, _) = container(&driver, "web", &["front"]).await;
        let (_second, _) = container(&driver, "second", &["front"]).await;
        let refused = async |container: &str, port: PublishedPort| {
            let error = driver.publish(container.to_owned(), vec![port]).await.unwrap_err();
            assert!(error.is_refusal());
            error.to_string()
        };
        let busy = std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
        let text = refused("web", tcp(8080, 80)).await;
        let start = "port already in use: 0.0.0.0:8080->80/tcp is bound by process";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        drop(busy);
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        // Now it is the process of the host that comes too late.
        assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err());
        assert_eq!(
            refused("second", tcp(8080, 80)).await,
            "port already in use: 0.0.0.0:8080->80/tcp is published by container `web`"
        );
        let foreign = PublishedPort { host_ip: [192, 0, 2, 1].into(), ..tcp(8081, 80) };
        assert_eq!(
            refused("second", foreign).await,
            "publish 192.0.2.1:8081->80/tcp: 192.0.2.1 is no address of this host"
        );
        // Any port: never one that somebody has.
        let first = driver.publish("second".to_owned(), vec![tcp(0, 80)]).await.unwrap();
        assert!((32_768..=60_999).contains(&first[0].host_port));
        assert_eq!(lab.outside.ask(HOST, first[0].host_port), OUTSIDE.to_string());
        driver.release("web".to_owned()).await.unwrap();
        driver.publish("second".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        assert_eq!(lab.outside.ask(HOST, 8080), OUTSIDE.to_string());
        lab.outside.cannot_ask(HOST, first[0].host_port);
    });
}

#[test]
fn udp_clients_that_keep_sending_follow_the_port() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let (one, _) = container(&driver, "one", &["front"]).await;
        let (two, _) = container(&driver, "two", &["front"]).await;
        one.serve_udp(53, "one");
        two.serve_udp(53, "two");
        let wanted = || vec![port(5353, Protocol::Udp, 53)];
        let outside = lab.outside.udp_client(HOST, 5353);
        let local = lab.host.udp_client(Ipv4Addr::LOCALHOST, 5353);
        for client in [&outside, &local] {
            assert_eq!(ask_with(client), None);
        }
        for name in ["one", "two", "one"] {
            driver.publish(name.to_owned(), wanted()).await.unwrap();
            for client in [&outside, &local] {
                assert_eq!(ask_until(client).as_deref(), Some(name));
            }
            driver.unpublish(name.to_owned()).await.unwrap();
            assert_eq!(ask_with(&outside), None);
        }
    });
}
