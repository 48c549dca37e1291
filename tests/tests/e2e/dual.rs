//! Networks across hosts that have IPv6, beside IPv4 or alone.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use shoal_tests::host::Host;
use shoal_tests::skip::skip;

use crate::published::{WHO, lines};
use crate::world::{World, service};

/// Who asks from outside.
const CLIENT: &str = "fd99::99";

const BOTH: &str =
    "enable_ipv6: true\n    ipam: {config: [{subnet: 10.77.0.0/24}, {subnet: 'fd77::/64'}]}";
const ALONE: &str = "enable_ipv4: false\n    enable_ipv6: true";

/// A page that says who asks, and somebody who asks it, on every host; they share a network with such addresses.
fn stack(addresses: &str) -> String {
    let everywhere = lines().replace("deploy: {", "networks: [back]\ndeploy: {mode: global, ");
    let sleeps = "command: [sleep, '1000']\nnetworks: [back]\n\
        deploy: {mode: global, update_config: {monitor: 1s}}";
    let asker = service("asker", sleeps).replace("services:\n", "");
    service("web", &everywhere)
        + &asker
        + &format!("networks:\n  back:\n    driver: overlay\n    {addresses}\n")
}

/// A host's address of IPv6 on the wire between all of them.
fn address(host: &Host) -> String {
    format!("fd99::{}", host.name.trim_start_matches('h'))
}

/// Gives all hosts, and who asks from outside, their addresses of IPv6 ("add"), or takes them away ("del").
fn outside(world: &World, verb: &str) {
    let mut command = world.cluster.lab.on_switch("ip");
    command.args(["-6", "addr", verb, &format!("{CLIENT}/64"), "dev", "br0", "nodad"]);
    assert!(command.status().unwrap().success());
    for host in &world.cluster.lab.hosts {
        let own = format!("{}/64", address(host));
        ip(host, &["-6", "addr", verb, &own, "dev", "eth0", "nodad"]);
    }
}

pub(crate) fn ip(host: &Host, args: &[&str]) {
    let said = host.command("ip").unwrap().args(args).status().unwrap();
    assert!(said.success(), "{}: ip {args:?}", host.name);
}

/// The addresses of a name, of one kind.
pub(crate) fn told(world: &World, task: &str, kind: &str, name: &str) -> BTreeSet<String> {
    let kind = format!("-type={kind}");
    let said = world.cluster.ctl(&["exec", task, "nslookup", &kind, name, "127.0.0.11"]).both();
    let answers = said.lines().skip_while(|line| !line.trim().is_empty());
    let addresses = answers.filter_map(|line| line.strip_prefix("Address: "));
    addresses.map(|address| address.trim().to_owned()).collect()
}

/// Who is behind an address, as a task hears it.
fn hears(world: &World, task: &str, address: &str) -> Result<String> {
    let script =
        format!("printf 'GET {WHO} HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 8080 | tail -1");
    let said = world.cluster.ctl(&["exec", task, "sh", "-c", &script]).both();
    ensure!(said.starts_with("asked by "), "{task} asks {address}: {said:?}");
    Ok(said)
}

/// Of what a page says: who has asked, and who has answered.
fn parts(said: &str) -> (String, String) {
    let (client, server) = said.split_once(", I am ").unwrap_or_default();
    let client = client.trim_start_matches("asked by ").trim_matches(['[', ']']);
    (client.to_owned(), server.trim().to_owned())
}

#[test]
fn services_reach_each_other_and_are_reached_by_both_families() {
    if skip() {
        return;
    }
    let world = World::start(3);
    outside(&world, "add");
    world.deploy("net", &stack(BOTH));
    world.runs("net_web", 3);

    // Inside: by name, by both kinds of address of the service, from every host to all of them.
    for asker in world.runs("net_asker", 3) {
        for (kind, inside) in [("a", "10.77.0."), ("aaaa", "fd77:")] {
            let vip = world.until(&format!("web is found by {kind}"), || {
                let told = told(&world, &asker.id, kind, "web");
                ensure!(told.len() == 1, "{told:?}");
                Ok(told.into_iter().next().unwrap_or_default())
            });
            assert!(vip.starts_with(inside), "{vip}");
            assert_eq!(told(&world, &asker.id, kind, "tasks.web").len(), 3);
            world.until(&format!("{} hears from all at {vip}", asker.host), || {
                hears_all(3, || {
                    let (client, server) = parts(&hears(&world, &asker.id, &vip)?);
                    let client = client.trim_start_matches("::ffff:");
                    ensure!(client.starts_with(inside), "{client} has asked {vip}");
                    Ok(server)
                })
            });
        }
    }
    all_lead_to_all(&world, 3);
    world.remove("net");
    outside(&world, "del");
    world.end();
}

/// Whether so many answer in turn.
fn hears_all(count: usize, ask: impl Fn() -> Result<String>) -> Result<()> {
    let mut heard = BTreeSet::new();
    for _ in 0..8 * count {
        heard.insert(ask()?);
        if heard.len() == count {
            return Ok(());
        }
    }
    anyhow::bail!("only {heard:?}")
}

/// From outside: every host leads to all of them, and they know who asks.
fn all_lead_to_all(world: &World, count: usize) {
    for host in &world.cluster.lab.hosts {
        let at = format!("[{}]:8080", address(host));
        world.until(&format!("{at} leads to all"), || {
            hears_all(count, || {
                let (client, server) = parts(&world.cluster.get_at(&at, WHO)?);
                ensure!(client == CLIENT, "{client} has asked {at}");
                Ok(server)
            })
        });
    }
}

/// On a network of IPv6 alone nobody has an address of IPv4, nor is one told of anybody.
#[test]
fn services_without_ipv4_reach_each_other_and_are_reached() {
    if skip() {
        return;
    }
    let world = World::start(2);
    outside(&world, "add");
    world.deploy("six", &stack(ALONE));
    world.runs("six_web", 2);
    for asker in world.runs("six_asker", 2) {
        let name = || told(&world, &asker.id, "aaaa", "web");
        let vips = world.until("web is found", || {
            let vips = name();
            ensure!(vips.len() == 1, "{vips:?}");
            Ok(vips)
        });
        let vip = vips.into_iter().next().unwrap();
        assert_eq!(told(&world, &asker.id, "aaaa", "tasks.web").len(), 2);
        for name in ["web", "tasks.web"] {
            assert_eq!(told(&world, &asker.id, "a", name), BTreeSet::new(), "{name}");
        }
        let said = world.cluster.ctl(&["exec", &asker.id, "nslookup", &vip, "127.0.0.11"]).both();
        assert!(said.contains("name = six_web"), "{said}");
        let own =
            world.ok(&["exec", &asker.id, "ip", "-4", "-o", "address", "show", "dev", "eth0"]);
        assert_eq!(own, "", "{}", asker.host);
        // By name, as programs ask.
        world.until(&format!("{} hears from all by name", asker.host), || {
            hears_all(2, || {
                let (client, server) = parts(&hears(&world, &asker.id, "web")?);
                ensure!(client.starts_with("fd"), "{client} has asked");
                Ok(server)
            })
        });
    }
    all_lead_to_all(&world, 2);
    // Who asks by IPv4 is told at once that there is nobody.
    for host in &world.cluster.lab.hosts {
        let error = world.cluster.get(host, 8080, WHO).unwrap_err();
        assert!(format!("{error:#}").contains("refused"), "{error:#}");
    }
    world.until("nothing differs", || {
        let said = world.cluster.ctl(&["network", "verify"]).both();
        ensure!(said.contains("2 nodes looked at: 0 differences; 2 of 2 ways"), "{said}");
        Ok(())
    });
    world.remove("six");
    outside(&world, "del");
    world.end();
}
