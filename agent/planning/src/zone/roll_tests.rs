//! Whose names are in the zone.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use shoal_types::assignment::{
    AssignedTask, EndpointNetwork, ServiceVips, TaskEndpoint, VipNetwork,
};
use shoal_types::id::NetworkId;
use shoal_types::object::{Meta, Network, Slot, TaskNetwork};
use shoal_types::spec::{ContainerSpec, Driver, Labels, NAMESPACE_LABEL, NetworkSpec};

use super::*;
use crate::network::{Attached, AttachedV4, Mac};
use crate::overlay::OverlayView;

const OWN: u128 = 1;
const OTHER: u128 = 2;
const BRIDGE: u128 = 11;
const OVERLAY: u128 = 12;

fn network(id: u128, name: &str, driver: &str, stack: Option<&str>) -> Arc<Network> {
    let labels = stack.map(|stack| (NAMESPACE_LABEL.to_owned(), stack.to_owned()));
    let labels: Labels = labels.into_iter().collect();
    let driver = Driver { name: driver.to_owned(), ..Driver::default() };
    let spec = NetworkSpec { name: name.to_owned(), labels, driver, ..NetworkSpec::default() };
    let subnets = (driver_of(id) == "overlay").then(|| "10.9.0.0/24".parse().unwrap());
    Arc::new(Network {
        id: id.into(),
        meta: Meta::default(),
        spec,
        stack_id: stack.map(|_| 1.into()),
        predefined: false,
        subnets: subnets.into_iter().collect(),
    })
}

fn driver_of(id: u128) -> &'static str {
    if id == OVERLAY { "overlay" } else { "bridge" }
}

fn networks() -> Arc<BTreeMap<NetworkId, Arc<Network>>> {
    let all = [
        network(BRIDGE, "shop_back", "bridge", Some("shop")),
        network(OVERLAY, "shop_default", "overlay", Some("shop")),
    ];
    Arc::new(all.into_iter().map(|network| (network.id, network)).collect())
}

fn speaker(task: u128, service: u128, on: &[(u128, &str)], serving: bool) -> Option<Speaker> {
    let joined = |&(id, _): &(u128, &str)| TaskNetwork {
        network_id: id.into(),
        aliases: vec![format!("alias{service}")],
        driver_opts: BTreeMap::new(),
        addresses: Vec::new(),
        connected: false,
    };
    let assigned = AssignedTask {
        id: task.into(),
        service_id: service.into(),
        service_name: format!("shop_s{service}"),
        slot: Slot::Replica(u64::try_from(task).unwrap()),
        networks: on.iter().map(joined).collect(),
        ..crate::testing::task(ContainerSpec::default())
    };
    let attached = |&(id, address): &(u128, &str)| Attached {
        container: assigned.id.to_string(),
        network: NetworkId::from(id).to_string(),
        mac: Mac([0; 6]),
        ifname: "eth0".to_owned(),
        host_ifname: "v1".to_owned(),
        mtu: 1420,
        v4: Some(AttachedV4 {
            address: address.parse().unwrap(),
            gateway: Ipv4Addr::UNSPECIFIED,
            default_route: true,
            behind_gateway: Vec::new(),
        }),
        v6: None,
        aliases: BTreeSet::new(),
        wire: None,
    };
    Speaker::of(&assigned, on.iter().map(attached).collect(), serving)
}

fn endpoint(task: u128, service: u128, node: u128, address: &str, serving: bool) -> TaskEndpoint {
    let network = EndpointNetwork {
        network_id: OVERLAY.into(),
        addresses: vec![address.parse().unwrap()],
        aliases: vec![format!("alias{service}")],
    };
    TaskEndpoint {
        task_id: task.into(),
        service_id: service.into(),
        service_name: format!("shop_s{service}"),
        slot: Slot::Replica(u64::try_from(task).unwrap()),
        node_id: node.into(),
        networks: vec![network],
        affinity: None,
        locality: None,
        serving,
        ports: Vec::new(),
    }
}

fn view(endpoints: Vec<TaskEndpoint>, vips: &[(u128, &str)]) -> Arc<OverlayView> {
    let vip = |&(service, vip): &(u128, &str)| {
        let vip = VipNetwork {
            network_id: OVERLAY.into(),
            vip: vip.parse().unwrap(),
            aliases: vec![format!("alias{service}")],
        };
        let service_name = format!("shop_s{service}");
        Arc::new(ServiceVips {
            service_id: service.into(),
            service_name,
            networks: vec![vip],
            affinity: None,
            locality: None,
        })
    };
    Arc::new(OverlayView {
        node_id: Some(OWN.into()),
        endpoints: endpoints.into_iter().map(|one| (one.task_id, Arc::new(one))).collect(),
        vips: vips.iter().map(vip).map(|vips| (vips.service_id, vips)).collect(),
        ..OverlayView::default()
    })
}

fn ask(zone: &Zone, network: u128, name: &str) -> Option<Vec<String>> {
    let networks = vec![NetworkId::from(network).to_string()];
    match zone.ask(&Asker { networks, ..Asker::default() }, name) {
        Known::Addresses(all) => Some(all.iter().map(ToString::to_string).collect()),
        Known::Called(called) => Some(vec![called]),
        Known::Absent | Known::Foreign => None,
    }
}

fn expect(zone: &Zone, table: &[(u128, &str, Option<&[&str]>)]) {
    for (network, name, expected) in table {
        let expected = expected.map(|all| all.iter().map(|&at| at.to_owned()).collect());
        assert_eq!(ask(zone, *network, name), expected, "{name} on {network}");
    }
}

#[test]
fn a_host_answers_for_its_own_tasks_and_for_those_that_it_was_told_of() {
    let mut roll = Roll::default();
    roll.set_networks(networks());
    assert!(roll.set_speaker(21.into(), speaker(21, 7, &[(BRIDGE, "172.20.0.2/24")], true)));
    assert!(!roll.set_speaker(21.into(), speaker(21, 7, &[(BRIDGE, "172.20.0.2/24")], true)));
    assert!(roll.set_speaker(22.into(), speaker(22, 7, &[(BRIDGE, "172.20.0.3/24")], false)));
    let both = [(BRIDGE, "172.20.0.4/24"), (OVERLAY, "10.9.0.2/32")];
    roll.set_speaker(23.into(), speaker(23, 8, &both, true));
    roll.set_overlay(view(
        vec![
            // What is here is known better here.
            endpoint(23, 8, OWN, "10.9.0.2/24", false),
            endpoint(24, 8, OTHER, "10.9.0.3/24", true),
            endpoint(25, 8, OTHER, "10.9.0.4/24", false),
            endpoint(26, 9, OTHER, "10.9.0.5/24", true),
            // It has just ended here, and managers do not know.
            endpoint(27, 9, OWN, "10.9.0.6/24", true),
        ],
        &[(8, "10.9.0.99/24")],
    ));
    let zone = roll.zone(&Zone::default());
    expect(
        &zone,
        &[
            (BRIDGE, "s7", Some(&["172.20.0.2"])),
            (BRIDGE, "shop_s7", Some(&["172.20.0.2"])),
            (BRIDGE, "alias7", Some(&["172.20.0.2"])),
            (BRIDGE, "shop_s7.22", Some(&[])),
            // There is a virtual address on the other network only.
            (BRIDGE, "s8", Some(&["172.20.0.4"])),
            (BRIDGE, "s9", None),
            (BRIDGE, "4.0.20.172.in-addr.arpa", Some(&["shop_s8.23.shop_back"])),
            (OVERLAY, "s7", None),
            (OVERLAY, "s8", Some(&["10.9.0.99"])),
            (OVERLAY, "alias8", Some(&["10.9.0.99"])),
            (OVERLAY, "tasks.s8", Some(&["10.9.0.2", "10.9.0.3"])),
            (OVERLAY, "tasks.shop_s8", Some(&["10.9.0.2", "10.9.0.3"])),
            (OVERLAY, "shop_s8.24", Some(&["10.9.0.3"])),
            (OVERLAY, "s9", Some(&["10.9.0.5"])),
            (OVERLAY, "shop_s9", Some(&["10.9.0.5"])),
            (OVERLAY, "99.0.9.10.in-addr.arpa", Some(&["shop_s8.shop_default"])),
            (OVERLAY, "3.0.9.10.in-addr.arpa", Some(&["shop_s8.24.shop_default"])),
        ],
    );
    let networks = vec![NetworkId::from(OVERLAY).to_string()];
    let asker = Asker { networks, ..Asker::default() };
    assert_eq!(zone.ask(&asker, "200.0.9.10.in-addr.arpa"), Known::Absent, "its own subnet");
}

/// Ids are unique, and nothing here depends on it.
#[test]
fn a_task_is_not_taken_for_a_service_of_the_same_number() {
    let mut roll = Roll::default();
    roll.set_networks(networks());
    roll.set_speaker(7.into(), speaker(7, 7, &[(BRIDGE, "172.20.0.2/24")], true));
    let zone = roll.zone(&roll.zone(&Zone::default()));
    expect(&zone, &[(BRIDGE, "s7", Some(&["172.20.0.2"]))]);
}

#[test]
fn short_names_are_those_of_the_networks_stack() {
    let mut networks = BTreeMap::clone(&networks());
    // Whatever is written on it: it is of no stack.
    let network = Network { stack_id: None, ..Network::clone(&networks[&BRIDGE.into()]) };
    networks.insert(BRIDGE.into(), Arc::new(network));
    let mut roll = Roll::default();
    roll.set_networks(Arc::new(networks));
    roll.set_speaker(21.into(), speaker(21, 7, &[(BRIDGE, "172.20.0.2/24")], true));
    let zone = roll.zone(&Zone::default());
    let table: &[(u128, &str, Option<&[&str]>)] =
        &[(BRIDGE, "s7", None), (BRIDGE, "shop_s7", Some(&["172.20.0.2"]))];
    expect(&zone, table);
}

/// An agent that has begun anew knows its own tasks at once, and others when managers have spoken.
#[test]
fn until_managers_have_spoken_others_are_called_as_they_were() {
    let mut roll = Roll::default();
    roll.set_networks(networks());
    roll.set_speaker(21.into(), speaker(21, 8, &[(OVERLAY, "10.9.0.2/32")], true));
    roll.set_speaker(22.into(), speaker(22, 8, &[(OVERLAY, "10.9.0.3/32")], true));
    roll.set_speaker(23.into(), speaker(23, 7, &[(BRIDGE, "172.20.0.2/24")], true));
    let told = view(vec![endpoint(24, 8, OTHER, "10.9.0.4/24", true)], &[(8, "10.9.0.99/24")]);
    roll.set_overlay(Arc::clone(&told));
    let before = roll.zone(&Zone::default());
    let mut again = Roll::default();
    again.set_networks(networks());
    again.set_speaker(21.into(), speaker(21, 8, &[(OVERLAY, "10.9.0.2/32")], true));
    // One has ended and given its address back, one was forgotten while no agent was there.
    assert!(again.set_speaker(22.into(), None));
    let zone = again.zone(&before);
    let tasks: &[&str] = &["10.9.0.2", "10.9.0.4"];
    let table: &[(u128, &str, Option<&[&str]>)] = &[
        (OVERLAY, "s8", Some(&["10.9.0.99"])),
        (OVERLAY, "tasks.s8", Some(tasks)),
        (OVERLAY, "shop_s8.24", Some(&["10.9.0.4"])),
        (BRIDGE, "s7", None),
    ];
    expect(&zone, table);
    // What follows from it is the same once more.
    assert_eq!(again.zone(&zone), zone);
    again.set_overlay(told);
    expect(&again.zone(&Zone::default()), table);
    assert!(!again.set_speaker(22.into(), None));
    let unknown: Arc<OverlayView> = Arc::default();
    again.set_overlay(unknown);
    expect(&again.zone(&Zone::default()), &[(OVERLAY, "shop_s8.24", None)]);
}
