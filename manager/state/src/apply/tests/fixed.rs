//! Addresses that services name for their tasks: kept for them, and never had by two.

use std::net::IpAddr;

use shoal_types::id::{IdSource, ServiceId, TaskId};
use shoal_types::object::Slot;
use shoal_types::spec::ServiceSpec;
use shoal_types::task_state::{DesiredState, TaskState};

use super::refused;
use crate::testing::{
    TestCluster, cluster_with_nodes, dual_spec, ipam_config, service_spec, with_networks, with_task,
};
use crate::{AddressProblem, Command, Rejected, RejectedCode as Code, UpdateKind};

fn named(name: &str, network: &str, addresses: &[&str]) -> ServiceSpec {
    with_task(with_networks(service_spec(name, 1), &[network]), |task| {
        task.networks[0].addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    })
}

fn create(cluster: &mut TestCluster, spec: ServiceSpec) -> Command {
    let (id, deployment_id) = (cluster.ids.next_id(), cluster.ids.next_id());
    Command::CreateService { id, deployment_id, spec: spec.into() }
}

fn update(cluster: &mut TestCluster, id: ServiceId, spec: ServiceSpec) -> Command {
    let (deployment_id, kind) = (cluster.ids.next_id(), UpdateKind::Update);
    Command::UpdateService { id, expected: None, deployment_id, spec: spec.into(), kind }
}

fn dual(cluster: &mut TestCluster, name: &str) {
    let id = cluster.ids.next_id();
    let config = vec![
        ipam_config("10.7.0.0/24", "10.7.0.128/25", "10.7.0.9", &["10.7.0.5"]),
        ipam_config("fd00:1::/64", "", "", &[]),
    ];
    cluster.apply(Command::CreateNetwork { id, spec: dual_spec(name, true, config) });
}

fn of_task(cluster: &TestCluster, id: TaskId) -> Vec<String> {
    let networks = &cluster.state.task(id).unwrap().networks;
    networks.iter().flat_map(|n| &n.addresses).map(ToString::to_string).collect()
}

#[test]
fn a_task_has_the_addresses_that_its_service_names() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    dual(&mut cluster, "n");
    let both = cluster.add_service(named("both", "n", &["fd00:1::7", "10.7.0.7"]));
    let one = cluster.add_service(named("one", "n", &["10.7.0.200"]));
    let task = cluster.add_running(both, 1, nodes[0]);
    assert_eq!(
        of_task(&cluster, task),
        ["10.7.0.7/24", "fd00:1::7/64"],
        "also outside of the range"
    );
    let task = cluster.add_running(one, 1, nodes[0]);
    assert_eq!(of_task(&cluster, task)[0], "10.7.0.200/24");
    assert!(of_task(&cluster, task)[1].starts_with("fd00:1::"), "the other one is chosen");
    let network = cluster.state.network_by_name("n").unwrap();
    let used = cluster.state.addresses(network).unwrap().used;
    assert_eq!(used, 4, "two services reached by one, and two that they keep: counted once");
    cluster.check();
}

#[test]
fn addresses_that_cannot_be_named() {
    let mut cluster = TestCluster::new();
    dual(&mut cluster, "n");
    cluster.add_network("bridge-net");
    cluster.add_service(named("first", "n", &["10.7.0.7"]));
    let db = cluster.add_service(with_networks(service_spec("db", 1), &["n"]));
    let vip = cluster.state.service(db).unwrap().endpoint.virtual_ips[0].addr.addr().to_string();
    let chosen = cluster.add_task(db, 1);
    let chosen = of_task(&cluster, chosen)[0].replace("/24", "");
    let cases: [(&str, &str, Code, &str); 10] = [
        ("n", "10.8.0.7", Code::InvalidArgument, "expected one of 10.7.0.0/24, fd00:1::/64"),
        ("n", "10.7.0.9", Code::InvalidArgument, "it is the gateway's"),
        ("n", "10.7.0.5", Code::InvalidArgument, "reserved; expected another one"),
        ("n", "10.7.0.0", Code::InvalidArgument, "the first or the last one"),
        ("n", "10.7.0.255", Code::InvalidArgument, "the first or the last one"),
        ("n", "fd00:1::1", Code::InvalidArgument, "it is the gateway's"),
        ("n", "10.7.0.7", Code::FailedPrecondition, "service \"first\" keeps it for its task"),
        ("n", &vip, Code::FailedPrecondition, "it is the virtual address of service \"db\""),
        ("n", &chosen, Code::FailedPrecondition, "task db.1 has it"),
        ("bridge-net", "10.7.0.77", Code::InvalidArgument, "expected one with driver overlay"),
    ];
    for (network, address, code, expected) in cases {
        let command = create(&mut cluster, named("new", network, &[address]));
        let rejected = refused(&cluster, command);
        let text = rejected.to_string();
        let beginning = format!("service \"new\" cannot have {address} on network {network:?}: ");
        assert!(text.starts_with(&beginning) && text.contains(expected), "{text}");
        assert_eq!(rejected.code(), code, "{text}");
    }
    cluster.check();
}

/// What services name outside of the range takes nothing of it away, and what they keep is there for their tasks.
#[test]
fn what_is_named_outside_of_the_range_leaves_the_range_as_it_is() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let id = cluster.ids.next_id();
    let config = vec![ipam_config("10.7.0.0/24", "10.7.0.64/30", "10.7.0.9", &["10.7.0.5"])];
    cluster.apply(Command::CreateNetwork { id, spec: dual_spec("n", false, config) });
    let count = |cluster: &TestCluster| {
        let found = cluster.state.addresses(cluster.state.network(id).unwrap()).unwrap();
        (found.used, found.free)
    };
    assert_eq!(count(&cluster), (0, 4));
    let within = cluster.add_service(named("within", "n", &["10.7.0.66"]));
    assert_eq!(count(&cluster), (2, 2), "one more is what it is reached by");
    let low = cluster.add_service(named("low", "n", &["10.7.0.7"]));
    let high = cluster.add_service(named("high", "n", &["10.7.0.254"]));
    assert_eq!(count(&cluster), (6, 0));
    cluster.add_running(low, 1, nodes[0]);
    cluster.add_running(high, 1, nodes[0]);
    assert_eq!(count(&cluster), (6, 0));
    let for_next = |cluster: &TestCluster, id| {
        let service = cluster.state.service(id).unwrap();
        let found = cluster.state.network_by_name("n").unwrap();
        cluster.state.addresses_for(service, found).map(|count| count.free)
    };
    assert_eq!(for_next(&cluster, within), None, "it waits for none");
    cluster.add_running(within, 1, nodes[0]);
    cluster.check();
    cluster.apply(Command::RemoveService { id: low });
    assert_eq!(count(&cluster), (5, 1), "its task still has its own");
}

/// Also while no task lives, and after the service has another one.
#[test]
fn nobody_else_gets_an_address_that_a_service_keeps() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    cluster.add_overlay("small", Some("10.7.0.0/29"));
    let web = cluster.add_service(named("web", "small", &["10.7.0.4"]));
    let other = cluster.add_service(with_networks(service_spec("other", 3), &["small"]));
    for n in 1..=2 {
        cluster.add_running(other, n, nodes[0]);
    }
    let (_, more) = cluster.new_task(other, Slot::Replica(3));
    assert!(matches!(refused(&cluster, more.clone()), Rejected::NoFreeAddress { count: 5, .. }));
    let task = cluster.add_running(web, 1, nodes[0]);
    assert_eq!(of_task(&cluster, task), ["10.7.0.4/29"]);
    // It names none any more; its task has it to its end.
    cluster.update_service(web, with_networks(service_spec("web", 1), &["small"]));
    cluster.check();
    assert!(matches!(refused(&cluster, more.clone()), Rejected::NoFreeAddress { .. }));
    let taken = create(&mut cluster, named("new", "small", &["10.7.0.4"]));
    let problem =
        AddressProblem::Taken { holder: "task web.1 has it until it has ended".to_owned() };
    assert_eq!(
        refused(&cluster, taken),
        Rejected::AddressUnusable {
            user: "service \"new\"".to_owned(),
            address: IpAddr::from([10, 7, 0, 4]),
            network: "small".to_owned(),
            problem,
        }
    );
    cluster.report(task, TaskState::Shutdown);
    cluster.apply(more);
    cluster.check();
}

/// The next task is made when the one before it has ended, whatever address that had it by.
#[test]
fn two_tasks_never_have_an_address() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    cluster.add_overlay("n", None);
    let web = cluster.add_service(with_networks(service_spec("web", 1), &["n"]));
    let old = cluster.add_running(web, 1, nodes[0]);
    let chosen = of_task(&cluster, old)[0].replace("/24", "");
    let keep = update(&mut cluster, web, named("web", "n", &[&chosen]));
    cluster.apply(keep);
    cluster.check();
    assert!(cluster.state.waits_for_address(cluster.state.service(web).unwrap()).is_some());
    cluster.apply(Command::SetDesired { id: old, desired: DesiredState::Shutdown });
    let (new, command) = cluster.new_task(web, Slot::Replica(1));
    let mut beside = command.clone();
    if let Command::CreateTask { desired, .. } = &mut beside {
        *desired = DesiredState::Ready;
    }
    let awaited = refused(&cluster, beside);
    let address = chosen.parse().unwrap();
    assert_eq!(awaited, Rejected::AddressAwaited { service: "web".to_owned(), address });
    cluster.report(old, TaskState::Shutdown);
    assert_eq!(cluster.state.waits_for_address(cluster.state.service(web).unwrap()), None);
    cluster.apply(command);
    assert_eq!(of_task(&cluster, new), [format!("{chosen}/24")]);
    cluster.check();
    // What is left of it holds its address when the service is gone.
    cluster.apply(Command::AssignTask { id: new, node_id: nodes[0], partner: None });
    cluster.apply(Command::RemoveService { id: web });
    cluster.check();
    let again = create(&mut cluster, named("again", "n", &[&chosen]));
    let waits = refused(&cluster, again.clone()).to_string();
    assert!(waits.contains("web.1 has it"), "{waits}");
    cluster.apply(Command::OrphanTask { id: new });
    cluster.apply(again);
    cluster.check();
}

/// The address that a service is reached by is another one than that which it keeps, though both would be chosen so.
#[test]
fn what_a_service_keeps_is_not_its_own_virtual_address() {
    for last in 2..=6u8 {
        let mut cluster = TestCluster::new();
        cluster.add_overlay("n", Some("10.7.0.0/29"));
        cluster.add_service(named("web", "n", &[&format!("10.7.0.{last}")]));
        cluster.check();
    }
    let mut cluster = TestCluster::new();
    cluster.add_overlay("n", Some("10.7.0.0/30"));
    let full = create(&mut cluster, named("web", "n", &["10.7.0.2"]));
    assert!(matches!(refused(&cluster, full), Rejected::NoFreeAddress { count: 1, .. }));
}
