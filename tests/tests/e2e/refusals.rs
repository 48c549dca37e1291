//! What cannot be done is said where a person looks for it, and leaves nothing behind.

use anyhow::ensure;
use shoal_tests::host::{REGISTRY, run};
use shoal_tests::skip::skip;

use crate::world::{World, page, web};

#[test]
fn each_refusal_says_why() {
    if skip() {
        return;
    }
    let world = World::start(2);
    images_and_commands(&world);
    places(&world);
    ports(&world);
    files(&world);
    identities(&world);
    world.end();
}

/// Deploys what cannot run; the deploy and the list of tasks both have to say why.
fn refused(world: &World, lines: &str, expected: &[&str]) {
    let rest =
        if lines.contains("deploy:") { "" } else { "\ndeploy: {restart_policy: {delay: 1s}}" };
    let said = world.deploy_badly("bad", &web(&format!("{lines}{rest}")));
    let listed = world.ok(&["service", "ps", "--no-trunc", "bad_web"]);
    for part in expected {
        assert!(said.contains(part), "the deploy says {part:?}:\n{said}");
        assert!(listed.contains(part), "service ps says {part:?}:\n{listed}");
    }
    world.remove("bad");
}

fn images_and_commands(world: &World) {
    refused(world, "image: REGISTRY/nothing-here:1", &["nothing-here:1", "not"]);
    refused(world, "image: 10.99.0.1:5999/busybox:1", &["10.99.0.1:5999"]);
    let digest = format!("sha256:{}", "0".repeat(64));
    refused(world, &format!("image: REGISTRY/busybox@{digest}"), &["busybox"]);
    refused(world, "command: [no-such-program]", &["no-such-program"]);
    refused(world, "user: nobody-here\ncommand: ['true']", &["nobody-here"]);
}

fn places(world: &World) {
    refused(
        world,
        "command: [sleep, '9']\ndeploy: {placement: {constraints: [node.hostname == nowhere]}}",
        &["no suitable node", "2"],
    );
    refused(
        world,
        "command: [sleep, '9']\ndeploy: {resources: {reservations: {memory: 4096G}}}",
        &["no suitable node", "insufficient"],
    );
}

fn ports(world: &World) {
    let port = "ports: [{target: 8080, published: 8080, mode: host}]";
    world.deploy("first", &web(&format!("{}\n{port}\ndeploy: {{mode: global}}", page("mine"))));
    refused(world, &format!("command: [sleep, '9']\n{port}"), &["8080"]);
    world.page("h1", 8080, "mine");
    world.remove("first");
}

fn files(world: &World) {
    let table = [
        ("services:\n  web:\n    imgae: x\n", ":3:5", "image"),
        ("services:\n  web:\n    image: x\n    deploy: {replicas: many}\n", ":4:", "replicas"),
        ("services:\n  Web_Shop!:\n    image: x\n", ":2:3", "Web_Shop!"),
        ("services: [\n", ":1:11", "YAML"),
        ("services:\n  web:\n    image: x\n    build: .\n", ":4:5", "build"),
    ];
    for (text, place, word) in table {
        let said = world.cluster.deploy("file", text);
        assert_ne!(said.code, 0, "{text}");
        let said = said.both();
        assert!(
            said.contains("file.yaml") && said.contains(place) && said.contains(word),
            "{text}\n{said}"
        );
    }
    let listed = world.ok(&["stack", "ls"]);
    assert!(!listed.contains("file"), "nothing was created: {listed}");
}

fn identities(world: &World) {
    let cluster = &world.cluster;
    let token = world.ok(&["join-token", "-q", "worker"]);
    let second = cluster.host(2);
    let join = |token: &str| {
        let words = ["join", "--token", token, &cluster.host(1).address];
        run(cluster.lab.ctl(second).args(words), crate::world::PATIENCE).unwrap()
    };
    let said = join(token.trim());
    assert_eq!(said.code, 0, "a repeat changes nothing: {}", said.both());
    let said = join("SHOAL-1-nonsense");
    assert_ne!(said.code, 0);
    assert!(said.both().contains("token"), "{}", said.both());
    world.until("the cluster is as it was", || {
        let nodes = cluster.json(&["node", "ls"])?;
        ensure!(nodes.len() == 2, "{nodes:?}");
        Ok(())
    });
    let said = cluster.ctl(&[
        "service",
        "create",
        "--name",
        "Not_A_Name!",
        &format!("{REGISTRY}/busybox:1"),
    ]);
    assert_ne!(said.code, 0);
    assert!(said.both().contains("Not_A_Name!"), "{}", said.both());
}
