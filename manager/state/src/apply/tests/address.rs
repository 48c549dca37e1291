//! Addresses of networks that span nodes: who gets which, and when they are free again.

use std::collections::BTreeSet;

use shoal_types::id::{IdSource, NetworkId, ServiceId, TaskId};
use shoal_types::object::{AddressCount, NodeState, Slot};
use shoal_types::spec::{AddressPool, ClusterSpec, EndpointMode, ServiceSpec, StackSpec};
use shoal_types::task_state::{DesiredState, TaskState};

use super::{all_refused, refused};
use crate::testing::{
    TestCluster, cluster_with_nodes, network_spec, overlay_spec, service_spec, with_networks,
};
use crate::{ClusterState, Command, Rejected, RejectedCode as Code, SubnetHolder};

fn subnets(cluster: &TestCluster, id: NetworkId) -> Vec<String> {
    let network = cluster.state.network(id).unwrap();
    network.subnets.iter().map(ToString::to_string).collect()
}

fn used(cluster: &TestCluster, id: NetworkId) -> u64 {
    cluster.state.addresses(cluster.state.network(id).unwrap()).unwrap().used
}

/// The addresses of a task, each network's in turn.
fn of_task(cluster: &TestCluster, id: TaskId) -> Vec<String> {
    let networks = &cluster.state.task(id).unwrap().networks;
    networks.iter().flat_map(|n| &n.addresses).map(ToString::to_string).collect()
}

fn vips(cluster: &TestCluster, id: ServiceId) -> Vec<(NetworkId, String)> {
    let vips = &cluster.state.service(id).unwrap().endpoint.virtual_ips;
    vips.iter().map(|vip| (vip.network_id, vip.addr.to_string())).collect()
}

fn joined(name: &str, networks: &[&str]) -> ServiceSpec {
    with_networks(service_spec(name, 3), networks)
}

fn pools(cluster: &mut TestCluster, pools: &[(&str, u8)]) {
    let pools =
        pools.iter().map(|(base, size)| AddressPool { base: base.parse().unwrap(), size: *size });
    let spec = ClusterSpec { address_pools: pools.collect(), ..ClusterSpec::default() };
    let expected_spec_version = cluster.state.cluster().unwrap().meta.spec_version;
    cluster.apply(Command::UpdateCluster { expected_spec_version, spec });
}

#[test]
fn networks_across_nodes_get_subnets_of_their_own() {
    let mut cluster = TestCluster::new();
    let first = cluster.add_overlay("first", None);
    let own = cluster.add_overlay("own", Some("192.168.7.0/24"));
    let within = cluster.add_overlay("within", Some("10.0.1.64/26"));
    let second = cluster.add_overlay("second", None);
    let bridge = cluster.add_network("bridge-net");
    assert_eq!(subnets(&cluster, first), ["10.0.0.0/24"]);
    assert_eq!(subnets(&cluster, own), ["192.168.7.0/24"]);
    assert_eq!(subnets(&cluster, within), ["10.0.1.64/26"]);
    assert_eq!(subnets(&cluster, second), ["10.0.2.0/24"], "the second one is not whole");
    assert_eq!(subnets(&cluster, bridge), [] as [&str; 0]);
    cluster.check();

    cluster.apply(Command::RemoveNetwork { id: first });
    let third = cluster.add_overlay("third", None);
    assert_eq!(subnets(&cluster, third), ["10.0.0.0/24"]);
    // Settings are of networks to come.
    pools(&mut cluster, &[("172.20.0.0/16", 20)]);
    let fourth = cluster.add_overlay("fourth", None);
    assert_eq!(subnets(&cluster, fourth), ["172.20.0.0/20"]);
    assert_eq!(subnets(&cluster, second), ["10.0.2.0/24"]);
    cluster.check();
}

#[test]
fn subnets_that_cannot_be() {
    let mut cluster = TestCluster::new();
    pools(&mut cluster, &[("10.0.0.0/23", 24), ("10.0.2.0/29", 30)]);
    cluster.add_overlay("mine", Some("10.0.0.64/26"));
    cluster.add_overlay("other", None);
    let id = NetworkId::from(99);
    let create = |subnet| Command::CreateNetwork { id, spec: overlay_spec("new", subnet) };
    let holder = "network \"mine\" has 10.0.0.64/26, and no address is on two networks";
    all_refused(
        &cluster,
        vec![
            (create(Some("10.0.0.0/24")), Code::FailedPrecondition, &["\"new\"", holder]),
            (create(Some("10.0.0.64/26")), Code::FailedPrecondition, &[holder]),
            (create(Some("10.0.0.72/29")), Code::FailedPrecondition, &["10.0.0.72/29", holder]),
            (create(Some("0.0.0.0/0")), Code::FailedPrecondition, &["has 10."]),
            (create(Some("10.9.0.0/31")), Code::InvalidArgument, &["\"10.9.0.0/31\"", "expected"]),
            (create(Some("10.9.0.7/24")), Code::InvalidArgument, &["\"10.9.0.7/24\""]),
            (create(Some("nonsense")), Code::InvalidArgument, &["\"nonsense\"", "ADDRESS/LENGTH"]),
        ],
    );
    cluster.add_overlay("a", None);
    cluster.add_overlay("b", None);
    let exhausted = refused(&cluster, create(None));
    assert_eq!(exhausted, Rejected::PoolsExhausted { network: "new".to_owned(), count: 4 });
    assert!(exhausted.to_string().contains("all 4 of the cluster's address pools are in use"));
    assert_eq!(exhausted.code(), Code::FailedPrecondition);
}

#[test]
fn a_task_gets_an_address_on_each_network_across_nodes() {
    let mut cluster = TestCluster::new();
    let (a, b) = (cluster.add_overlay("a", None), cluster.add_overlay("b", Some("10.7.0.0/29")));
    cluster.add_network("bridge-net");
    let web = cluster.add_service(joined("web", &["a", "bridge-net", "b"]));
    let plain = cluster.add_service(joined("plain", &["bridge-net"]));
    let (one, two) = (cluster.add_task(web, 1), cluster.add_task(web, 2));
    let per_network = |id| -> Vec<usize> {
        let networks = &cluster.state.task(id).unwrap().networks;
        networks.iter().map(|n| n.addresses.len()).collect()
    };
    assert_eq!(per_network(one), [1, 0, 1]);
    assert_eq!(cluster.state.service(web).unwrap().networks[0].addresses, [], "of tasks alone");
    assert_ne!(of_task(&cluster, one), of_task(&cluster, two));
    let starts_so = |address: &String, with: &str| address.starts_with(with);
    assert!(starts_so(&of_task(&cluster, one)[0], "10.0.0."), "{:?}", of_task(&cluster, one));
    assert!(of_task(&cluster, one)[1].ends_with("/29"), "{:?}", of_task(&cluster, one));
    assert_eq!((used(&cluster, a), used(&cluster, b)), (3, 3), "two tasks and their service");

    let other = cluster.add_task(plain, 1);
    let (task, service) =
        (cluster.state.task(other).unwrap(), cluster.state.service(plain).unwrap());
    assert!(std::sync::Arc::ptr_eq(&task.networks, &service.networks), "nothing of its own");
    cluster.check();
}

/// The order of commands decides nothing but who is first.
#[test]
fn an_address_follows_from_the_id_of_its_task() {
    let make = |order: [u128; 3]| {
        let mut cluster = TestCluster::new();
        cluster.add_overlay("a", None);
        let web = cluster.add_service(joined("web", &["a"]));
        for id in order {
            let (_, mut command) = cluster.new_task(web, Slot::Replica(u64::try_from(id).unwrap()));
            if let Command::CreateTask { id: own, .. } = &mut command {
                *own = (id * 10).into();
            }
            cluster.apply(command);
        }
        order
            .map(|id| (id, of_task(&cluster, (id * 10).into())))
            .into_iter()
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(make([1, 2, 3]), make([3, 1, 2]));
    let addresses: Vec<String> = make([1, 2, 3]).into_iter().flat_map(|(_, a)| a).collect();
    assert_eq!(addresses, ["10.0.0.12/24", "10.0.0.22/24", "10.0.0.32/24"]);
}

/// Each way in which a task ends.
#[test]
fn who_has_ended_has_no_address() {
    type End = fn(&mut TestCluster, TaskId);
    let ends: [(&str, End); 9] = [
        ("complete", |c, id| drop(c.report(id, TaskState::Complete))),
        ("failed", |c, id| drop(c.report(id, TaskState::Failed))),
        ("shut down", |c, id| drop(c.report(id, TaskState::Shutdown))),
        ("rejected", |c, id| drop(c.report(id, TaskState::Rejected))),
        ("orphaned", |c, id| drop(c.apply(Command::OrphanTask { id }))),
        ("its node is removed", |c, id| {
            let node = c.state.task(id).unwrap().node_id.unwrap();
            c.set_node(node, NodeState::Down);
            c.apply(Command::RemoveNode { id: node, force: false });
        }),
        ("its service is removed, and it ends", |c, id| {
            let service = c.state.task(id).unwrap().service_id;
            c.apply(Command::RemoveService { id: service });
            c.report(id, TaskState::Shutdown);
        }),
        ("its stack is removed, and it ends and is forgotten", |c, id| {
            let service = c.state.task(id).unwrap().service_id;
            c.apply(Command::RemoveService { id: service });
            c.report(id, TaskState::Complete);
            c.apply(Command::RemoveTask { id });
        }),
        ("stopped before it is placed", |c, id| {
            // The one beside it, which is pending.
            c.report(id, TaskState::Failed);
            let service = c.state.task(id).unwrap().service_id;
            let (waiting, command) = c.new_task(service, Slot::Replica(2));
            c.apply(command);
            c.apply(Command::SetDesired { id: waiting, desired: DesiredState::Shutdown });
        }),
    ];
    for (what, end) in ends {
        let (mut cluster, nodes) = cluster_with_nodes(2);
        let net = cluster.add_overlay("a", None);
        let web = cluster.add_service(joined("web", &["a"]));
        let id = cluster.add_running(web, 1, nodes[1]);
        assert_eq!(used(&cluster, net), 2, "{what}: the task and its service");
        end(&mut cluster, id);
        let service = u64::from(cluster.state.service(web).is_some());
        assert_eq!(used(&cluster, net), service, "{what}");
        cluster.check();
    }
}

#[test]
fn a_running_task_keeps_its_networks_as_they_were_made() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let (a, b) = (cluster.add_overlay("a", None), cluster.add_overlay("b", None));
    let web = cluster.add_service(joined("web", &["a"]));
    let old = cluster.add_running(web, 1, nodes[0]);
    let (before, vip) = (of_task(&cluster, old), vips(&cluster, web));
    cluster.update_service(web, joined("web", &["b", "a"]));
    assert_eq!(of_task(&cluster, old), before);
    let after = vips(&cluster, web);
    assert_eq!(after.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [b, a]);
    assert_eq!(after[1], vip[0], "what it had it keeps");
    assert_eq!((used(&cluster, a), used(&cluster, b)), (2, 1));

    cluster.update_service(web, joined("web", &["b"]));
    assert_eq!(vips(&cluster, web), [after[0].clone()]);
    assert_eq!((used(&cluster, a), used(&cluster, b)), (1, 1), "the old task's is left");
    assert!(matches!(
        refused(&cluster, Command::RemoveNetwork { id: a }),
        Rejected::NetworkInUse { .. }
    ));
    cluster.check();
    cluster.report(old, TaskState::Shutdown);
    cluster.apply(Command::RemoveNetwork { id: a });
    cluster.check();
}

#[test]
fn a_service_has_an_address_only_where_it_is_reached_by_one() {
    let mut cluster = TestCluster::new();
    cluster.add_overlay("a", None);
    cluster.add_network("n");
    let dnsrr = |name: &str, networks: &[&str], mode| {
        let mut spec = joined(name, networks);
        spec.endpoint_spec.get_or_insert_default().mode = mode;
        spec
    };
    let web = cluster.add_service(dnsrr("web", &["a", "n"], EndpointMode::Vip));
    assert_eq!(vips(&cluster, web).len(), 1);
    cluster.update_service(web, dnsrr("web", &["a", "n"], EndpointMode::Dnsrr));
    assert_eq!(vips(&cluster, web), []);
    cluster.update_service(web, dnsrr("web", &["a", "n"], EndpointMode::Vip));
    assert_eq!(vips(&cluster, web).len(), 1);
    cluster.check();
    cluster.apply(Command::RemoveService { id: web });
    let network = cluster.state.network_by_name("a").unwrap();
    assert_eq!(cluster.state.addresses(network), Some(AddressCount { used: 0, free: 253 }));
    let bridge = cluster.state.network_by_name("n").unwrap();
    assert_eq!(cluster.state.addresses(bridge), None);
}

#[test]
fn who_comes_to_a_full_network_is_refused() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let small = cluster.add_overlay("small", Some("10.7.0.0/29"));
    let web = cluster.add_service(joined("web", &["small"]));
    let tasks: Vec<TaskId> = (1..=4).map(|n| cluster.add_running(web, n, nodes[0])).collect();
    assert_eq!(used(&cluster, small), 5);
    let (_, more) = cluster.new_task(web, Slot::Replica(5));
    let full = refused(&cluster, more.clone());
    assert_eq!(full.code(), Code::FailedPrecondition);
    let said =
        "network \"small\" has no free address for a task of service \"web\": all 5 are in use";
    assert_eq!(full.to_string(), said);
    let (id, deployment_id) = (cluster.ids.next_id(), cluster.ids.next_id());
    let spec = joined("db", &["small"]).into();
    let full = refused(&cluster, Command::CreateService { id, deployment_id, spec });
    assert!(full.to_string().contains("for service \"db\": all 5 are in use"), "{full}");

    let freed = of_task(&cluster, tasks[2]);
    cluster.report(tasks[2], TaskState::Failed);
    cluster.apply(more);
    let newest = cluster.state.tasks_of_slot(web, Slot::Replica(5)).next().unwrap().id;
    assert_eq!(of_task(&cluster, newest), freed, "the only one there is");
    cluster.check();
}

/// An update that is refused leaves everything as it was, the deployment too.
#[test]
fn an_update_that_finds_no_address_changes_nothing() {
    let mut cluster = TestCluster::new();
    cluster.add_overlay("small", Some("10.7.0.0/30"));
    cluster.add_service(joined("first", &["small"]));
    let web = cluster.add_service(joined("web", &[]));
    let deployment_id = cluster.ids.next_id();
    let update = Command::UpdateService {
        id: web,
        expected: None,
        deployment_id,
        spec: joined("web", &["small"]).into(),
        kind: crate::UpdateKind::Update,
    };
    assert!(matches!(refused(&cluster, update), Rejected::NoFreeAddress { count: 1, .. }));
}

fn stack(networks: &[(&str, Option<&str>)], services: &[(&str, &[&str])]) -> StackSpec {
    let full = |key: &str| format!("shop_{key}");
    StackSpec {
        name: "shop".to_owned(),
        networks: networks
            .iter()
            .map(|(key, subnet)| ((*key).to_owned(), overlay_spec(&full(key), *subnet)))
            .collect(),
        services: services
            .iter()
            .map(|(key, networks)| ((*key).to_owned(), joined(&full(key), networks)))
            .collect(),
        ..StackSpec::default()
    }
}

#[test]
fn a_stack_brings_its_networks_and_is_refused_whole() {
    let mut cluster = TestCluster::new();
    let spec = stack(
        &[("front", None), ("back", Some("10.7.0.0/29"))],
        &[("web", &["shop_front", "shop_back"]), ("db", &["shop_back"])],
    );
    cluster.add_stack(spec.clone());
    let front = cluster.state.network_by_name("shop_front").unwrap().id;
    let web = cluster.state.service_by_name("shop_web").unwrap().id;
    assert_eq!(subnets(&cluster, front), ["10.0.0.0/24"]);
    let before = vips(&cluster, web);
    assert_eq!(before.len(), 2);
    // The same again changes nothing.
    cluster.add_stack(spec.clone());
    assert_eq!(vips(&cluster, web), before);
    cluster.check();

    let names: Vec<String> = (0..6).map(|n| format!("s{n}")).collect();
    let many: Vec<(&str, &[&str])> =
        names.iter().map(|name| (name.as_str(), &["shop_back"][..])).collect();
    let full = stack(&[("back", Some("10.7.0.0/29"))], &many);
    let taken = stack(&[("back", Some("10.7.0.0/29")), ("new", Some("10.0.0.128/25"))], &[]);
    for (spec, said) in
        [(full, "no free address for service"), (taken, "\"shop_front\" has 10.0.0.0/24")]
    {
        let services = spec.services.keys();
        let services =
            services.map(|k| (k.clone(), (cluster.ids.next_id(), cluster.ids.next_id())));
        let services = services.collect();
        let networks = spec.networks.keys().map(|k| (k.clone(), cluster.ids.next_id())).collect();
        let ids = crate::StackIds { stack: cluster.ids.next_id(), services, networks };
        let command = Command::ApplyStack {
            spec: spec.into(),
            ids,
            prune: true,
            expected: None,
            payloads: Default::default(),
        };
        let rejected = refused(&cluster, command);
        assert!(rejected.to_string().contains(said), "{rejected}");
    }
}

/// A stack's networks go with it, and what still runs there keeps its address to its end.
#[test]
fn a_subnet_is_free_when_the_last_of_its_tasks_has_ended() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    cluster.add_stack(stack(&[("n", Some("10.0.0.0/29"))], &[("web", &["shop_n"])]));
    let web = cluster.state.service_by_name("shop_web").unwrap().id;
    let task = cluster.add_running(web, 1, nodes[0]);
    let id = cluster.state.stacks().next().unwrap().id;
    cluster.apply(Command::RemoveStack { id });
    cluster.check();
    let id = NetworkId::from(99);
    let again = Command::CreateNetwork { id, spec: overlay_spec("again", Some("10.0.0.0/29")) };
    let rejected = refused(&cluster, again.clone());
    assert!(matches!(rejected, Rejected::SubnetTaken { holder: SubnetHolder::Tasks, .. }));
    assert!(rejected.to_string().contains("wait for their end"), "{rejected}");
    let next = cluster.add_overlay("next", None);
    assert_eq!(subnets(&cluster, next), ["10.0.1.0/24"]);
    cluster.report(task, TaskState::Shutdown);
    cluster.apply(again);
    cluster.check();
}

/// Nothing is left of what came and went.
#[test]
fn ten_thousand_networks_and_services_leave_nothing() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let fresh = cluster.state.indexes.addresses.clone();
    for _ in 0..10_000 {
        let net = cluster.add_overlay("n", None);
        let web = cluster.add_service(joined("web", &["n"]));
        let task = cluster.add_running(web, 1, nodes[0]);
        assert_eq!(subnets(&cluster, net), ["10.0.0.0/24"]);
        cluster.apply(Command::RemoveService { id: web });
        cluster.report(task, TaskState::Shutdown);
        cluster.apply(Command::RemoveTask { id: task });
        cluster.apply(Command::RemoveNetwork { id: net });
        cluster.events();
    }
    assert!(cluster.state.indexes.addresses == fresh);
    cluster.check();
}

#[test]
fn other_drivers_have_no_addresses_here() {
    let mut cluster = TestCluster::new();
    for name in ["bridge", "host", "none", "unknown"] {
        let mut spec = network_spec(&format!("n-{name}"));
        name.clone_into(&mut spec.driver.name);
        let id = cluster.ids.next_id();
        cluster.apply(Command::CreateNetwork { id, spec });
        assert_eq!(subnets(&cluster, id), [] as [&str; 0], "{name}");
    }
    let state: &ClusterState = &cluster.state;
    assert!(!state.indexes.addresses.any());
    cluster.check();
}
