//! Networks on the wire between hosts.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use shoal_tests::host::Role;
use shoal_tests::skip::skip;

use crate::dual::told;
use crate::world::{Task, World, page, service};

/// A service of two tasks on different hosts, and somebody who asks on each host, all on the wire between them.
fn stack(parent: &str, lines: &str) -> String {
    let placement = "networks: [lan]\n\
        deploy: {replicas: 2, placement: {max_replicas_per_node: 1}, update_config: {monitor: 1s}}";
    let asker = service("asker", &format!("command: [sleep, '1000']\n{placement}"));
    service("web", &format!("{}\n{placement}\n{lines}", page("web")))
        + &asker.replace("services:\n", "")
        + &format!(
            "networks:\n  lan:\n    driver: macvlan\n    driver_opts: {{parent: {parent}}}\n    ipam: {{config: [\
             {{subnet: 10.99.0.0/24, ip_range: 10.99.0.192/27, gateway: 10.99.0.1}}]}}\n"
        )
}

fn ask(world: &World, task: &str, address: &str) -> Result<String> {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 8080 | tail -1");
    let said = world.cluster.ctl(&["exec", task, "sh", "-c", &script]).both();
    ensure!(said.starts_with("web "), "{task} asks {address}: {said:?}");
    Ok(said)
}

/// Each task hears from both, by their own addresses.
fn all_reach_all(world: &World) {
    for asker in world.runs("net_asker", 2) {
        let addresses = world.until("a name leads to both tasks", || {
            let addresses = told(world, &asker.id, "a", "web");
            ensure!(addresses.len() == 2, "{addresses:?}");
            Ok(addresses)
        });
        assert!(addresses.iter().all(|at| at.starts_with("10.99.0.")), "{addresses:?}");
        let heard: BTreeSet<String> = addresses
            .iter()
            .map(|at| world.until("somebody answers", || ask(world, &asker.id, at)))
            .collect();
        assert_eq!(heard.len(), 2, "{heard:?}");
    }
}

#[test]
fn tasks_are_on_the_wire_between_hosts() {
    if skip() {
        return;
    }
    let world = World::start(2);
    let said = world.ok(&["node", "inspect", "h2"]);
    assert!(said.contains("macvlan"), "{said}");
    world.deploy("net", &stack("eth0", ""));
    world.runs("net_web", 2);
    all_reach_all(&world);

    // The agent is killed, and nobody notices.
    let host = world.cluster.named("h2");
    let before = world.runs("net_web", 2);
    host.crash(Role::Agent).unwrap();
    host.start_agent().unwrap();
    world.until("nothing is other than it should be", || {
        let said = world.cluster.ctl(&["network", "verify"]);
        ensure!(said.code == 0, "{}", said.both());
        Ok(())
    });
    all_reach_all(&world);
    let ids =
        |tasks: &[Task]| -> BTreeSet<String> { tasks.iter().map(|task| task.id.clone()).collect() };
    assert_eq!(ids(&world.runs("net_web", 2)), ids(&before));

    // What cannot be is said: at once where managers know, else by the node.
    let said = world.deploy_badly("net", &stack("eth0", "ports: ['8080:8080']"));
    assert!(said.contains("publishes ports, and its way out is network \"net_lan\""), "{said}");
    world.remove("net");
    world.deploy_badly("bad", &stack("eth9", ""));
    world.fails("bad_web", "on interface `eth9`, which node h");
    world.remove("bad");
    world.end();
}
