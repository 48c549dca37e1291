//! What stays closed, and what the host gets back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use shoal_agent_ground::testing::skip_without_root;

use super::*;
use crate::keep;

/// How long a repair may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A second wire of the host, with somebody at its end who knows the way to the first.
fn second_wire(lab: &Lab) -> (Space, Ipv4Addr) {
    let (here, there) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2));
    let peer = Space::new("second");
    lab.host.wire(&peer, "up1", here, there);
    peer.run("ip", &["route", "add", "198.51.100.0/24", "via", &here.to_string()]);
    lab.outside.run("ip", &["route", "add", "203.0.113.0/24", "via", &HOST.to_string()]);
    peer.serve(7000);
    lab.outside.serve(7000);
    (peer, there)
}

fn set(space: &Space, setting: &str) {
    space.run("sysctl", &["-qw", setting]);
}

#[test]
fn nothing_is_forwarded_while_the_table_is_missing() {
    if skip_without_root() {
        return;
    }
    // Whether the host forwarded before, how it checks sources, and where it looks up its own
    // addresses.
    let hosts = [
        ("0", "0", "0"),
        ("0", "1", "0"),
        ("0", "0", "32765"),
        ("1", "1", "0"),
        ("1", "2", "32765"),
    ];
    for (forwards, checks, local) in hosts {
        let lab = Lab::new();
        let (second, second_at) = second_wire(&lab);
        set(&lab.host, &format!("net.ipv4.ip_forward={forwards}"));
        for ifname in ["all", "default", "up0", "up1"] {
            set(&lab.host, &format!("net.ipv4.conf.{ifname}.rp_filter={checks}"));
        }
        if local != "0" {
            lab.host.run("ip", &["rule", "add", "pref", local, "lookup", "local"]);
            lab.host.run("ip", &["rule", "del", "pref", "0", "lookup", "local"]);
        }
        lab.host.serve(9000);
        lab.block_on(async || {
            let driver = lab.driver();
            driver.ensure_network(net("front")).await.unwrap();
            driver.ensure_network(net("other")).await.unwrap();
            let (web, at) = container(&driver, "web", &["front"]).await;
            let (other, _) = container(&driver, "other", &["other"]).await;
            driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
            let open = || {
                assert_eq!(lab.outside.ask(HOST, 8080), OUTSIDE.to_string());
                assert_eq!(web.ask(OUTSIDE, 7000), HOST.to_string());
                lab.host.ask(at[0], 80);
            };
            open();
            // The host's own connections need no table.
            let only_the_host = || {
                lab.host.ask(OUTSIDE, 7000);
                lab.host.ask(second_at, 7000);
                lab.outside.ask(HOST, 9000);
                for (stranger, target) in [(&lab.outside, second_at), (&second, OUTSIDE)] {
                    if forwards == "1" {
                        stranger.ask(target, 7000);
                    } else {
                        stranger.cannot_ask(target, 7000);
                    }
                }
            };
            only_the_host();
            lab.host.run("nft", &["flush", "ruleset"]);
            lab.outside.cannot_ask(at[0], 80);
            lab.outside.cannot_ask(HOST, 8080);
            other.cannot_ask(at[0], 80);
            web.cannot_ask(OUTSIDE, 7000);
            only_the_host();
            driver.repair().await.unwrap();
            open();
            only_the_host();
        });
    }
}

/// A host with routing domains has addresses that only their own tables know.
#[test]
fn addresses_of_routing_domains_answer() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let (_second, _) = second_wire(&lab);
    let of_domain = Ipv4Addr::new(203, 0, 113, 77);
    set(&lab.host, "net.ipv4.ip_forward=0");
    for rule in [
        &["rule", "add", "pref", "1000", "l3mdev"][..],
        // What that rule leads to, on a kernel without such links too.
        &["rule", "add", "pref", "1001", "lookup", "10"],
        &["route", "add", "local", &of_domain.to_string(), "dev", "lo", "table", "10"],
    ] {
        lab.host.run("ip", rule);
    }
    lab.host.serve(9000);
    // The kernel answers from no address of such a table here, so only the way in is tried.
    let arrives = || {
        let from = OUTSIDE.to_string();
        let way = ["route", "get", &of_domain.to_string(), "from", &from, "iif", "up0"];
        let way = lab.host.run("ip", &way);
        assert!(way.starts_with("local "), "{way}");
    };
    arrives();
    lab.block_on(async || {
        let driver = lab.driver();
        driver.ensure_network(net("front")).await.unwrap();
        let (web, at) = container(&driver, "web", &["front"]).await;
        arrives();
        lab.outside.ask(HOST, 9000);
        lab.host.run("nft", &["flush", "ruleset"]);
        lab.outside.cannot_ask(at[0], 80);
        web.cannot_ask(OUTSIDE, 7000);
        arrives();
    });
}

#[test]
fn a_flushed_table_is_put_back_at_once() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let driver = Arc::new(lab.driver());
        driver.ensure_network(net("front")).await.unwrap();
        let (_web, at) = container(&driver, "web", &["front"]).await;
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        keep(&driver).unwrap();
        let intact =
            || lab.host.run("nft", &["list", "tables"]) == "table inet shoal\ntable bridge shoal\n";
        let breakages: [&[&str]; 4] = [
            &["flush", "ruleset"],
            &["delete", "table", "bridge", "shoal"],
            &["flush", "ruleset"],
            &["flush", "chain", "inet", "shoal", "forward"],
        ];
        for breakage in breakages {
            let before = lab.host.run("nft", &["-s", "list", "ruleset"]);
            lab.host.run("nft", breakage);
            if breakage == ["flush", "ruleset"] {
                lab.outside.cannot_ask(at[0], 80);
            }
            let deadline = Instant::now() + PATIENCE;
            while !intact() || lab.host.run("nft", &["-s", "list", "ruleset"]) != before {
                assert!(Instant::now() < deadline, "{breakage:?} was not repaired");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(lab.outside.ask(HOST, 8080), OUTSIDE.to_string(), "{breakage:?}");
        }
    });
}

/// A packet filter that does not answer a few times.
struct Unwell {
    failures_left: Arc<AtomicUsize>,
}

impl Unwell {
    fn check(&self) -> Result<(), FirewallError> {
        let one_less = |left: usize| left.checked_sub(1);
        match self.failures_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) {
            Ok(_) => Err(FirewallError::Timeout { seconds: 1 }),
            Err(_) => Ok(()),
        }
    }
}

impl Firewall for Unwell {
    fn apply(&self, script: String) -> BoxFuture<'_, Result<(), FirewallError>> {
        async move {
            self.check()?;
            NftProgram::default().apply(script).await
        }
        .boxed()
    }

    fn list(&self, table: String) -> BoxFuture<'_, Result<Option<Value>, FirewallError>> {
        async move {
            self.check()?;
            NftProgram::default().list(table).await
        }
        .boxed()
    }

    fn gates(&self) -> BoxFuture<'_, Result<Vec<Value>, FirewallError>> {
        async { NftProgram::default().gates().await }.boxed()
    }
}

/// A driver with a network, whose host is kept; how often its packet filter fails from now on, and the
/// network's bridge.
async fn unwell(lab: &Lab) -> (Arc<BridgeNetworks>, Arc<AtomicUsize>, String) {
    let failures_left = Arc::<AtomicUsize>::default();
    let dir = lab.state.path();
    let config = BridgeConfig::new(dir.join("state"), dir.join("run"));
    let filter = Unwell { failures_left: Arc::clone(&failures_left) };
    let driver = Arc::new(BridgeNetworks::with_firewall(config, Box::new(filter)).unwrap());
    let bridge = driver.ensure_network(net("front")).await.unwrap().bridge;
    keep(&driver).unwrap();
    (driver, failures_left, bridge)
}

/// Nobody touches the table a second time.
#[test]
fn a_repair_that_fails_is_tried_again() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let (_driver, failures_left, _) = unwell(&lab).await;
        // More often than the kernel tells of one small table.
        failures_left.store(3, Ordering::SeqCst);
        lab.host.run("nft", &["delete", "table", "bridge", "shoal"]);
        let deadline = Instant::now() + PATIENCE;
        while lab.host.run("nft", &["list", "tables"]) != "table inet shoal\ntable bridge shoal\n" {
            assert!(Instant::now() < deadline, "it was tried once");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(failures_left.load(Ordering::SeqCst), 0);
    });
}

/// The priority of a routing rule that keeps something out.
fn closing(rules: &str) -> String {
    let rule = rules.lines().find(|rule| rule.contains("prohibit")).unwrap();
    rule.split(':').next().unwrap().to_owned()
}

/// Something that cannot be put right waits ever longer for the next attempt, and nothing else with it.
#[test]
fn what_cannot_be_put_right_keeps_nothing_else_from_it() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    lab.block_on(async || {
        let (_driver, failures_left, bridge) = unwell(&lab).await;
        failures_left.store(1000, Ordering::SeqCst);
        lab.host.run("nft", &["delete", "table", "bridge", "shoal"]);
        let wait_for = async |what: &str, is: &dyn Fn() -> bool| {
            let deadline = Instant::now() + PATIENCE;
            while !is() {
                assert!(Instant::now() < deadline, "never: {what}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // After the third, four seconds pass.
        wait_for("attempts", &|| failures_left.load(Ordering::SeqCst) <= 1000 - 3).await;
        let rules = || lab.host.run("ip", &["rule"]);
        let (whole, rule) = (rules(), closing(&rules()));
        lab.host.run("ip", &["address", "flush", "dev", &bridge]);
        let began = Instant::now();
        lab.host.run("ip", &["rule", "del", "pref", &rule]);
        wait_for("the rule", &|| rules() == whole).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        // What would let somebody in waits for the table that judges it.
        let address = || lab.host.run("ip", &["-4", "-o", "address", "show", "dev", &bridge]);
        assert_eq!(address(), "");
        failures_left.store(0, Ordering::SeqCst);
        wait_for("the address", &|| !address().is_empty()).await;
        let table = || lab.host.run("nft", &["list", "tables"]);
        wait_for("the table", &|| table().contains("bridge shoal")).await;
    });
}

/// Settings; rules, tables, links, routes.
type Everything = (BTreeMap<String, String>, String, String, String, String);

/// Every setting of the network, by its path.
fn settings(space: &Space) -> BTreeMap<String, String> {
    fn walk(dir: &Path, found: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                found.insert(path.display().to_string(), text);
            }
        }
    }
    space.enter(|| {
        let mut found = BTreeMap::new();
        walk(Path::new("/proc/sys/net"), &mut found);
        // Counts flows by itself, and random numbers that the kernel makes when it is read first.
        found.retain(|path, _| {
            !["nf_conntrack_count", "stable_secret"].iter().any(|end| path.ends_with(end))
        });
        found
    })
}

#[test]
fn the_host_gets_back_what_it_was() {
    if skip_without_root() {
        return;
    }
    for odd in [false, true] {
        let lab = Lab::new();
        let (second, second_at) = second_wire(&lab);
        if odd {
            // One interface forwarded by itself, and redirects were refused.
            set(&lab.host, "net.ipv4.conf.up1.forwarding=1");
            set(&lab.host, "net.ipv4.conf.all.accept_redirects=0");
        }
        let everything = || {
            let rules = lab.host.run("ip", &["rule"]);
            let nft = lab.host.run("nft", &["list", "ruleset"]);
            let links = lab.host.run("ip", &["-br", "link"]);
            // Not those of IPv6, which the kernel makes by and by once a link is up.
            let routes = lab.host.run("ip", &["-4", "route", "show", "table", "all"]);
            (settings(&lab.host), rules, nft, links, routes)
        };
        // What loading modules brings is there before.
        lab.block_on(async || {
            let driver = lab.driver();
            driver.ensure_network(net("front")).await.unwrap();
            driver.cleanup_all().await.unwrap();
        });
        let before = everything();
        lab.block_on(async || {
            let driver = lab.driver();
            driver.ensure_network(net("front")).await.unwrap();
            driver.ensure_network(internal("closed")).await.unwrap();
            let (_web, _) = container(&driver, "web", &["front", "closed"]).await;
            driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
            assert_eq!(lab.host.run("sysctl", &["-n", "net.ipv4.ip_forward"]), "1\n");
            // No way between the host's own wires because of that.
            lab.outside.cannot_ask(second_at, 7000);
            second.cannot_ask(OUTSIDE, 7000);
            // Another agent gives back what this one changed.
            drop(driver);
            let driver = lab.driver();
            driver.cleanup_all().await.unwrap();
        });
        let left = |dir: &str| {
            let files = std::fs::read_dir(lab.state.path().join(dir)).unwrap();
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(left("state"), Vec::<String>::new(), "of what was remembered for it");
        let after = everything();
        for (setting, value) in &before.0 {
            assert_eq!(after.0.get(setting), Some(value), "{setting}");
        }
        let more: Vec<&String> =
            after.0.keys().filter(|key| !before.0.contains_key(*key)).collect();
        assert_eq!(more, Vec::<&String>::new());
        let rest = |all: &Everything| (all.1.clone(), all.2.clone(), all.3.clone(), all.4.clone());
        assert_eq!(rest(&after), rest(&before));
    }
}

/// Docker comes to a host that forwards for our containers alone: its bridge is forwarded for, its
/// guests do not reach ours, and the wires of the host stay apart.
#[test]
fn whoever_comes_later_is_forwarded_for_and_keeps_it() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let (_second, second_at) = second_wire(&lab);
    let guest_at = Ipv4Addr::new(172, 17, 0, 2);
    lab.outside.run("ip", &["route", "add", "172.17.0.0/16", "via", &HOST.to_string()]);
    lab.block_on(async || {
        let driver = Arc::new(lab.driver());
        driver.ensure_network(net("front")).await.unwrap();
        let (_web, at) = container(&driver, "web", &["front"]).await;
        driver.publish("web".to_owned(), vec![tcp(8080, 80)]).await.unwrap();
        keep(&driver).unwrap();
        let guest = docker(&lab, guest_at);
        let deadline = Instant::now() + PATIENCE;
        while !guest.answers(OUTSIDE, 7000) {
            assert!(Instant::now() < deadline, "the guest cannot go out");
        }
        lab.outside.ask(guest_at, 80);
        guest.ask(HOST, 8080);
        guest.cannot_ask(at[0], 80);
        lab.outside.cannot_ask(second_at, 7000);
        lab.outside.cannot_ask(at[0], 80);
        // Also where the table is gone that keeps them apart.
        lab.host.run("nft", &["flush", "ruleset"]);
        guest.cannot_ask(at[0], 80);
        // It goes on when we are gone.
        driver.cleanup_all().await.unwrap();
        guest.ask(OUTSIDE, 7000);
        assert_eq!(lab.host.run("sysctl", &["-n", "net.ipv4.ip_forward"]), "1\n");
        assert!(!lab.host.run("ip", &["rule"]).contains("prohibit"));
        assert!(!lab.state.path().join("state/host-settings.json").exists());
    });
}

/// A bridge with somebody behind it, as Docker makes it, without rules of its own.
pub(super) fn docker(lab: &Lab, at: Ipv4Addr) -> Space {
    let guest = Space::new("guest");
    let netns = guest.path().file_name().unwrap().to_str().unwrap().to_owned();
    lab.host.run("ip", &["link", "add", "docker0", "type", "bridge"]);
    lab.host.run("ip", &["address", "add", "172.17.0.1/16", "dev", "docker0"]);
    lab.host.run("ip", &["link", "set", "docker0", "up"]);
    let pair = ["link", "add", "vethguest", "type", "veth", "peer", "name", "eth0", "netns"];
    lab.host.run("ip", &[&pair[..], &[netns.as_str()]].concat());
    lab.host.run("ip", &["link", "set", "vethguest", "master", "docker0", "up"]);
    guest.run("ip", &["address", "add", &format!("{at}/16"), "dev", "eth0"]);
    guest.run("ip", &["link", "set", "eth0", "up"]);
    guest.run("ip", &["route", "add", "default", "via", "172.17.0.1"]);
    guest.serve(80);
    guest
}

/// Whoever is asked for it leaves forwarding as it is, for everybody.
#[test]
fn a_host_that_forwards_for_others_closes_nothing_of_theirs() {
    if skip_without_root() {
        return;
    }
    let lab = Lab::new();
    let (_second, second_at) = second_wire(&lab);
    lab.block_on(async || {
        let dir = lab.state.path();
        let config = BridgeConfig {
            forwards_for_others: true,
            ..BridgeConfig::new(dir.join("state"), dir.join("run"))
        };
        let driver = BridgeNetworks::open(config).unwrap();
        driver.ensure_network(net("front")).await.unwrap();
        let (_web, at) = container(&driver, "web", &["front"]).await;
        lab.outside.ask(second_at, 7000);
        lab.outside.cannot_ask(at[0], 80);
        lab.host.run("nft", &["flush", "ruleset"]);
        lab.outside.cannot_ask(at[0], 80);
        driver.cleanup_all().await.unwrap();
        lab.outside.ask(second_at, 7000);
    });
}
