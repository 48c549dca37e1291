use shoal_types::id::{ID_LEN, ServiceId};
use shoal_types::object::Slot;
use shoal_types::task_state::TaskState;

use crate::testing::{cluster_with_nodes, global_spec, service_spec, with_networks};
use crate::{Command, ObjectKind, Unresolved};

#[test]
fn id_before_name_before_prefix() {
    let (mut cluster, _) = cluster_with_nodes(1);
    let mut create = |id: &str, name: &str| {
        let id: ServiceId = id.parse().unwrap();
        let deployment_id = shoal_types::id::IdSource::next_id(&mut cluster.ids);
        let spec = service_spec(name, 1).into();
        cluster.apply(Command::CreateService { id, deployment_id, spec });
        id
    };
    let first = create("a1c0000000000000000000000", "web");
    let second = create("a1d0000000000000000000000", "a1");
    let third = create("b000000000000000000000000", "a1c0000000000000000000000");
    let last = create("f5lxx1zz5pnorynqglhzmsp33", "end");
    assert_eq!(last.bits(), u128::MAX);

    let found = |reference: &str| cluster.state.resolve_service(reference).map(|s| s.id);
    let cases = [
        ("web", first),
        // Also the name of the third.
        ("a1c0000000000000000000000", first),
        // Also the beginning of two ids.
        ("a1", second),
        ("a1c", first),
        ("a1d", second),
        ("b", third),
        ("f", last),
        ("f5lxx1zz5pnorynqglhzmsp3", last),
    ];
    for (reference, expected) in cases {
        assert_eq!(found(reference), Ok(expected), "{reference}");
    }
    let long = "a".repeat(ID_LEN + 1);
    for reference in ["", "c", "A1C", "we", "z", "zzzzzzzzzzzzzzzzzzzzzzzzz", "ä", "a.1", &long] {
        let (kind, reference) = (ObjectKind::Service, reference.to_owned());
        assert_eq!(found(&reference.clone()), Err(Unresolved::NotFound { kind, reference }));
    }
    match found("a") {
        Err(Unresolved::Ambiguous { first: a, second: b, .. }) => {
            assert_eq!((a, b), (first.to_string(), second.to_string()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn host_names_may_be_ambiguous() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    assert_eq!(cluster.state.resolve_node("node-2").unwrap().id, nodes[1]);
    let twin = cluster.add_node("node-2");
    assert!(matches!(cluster.state.resolve_node("node-2"), Err(Unresolved::Ambiguous { .. })));
    // A dead one does not hide the living one of its name.
    cluster.set_node(nodes[1], shoal_types::object::NodeState::Down);
    assert_eq!(cluster.state.resolve_node("node-2").unwrap().id, twin);
    cluster.set_node(twin, shoal_types::object::NodeState::Down);
    assert!(matches!(cluster.state.resolve_node("node-2"), Err(Unresolved::Ambiguous { .. })));
    cluster.set_node(nodes[1], shoal_types::object::NodeState::Ready);
    cluster.set_node(twin, shoal_types::object::NodeState::Ready);
    assert_eq!(cluster.state.resolve_node(&twin.to_string()).unwrap().id, twin);
    let mut spec = cluster.state.node(twin).unwrap().spec.clone();
    spec.name = "twin".to_owned();
    cluster.apply(Command::UpdateNode { id: twin, expected: 1, spec });
    assert_eq!(cluster.state.resolve_node("twin").unwrap().id, twin);
}

#[test]
fn the_name_of_a_task_means_the_one_that_matters() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let web = cluster.add_service(service_spec("web", 2));
    let found = |cluster: &crate::testing::TestCluster, name: &str| {
        cluster.state.resolve_task(name).map(|t| t.id)
    };
    assert!(found(&cluster, "web.1").is_err());
    let old = cluster.add_running(web, 1, nodes[0]);
    assert_eq!(found(&cluster, "web.1"), Ok(old));
    cluster.report(old, TaskState::Failed);
    cluster.advance(std::time::Duration::from_secs(1));
    let newer = cluster.add_running(web, 1, nodes[0]);
    assert_eq!(found(&cluster, "web.1"), Ok(newer));
    cluster.report(newer, TaskState::Failed);
    assert_eq!(found(&cluster, "web.1"), Ok(newer), "the newest, as all have ended");
    assert_eq!(found(&cluster, &old.to_string()), Ok(old));
    assert!(found(&cluster, "web.2").is_err());

    let agent = cluster.add_service(global_spec("agent"));
    let (id, command) = cluster.new_task(agent, Slot::Node(nodes[0]));
    cluster.apply(command);
    assert_eq!(found(&cluster, &format!("agent.{}", nodes[0])), Ok(id));
}

#[test]
fn lists_by_index() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let (a, b) =
        (cluster.add_service(service_spec("a", 2)), cluster.add_service(service_spec("b", 2)));
    let a1 = cluster.add_running(a, 1, nodes[0]);
    let a2 = cluster.add_running(a, 2, nodes[1]);
    let b1 = cluster.add_running(b, 1, nodes[1]);
    let ids = |tasks: Vec<shoal_types::id::TaskId>| {
        let mut tasks = tasks;
        tasks.sort();
        tasks
    };
    let state = &cluster.state;
    assert_eq!(state.tasks_of_service(a).map(|t| t.id).collect::<Vec<_>>(), [a1, a2]);
    let of_slot = state.tasks_of_slot(a, Slot::Replica(2)).map(|t| t.id);
    assert_eq!(of_slot.collect::<Vec<_>>(), [a2]);
    let on_node = state.tasks_on_node(nodes[1]).map(|t| t.id).collect();
    assert_eq!(ids(on_node), ids(vec![a2, b1]));
    assert_eq!(state.node_usage(nodes[1]).tasks, 2);
    assert_eq!(state.node_usage(99.into()).tasks, 0);
}

#[test]
fn a_network_leads_to_the_nodes_whose_tasks_join_it() {
    let (mut cluster, nodes) = cluster_with_nodes(3);
    let net = cluster.add_network("net");
    let web = cluster.add_service(with_networks(service_spec("web", 4), &["net"]));
    cluster.add_service(service_spec("other", 1));
    let of = |cluster: &crate::testing::TestCluster| -> Vec<_> {
        cluster.state.nodes_of_network(net).collect()
    };
    cluster.add_task(web, 4);
    assert_eq!(of(&cluster), [], "it has no node yet");
    let tasks = [(1, 0), (2, 0), (3, 2)].map(|(n, node)| cluster.add_running(web, n, nodes[node]));
    let mut both = vec![nodes[0], nodes[2]];
    both.sort();
    assert_eq!(of(&cluster), both);
    cluster.report(tasks[0], TaskState::Failed);
    assert_eq!(of(&cluster), both, "another one is there");
    cluster.report(tasks[1], TaskState::Failed);
    assert_eq!(of(&cluster), [nodes[2]]);
    cluster.check();
}
