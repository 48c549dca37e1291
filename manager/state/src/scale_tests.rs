//! Size and speed.

use std::sync::Arc;
use std::time::Duration;

use shoal_types::id::{IdSource, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{Network, Node, Service, Slot, Task, TaskStatus};
use shoal_types::spec::PublishMode;
use shoal_types::task_state::{DesiredState, TaskState};

use crate::stored::Stored;
use crate::testing::{
    TestCluster, cluster_of, cluster_with_nodes, network_spec, service_spec, with_host_port,
    with_ingress_port, with_networks, with_reservation,
};
use crate::{ClusterState, Command, ImportError, ObjectKind, ObjectRef, invariant};

fn filled(nodes: usize, services: usize, tasks_each: u64) -> TestCluster {
    let (mut cluster, nodes) = cluster_with_nodes(nodes);
    let mut next_node = nodes.iter().cycle();
    for n in 0..services {
        let spec = with_reservation(service_spec(&format!("s{n}"), tasks_each), 1_000, 1_000);
        let service = cluster.add_service(spec);
        for replica in 1..=tasks_each {
            let id: TaskId = cluster.ids.next_id();
            cluster.apply(Command::CreateTask {
                id,
                service_id: service,
                service_version: 1,
                slot: Slot::Replica(replica),
                node_id: None,
                desired: DesiredState::Running,
                start_after: None,
                rejections: 0,
                level: Level::FIRST,
            });
            let node_id = *next_node.next().unwrap();
            cluster.apply(Command::AssignTask { id, node_id, partner: None });
            cluster.events();
        }
    }
    cluster
}

#[test]
fn a_view_shares_everything_and_does_not_change() {
    let mut cluster = filled(3, 10, 20);
    let view = cluster.state.clone();
    let ids: Vec<TaskId> = view.tasks().map(|t| t.id).collect();
    for id in &ids {
        let (here, there) = (cluster.state.task(*id).unwrap(), view.task(*id).unwrap());
        assert!(Arc::ptr_eq(here, there), "a clone copies no object");
    }
    assert!(cluster.state.tasks.ptr_eq(&view.tasks), "nor any part of a table");
    let before = view.clone();
    for id in &ids {
        cluster.report(*id, TaskState::Running);
    }
    assert!(view == before && view != cluster.state);
    assert_eq!(view.task(ids[0]).unwrap().status.state, TaskState::Assigned);
}

#[test]
fn a_state_survives_export_and_import() {
    let cluster = filled(3, 5, 5);
    let applied = cluster.state.applied_index();
    let objects = cluster.state.export();
    let kinds: Vec<ObjectKind> = objects.iter().map(ObjectRef::kind).collect();
    assert!(kinds.is_sorted(), "kinds come in order");
    let imported = ClusterState::import(applied, objects.clone()).unwrap();
    assert!(imported == cluster.state);
    assert!(ClusterState::import(0, []).unwrap() == ClusterState::new());
    for twice in &objects {
        let objects = objects.iter().cloned().chain([twice.clone()]);
        let (kind, id) = (twice.kind(), twice.id());
        assert_eq!(ClusterState::import(applied, objects), Err(ImportError::Twice { kind, id }));
    }
}

/// Whoever is found by such a name would depend on the order in which they were written.
#[test]
fn objects_that_share_a_name_are_no_state() {
    let cluster = filled(3, 5, 5);
    let (applied, mut objects) = (cluster.state.applied_index(), cluster.state.export());
    let service = cluster.state.services().next().unwrap();
    objects
        .push(ObjectRef::Service(Arc::new(Service { id: 77.into(), ..Service::clone(service) })));
    let names = cluster.state.services().count();
    let (kind, objects_there) = (ObjectKind::Service, names + 1);
    let refused = ImportError::Names { kind, objects: objects_there, names };
    assert_eq!(ClusterState::import(applied, objects), Err(refused));
}

/// A state with a network across nodes, and one task there of each of two services.
fn on_one_network() -> ClusterState {
    let mut cluster = TestCluster::new();
    cluster.add_overlay("n", None);
    for name in ["a", "b"] {
        let id = cluster.add_service(with_networks(service_spec(name, 1), &["n"]));
        cluster.add_task(id, 1);
    }
    cluster.events();
    cluster.state
}

/// The first object of its kind, to be broken.
fn first<T: Stored>(state: &mut ClusterState) -> &mut T {
    let table = T::table_mut(state);
    let id = *table.keys().next().unwrap();
    Arc::make_mut(table.get_mut(&id).unwrap())
}

/// Whoever found such a state would have two containers answer for one address.
#[test]
fn objects_that_share_an_address_are_no_state() {
    let state = on_one_network();
    let imported = |state: &ClusterState| ClusterState::import(state.applied, state.export());
    assert!(imported(&state).unwrap() == state);
    let breakages: [fn(&mut ClusterState); 4] =
        [same_address, the_service_s_address, same_vip, overlapping_subnets];
    for (i, breakage) in breakages.into_iter().enumerate() {
        let mut broken = state.clone();
        breakage(&mut broken);
        let refused = imported(&broken);
        assert!(matches!(refused, Err(ImportError::Addresses { .. })), "{i}");
        let wrong = invariant::check(&broken).join("\n");
        assert!(wrong.contains("have addresses in common"), "{i}: {wrong}");
    }
    // Of those that have ended one may have had what another one has.
    let mut ended = state.clone();
    same_address(&mut ended);
    first::<Task>(&mut ended).status.state = TaskState::Failed;
    assert!(imported(&ended).is_ok());
}

fn same_address(state: &mut ClusterState) {
    let networks = Arc::clone(&state.tasks().next().unwrap().networks);
    let ids: Vec<TaskId> = state.tasks.keys().copied().collect();
    for id in ids {
        Arc::make_mut(state.tasks.get_mut(&id).unwrap()).networks = Arc::clone(&networks);
    }
}

fn the_service_s_address(state: &mut ClusterState) {
    let address = state.tasks().next().unwrap().networks[0].addresses[0];
    first::<Service>(state).endpoint.virtual_ips[0].addr = address;
}

fn same_vip(state: &mut ClusterState) {
    let endpoint = state.services().last().unwrap().endpoint.clone();
    first::<Service>(state).endpoint = endpoint;
}

fn overlapping_subnets(state: &mut ClusterState) {
    let network = state.network_by_name("n").unwrap();
    let spec = network_spec("other");
    let subnets = vec!["10.0.0.128/25".parse().unwrap()];
    let other = Network { id: 77.into(), spec, subnets, ..Network::clone(network) };
    state.networks.insert(other.id, Arc::new(other));
    state.indexes.network_names.insert("other".into(), 77.into());
}

/// The same of nodes inside of their tunnels, with each other and with networks.
#[test]
fn nodes_that_share_an_address_are_no_state() {
    let (mut cluster, _) = cluster_of(Level::INGRESS, 2);
    cluster.add_overlay("n", None);
    cluster.add_service(with_networks(service_spec("a", 1), &["n"]));
    cluster.events();
    let imported = |state: &ClusterState| ClusterState::import(state.applied, state.export());
    assert!(imported(&cluster.state).unwrap() == cluster.state);
    type Breakage = fn(&mut ClusterState);
    let breakages: [Breakage; 4] = [
        |s| {
            let other = s.nodes().last().unwrap().tunnel_address;
            first::<Node>(s).tunnel_address = other;
        },
        |s| first::<Node>(s).tunnel_address = Some("10.0.0.200/28".parse().unwrap()),
        |s| first::<Node>(s).tunnel_address = Some("10.0.1.200/24".parse().unwrap()),
        |s| {
            let vip = s.services().next().unwrap().endpoint.virtual_ips[0].addr;
            first::<Node>(s).tunnel_address = Some(vip);
        },
    ];
    for (i, breakage) in breakages.into_iter().enumerate() {
        let mut broken = cluster.state.clone();
        breakage(&mut broken);
        let refused = imported(&broken);
        assert!(matches!(refused, Err(ImportError::Addresses { .. })), "{i}");
        let wrong = invariant::check(&broken).join("\n");
        assert!(wrong.contains("have addresses in common"), "{i}: {wrong}");
    }
    for address in ["10.0.0.0/24", "10.0.0.1/24", "10.0.0.255/24", "10.9.0.0/31"] {
        let mut broken = cluster.state.clone();
        first::<Node>(&mut broken).tunnel_address = Some(address.parse().unwrap());
        let wrong = invariant::check(&broken).join("\n");
        assert!(wrong.contains("which no node can have"), "{address}: {wrong}");
    }
}

/// Whoever asks at such a port would be led to either.
#[test]
fn services_that_share_a_port_are_no_state() {
    let mut cluster = TestCluster::new();
    cluster.add_service(with_ingress_port(service_spec("a", 1), 8080));
    cluster.add_service(with_host_port(service_spec("b", 1), 8081));
    cluster.events();
    for mode in [PublishMode::Ingress, PublishMode::Host] {
        let mut broken = cluster.state.clone();
        for port in &mut first::<Service>(&mut broken).endpoint.ports {
            (port.published_port, port.publish_mode) = (8080, mode);
        }
        let last = *broken.services.keys().next_back().unwrap();
        let last = Arc::make_mut(broken.services.get_mut(&last).unwrap());
        last.endpoint.ports[0].published_port = 8080;
        last.endpoint.ports[0].publish_mode = PublishMode::Ingress;
        let imported = ClusterState::import(broken.applied, broken.export());
        assert!(matches!(imported, Err(ImportError::Ports { port: 8080, .. })), "{mode:?}");
        let wrong = invariant::check(&broken).join("\n");
        assert!(wrong.contains("both have port 8080/tcp"), "{wrong}");
        assert!(wrong.contains("other ports than it asked for"), "{wrong}");
        assert!(wrong.contains("index of published ports"), "{wrong}");
    }
}

/// A judge that never condemns is no judge.
#[test]
fn a_broken_state_is_noticed() {
    type Breakage = fn(&mut ClusterState);
    let addresses: [(&str, Breakage); 5] = [
        ("index of addresses", |s| s.indexes.addresses = Default::default()),
        ("has subnets or none", |s| {
            let id = s.network_by_name("n").unwrap().id;
            Arc::make_mut(s.networks.get_mut(&id).unwrap()).subnets.clear();
        }),
        ("has other addresses than its networks", |s| {
            Arc::make_mut(&mut first::<Task>(s).networks)[0].addresses.clear();
        }),
        ("has other addresses than its networks", |s| {
            first::<Service>(s).endpoint.virtual_ips[0].addr = "10.0.0.1/24".parse().unwrap();
        }),
        ("has an address where it is not reached", |s| {
            first::<Service>(s).networks = [].into();
        }),
    ];
    for (expected, breakage) in addresses {
        let mut state = on_one_network();
        assert!(invariant::check(&state).is_empty());
        breakage(&mut state);
        let wrong = invariant::check(&state).join("\n");
        assert!(wrong.contains(expected), "{expected}: {wrong}");
    }
    let breakages: [(&str, Breakage); 7] = [
        ("index of tasks by slot", |s| s.indexes.slot_tasks.clear()),
        ("index of what nodes hold", |s| s.indexes.usage.clear()),
        ("index of nodes by network", |s| s.indexes.network_nodes.clear()),
        ("its service is gone", |s| s.services.clear()),
        ("on node", |s| s.nodes.clear()),
        ("joins network", |s| s.networks.clear()),
        ("no deployment of its present spec", |s| s.deployments.clear()),
    ];
    for (expected, breakage) in breakages {
        let mut state = filled(2, 2, 2).state;
        assert!(invariant::check(&state).is_empty());
        breakage(&mut state);
        let wrong = invariant::check(&state).join("\n");
        assert!(wrong.contains(expected), "{expected}: {wrong}");
    }
}

/// `cargo test --release -p shoal-manager-state -- --ignored --nocapture scale`
#[test]
#[ignore = "measures; wants a release build"]
#[expect(clippy::disallowed_methods, reason = "a measurement needs a clock")]
fn a_hundred_thousand_tasks() {
    let mut timings = Vec::new();
    let mut last = std::time::Instant::now();
    let mut lap = |name: &str| {
        timings.push(format!("{name}: {:?}", last.elapsed()));
        last = std::time::Instant::now();
    };
    let mut cluster = filled(100, 100, 1000);
    lap("create and assign 100k tasks");
    cluster.advance(Duration::from_secs(1));
    let nodes: Vec<_> = cluster.state.nodes().map(|n| n.id).collect();
    for node_id in nodes {
        let status = TaskStatus::new(TaskState::Running, cluster.now, "running");
        let tasks = cluster.state.tasks_on_node(node_id).map(|t| (t.id, status.clone()));
        let statuses = tasks.collect();
        cluster.apply(Command::UpdateTaskStatuses { node_id, statuses });
    }
    cluster.events();
    lap("report 100k tasks running");
    let ids: Vec<TaskId> = cluster.state.tasks().map(|t| t.id).take(10_000).collect();
    lap("list ids");
    for id in ids {
        let view = cluster.state.clone();
        cluster.apply(Command::SetDesired { id, desired: DesiredState::Shutdown });
        drop(view);
    }
    cluster.events();
    lap("10k writes with a view held over each");
    let objects = cluster.state.export();
    lap("export");
    let imported = ClusterState::import(cluster.state.applied_index(), objects).unwrap();
    lap("import");
    assert!(imported == cluster.state);
    lap("compare");
    assert!(invariant::check(&cluster.state).is_empty());
    lap("check invariants");
    println!("{timings:#?}");
}

/// Filling a network to its last address. `cargo test --release -p shoal-manager-state -- --ignored --nocapture
/// addresses`
#[test]
#[ignore = "measures; wants a release build"]
#[expect(clippy::disallowed_methods, reason = "a measurement needs a clock")]
fn all_addresses_of_a_large_network() {
    let mut cluster = TestCluster::new();
    cluster.add_overlay("n", Some("10.0.0.0/15"));
    let web = cluster.add_service(with_networks(service_spec("web", 1), &["n"]));
    let bridge = cluster.add_service(service_spec("bridge", 1));
    let mut timings = Vec::new();
    for (what, service, tasks) in [
        ("10k on a bridge", bridge, 1..=10_000),
        ("the first 10k on the overlay", web, 1..=10_000),
        ("110k more", web, 10_001..=120_000),
        ("10k of the last ones", web, 120_001..=130_000),
    ] {
        let begun = std::time::Instant::now();
        for replica in tasks {
            cluster.add_task(service, replica);
            cluster.events();
        }
        timings.push(format!("{what}: {:?}", begun.elapsed()));
    }
    println!("{timings:#?}");
    cluster.check();
}
