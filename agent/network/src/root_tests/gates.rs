//! A host whose owner, or Docker, drops by default what is forwarded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_agent_ground::testing::skip_without_root;

use super::closed::docker as guest;
use super::*;
use crate::keep;

const PATIENCE: Duration = Duration::from_secs(10);

/// What Docker makes of a host that did not forward when it came.
fn docker(lab: &Lab) {
    for words in [
        "add table ip filter",
        "add chain ip filter DOCKER-USER",
        "add rule ip filter DOCKER-USER counter return",
        "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
        "add rule ip filter FORWARD counter jump DOCKER-USER",
    ] {
        lab.host.run("nft", &[words]);
    }
}

fn user_chain(lab: &Lab) -> String {
    lab.host.run("nft", &["list", "chain", "ip", "filter", "DOCKER-USER"])
}

/// What a condition of the chain comes to, or will.
fn until(lab: &Lab, is: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is(&user_chain(lab)) {
        assert!(Instant::now() < deadline, "{}", user_chain(lab));
    }
}

fn ours(chain: &str) -> usize {
    chain.matches("comment \"shoal sh\"").count()
}

#[test]
fn containers_are_let_pass_where_docker_drops_and_the_owner_has_the_last_word() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    docker(&lab);
    lab.block_on(async || {
        let driver = Arc::new(lab.driver());
        driver.ensure_network(net("front")).await.unwrap();
        let (web, at) = container(&driver, "web", &["front"]).await;
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        lab.outside.serve(7000);
        assert_eq!(ours(&user_chain(&lab)), 4, "{}", user_chain(&lab));
        lab.outside.ask(HOST, 8080);
        web.ask(OUTSIDE, 7000);
        assert!(driver.compare().await.findings.is_empty());
        // Before its end; behind what the owner says.
        let chain = user_chain(&lab);
        assert!(chain.trim_end().rfind("return") > chain.rfind("shoal sh"), "{chain}");
        let deny = format!("insert rule ip filter DOCKER-USER ip saddr {OUTSIDE} drop");
        lab.host.run("nft", &[&deny]);
        lab.outside.cannot_ask(HOST, 8080);

        // Whoever empties the chain is followed.
        lab.host.run("nft", &["flush chain ip filter DOCKER-USER"]);
        let found = driver.compare().await.findings;
        assert_eq!(found.len(), 1, "{found:?}");
        driver.repair().await.unwrap();
        assert_eq!(ours(&user_chain(&lab)), 4);
        lab.outside.ask(HOST, 8080);
        keep(&driver).unwrap();
        lab.host.run("nft", &["flush chain ip filter DOCKER-USER"]);
        until(&lab, |chain| ours(chain) == 4);
        lab.outside.ask(HOST, 8080);

        // What Docker keeps from others it keeps from containers, too.
        let guest_at = Ipv4Addr::new(172, 17, 0, 2);
        let guest = guest(&lab, guest_at);
        until(&lab, |chain| ours(chain) == 5 && chain.contains("oifname \"docker0\" return"));
        web.cannot_ask(guest_at, 80);
        guest.cannot_ask(at[0], 80);
        web.ask(OUTSIDE, 7000);

        // Where nothing is dropped any more, nothing is left there; and where it is again, it is.
        lab.host.run("nft", &["chain ip filter FORWARD { policy accept; }"]);
        until(&lab, |chain| ours(chain) == 0);
        lab.outside.ask(HOST, 8080);
        lab.host.run("nft", &["chain ip filter FORWARD { policy drop; }"]);
        until(&lab, |chain| ours(chain) == 5);
        driver.cleanup_all().await.unwrap();
        assert_eq!(ours(&user_chain(&lab)), 0);
    });
}

#[test]
fn another_firewall_that_drops_by_default_is_told_of_and_left_alone() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    for words in [
        "add table inet wall",
        "add chain inet wall passing { type filter hook forward priority 0; policy drop; }",
    ] {
        lab.host.run("nft", &[words]);
    }
    let before = lab.host.run("nft", &["list", "table", "inet", "wall"]);
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let (web, _) = container(&driver, "web", &["front"]).await;
        lab.outside.serve(7000);
        web.cannot_ask(OUTSIDE, 7000);
        let notes = driver.compare().await.notes;
        assert!(notes.iter().any(|note| note.contains("inet wall passing")), "{notes:?}");
        assert_eq!(lab.host.run("nft", &["list", "table", "inet", "wall"]), before);
    });
}
