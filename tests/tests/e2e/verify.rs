//! Looking at networks: `network verify` on real hosts.

use anyhow::{Result, ensure};
use serde_json::Value;
use shoal_tests::cluster::at;
use shoal_tests::host::{Host, Role};
use shoal_tests::skip::skip;

use crate::world::{World, page};

/// A service on every host, on one network that spans them.
pub(crate) fn stack() -> String {
    format!(
        "services:\n  web:\n    image: REGISTRY/busybox:1\n    stop_grace_period: 1s\n    {}\n    \
         networks: [back]\n    deploy: {{mode: global, update_config: {{monitor: 1s}}}}\n\
         networks:\n  back: {{driver: overlay}}\n",
        page("web")
    )
}

/// What is found, with the code of the command.
pub(crate) fn verify(world: &World, words: &[&str]) -> Result<(i32, Value)> {
    let said = world.cluster.ctl(&[&["--format", "json", "network", "verify"], words].concat());
    Ok((said.code, serde_json::from_str(&said.out)?))
}

/// Pairs of nodes, with what passes from one to the other and what should.
pub(crate) fn ways(found: &Value) -> Vec<(String, String, u64, u64)> {
    let nodes = found["Nodes"].as_array().unwrap();
    let of = |node: &Value| {
        let from = at(node, "/Hostname").to_owned();
        let reached = node["Reached"].as_array().cloned().unwrap();
        reached.into_iter().map(move |reach| {
            let number = |field: &str| reach[field].as_u64().unwrap();
            let to = at(&reach, "/Hostname").to_owned();
            (from.clone(), to, number("PassesBytes"), number("FullBytes"))
        })
    };
    nodes.iter().flat_map(of).collect()
}

fn until_all_is_well(world: &World) {
    world.until("all is well", || {
        let (code, found) = verify(world, &[])?;
        ensure!(code == 0, "{code}: {found:#}");
        ensure!(ways(&found).len() == 6, "{found:#}");
        Ok(())
    });
}

/// Somebody's firewall before a host, which lets in what no rule drops.
struct Wall<'a>(&'a Host);

impl<'a> Wall<'a> {
    fn before(host: &'a Host) -> Self {
        let wall = Self(host);
        wall.nft(&["add", "table", "ip", "wall"]);
        let chain = "{ type filter hook prerouting priority -500; policy accept; }";
        wall.nft(&["add", "chain", "ip", "wall", "in", chain]);
        wall
    }

    fn add(&self, rule: &str) {
        self.nft(&["add", "rule", "ip", "wall", "in", rule]);
    }

    fn fall(self) {
        self.nft(&["delete", "table", "ip", "wall"]);
    }

    fn nft(&self, words: &[&str]) {
        let status = self.0.command("nft").unwrap().args(words).status().unwrap();
        assert!(status.success(), "{words:?}");
    }
}

#[test]
fn what_is_wrong_with_networks_is_named() {
    if skip() {
        return;
    }
    let world = World::start(3);
    world.deploy("net", &stack());
    world.runs("net_web", 3);
    until_all_is_well(&world);
    let said = world.ok(&["network", "verify"]);
    assert!(said.contains("3 nodes looked at: 0 differences; 6 of 6 ways"), "{said}");
    let (_, found) = verify(&world, &["net_back"]).unwrap();
    assert_eq!(ways(&found).len(), 6);
    let (_, found) = verify(&world, &["--peers", "1"]).unwrap();
    assert_eq!(ways(&found).len(), 3, "each tries one of its two peers");
    let none = world.cluster.ctl(&["network", "verify", "nothing"]);
    assert_eq!(none.code, 1, "{}", none.both());

    // Somebody's firewall lets nothing large into h2. What h2 asks for is answered with something as large.
    let host = world.cluster.named("h2");
    let wall = Wall::before(host);
    wall.add("udp dport 51820 ip length > 1400 drop");
    world.until("the narrow ways are named", || {
        let (code, found) = verify(&world, &[])?;
        ensure!(code == 9, "{code}: {found:#}");
        for (from, to, passes, full) in ways(&found) {
            let narrow = from == "h2" || to == "h2";
            ensure!(narrow == (passes < full), "{from} to {to}: {passes} of {full}");
            // 20 of IPv4, 8 of UDP, 32 of WireGuard, in sixteens.
            ensure!(!narrow || (1325..=1340).contains(&passes), "{from} to {to}: {passes}");
        }
        Ok(())
    });
    let said = world.cluster.ctl(&["network", "verify"]);
    assert!(said.code == 9 && said.out.contains("2 of 6 ways"), "{}", said.both());
    // And then nothing at all.
    wall.add("udp dport 51820 drop");
    world.until("the broken ways are named", || {
        let (_, found) = verify(&world, &[])?;
        let broken = |(from, to, passes, _): &(String, String, u64, u64)| {
            (*passes == 0) == (from == "h2" || to == "h2")
        };
        ensure!(ways(&found).iter().all(broken), "{found:#}");
        Ok(())
    });
    wall.fall();
    until_all_is_well(&world);

    // Who does not answer is named.
    host.crash(Role::Agent).unwrap();
    world.until("who is away is named", || {
        let (code, found) = verify(&world, &[])?;
        ensure!(code == 9 && at(&found, "/Silent/0/Hostname") == "h2", "{found:#}");
        Ok(())
    });
    host.start_agent_with(&[("SHOAL_METRICS_ADDR", "0.0.0.0:9323")]).unwrap();
    until_all_is_well(&world);
    links_are_measured(&world);
    world.remove("net");
    world.end();
}

/// What the agent of h2 tells of its links goes up with what is sent.
fn links_are_measured(world: &World) {
    let figures = || -> Result<Vec<(String, f64)>> {
        let text = world.cluster.get(world.cluster.named("h2"), 9323, "/metrics")?;
        ensure!(text.ends_with("# EOF\n"), "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.rsplit_once(' '));
        pairs.map(|(name, value)| Ok((name.to_owned(), value.parse()?))).collect()
    };
    let of = |all: &[(String, f64)], name: &str| -> Vec<f64> {
        let named = all.iter().filter(|(said, _)| said.split('{').next() == Some(name));
        named.map(|(_, value)| *value).collect()
    };
    let before = figures().unwrap();
    for (name, expected) in [
        ("shoal_tunnel_up", 1.0),
        ("shoal_tunnel_peers", 2.0),
        ("shoal_tunnel_mtu_bytes", 1420.0),
        ("shoal_tunnel_findings", 0.0),
        ("shoal_tunnel_troubled_links", 0.0),
        ("shoal_names_up", 1.0),
    ] {
        assert_eq!(of(&before, name), [expected], "{name}");
    }
    let running = ("shoal_tasks{state=\"running\"}".to_owned(), 1.0);
    assert!(before.contains(&running), "{before:?}");
    assert_eq!(of(&before, "shoal_tunnel_peer_handshake_age_seconds").len(), 2, "{before:?}");
    // Each other node is sent packets of full size.
    verify(world, &[]).unwrap();
    let after = figures().unwrap();
    for name in ["shoal_tunnel_peer_sent_bytes_total", "shoal_tunnel_peer_received_bytes_total"] {
        let (before, after) = (of(&before, name), of(&after, name));
        assert_eq!(after.len(), 2, "{name}");
        let grown = before.iter().sum::<f64>() + 2.0 * 1420.0 <= after.iter().sum::<f64>();
        assert!(grown, "{name}: {before:?}, then {after:?}");
    }
}

/// The verdicts of a trace, with the code of the command.
fn trace(world: &World, from: &str, to: &str) -> Result<(i32, Vec<Value>)> {
    let said = world.cluster.ctl(&["--format", "json", "network", "trace", from, to]);
    let steps: Value = serde_json::from_str(&said.out).map_err(|_| anyhow::anyhow!(said.both()))?;
    Ok((said.code, steps.as_array().cloned().unwrap_or_default()))
}

#[test]
fn where_a_packet_stops_is_named() {
    if skip() {
        return;
    }
    let world = World::start(3);
    let other = stack().replace("back", "other");
    world.deploy("far", &other);
    let published = "    ports: ['8080:8080']\n    networks: [back]\n";
    world.deploy("net", &stack().replace("    networks: [back]\n", published));
    let tasks = world.runs("net_web", 3);
    let on = |host: &str| &tasks.iter().find(|task| task.host == host).unwrap().id;
    let stranger = world.runs("far_web", 3).remove(0).id;
    let arrives = |from: &str, to: &str| {
        world.until(&format!("a packet of {from} arrives at {to}"), || {
            let (code, steps) = trace(&world, from, to)?;
            ensure!(code == 0 && steps.len() > 1, "{code}: {steps:#?}");
            Ok(())
        });
    };
    for to in ["net_web:8080", on("h2"), on("h1"), "h3:8080"] {
        arrives(on("h1"), to);
    }
    arrives("h1", "h2:8080");

    // Nothing that they have in common.
    let said = world.cluster.ctl(&["network", "trace", on("h1"), &stranger]);
    assert!(said.code == 9 && said.both().contains("in common"), "{}", said.both());
    let said = world.cluster.ctl(&["network", "trace", on("h1"), "nobody"]);
    assert_ne!(said.code, 0, "{}", said.both());

    // Nothing gets into h2.
    let host = world.cluster.named("h2");
    let wall = Wall::before(host);
    wall.add("udp dport 51820 drop");
    world.until("the way to h2 is what stops it", || {
        let (code, steps) = trace(&world, on("h1"), on("h2"))?;
        let stops = steps.iter().find(|step| step["Verdict"] == "stops");
        let named = stops.is_some_and(|step| step.to_string().contains("h2"));
        ensure!(code == 9 && named, "{code}: {steps:#?}");
        Ok(())
    });
    arrives(on("h1"), on("h3"));
    wall.fall();
    arrives(on("h1"), on("h2"));
    world.remove("net");
    world.remove("far");
    world.end();
}
