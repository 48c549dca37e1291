//! Hosts that use addresses of their own.

use anyhow::{Result, ensure};
use shoal_tests::host::{Host, Role};
use shoal_tests::skip::skip;

use crate::dual::ip;
use crate::world::{World, page, service};

/// Gives a host a way to a subnet.
fn uses(host: &Host, interface: &str, address: &str) {
    ip(host, &["link", "add", interface, "type", "bridge"]);
    ip(host, &["address", "add", address, "dev", interface]);
    ip(host, &["link", "set", interface, "up"]);
}

/// A service of two tasks on a network with a subnet.
fn stack(subnet: &str) -> String {
    let lines = "networks: [net]\ndeploy: {replicas: 2, update_config: {monitor: 1s}}";
    service("web", &format!("{}\n{lines}", page("web")))
        + &format!(
            "networks:\n  net:\n    driver: overlay\n    ipam: {{config: [{{subnet: {subnet}}}]}}\n"
        )
}

#[test]
fn a_network_has_no_addresses_that_a_host_uses() {
    if skip() {
        return;
    }
    let world = World::start(2);
    world.deploy("before", &stack("10.67.1.0/24"));
    uses(world.cluster.host(2), "site7", "10.66.0.1/16");
    uses(world.cluster.host(2), "site8", "10.67.0.1/16");
    uses(world.cluster.host(2), "site9", "10.0.0.1/23");
    world.cluster.host(2).crash(Role::Agent).unwrap();
    world.cluster.host(2).start_agent().unwrap();
    world.until("the host says so", || -> Result<()> {
        let said = world.ok(&["node", "inspect", "h2", "--format", "json"]);
        ensure!(said.contains("site9"), "{said}");
        Ok(())
    });
    // By name, before anything is made.
    let create = ["network", "create", "--driver", "overlay"];
    let named = [&create[..], &["--subnet", "10.66.3.0/24", "new"]].concat();
    let said = world.cluster.ctl(&named).both();
    assert!(said.contains("node h2 has 10.66.0.0/16 by interface site7"), "{said}");
    world.deploy_badly("new", &stack("10.66.3.0/24"));
    // By choice.
    world.ok(&[&create[..], &["chosen"]].concat());
    let said = world.ok(&["network", "inspect", "chosen"]);
    assert!(said.contains("10.0.2.0/24"), "{said}");
    // What is there already goes where it can.
    world.deploy("before", &stack("10.67.1.0/24").replace("web", "two"));
    let tasks = world.runs("before_two", 2);
    assert!(
        tasks.iter().all(|task| task.host == "h1"),
        "{:?}",
        tasks.iter().map(|task| &task.host).collect::<Vec<_>>()
    );
    world.remove("before");
    world.ok(&["network", "rm", "chosen"]);
    for interface in ["site7", "site8", "site9"] {
        ip(world.cluster.host(2), &["link", "del", interface]);
    }
    world.end();
}
