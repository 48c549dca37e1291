//! A host that leaves in good order: others run what it ran before it is gone, and its name is free.

use std::process::Stdio;

use anyhow::ensure;
use serde_json::Value;
use shoal_tests::cluster::at;
use shoal_tests::host::{Host, Said, run};
use shoal_tests::skip::skip;

use crate::world::{PATIENCE, World, service};

/// Stops when its grace period is over and not before.
const STUBBORN: &str = "command: [sh, -c, 'trap : TERM; while :; do sleep 1; done']";

fn on(world: &World, host: &Host, words: &[&str]) -> Said {
    run(world.cluster.lab.ctl(host).args(words), PATIENCE).unwrap()
}

/// Hosts of what runs and is wanted, sorted.
fn hosts(world: &World, service: &str) -> Vec<String> {
    let mut hosts: Vec<String> =
        world.running(service).unwrap().into_iter().map(|task| task.host).collect();
    hosts.sort();
    hosts
}

fn nodes(world: &World) -> Vec<(String, String)> {
    let nodes = world.cluster.json(&["node", "ls"]).unwrap();
    let text = |node: &Value, pointer: &str| at(node, pointer).to_owned();
    let seen = |n: &Value| (text(n, "/Description/Hostname"), text(n, "/Spec/Availability"));
    nodes.iter().map(seen).collect()
}

#[test]
fn a_host_leaves_when_others_run_what_it_ran() {
    if skip() {
        return;
    }
    let world = World::start(3);
    let spread = "deploy: {replicas: 3, placement: {max_replicas_per_node: 2}}";
    let one = "deploy: {placement: {constraints: [node.hostname != h1]}}";
    let yaml = service("web", &format!("command: [sleep, '1000']\n{spread}"))
        + service("db", &format!("command: [sleep, '1000']\n{one}"))
            .trim_start_matches("services:\n");
    world.deploy("shop", &yaml);
    assert_eq!(hosts(&world, "shop_web"), ["h1", "h2", "h3"]);
    let leaver = world.running("shop_db").unwrap().remove(0).host;
    let stays = if leaver == "h2" { "h3" } else { "h2" };
    let pinned = format!(
        "{STUBBORN}\nstop_grace_period: 5s\ndeploy: {{placement: {{constraints: [node.hostname == {leaver}]}}}}"
    );
    let yaml = service("one", &pinned).replacen("    stop_grace_period: 1s\n", "", 1);
    world.deploy("pin", &yaml);

    interrupted(&world, &leaver);
    let said = on(&world, world.cluster.named(&leaver), &["leave"]);
    // The facts at the moment when it says so, not some time later.
    let web = hosts(&world, "shop_web");
    assert_eq!(said.code, 0, "{}", said.both());
    assert!(web.len() == 3 && !web.contains(&leaver), "{web:?}: {}", said.both());
    assert_eq!(hosts(&world, "shop_db"), [stays]);
    assert!(world.cluster.named(&leaver).supervisors().is_empty(), "{}", said.both());
    let left = nodes(&world);
    assert!(left.len() == 2 && left.iter().all(|(name, _)| *name != leaver), "{left:?}");
    let told = format!("{leaver}: empty\nthis host left the cluster\n");
    assert!(said.out.contains("drained already") && said.out.ends_with(&told), "{}", said.both());
    assert!(said.err.contains("no other node takes") && said.err.contains("pin_one.1"));
    comes_back(&world, &leaver);
    world.remove("shop");
    world.remove("pin");
    world.end();
}

/// Given up, and killed, between draining and removal: it says where it stands, and can be repeated.
fn interrupted(world: &World, leaver: &str) {
    let host = world.cluster.named(leaver);
    let said = on(world, host, &["leave", "--timeout", "1s"]);
    assert_eq!(said.code, 5, "{}", said.both());
    for part in ["not empty after 1 s: ", "pin_one.1", "still a member, and drained", "--force"] {
        assert!(said.err.contains(part), "{part}: {}", said.both());
    }
    let mut command = world.cluster.lab.ctl(host);
    command.arg("leave").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut killed = command.spawn().unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(nodes(world).contains(&(leaver.to_owned(), "drain".to_owned())));
}

/// Under its old name, which means the living node.
fn comes_back(world: &World, leaver: &str) {
    let host = world.cluster.named(leaver);
    let token = world.ok(&["join-token", "-q", "worker"]);
    let said = on(world, host, &["join", "--token", token.trim(), &world.cluster.host(1).address]);
    assert_eq!(said.code, 0, "{}", said.both());
    world.until("what only this host may run runs there again", || {
        let tasks = world.cluster.json(&["node", "ps", leaver])?;
        let runs = |t: &&Value| at(t, "/Status/State") == "running";
        let names: Vec<&str> = tasks.iter().filter(runs).map(|t| at(t, "/ServiceName")).collect();
        ensure!(names == ["pin_one"], "{tasks:#?}");
        Ok(())
    });
    let node = world.cluster.json(&["node", "inspect", leaver]).unwrap().remove(0);
    assert_eq!((at(&node, "/Status/State"), at(&node, "/Spec/Availability")), ("ready", "active"));
}
