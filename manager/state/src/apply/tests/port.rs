//! Published ports: who gets which, who is refused, and when they are free again.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_types::id::ServiceId;
use shoal_types::spec::{EndpointSpec, PortConfig, Protocol, PublishMode, ServiceSpec, StackSpec};
use shoal_types::task_state::TaskState;

use super::refused;
use crate::testing::{
    TestCluster, cluster_with_nodes, service_spec, with_host_port, with_ingress_port,
};
use crate::{Command, Rejected, RejectedCode as Code, StackIds, UpdateKind};

const EVERYWHERE: PublishMode = PublishMode::Ingress;
const AT_TASKS: PublishMode = PublishMode::Host;

fn port(mode: PublishMode, protocol: Protocol, published: u16, target: u16) -> PortConfig {
    PortConfig {
        name: String::new(),
        protocol,
        target_port: target,
        published_port: published,
        publish_mode: mode,
        host_ip: None,
    }
}

fn publishing(name: &str, ports: &[PortConfig]) -> ServiceSpec {
    let endpoint_spec = Some(EndpointSpec { ports: ports.to_vec(), ..EndpointSpec::default() });
    ServiceSpec { endpoint_spec, ..service_spec(name, 2) }
}

fn everywhere(name: &str, published: u16) -> ServiceSpec {
    with_ingress_port(service_spec(name, 2), published)
}

fn numbers(cluster: &TestCluster, id: ServiceId) -> Vec<u16> {
    let ports = &cluster.state.service(id).unwrap().endpoint.ports;
    ports.iter().map(|port| port.published_port).collect()
}

fn create(cluster: &mut TestCluster, spec: ServiceSpec) -> Command {
    let (id, deployment_id) = (cluster.fresh(), cluster.fresh());
    Command::CreateService { id, deployment_id, spec: Arc::new(spec) }
}

fn update(cluster: &mut TestCluster, id: ServiceId, spec: ServiceSpec) -> Command {
    let (deployment_id, kind) = (cluster.fresh(), UpdateKind::Update);
    Command::UpdateService { id, expected: None, deployment_id, spec: Arc::new(spec), kind }
}

/// As in Swarm: what answers on every node is one service's alone, and hosts tell their own ports apart.
#[test]
fn who_can_have_a_port_beside_whom() {
    use Protocol::{Tcp, Udp};
    let cases = [
        (port(EVERYWHERE, Tcp, 80, 80), port(EVERYWHERE, Tcp, 80, 8080), false),
        (port(EVERYWHERE, Tcp, 80, 80), port(AT_TASKS, Tcp, 80, 80), false),
        (port(AT_TASKS, Tcp, 80, 80), port(EVERYWHERE, Tcp, 80, 80), false),
        (port(AT_TASKS, Tcp, 80, 80), port(AT_TASKS, Tcp, 80, 80), true),
        (port(EVERYWHERE, Tcp, 80, 80), port(EVERYWHERE, Udp, 80, 80), true),
        (port(EVERYWHERE, Tcp, 80, 80), port(EVERYWHERE, Tcp, 81, 80), true),
        (port(AT_TASKS, Tcp, 0, 80), port(AT_TASKS, Tcp, 0, 80), true),
        (port(EVERYWHERE, Tcp, 0, 80), port(EVERYWHERE, Tcp, 0, 80), true),
    ];
    for (first, second, both) in cases {
        let mut cluster = TestCluster::new();
        cluster.add_service(publishing("first", std::slice::from_ref(&first)));
        let command = create(&mut cluster, publishing("second", std::slice::from_ref(&second)));
        assert_eq!(
            cluster.clone().try_apply(command.clone()).is_ok(),
            both,
            "{first:?} {second:?}"
        );
        if both {
            cluster.apply(command);
        } else {
            let no = refused(&cluster, command);
            assert_eq!(no.code(), Code::FailedPrecondition);
            let said = no.to_string();
            assert!(said.contains("service \"second\" cannot publish port 80/tcp"), "{said}");
            assert!(said.contains("service \"first\" has it"), "{said}");
        }
        cluster.check();
    }
}

#[test]
fn a_port_is_free_when_its_service_is_gone_or_has_left_it() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let fresh = cluster.state.indexes.ports.clone();
    let web = cluster.add_service(everywhere("web", 8080));
    let task = cluster.add_running(web, 1, nodes[0]);
    let other = create(&mut cluster, everywhere("other", 8080));
    let Rejected::PortInUse { port, holder, .. } = refused(&cluster, other.clone()) else {
        panic!("another reason")
    };
    assert_eq!((port, holder.as_str()), (8080, "web"));
    // Its own port hinders nobody.
    cluster.update_service(web, everywhere("web", 8080));
    cluster.update_service(web, everywhere("web", 8081));
    cluster.apply(other);
    let back = update(&mut cluster, web, everywhere("web", 8080));
    assert!(matches!(refused(&cluster, back.clone()), Rejected::PortInUse { .. }));
    let other = cluster.state.service_by_name("other").unwrap().id;
    cluster.apply(Command::RemoveService { id: other });
    cluster.apply(back);
    cluster.check();
    // Its tasks may still be there; nobody is led to them any more.
    cluster.apply(Command::RemoveService { id: web });
    assert!(cluster.state.indexes.ports == fresh);
    cluster.add_service(everywhere("third", 8080));
    cluster.report(task, TaskState::Shutdown);
    cluster.check();
}

#[test]
fn who_asks_for_any_port_gets_one_and_keeps_it() {
    use Protocol::{Tcp, Udp};
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let any = |target| port(EVERYWHERE, Tcp, 0, target);
    let web = cluster.add_service(publishing(
        "web",
        &[any(80), any(80), any(443), port(EVERYWHERE, Udp, 0, 80), port(AT_TASKS, Tcp, 0, 9000)],
    ));
    let first = numbers(&cluster, web);
    assert!(first[..4].iter().all(|number| (30_000..=32_767).contains(number)), "{first:?}");
    assert_eq!(first[..3].iter().collect::<BTreeSet<_>>().len(), 3, "{first:?}");
    assert_eq!(first[4], 0, "each node's choice");
    let task = cluster.add_running(web, 1, nodes[0]);
    let of_task = |cluster: &TestCluster, id| -> Vec<u16> {
        cluster.state.task(id).unwrap().ports().iter().map(|p| p.published_port).collect()
    };
    assert_eq!(of_task(&cluster, task), first, "tasks know the numbers");

    // In another order, with one more and one less.
    let changed = [any(443), any(8080), any(80), port(EVERYWHERE, Udp, 0, 80)];
    cluster.update_service(web, publishing("web", &changed));
    let second = numbers(&cluster, web);
    assert_eq!((second[0], second[2], second[3]), (first[2], first[0], first[3]));
    assert!(!first.contains(&second[1]) || second[1] == first[1], "{first:?} {second:?}");
    assert_eq!(of_task(&cluster, task), first, "as it was made");
    cluster.check();

    // A number that somebody has by name is not given.
    let mut taken = Vec::new();
    for (n, number) in (30_000..30_010).enumerate() {
        if !second.contains(&number) {
            cluster.add_service(everywhere(&format!("t{n}"), number));
            taken.push(number);
        }
    }
    let (id, deployment_id) = (30_000u128.into(), cluster.fresh());
    let spec = Arc::new(everywhere("any", 0));
    cluster.apply(Command::CreateService { id, deployment_id, spec });
    assert!(!taken.contains(&numbers(&cluster, id)[0]));
    cluster.check();
}

/// A number that was asked for is not one that was chosen: leaving it to the cluster again is another wish.
#[test]
fn which_number_follows_from_the_id() {
    let make = |id: u128| {
        let mut cluster = TestCluster::new();
        let (id, deployment_id) = (ServiceId::from(id), cluster.fresh());
        let spec = Arc::new(everywhere("web", 0));
        cluster.apply(Command::CreateService { id, deployment_id, spec });
        (numbers(&cluster, id), cluster, id)
    };
    assert_eq!(make(5).0, [30_005]);
    assert_eq!(make(2768 + 7).0, [30_007]);
    assert_eq!(make(2767).0, [32_767]);
    let (_, mut cluster, id) = make(2767);
    let second = cluster.add_service(everywhere("second", 30_000));
    cluster.update_service(id, everywhere("web", 31_000));
    cluster.update_service(id, everywhere("web", 0));
    assert_eq!(numbers(&cluster, id), [32_767]);
    // Around the end of the range, past who is there.
    let third = Command::CreateService {
        id: (2 * 2768 - 1).into(),
        deployment_id: cluster.fresh(),
        spec: Arc::new(everywhere("third", 0)),
    };
    cluster.apply(third);
    assert_eq!(numbers(&cluster, (2 * 2768 - 1).into()), [30_001]);
    assert_eq!(numbers(&cluster, second), [30_000]);
    cluster.check();
}

#[test]
fn all_of_them_can_be_taken() {
    let mut cluster = TestCluster::new();
    for n in 0..2768 {
        cluster.add_service(everywhere(&format!("s{n}"), 0));
        cluster.events();
    }
    let command = create(&mut cluster, everywhere("more", 0));
    let full = refused(&cluster, command);
    assert_eq!(full.code(), Code::FailedPrecondition);
    let said = "service \"more\" gets no tcp port: all from 30000 to 32767 are in use";
    assert!(full.to_string().contains(said), "{full}");
    let udp = publishing("udp", &[port(EVERYWHERE, Protocol::Udp, 0, 53)]);
    cluster.add_service(udp);
    let gone = cluster.state.service_by_name("s77").unwrap();
    let (gone, number) = (gone.id, gone.endpoint.ports[0].published_port);
    cluster.apply(Command::RemoveService { id: gone });
    let last = cluster.add_service(everywhere("more", 0));
    assert_eq!(numbers(&cluster, last), [number]);
    cluster.check();
}

fn stack(services: &[ServiceSpec]) -> StackSpec {
    let key = |spec: &ServiceSpec| spec.name.trim_start_matches("shop_").to_owned();
    let services = services.iter().map(|spec| (key(spec), spec.clone())).collect();
    StackSpec { name: "shop".to_owned(), services, ..StackSpec::default() }
}

fn apply_stack(cluster: &mut TestCluster, spec: StackSpec, prune: bool) -> Command {
    let services =
        spec.services.keys().map(|k| (k.clone(), (cluster.fresh(), cluster.fresh()))).collect();
    let ids = StackIds { stack: cluster.fresh(), services, networks: Default::default() };
    Command::ApplyStack {
        spec: spec.into(),
        ids,
        prune,
        expected: None,
        payloads: Default::default(),
    }
}

/// Whatever the order of its services: a stack is one command.
#[test]
fn services_of_a_stack_take_over_each_others_ports() {
    let mut cluster = TestCluster::new();
    let (a, b) = (|p| everywhere("shop_a", p), |p| everywhere("shop_b", p));
    cluster.add_stack(stack(&[a(8080), b(8081)]));
    let ports = |cluster: &TestCluster, name| {
        numbers(cluster, cluster.state.service_by_name(name).unwrap().id)
    };
    cluster.add_stack(stack(&[a(8081), b(8080)]));
    assert_eq!((ports(&cluster, "shop_a"), ports(&cluster, "shop_b")), (vec![8081], vec![8080]));
    cluster.check();

    // The one that has it is removed by the same command, or is not.
    let renamed = stack(&[a(8081), everywhere("shop_c", 8080)]);
    let kept = apply_stack(&mut cluster, renamed.clone(), false);
    let said = refused(&cluster, kept).to_string();
    assert!(said.contains("\"shop_c\"") && said.contains("\"shop_b\" has it"), "{said}");
    let pruned = apply_stack(&mut cluster, renamed, true);
    cluster.apply(pruned);
    assert_eq!(ports(&cluster, "shop_c"), [8080]);
    cluster.check();

    // Two of one stack, and one beside it.
    let twice = apply_stack(&mut cluster, stack(&[a(8081), everywhere("shop_c", 8081)]), true);
    assert!(matches!(refused(&cluster, twice), Rejected::PortInUse { port: 8081, .. }));
    cluster.add_service(with_host_port(service_spec("alone", 1), 9090));
    let beside = apply_stack(&mut cluster, stack(&[a(9090)]), true);
    let said = refused(&cluster, beside).to_string();
    assert!(said.contains("\"alone\" has it on the nodes of its tasks"), "{said}");
    let back = cluster.state.stack_by_name("shop").unwrap();
    let (id, expected) = (back.id, back.meta.spec_version);
    let services = ["a", "b"].map(|key| (key.to_owned(), (cluster.fresh(), cluster.fresh())));
    let (stack, networks) = (cluster.fresh(), Default::default());
    let ids = StackIds { stack, services: services.into(), networks };
    cluster.apply(Command::RollBackStack { id, expected, to: 1, ids, failed: None });
    assert_eq!((ports(&cluster, "shop_a"), ports(&cluster, "shop_b")), (vec![8080], vec![8081]));
    cluster.check();
}
