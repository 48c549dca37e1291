//! Hosts whose wires take more than usual, beside one whose does not.

use anyhow::{Context as _, Result, ensure};
use shoal_tests::host::run;
use shoal_tests::skip::skip;

use crate::verify::{stack, verify, ways};
use crate::world::{PATIENCE, Task, World};

/// The wire of a host takes so much from now on.
fn take(world: &World, host: &str, mtu: &str) {
    let switch = world.cluster.lab.on_switch("ip");
    let own = world.cluster.named(host).command("ip").unwrap();
    for (mut ip, link) in [(switch, host), (own, "eth0")] {
        let said = run(ip.args(["link", "set", link, "mtu", mtu]), PATIENCE).unwrap();
        assert_eq!(said.code, 0, "{}", said.both());
    }
}

/// Between hosts with wide wires packets of this size pass, to and from h3 usual ones, and nothing is wrong.
fn until_passes(world: &World, wide: u64) {
    world.until(&format!("packets of {wide} bytes pass"), || {
        let (code, found) = verify(world, &[])?;
        ensure!(code == 0, "{code}: {found:#}");
        let ways = ways(&found);
        ensure!(ways.len() == 6, "{found:#}");
        for (from, to, passes, full) in ways {
            let expected = if from == "h3" || to == "h3" { 1420 } else { wide };
            ensure!((passes, full) == (expected, expected), "{from} to {to}: {passes} of {full}");
        }
        Ok(())
    });
}

/// A container has one of another answer an echo of this size, once it knows which size the way takes.
fn pings(world: &World, from: &Task, to: &Task, size: &str) {
    let own = "ip -4 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1";
    let address = world.ok(&["exec", &to.id, "sh", "-c", own]);
    world.until(&format!("{size} bytes go from {} to {}", from.host, to.host), || {
        let words =
            ["exec", &from.id, "busybox", "ping", "-c", "1", "-W", "2", "-s", size, address.trim()];
        let said = world.cluster.ctl(&words);
        ensure!(said.code == 0, "{}", said.both());
        Ok(())
    });
}

fn mtu(world: &World, task: &Task) -> Result<u32> {
    let said = world.cluster.ctl(&["exec", &task.id, "cat", "/sys/class/net/eth0/mtu"]).both();
    said.trim().parse().with_context(|| said.clone())
}

#[test]
fn packets_between_hosts_are_as_large_as_their_wires_take() {
    if skip() {
        return;
    }
    let world = World::start(3);
    world.deploy("net", &stack());
    let tasks = world.runs("net_web", 3);
    let on = |host: &str| tasks.iter().find(|task| task.host == host).unwrap();
    until_passes(&world, 1420);
    for host in ["h1", "h2"] {
        take(&world, host, "9000");
    }
    until_passes(&world, 8920);
    // Containers that were there have it, too.
    world.until("containers have larger packets", || {
        for (host, expected) in [("h1", 8920), ("h2", 8920), ("h3", 1420)] {
            let mtu = mtu(&world, on(host))?;
            ensure!(mtu == expected, "{host}: {mtu}");
        }
        Ok(())
    });
    for (from, to) in [("h1", "h2"), ("h2", "h1"), ("h1", "h3"), ("h3", "h1")] {
        pings(&world, on(from), on(to), "8800");
    }
    take(&world, "h2", "1500");
    until_passes(&world, 1420);
    for (from, to) in [("h1", "h2"), ("h2", "h1"), ("h1", "h3")] {
        pings(&world, on(from), on(to), "8800");
    }
    world.remove("net");
    world.end();
}
