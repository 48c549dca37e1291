//! What a host is told of its links to others when it joins.

use shoal_tests::host::{Said, run};
use shoal_tests::skip::skip;

use crate::world::{PATIENCE, World, web};

fn on_h2(world: &World, words: &[&str]) -> Said {
    let said = run(world.cluster.lab.ctl(world.cluster.named("h2")).args(words), PATIENCE).unwrap();
    assert_eq!(said.code, 0, "{}", said.both());
    said
}

fn joins(world: &World) -> Said {
    let token = world.ok(&["join-token", "-q", "worker"]);
    on_h2(world, &["join", "--token", token.trim(), &world.cluster.host(1).address])
}

/// What is on the switch lets no large packets of UDP pass that come from this host, and says nothing.
fn narrow(world: &World, words: &str) {
    let mut nft = world.cluster.lab.on_switch("nft");
    let said = run(nft.args(words.split(' ')), PATIENCE).unwrap();
    assert_eq!(said.code, 0, "{}", said.both());
}

#[test]
fn a_host_that_joins_hears_which_packets_pass_to_others() {
    if skip() {
        return;
    }
    let world = World::start(2);
    // Every node leads to it, so there are links between all.
    world.deploy("app", &web("ports: ['8080:80']\ncommand: [sleep, '1000']"));
    on_h2(&world, &["leave", "--force"]);
    let said = joins(&world);
    let whole = "packets of every size pass to 1 other node and back";
    assert!(said.err.contains(whole), "{}", said.both());
    assert!(said.out.starts_with("this host joined the cluster as a"), "{}", said.both());

    on_h2(&world, &["leave", "--force"]);
    narrow(&world, "add table netdev narrow");
    narrow(
        &world,
        "add chain netdev narrow in { type filter hook ingress device h2 priority 0 ; }",
    );
    narrow(&world, "add rule netdev narrow in ip protocol udp ip length > 1300 drop");
    let said = joins(&world);
    let h1 = &world.cluster.host(1).address;
    for part in
        ["warning: only packets of up to 12", h1.as_str(), "expected 1420", "--data-path-port"]
    {
        assert!(said.err.contains(part), "{part:?}: {}", said.both());
    }
    world.remove("app");
    world.end();
}
