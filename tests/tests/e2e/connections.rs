//! Single tasks that are connected to further networks while they run.

use anyhow::{Result, ensure};
use shoal_tests::host::Role;
use shoal_tests::skip::skip;

use crate::names::{exec, told, until_told};
use crate::world::{World, page};

/// What a task gets when it asks.
fn ask(world: &World, task: &str, address: &str, expected: &str) -> Result<()> {
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 8080 | tail -1");
    let said = world.cluster.ctl(&["exec", task, "sh", "-c", &script]).both();
    ensure!(said.starts_with(expected), "{task} asks {address}: {said:?}");
    Ok(())
}

fn first(world: &World, task: &str, name: &str) -> String {
    until_told(world, task, name, 1).pop_first().unwrap()
}

/// Two services on a network each, with a task on every host.
fn stack() -> String {
    let service = |name: &str, network: &str| {
        format!(
            "  {name}:\n    image: REGISTRY/busybox:1\n    stop_grace_period: 1s\n    {}\n    \
             networks: [{network}]\n    deploy: {{mode: global, update_config: {{monitor: 1s}}}}\n",
            page(name)
        )
    };
    format!(
        "services:\n{}{}networks:\n  back: {{driver: overlay}}\n  front: {{driver: overlay}}\n",
        service("web", "back"),
        service("guest", "front"),
    )
}

/// Connects a task; what makes no sense then is refused.
fn connect(world: &World, guest: &str) {
    let said = world.cluster.ctl(&["network", "connect", "--alias", "visitor", "net_back", guest]);
    assert_eq!(said.code, 0, "{}", said.both());
    let said = said.both();
    assert!(said.contains("is connected to net_back as 10."), "{said}");
    assert!(said.contains("the task that takes its place is not connected"), "{said}");
    let again = world.cluster.ctl(&["network", "connect", "net_back", guest]);
    assert!(again.code != 0 && again.both().contains("\"net_back\" already"), "{}", again.both());
    let own = world.cluster.ctl(&["network", "disconnect", "net_front", guest]);
    assert!(own.code != 0 && own.both().contains("service update --network-rm"), "{}", own.both());
    let used = world.cluster.ctl(&["network", "rm", "net_back"]);
    assert!(used.code != 0 && used.both().contains("in use"), "{}", used.both());
}

#[test]
fn a_running_task_joins_a_network_across_hosts_and_leaves_it() {
    if skip() {
        return;
    }
    let world = World::start(3);
    world.deploy("net", &stack());
    let guests = world.runs("net_guest", 3);
    let on = |host: &str| guests.iter().find(|guest| guest.host == host).unwrap().id.clone();
    let (guest, other_guest) = (on("h1"), on("h2"));
    let webs = world.runs("net_web", 3);
    let web = webs.iter().find(|web| web.host == "h3").unwrap().id.clone();
    exec(&world, &guest, "touch /tmp/mark").unwrap();
    let vip = first(&world, &web, "web");
    assert!(ask(&world, &guest, &vip, "web ").is_err());

    // It reaches the network's services and is reached, by name and from other hosts; its like on another host is not.
    connect(&world, &guest);
    let both_ways = |world: &World| {
        assert_eq!(first(world, &guest, "web"), vip);
        let visitor = first(world, &web, "visitor");
        world.until("the guest is served", || ask(world, &guest, &vip, "web "));
        world.until("the guest serves", || ask(world, &web, &visitor, "guest "));
        visitor
    };
    let visitor = both_ways(&world);
    assert!(told(&world, &other_guest, "web").is_empty());
    assert!(ask(&world, &other_guest, &vip, "web ").is_err());
    until_told(&world, &guest, "tasks.guest", 3);

    // Another agent goes on with it.
    let host = world.cluster.named("h1");
    host.crash(Role::Agent).unwrap();
    host.start_agent().unwrap();
    assert_eq!(both_ways(&world), visitor);

    // A network of the host itself: its way out stays where it was.
    let routes = |world: &World| exec(world, &guest, "ip route | grep default");
    let way_out = world.until("it has a way out", || routes(&world));
    world.ok(&["network", "connect", "bridge", &guest]);
    let links = |count: usize| {
        world.until(&format!("it has {count} links"), || {
            let said = exec(&world, &guest, "ip -o -4 addr | grep -c eth")?;
            ensure!(said.trim() == count.to_string(), "{said}");
            Ok(())
        });
    };
    links(3);
    assert_eq!(routes(&world).unwrap(), way_out);

    world.ok(&["network", "disconnect", "net_back", &guest]);
    world.ok(&["network", "disconnect", "--force", "net_back", &guest]);
    world.until("it is not known there any more", || {
        let told = told(&world, &web, "visitor");
        ensure!(told.is_empty(), "{told:?}");
        Ok(())
    });
    links(2);
    assert!(told(&world, &guest, "web").is_empty());
    assert!(ask(&world, &guest, &vip, "web ").is_err());
    assert!(ask(&world, &web, &visitor, "guest ").is_err());
    world.ok(&["network", "disconnect", "bridge", &guest]);
    links(1);
    assert_eq!(routes(&world).unwrap(), way_out);
    until_told(&world, &guest, "tasks.guest", 3);
    exec(&world, &guest, "ls /tmp/mark").unwrap();
    world.remove("net");
    world.end();
}
