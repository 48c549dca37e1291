//! What cannot be done is said where a person looks for it, and leaves nothing behind.

use shoal_tests::host::REGISTRY;
use shoal_tests::skip::skip;

use crate::world::{World, page, web};

#[test]
fn each_refusal_says_why() {
    if skip() {
        return;
    }
    let world = World::start(2);
    commands_and_users(&world);
    places(&world);
    ports(&world);
    files(&world);
    names(&world);
    world.end();
}

fn commands_and_users(world: &World) {
    world.refused("command: [no-such-program]", &["no-such-program"]);
    world.refused("user: nobody-here\ncommand: ['true']", &["nobody-here"]);
}

fn places(world: &World) {
    world.refused(
        "command: [sleep, '9']\ndeploy: {placement: {constraints: [node.hostname == nowhere]}}",
        &["no suitable node", "2"],
    );
    world.refused(
        "command: [sleep, '9']\ndeploy: {resources: {reservations: {memory: 4096G}}}",
        &["no suitable node", "insufficient"],
    );
}

fn ports(world: &World) {
    let port = "ports: [{target: 8080, published: 8080, mode: host}]";
    world.deploy("first", &web(&format!("{}\n{port}\ndeploy: {{mode: global}}", page("mine"))));
    world.refused(&format!("command: [sleep, '9']\n{port}"), &["8080"]);
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
        ("services: &all\n  web: *all\n", ":2:", "alias"),
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
    let bomb = exploding_aliases();
    let said = world.cluster.deploy("file", &bomb);
    assert!(said.code != 0 && said.both().contains("alias"), "{}", said.both());
    let listed = world.ok(&["stack", "ls"]);
    assert!(!listed.contains("file"), "nothing was created: {listed}");
}

fn names(world: &World) {
    let image = format!("{REGISTRY}/busybox:1");
    let said = world.cluster.ctl(&["service", "create", "--name", "Not_A_Name!", &image]);
    assert_ne!(said.code, 0);
    assert!(said.both().contains("Not_A_Name!"), "{}", said.both());
}

/// Ten lists, each with ten times the one before.
fn exploding_aliases() -> String {
    let mut text = "x-0: &a0 [y]\n".to_owned();
    for level in 1..10 {
        let times = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("x-{level}: &a{level} [{times}]\n");
    }
    text + "services:\n  web:\n    image: x\n    command: *a9\n"
}
