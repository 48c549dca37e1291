use std::collections::BTreeMap;

use shoal_manager_state::Command;
use shoal_manager_state::testing::{
    cluster_with_nodes, global_spec, service_spec, with_host_port, with_networks, with_reservation,
    with_task,
};
use shoal_types::id::{NetworkId, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{EngineDescription, NodeDescription, NodeState, PluginDescription, Slot};
use shoal_types::resources::NANO_CPUS_PER_CPU;
use shoal_types::spec::{Availability, NetworkKind, Placement, Platform, ServiceSpec};

use super::filter::{Refusal, explain, has_platform};
use super::{Memory, plan};
use crate::liveness::there;
use crate::stage::Stage;

fn placed(spec: ServiceSpec, placement: Placement) -> ServiceSpec {
    with_task(spec, |task| task.placement = Some(placement))
}

fn why(stage: &Stage, service: ServiceId) -> String {
    stage
        .tasks(service)
        .into_iter()
        .map(|t| t.status.err)
        .find(|e| !e.is_empty())
        .unwrap_or_default()
}

#[test]
fn explanations_name_each_filter_with_counts_the_worst_first() {
    let counts = BTreeMap::from([
        (Refusal::Memory(64 << 20), 3),
        (Refusal::Down, 1),
        (Refusal::Port("80/tcp".to_owned()), 2),
    ]);
    assert_eq!(
        explain(&counts),
        "no suitable node (insufficient memory for a reservation of 64 MiB on 3 nodes; host port 80/tcp already in use on 2 \
         nodes; node is down on 1 node)"
    );
    assert_eq!(explain(&BTreeMap::new()), "no suitable node (the cluster has none)");
}

#[test]
fn a_platform_is_known_by_either_of_its_names() {
    let (cluster, nodes) = cluster_with_nodes(1);
    let node = cluster.state.node(nodes[0]).unwrap();
    let fits = |architecture: &str, os: &str| {
        let platforms = vec![Platform { architecture: architecture.into(), os: os.into() }];
        let spec = placed(service_spec("a", 1), Placement { platforms, ..Default::default() });
        has_platform(&spec.task_template, node)
    };
    assert_eq!(node.description.platform.architecture, "amd64");
    assert!(fits("amd64", "linux") && fits("x86_64", "linux") && fits("", "linux"));
    assert!(!fits("aarch64", "linux") && !fits("amd64", "windows"));
}

#[test]
fn each_filter_refuses_and_says_so() {
    let node_1 =
        Placement { constraints: vec!["node.hostname==nowhere".into()], ..Default::default() };
    let arm = Placement {
        platforms: vec![Platform { architecture: "arm64".into(), os: "linux".into() }],
        ..Default::default()
    };
    let cases = [
        (
            placed(service_spec("a", 1), node_1),
            "constraint node.hostname==nowhere not satisfied on 2 nodes",
        ),
        (placed(service_spec("b", 1), arm), "unsupported platform on 2 nodes"),
        (
            with_reservation(service_spec("c", 1), 1000 * NANO_CPUS_PER_CPU, 0),
            "insufficient CPU for a reservation of 1000 on 2",
        ),
        (
            with_reservation(service_spec("d", 1), 0, 1 << 60),
            "insufficient memory for a reservation of 1073741824 GiB on 2 nodes",
        ),
        (with_host_port(service_spec("e", 3), 80), "host port 80/tcp already in use on 2 nodes"),
        (
            placed(service_spec("f", 3), Placement { max_replicas: 1, ..Default::default() }),
            "max replicas per node limit exceeded on 2 nodes",
        ),
    ];
    for (spec, expected) in cases {
        let mut stage = Stage::new(2);
        let service = stage.service(spec);
        let why = why(&stage, service);
        assert!(why.contains(expected), "{why:?} lacks {expected:?}");
    }
}

#[test]
fn nodes_that_take_no_tasks_are_named() {
    let mut stage = Stage::new(3);
    stage.cluster.set_node(stage.nodes[0], NodeState::Down);
    stage.cluster.set_availability(stage.nodes[1], Availability::Drain);
    stage.cluster.set_availability(stage.nodes[2], Availability::Pause);
    let web = stage.service(service_spec("web", 1));
    assert_eq!(
        why(&stage, web),
        "no suitable node (node is down on 1 node; node is drained on 1 node; node is paused on 1 \
         node)"
    );
    let unable = there("too much for it", None, stage.cluster.now);
    let id = stage.nodes[0];
    stage.cluster.apply(Command::ReportNode { id, description: None, status: unable });
    stage.settle();
    assert!(why(&stage, web).contains("node cannot take its tasks on 1 node"));
    stage.cluster.set_node(stage.nodes[0], NodeState::Ready);
    stage.run();
    assert_eq!(stage.running(web).len(), 1, "a node that comes back is used");
}

#[test]
fn who_spans_nodes_needs_a_node_with_a_tunnel() {
    let mut stage = Stage::new(2);
    stage.cluster.add_overlay("net", None);
    stage.cluster.give_tunnel(stage.nodes[1], 1, 1);
    let node = stage.view().node(stage.nodes[0]).unwrap();
    let description = NodeDescription { level: Level::OVERLAY, ..node.description.clone() };
    let (description, status, id) = (Some(description), node.status.clone(), node.id);
    stage.cluster.apply(Command::ReportNode { id, description, status });
    let web = stage.service(with_networks(service_spec("web", 2), &["net"]));
    assert!(stage.tasks(web).iter().all(|task| task.node_id == Some(stage.nodes[1])));
    let alone = Placement { max_replicas: 1, ..Default::default() };
    let db = stage.service(with_networks(placed(service_spec("db", 2), alone), &["net"]));
    assert!(why(&stage, db).contains("node has no tunnel to other nodes on 1 node"));
    stage.cluster.give_tunnel(stage.nodes[0], 2, 2);
    stage.run();
    assert_eq!(stage.running(db).len(), 2, "a tunnel that is there at last is used");
}

#[test]
fn who_is_on_a_wire_needs_a_node_whose_kernel_has_the_driver() {
    let mut stage = Stage::new(2);
    stage.cluster.add_wire("lan", "192.168.1.0/24", "");
    let able = |stage: &mut Stage, n: usize, plugins: &[NetworkKind]| {
        let node = stage.view().node(stage.nodes[n]).unwrap();
        let plugins = plugins.iter().copied().map(PluginDescription::network).collect();
        let engine = EngineDescription { plugins, ..node.description.engine.clone() };
        let level = Level::WIRE;
        let description = NodeDescription { level, engine, ..node.description.clone() };
        let (description, status, id) = (Some(description), node.status.clone(), node.id);
        stage.cluster.apply(Command::ReportNode { id, description, status });
    };
    able(&mut stage, 0, &[NetworkKind::Ipvlan]);
    able(&mut stage, 1, &[]);
    let web = stage.service(with_networks(service_spec("web", 2), &["lan"]));
    assert_eq!(
        why(&stage, web),
        "no suitable node (network driver macvlan is not in the node's kernel on 2 nodes)"
    );
    // A tunnel is not needed.
    able(&mut stage, 0, &[NetworkKind::Macvlan]);
    stage.run();
    assert!(stage.tasks(web).iter().all(|task| task.node_id == Some(stage.nodes[0])));
}

#[test]
fn who_joins_a_network_needs_a_node_that_does_not_use_its_addresses() {
    let mut stage = Stage::new(2);
    for id in stage.nodes.clone() {
        stage.cluster.give_tunnel(id, 1, 1);
    }
    stage.cluster.add_overlay("net", Some("10.60.0.0/24"));
    let uses = |stage: &mut Stage, n: usize, subnet| {
        stage.cluster.set_host_subnets(stage.nodes[n], &[(subnet, "eth7")]);
    };
    uses(&mut stage, 0, "10.60.0.0/16");
    uses(&mut stage, 1, "10.60.1.0/24");
    let web = stage.service(with_networks(service_spec("web", 2), &["net"]));
    assert_eq!(stage.spread(web), [0, 2]);
    uses(&mut stage, 1, "10.60.0.128/25");
    let more = stage.service(with_networks(service_spec("more", 1), &["net"]));
    assert_eq!(
        why(&stage, more),
        "no suitable node (host uses addresses of 10.60.0.0/24 for something else on 2 nodes)"
    );
    // That of each node's own choice is another one.
    let own = stage.service(service_spec("own", 2));
    assert_eq!(stage.running(own).len(), 2);
}

#[test]
fn reservations_are_never_overdrawn() {
    let mut stage = Stage::new(2);
    let room = stage.view().node(stage.nodes[0]).expect("there").description.resources.memory_bytes;
    let web = stage.service(with_reservation(service_spec("web", 9), 0, room / 2));
    assert_eq!(stage.spread(web), [2, 2]);
}

#[test]
fn a_new_service_goes_where_least_runs() {
    let mut stage = Stage::new(2);
    let pinned =
        Placement { constraints: vec!["node.hostname==node-1".into()], ..Default::default() };
    stage.service(placed(service_spec("pinned", 3), pinned));
    let web = stage.service(service_spec("web", 1));
    assert_eq!(stage.spread(web), [0, 1]);
}

#[test]
fn no_more_nodes_are_looked_at_than_it_takes() {
    let (mut cluster, nodes) = cluster_with_nodes(500);
    let constraints = vec!["node.hostname!=node-1".to_owned()];
    let some = placed(service_spec("some", 3), Placement { constraints, ..Default::default() });
    let none = with_reservation(service_spec("none", 1), 0, 1 << 60);
    let mut memory = Memory::default();
    // The first refused, three taken, and the one that would be next; then all, as all refuse.
    for (spec, tasks, looks) in [(some, 3, 1 + 5), (none, 1, 1 + 500)] {
        let service = cluster.add_service(spec);
        for replica in 1..=tasks {
            cluster.add_task(service, replica);
        }
        let before = memory.size();
        cluster.events().iter().for_each(|event| memory.hear(event));
        let plan = plan(&cluster.state, &mut memory, cluster.now);
        assert_eq!(plan.commands.len() as u64, tasks);
        let looked = memory.size() - before;
        assert!(looked <= looks, "{looked} of {} nodes for {tasks} tasks", nodes.len());
        for command in plan.commands {
            cluster.apply(command);
        }
    }
}

#[test]
fn the_task_of_a_global_service_does_not_count_against_itself() {
    let mut stage = Stage::new(2);
    let one = Placement { max_replicas: 1, ..Default::default() };
    let log = stage.service(placed(global_spec("log"), one));
    assert_eq!(stage.spread(log), [1, 1], "{}", why(&stage, log));
}

#[test]
fn nodes_below_the_level_of_a_task_are_passed_over_and_named() {
    let mut stage = Stage::new(3);
    let second = Level::new(2);
    let web = stage.cluster.add_service(service_spec("web", 1));
    let (id, mut create) = stage.cluster.new_task(web, Slot::Replica(1));
    if let Command::CreateTask { level, .. } = &mut create {
        *level = second;
    }
    stage.cluster.apply(create);
    stage.settle();
    assert_eq!(
        why(&stage, web),
        "no suitable node (node is too old: feature level 2 needed on 3 nodes)"
    );
    let upgraded = stage.nodes[1];
    let node = stage.cluster.state.node(upgraded).unwrap().clone();
    let description = NodeDescription { level: second, ..node.description.clone() };
    let (description, status) = (Some(description), node.status.clone());
    stage.cluster.apply(Command::ReportNode { id: upgraded, description, status });
    stage.run();
    assert_eq!(stage.cluster.state.task(id).unwrap().node_id, Some(upgraded));
    // What every node can do goes anywhere.
    let all = stage.service(global_spec("all"));
    stage.run();
    assert_eq!(stage.running(all).len(), 3);
}

/// A network to connect to, and two tasks of a service of which the one of this number is connected.
fn connected_of_two(stage: &mut Stage, connected: usize) -> (NetworkId, [TaskId; 2]) {
    let web = stage.cluster.add_service(service_spec("web", 2));
    let network_id = stage.cluster.add_network("spare");
    let ids = [1, 2].map(|slot| stage.cluster.add_task(web, slot));
    let (id, aliases, addresses) = (ids[connected], Vec::new(), Vec::new());
    stage.cluster.apply(Command::ConnectTask { id, network_id, aliases, addresses });
    (network_id, ids)
}

/// The other one is placed, and this one waits for a node that could have connected it.
fn waits_for_itself(stage: &Stage, ids: [TaskId; 2], connected: usize) {
    let task = |n: usize| stage.cluster.state.task(ids[n]).unwrap();
    assert!(task(1 - connected).node_id.is_some(), "it needs no more than before");
    assert_eq!(task(connected).node_id, None);
    let why = &task(connected).status.err;
    assert!(why.contains("feature level 4 needed on 3 nodes"), "{why}");
}

/// It still needs a node that could have connected it, and its like do not. Whichever of them comes first.
#[test]
fn a_task_that_was_disconnected_is_placed_for_itself() {
    for connected in [0, 1] {
        let mut stage = Stage::new(3);
        let (network_id, ids) = connected_of_two(&mut stage, connected);
        let id = ids[connected];
        stage.cluster.apply(Command::DisconnectTask { id, network_id, force: false });
        stage.settle();
        waits_for_itself(&stage, ids, connected);
    }
}

/// Whichever of them comes first.
#[test]
fn a_task_that_was_connected_is_placed_for_itself() {
    for connected in [0, 1] {
        let mut stage = Stage::new(3);
        let (_, ids) = connected_of_two(&mut stage, connected);
        stage.settle();
        waits_for_itself(&stage, ids, connected);
        let able = stage.nodes[1];
        stage.cluster.set_level(able, Level::DUAL);
        stage.settle();
        assert_eq!(stage.cluster.state.task(ids[connected]).unwrap().node_id, Some(able));
    }
}
