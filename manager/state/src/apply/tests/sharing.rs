//! Sharing the network of another service: who may, with whom, and which task with which.

use std::sync::Arc;

use shoal_types::id::TaskId;
use shoal_types::level::Level;
use shoal_types::spec::StackSpec;
use shoal_types::task_state::{DesiredState, TaskState};

use super::refused;
use crate::testing::{
    TestCluster, cluster_of, global_spec, service_spec, with_network_of, with_networks,
};
use crate::{Command, Rejected, RejectedCode as Code, StackIds, UpdateKind};

fn create(spec: shoal_types::spec::ServiceSpec) -> Command {
    Command::CreateService { id: 700.into(), deployment_id: 701.into(), spec: Arc::new(spec) }
}

fn stack(specs: &[(&str, shoal_types::spec::ServiceSpec)]) -> StackSpec {
    let named = specs.iter().map(|(key, spec)| ((*key).to_owned(), spec.clone()));
    StackSpec { name: "st".to_owned(), services: named.collect(), ..StackSpec::default() }
}

#[test]
fn a_service_shares_the_network_of_one_of_its_home_and_mode_that_has_one() {
    let (mut cluster, _) = cluster_of(Level::OWN, 1);
    cluster.add_service(service_spec("db", 2));
    let side = cluster.add_service(with_network_of(service_spec("side", 2), "db"));
    cluster.add_service(global_spec("everywhere"));
    cluster.add_stack(stack(&[("in", service_spec("st_in", 1))]));
    cluster.check();
    assert!(cluster.state.service(side).unwrap().networks.is_empty());
    let cases = [
        (with_network_of(service_spec("a", 1), "nobody"), "\"nobody\", which does not exist"),
        (with_network_of(service_spec("a", 1), "a"), "\"a\", which does not exist"),
        (with_network_of(service_spec("a", 1), "side"), "itself shares that of \"db\""),
        (
            with_network_of(service_spec("a", 1), "everywhere"),
            "\"a\" is replicated and cannot share the network of service \"everywhere\", which is global",
        ),
        (with_network_of(global_spec("a"), "db"), "\"db\", which is replicated"),
        (
            with_network_of(service_spec("a", 1), "st_in"),
            "is of another stack: expected one of no stack, as it has none",
        ),
    ];
    for (spec, expected) in cases {
        let refusal = refused(&cluster, create(spec));
        assert!(refusal.to_string().contains(expected), "{refusal}");
        assert_eq!(refusal.code(), Code::InvalidArgument);
    }
    // Whom somebody shares with shares with nobody.
    let db = cluster.state.service_by_name("db").unwrap().id;
    let update = Command::UpdateService {
        id: db,
        expected: None,
        deployment_id: 800.into(),
        spec: Arc::new(with_network_of(service_spec("db", 2), "everywhere")),
        kind: UpdateKind::Update,
    };
    let refusal = refused(&cluster, update).to_string();
    assert!(refusal.contains("service \"side\" shares its own"), "{refusal}");
    // Who waits for a service of a name does not get any that has it.
    cluster.apply(Command::RemoveService { id: db });
    cluster.check();
    let refusal = refused(&cluster, create(global_spec("db"))).to_string();
    assert!(refusal.contains("\"side\" is replicated"), "{refusal}");
    let refusal = refused(&cluster, create(with_network_of(service_spec("db", 1), "everywhere")));
    assert!(refusal.to_string().contains("service \"side\" shares its own"), "{refusal}");
    cluster.add_service(service_spec("db", 1));
    let names: Vec<&str> = cluster.state.sharers("db").map(|s| &*s.spec.name).collect();
    assert_eq!(names, ["side"]);
    assert_eq!(cluster.state.sharers("d").count() + cluster.state.sharers("side").count(), 0);
    cluster.check();
}

/// The one that is shared may come after the other in the order of names, and they may change places.
#[test]
fn the_parts_of_a_stack_share_in_whatever_order_they_stand() {
    let (mut cluster, _) = cluster_of(Level::OWN, 1);
    let (a, b) = (service_spec("st_a", 1), service_spec("st_b", 1));
    let one = [("a", with_network_of(a.clone(), "st_b")), ("b", b.clone())];
    cluster.add_stack(stack(&one));
    cluster.check();
    let ids = |cluster: &TestCluster| StackIds {
        stack: 900.into(),
        services: ["a", "b"].map(|key| (key.to_owned(), (901.into(), 902.into()))).into(),
        networks: cluster.state.networks().take(0).map(|n| (n.spec.name.clone(), n.id)).collect(),
    };
    let other = stack(&[("a", a), ("b", with_network_of(b, "st_a"))]);
    let (spec, ids) = (Arc::new(other), ids(&cluster));
    let mut command = Command::ApplyStack {
        spec,
        ids,
        prune: false,
        expected: None,
        payloads: Default::default(),
    };
    if let Command::ApplyStack { ids, .. } = &mut command {
        ids.services.insert("b".to_owned(), (903.into(), 904.into()));
    }
    cluster.apply(command);
    cluster.check();
    let shared = |name: &str| {
        cluster.state.service_by_name(name).unwrap().spec.task_template.network_of.clone()
    };
    assert_eq!((shared("st_a"), shared("st_b")), (None, Some("st_a".to_owned())));
}

#[test]
fn a_task_shares_that_of_the_wanted_task_of_its_slot_on_its_node() {
    let (mut cluster, nodes) = cluster_of(Level::OWN, 2);
    let db = cluster.add_service(service_spec("db", 3));
    let side = cluster.add_service(with_network_of(service_spec("side", 3), "db"));
    let other = cluster.add_service(service_spec("other", 1));
    let first = cluster.add_running(db, 1, nodes[0]);
    let second = cluster.add_running(db, 2, nodes[0]);
    let waiting = cluster.add_task(db, 3);
    let foreign = cluster.add_running(other, 1, nodes[0]);
    let id = cluster.add_task(side, 1);
    let assign =
        |id, node_id, partner: Option<TaskId>| Command::AssignTask { id, node_id, partner };
    let refusal = refused(&cluster, assign(id, nodes[0], None));
    assert!(refusal.to_string().contains("shares the network of service \"db\""), "{refusal}");
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    let plain = cluster.add_task(other, 2);
    let cases = [
        (id, nodes[0], second, "another slot"),
        (id, nodes[0], foreign, "another slot"),
        (id, nodes[0], 4711.into(), "no such task"),
        (id, nodes[1], first, "not on that node"),
        (plain, nodes[0], first, "its service shares none"),
    ];
    for (id, node, partner, why) in cases {
        let refusal = refused(&cluster, assign(id, node, Some(partner)));
        assert!(refusal.to_string().contains(why), "{refusal}");
    }
    let third = cluster.add_task(side, 3);
    let refusal = refused(&cluster, assign(third, nodes[0], Some(waiting))).to_string();
    assert!(refusal.contains("not on that node"), "{refusal}");

    cluster.apply(assign(id, nodes[0], Some(first)));
    let task = cluster.state.task(id).unwrap();
    assert_eq!((task.partner, task.node_id), (Some(first), Some(nodes[0])));
    assert!(task.networks.is_empty());
    assert_eq!(cluster.state.sharing(first).map(|t| t.id).collect::<Vec<_>>(), [id]);
    cluster.check();

    // Who is to stop gets nobody beside it any more.
    let id = cluster.add_task(side, 2);
    cluster.apply(Command::SetDesired { id: second, desired: DesiredState::Shutdown });
    let refusal = refused(&cluster, assign(id, nodes[0], Some(second))).to_string();
    assert!(refusal.contains("has ended or is to stop"), "{refusal}");

    cluster.apply(Command::SetDesired {
        id: task_id(&cluster, side, 1),
        desired: DesiredState::Shutdown,
    });
    assert_eq!(cluster.state.sharing(first).count(), 1, "also what is to stop");
    cluster.check();
}

fn task_id(cluster: &TestCluster, service: shoal_types::id::ServiceId, replica: u64) -> TaskId {
    let slot = shoal_types::object::Slot::Replica(replica);
    cluster.state.tasks_of_slot(service, slot).next().unwrap().id
}

#[test]
fn a_task_that_shares_a_network_is_connected_to_none() {
    let (mut cluster, nodes) = cluster_of(Level::OWN, 1);
    let back = cluster.add_overlay("back", None);
    let db = cluster.add_service(with_networks(service_spec("db", 1), &["back"]));
    let side = cluster.add_service(with_network_of(service_spec("side", 1), "db"));
    let first = cluster.add_running(db, 1, nodes[0]);
    let id = cluster.add_beside(side, 1, first);
    let (aliases, addresses) = (Vec::new(), Vec::new());
    let connect = Command::ConnectTask { id, network_id: back, aliases, addresses };
    let refusal = refused(&cluster, connect);
    let Rejected::Connection(_) = &refusal else { panic!("{refusal}") };
    assert!(refusal.to_string().contains("so connect the task of that one"), "{refusal}");
    // The one that has ended is remembered for it until it is stopped itself.
    cluster.report(first, TaskState::Failed);
    assert_eq!(cluster.state.sharing(first).count(), 1);
    cluster.check();
}
