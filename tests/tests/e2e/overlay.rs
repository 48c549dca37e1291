//! Networks that span hosts: who reaches whom, and what mends what.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use shoal_tests::cluster::at;
use shoal_tests::host::{Role, kill};
use shoal_tests::skip::skip;

use crate::world::{World, page};

/// A service that answers with its name and its container's, and one that asks; each on every host.
pub(crate) fn stack() -> String {
    let service = |name: &str, lines: &str, network: &str| {
        format!(
            "  {name}:\n    image: REGISTRY/busybox:1\n    stop_grace_period: 1s\n    {lines}\n    \
             networks: [{network}]\n    deploy: {{mode: global, update_config: {{monitor: 1s}}}}\n"
        )
    };
    let sleeps = "command: [sleep, '1000']";
    format!(
        "services:\n{}{}{}networks:\n  back: {{driver: overlay}}\n  other: {{driver: overlay}}\n",
        service("web", &page("web"), "back"),
        service("asker", sleeps, "back"),
        service("stranger", sleeps, "other"),
    )
}

/// The address of a service, without its prefix.
pub(crate) fn vip(world: &World, service: &str) -> String {
    let services = world.cluster.json(&["service", "inspect", service]).unwrap();
    let address = at(&services[0], "/Endpoint/VirtualIPs/0/Addr");
    address.split('/').next().unwrap().to_owned()
}

/// What a task gets when it asks.
fn ask(world: &World, task: &str, address: &str) -> Result<String> {
    // A static busybox cannot look names up, which its wget does even for an address.
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 8080 | tail -1");
    let said = world.cluster.ctl(&["exec", task, "sh", "-c", &script]).both();
    ensure!(said.starts_with("web "), "{task} asks {address}: {said:?}");
    Ok(said)
}

/// Every task that asks hears from each of the three that answer.
pub(crate) fn all_reach_all(world: &World) {
    reach_all(world, |_| true);
}

/// The same of those on some hosts.
fn reach_all(world: &World, hosts: impl Fn(&str) -> bool) {
    let address = vip(world, "net_web");
    for asker in world.runs("net_asker", 3).into_iter().filter(|asker| hosts(&asker.host)) {
        world.until(&format!("the one on {} hears from all", asker.host), || {
            let mut heard = BTreeSet::new();
            for _ in 0..24 {
                heard.insert(ask(world, &asker.id, &address)?);
                if heard.len() == 3 {
                    return Ok(());
                }
            }
            anyhow::bail!("only {heard:?}")
        });
    }
}

#[test]
fn services_on_different_hosts_reach_each_other() {
    if skip() {
        return;
    }
    let world = World::start(3);
    world.deploy("net", &stack());
    world.runs("net_web", 3);
    all_reach_all(&world);

    // Another network does not, on no host.
    let address = vip(&world, "net_web");
    for stranger in world.runs("net_stranger", 3) {
        assert!(ask(&world, &stranger.id, &address).is_err(), "{stranger:?}");
    }

    // The agent is killed: nobody notices. The tunnel is, and its interface is deleted: they are back.
    let host = world.cluster.named("h2");
    host.crash(Role::Agent).unwrap();
    reach_all(&world, |host| host != "h2");
    host.start_agent().unwrap();
    for process in host.processes() {
        if process.command.contains(" tunnel") {
            kill(process.pid);
        }
    }
    all_reach_all(&world);
    let deleted = host.command("ip").unwrap().args(["link", "del", "shwg0"]).status().unwrap();
    assert!(deleted.success());
    all_reach_all(&world);

    world.remove("net");
    world.end();
}
