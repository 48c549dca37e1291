//! Networks on a wire: addresses are chosen here, and nobody leads packets to them.

use std::sync::Arc;

use shoal_types::id::IdSource as _;
use shoal_types::level::Level;
use shoal_types::object::{NodeDescription, PluginDescription};
use shoal_types::spec::{NetworkKind, NetworkSpec, PortConfig};

use super::refused;
use crate::testing::{
    TestCluster, cluster_of, dual_spec, service_spec, wire_spec, with_host_port, with_ingress_port,
    with_networks,
};
use crate::{Command, Outcome, Rejected, RejectedCode as Code};

fn cluster() -> TestCluster {
    let (mut cluster, _) = cluster_of(Level::WIRE, 1);
    cluster.add_wire("lan", "192.168.1.0/24", "192.168.1.254");
    cluster.add_wire("closed", "192.168.2.0/24", "");
    cluster.add_overlay("net", None);
    cluster
}

#[test]
fn tasks_have_addresses_and_services_have_none() {
    let mut cluster = cluster();
    let [lan, net] = ["lan", "net"].map(|name| cluster.state.network_by_name(name).unwrap().id);
    let web = cluster.add_service(with_networks(service_spec("web", 2), &["lan", "net"]));
    let node = cluster.state.nodes().next().unwrap().id;
    let tasks = [1, 2].map(|slot| cluster.add_running(web, slot, node));
    let of = |id, network| {
        let task = cluster.state.task(id).unwrap();
        task.on(network).unwrap().addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let all = [of(tasks[0], lan), of(tasks[1], lan)].concat();
    assert!(all.iter().all(|at| at.starts_with("192.168.1.") && at.ends_with("/24")), "{all:?}");
    assert_ne!(all[0], all[1], "once on all nodes");
    let vips = &cluster.state.service(web).unwrap().endpoint.virtual_ips;
    assert!(vips.iter().all(|vip| vip.network_id == net) && vips.len() == 1, "{vips:?}");
    cluster.check();
    // Each address is on one network.
    let id = cluster.ids.next_id();
    let spec = wire_spec("more", "ipvlan", "192.168.1.0/25", "");
    let error = refused(&cluster, Command::CreateNetwork { id, spec });
    assert!(error.to_string().contains("network \"lan\" has 192.168.1.0/24"), "{error}");
}

#[test]
fn nothing_is_published_where_the_way_out_is_a_wire() {
    let mut cluster = cluster();
    let mut create = |networks: &[&str], ingress: bool| {
        let publish = if ingress { with_ingress_port } else { with_host_port };
        let spec = Arc::new(publish(with_networks(service_spec("web", 1), networks), 8080));
        let (id, deployment_id) = (cluster.ids.next_id(), cluster.ids.next_id());
        cluster.clone().try_apply(Command::CreateService { id, deployment_id, spec })
    };
    for (networks, fine) in [
        (&["lan"][..], false),
        (&["closed"], false),
        (&["lan", "net"], false),
        (&["net", "lan"], true),
        // There is no way out on a wire without a gateway.
        (&["closed", "net"], true),
    ] {
        for ingress in [true, false] {
            match create(networks, ingress) {
                Ok(outcome) => assert!(fine && outcome == Outcome::Applied, "{networks:?}"),
                Err(error) => {
                    assert!(!fine && matches!(error, Rejected::PortsOnWire { .. }), "{error}");
                    assert!(
                        error
                            .to_string()
                            .contains(&format!("network {:?} with driver macvlan", networks[0]))
                    );
                }
            }
        }
    }
}

#[test]
fn who_is_on_a_node_without_the_driver_is_not_connected() {
    let mut cluster = cluster();
    let lan = cluster.state.network_by_name("lan").unwrap().id;
    let node = cluster.state.nodes().next().unwrap();
    let (id, status, description) = (node.id, node.status.clone(), node.description.clone());
    let web = cluster.add_service(with_networks(service_spec("web", 1), &["net"]));
    let task = cluster.add_running(web, 1, id);
    let connect =
        Command::ConnectTask { id: task, network_id: lan, aliases: vec![], addresses: vec![] };
    let error = refused(&cluster, connect.clone());
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert!(error.to_string().ends_with("has no network driver macvlan, which its kernel lacks"));
    let mut engine = description.engine.clone();
    engine.plugins.push(PluginDescription::network(NetworkKind::Macvlan));
    let description = Some(NodeDescription { engine, ..description });
    cluster.apply(Command::ReportNode { id, description, status });
    assert_eq!(cluster.apply(connect), Outcome::Applied);
    cluster.check();
}

/// A port at an address of a family leads to who has one of it.
#[test]
fn a_port_at_an_address_needs_a_network_that_has_its_family_and_leads_out() {
    let mut cluster = cluster();
    let id = cluster.ids.next_id();
    let mut closed = dual_spec("inner", true, Vec::new());
    closed.internal = true;
    cluster.apply(Command::CreateNetwork { id, spec: closed });
    let both = dual_spec("both", true, Vec::new());
    let mut six = NetworkSpec { name: "six".to_owned(), ..both.clone() };
    six.enable_ipv4 = Some(false);
    for spec in [both, six] {
        let id = cluster.ids.next_id();
        cluster.apply(Command::CreateNetwork { id, spec });
    }
    // Of IPv4, of IPv6. Where nothing leads out, the node says so of IPv4.
    for (networks, expected) in [
        (&[][..], [true, false]),
        (&["net"], [true, false]),
        (&["inner"], [true, false]),
        (&["both"], [true, true]),
        (&["six"], [false, true]),
        (&["six", "inner"], [false, true]),
        (&["net", "both"], [true, true]),
        (&["six", "net"], [true, true]),
        (&["host"], [true, true]),
    ] {
        for (address, fine) in ["127.0.0.1", "fd00::7"].into_iter().zip(expected) {
            let mut spec = with_host_port(with_networks(service_spec("web", 1), networks), 80);
            let endpoint = spec.endpoint_spec.as_mut().unwrap();
            endpoint.ports[0].host_ip = address.parse().ok();
            // At all addresses is at those that there are.
            let all = PortConfig { host_ip: "0.0.0.0".parse().ok(), ..endpoint.ports[0].clone() };
            endpoint.ports.push(PortConfig { published_port: 81, ..all });
            let (id, deployment_id) = (cluster.ids.next_id(), cluster.ids.next_id());
            let create = Command::CreateService { id, deployment_id, spec: Arc::new(spec) };
            match cluster.clone().try_apply(create) {
                Ok(_) => assert!(fine, "{networks:?}"),
                Err(error) => {
                    let text = format!("publishes a port at {address}, and none of");
                    assert!(!fine && error.to_string().contains(&text), "{networks:?}: {error}");
                }
            }
        }
    }
}
