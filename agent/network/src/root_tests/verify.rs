//! What is not as it should be is named, whatever somebody does, and nothing is done about it.

use shoal_agent_ground::testing::skip_without_root;

use super::harms::harms;
use super::*;

#[test]
fn whatever_somebody_does_to_the_host_is_named() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        let state = driver.ensure_network(net("front")).await.unwrap();
        let (web, _) = container(&driver, "web", &["front"]).await;
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        driver.repair().await.unwrap();
        let right = driver.compare().await;
        assert!(right.findings.is_empty() && right.notes.is_empty(), "{right:?}");
        let port = driver.attachments("web")[0].host_ifname.clone();
        for harm in harms(&lab.host, &web, &state.bridge, &port) {
            (harm.act)();
            let (first, again) = (driver.compare().await, driver.compare().await);
            assert!(!first.findings.is_empty() && first.notes.is_empty(), "{}", harm.what);
            assert_eq!(first, again, "looking changes nothing: {}", harm.what);
            assert!(!driver.repair().await.unwrap().is_clean(), "{} was noticed", harm.what);
            driver.attach(request("web", "front"), web.netns()).await.unwrap();
            driver.repair().await.unwrap();
            let right = driver.compare().await;
            assert!(right.findings.is_empty(), "{}: {right:?}", harm.what);
        }
        driver.cleanup_all().await.unwrap();
    });
}

#[test]
fn what_is_wrong_is_told_as_it_is_and_as_it_should_be() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = lab.driver();
        let bridge = driver.ensure_network(net("front")).await.unwrap().bridge;
        let (_web, at) = container(&driver, "web", &["front"]).await;
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        let run = |words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            lab.host.run(words[0], &words[1..]);
        };
        run("nft delete element inet shoal published_any { tcp . 8080 }");
        run("nft add rule inet shoal forward accept");
        run(&format!("ip link set {bridge} mtu 1300"));
        run("ip rule del priority 69");
        run("sysctl -qw net.ipv4.ip_forward=0");
        let told = driver.compare().await;
        let said: Vec<String> = told
            .findings
            .iter()
            .map(|f| format!("{}: {} / {}", f.subject, f.expected, f.found))
            .collect();
        let has = |text: &str| assert!(said.iter().any(|one| one == text), "{text}: {said:#?}");
        let element = format!("element tcp . 8080 : {} . 80", at[0]);
        has(&format!("{element} of nftables set inet published_any: present / missing"));
        has(&format!("mtu of {bridge}: 1500 / 1300"));
        has("routing rule of IPv4 69: nop: present / missing");
        has("setting net.ipv4.ip_forward: 1 / 0");
        assert!(
            said.iter().any(|one| one.starts_with("nftables chain inet forward: ")),
            "{said:#?}"
        );
        assert_eq!(said.len(), 5, "{said:#?}");
        driver.cleanup_all().await.unwrap();
    });
}
