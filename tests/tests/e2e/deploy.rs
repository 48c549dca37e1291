//! Stacks: deployed, reached, scaled, updated, rolled back, changed in part, removed.

use std::collections::BTreeSet;

use anyhow::ensure;
use shoal_tests::skip::skip;

use crate::world::{World, page, web};

const PORT: &str = "ports: [{target: 8080, published: 8080, mode: host}]";

fn pages(text: &str, more: &str) -> String {
    web(&format!("{}\n{PORT}\n{more}", page(text)))
}

#[test]
fn a_stack_serves_on_all_hosts_changes_and_goes() {
    if skip() {
        return;
    }
    let world = World::start(3);
    serves_everywhere(&world);
    scales(&world);
    updates_and_rolls_back(&world);
    changes_only_what_changed(&world);
    drains(&world);
    world.end();
}

fn serves_everywhere(world: &World) {
    world.deploy("shop", &pages("one", "deploy: {replicas: 3, update_config: {monitor: 1s}}"));
    let tasks = world.runs("shop_web", 3);
    let hosts: BTreeSet<&str> = tasks.iter().map(|t| t.host.as_str()).collect();
    assert_eq!(hosts.len(), 3, "one on each host: {tasks:#?}");
    let shown: BTreeSet<String> = hosts.iter().map(|host| world.page(host, 8080, "one")).collect();
    assert_eq!(shown.len(), 3, "each page is another container's: {shown:?}");
    let listed = world.ok(&["service", "ls"]);
    assert!(listed.contains("3/3"), "{listed}");
    let listed = world.ok(&["stack", "ls"]);
    assert!(listed.contains("shop"), "{listed}");
}

fn scales(world: &World) {
    world.ok(&["service", "scale", "shop_web=1"]);
    let left = world.runs("shop_web", 1);
    let gone = world.cluster.lab.hosts.iter().find(|h| h.name != left[0].host).unwrap();
    world.until("a port of a task that is gone is closed", || {
        ensure!(world.cluster.get(gone, 8080, "/").is_err(), "it still answers");
        Ok(())
    });
    world.ok(&["service", "scale", "shop_web=2"]);
    world.runs("shop_web", 2);
}

fn updates_and_rolls_back(world: &World) {
    let rest = "deploy: {replicas: 2, update_config: {monitor: 1s}}";
    world.deploy("shop", &pages("two", rest));
    for task in world.runs("shop_web", 2) {
        world.page(&task.host, 8080, "two");
    }
    world.ok(&["service", "rollback", "shop_web"]);
    for task in world.runs("shop_web", 2) {
        world.page(&task.host, 8080, "one");
    }
    // An update that fails goes back by itself, and says so by its exit code.
    let rest = "deploy: {replicas: 2, restart_policy: {delay: 1s}, update_config: {monitor: 5s, failure_action: rollback}}";
    let bad = web(&format!("command: [sh, -c, exit 3]\n{PORT}\n{rest}"));
    let said = world.cluster.deploy("shop", &bad);
    assert_eq!(said.code, 4, "{}", said.both());
    for task in world.runs("shop_web", 2) {
        world.page(&task.host, 8080, "one");
    }
}

fn changes_only_what_changed(world: &World) {
    let both = |text: &str| {
        format!(
            "{}  idle:\n    image: REGISTRY/busybox:1\n    command: [sleep, '1000']\n    stop_grace_period: 1s\n",
            pages(text, "deploy: {replicas: 1, update_config: {monitor: 1s}}")
        )
    };
    world.deploy("shop", &both("three"));
    let before = world.runs("shop_idle", 1);
    let said = world.deploy("shop", &both("four"));
    assert!(said.contains("shop_idle: unchanged"), "{said}");
    assert!(said.contains("shop_web: updated"), "{said}");
    assert_eq!(world.runs("shop_idle", 1), before);
    world.remove("shop");
}

fn drains(world: &World) {
    world.deploy("idle", &web("command: [sleep, '1000']\ndeploy: {replicas: 3}"));
    world.ok(&["node", "update", "--availability", "drain", "h2"]);
    world.until("a drained node has no tasks", || {
        let running = world.running("idle_web")?;
        ensure!(running.len() == 3 && running.iter().all(|t| t.host != "h2"), "{running:#?}");
        Ok(())
    });
    world.ok(&["node", "update", "--availability", "active", "h2"]);
    world.remove("idle");
}
