//! Networks with several subnets, ranges, reserved addresses, gateways and IPv6: who gets what.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;
use shoal_types::id::{IdSource, NetworkId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{AddressCount, Slot};
use shoal_types::spec::{IpamConfig, NetworkSpec, ServiceMode, ServiceSpec};
use shoal_types::task_state::TaskState;

use super::{all_refused, refused};
use crate::testing::{
    TestCluster, cluster_of, cluster_with_nodes, dual_spec, ipam_config, overlay_spec,
    service_spec, with_networks,
};
use crate::{Command, Rejected, RejectedCode as Code};

fn add(cluster: &mut TestCluster, name: &str, six: bool, config: Vec<IpamConfig>) -> NetworkId {
    let id = cluster.ids.next_id();
    cluster.apply(Command::CreateNetwork { id, spec: dual_spec(name, six, config) });
    id
}

fn plain(subnet: &str) -> IpamConfig {
    ipam_config(subnet, "", "", &[])
}

fn joined(name: &str, networks: &[&str]) -> ServiceSpec {
    with_networks(service_spec(name, 3), networks)
}

fn subnets(cluster: &TestCluster, id: NetworkId) -> Vec<String> {
    cluster.state.network(id).unwrap().subnets.iter().map(ToString::to_string).collect()
}

fn of_task(cluster: &TestCluster, id: TaskId) -> Vec<IpNet> {
    let networks = &cluster.state.task(id).unwrap().networks;
    networks.iter().flat_map(|n| &n.addresses).copied().collect()
}

fn count(cluster: &TestCluster, id: NetworkId) -> (u64, u64) {
    let network = cluster.state.network(id).unwrap();
    let AddressCount { used, free } = cluster.state.addresses(network).unwrap();
    (used, free)
}

#[test]
fn a_network_with_ipv6_has_a_subnet_of_each_family() {
    let mut cluster = TestCluster::new();
    let own = add(&mut cluster, "own", true, vec![plain("fd00:1::/64"), plain("10.7.0.0/24")]);
    assert_eq!(subnets(&cluster, own), ["fd00:1::/64", "10.7.0.0/24"]);
    let six = add(&mut cluster, "six", true, vec![plain("fd00:2::/112")]);
    assert_eq!(subnets(&cluster, six), ["10.0.0.0/24", "fd00:2::/112"]);
    let chosen = add(&mut cluster, "chosen", true, Vec::new());
    let next = add(&mut cluster, "next", true, vec![plain("10.7.1.0/24")]);
    let [first, second] = [chosen, next].map(|id| subnets(&cluster, id));
    assert_eq!((first[0].as_str(), second[0].as_str()), ("10.0.1.0/24", "10.7.1.0/24"));
    let range = super::super::address::own_range(cluster.state.cluster().unwrap().id);
    assert_eq!(range.prefix_len(), 48);
    let at = |n: u128| {
        format!("{}/64", std::net::Ipv6Addr::from_bits(range.addr().to_bits() + (n << 64)))
    };
    assert_eq!((first[1].clone(), second[1].clone()), (at(0), at(1)));
    cluster.check();
    cluster.apply(Command::RemoveNetwork { id: chosen });
    let again = add(&mut cluster, "again", true, Vec::new());
    assert_eq!(subnets(&cluster, again), first);
    cluster.check();
}

/// A network of IPv6 alone: no address of the other family is given to anybody there, nor may somebody name one.
#[test]
fn a_network_without_ipv4_gives_no_address_of_it() {
    let (mut cluster, nodes) = cluster_of(Level::DUAL, 1);
    let alone = |name: &str, config| NetworkSpec {
        enable_ipv4: Some(false),
        ..dual_spec(name, true, config)
    };
    for (name, config) in [("own", vec![]), ("named", vec![plain("fd00:1::/64")])] {
        let id = cluster.ids.next_id();
        cluster.apply(Command::CreateNetwork { id, spec: alone(name, config) });
        assert_eq!(cluster.state.network(id).unwrap().subnets.len(), 1, "{name}");
    }
    let named = cluster.state.network_by_name("named").unwrap().id;
    assert_eq!(subnets(&cluster, named), ["fd00:1::/64"]);
    let web = cluster.add_service(joined("web", &["own", "named"]));
    let task = cluster.add_running(web, 1, nodes[0]);
    let vips = cluster.state.service(web).unwrap().endpoint.virtual_ips.clone();
    let addresses: Vec<IpNet> =
        of_task(&cluster, task).into_iter().chain(vips.iter().map(|vip| vip.addr)).collect();
    assert_eq!(addresses.len(), 4, "one of each network for the task and for the service");
    assert!(addresses.iter().all(|address| address.addr().is_ipv6()), "{addresses:?}");
    assert_eq!(count(&cluster, named).0, 2);
    // Connected to it later, a task gets one as well.
    cluster.add_overlay("plain", Some("10.9.0.0/24"));
    let other = cluster.add_service(joined("other", &["plain"]));
    let later = cluster.add_running(other, 1, nodes[0]);
    let connect = |name: &str, addresses| {
        let network_id = cluster.state.network_by_name(name).unwrap().id;
        Command::ConnectTask { id: later, network_id, aliases: vec![], addresses }
    };
    let wrong = connect("own", vec![[10, 9, 0, 9].into()]);
    let fine = connect("named", vec![]);
    cluster.apply(fine);
    let families: Vec<bool> =
        of_task(&cluster, later).iter().map(|address| address.addr().is_ipv6()).collect();
    assert_eq!(families, [false, true]);
    let create = |spec| Command::CreateNetwork { id: NetworkId::from(99), spec };
    let mut four = joined("four", &["named"]);
    Arc::make_mut(&mut four.task_template).networks[0].addresses = vec![[10, 7, 0, 9].into()];
    four.mode = ServiceMode::Replicated { replicas: 1 };
    let (id, deployment_id) = (cluster.ids.next_id(), cluster.ids.next_id());
    let nobody = NetworkSpec { enable_ipv6: false, ..alone("nobody", vec![]) };
    all_refused(
        &cluster,
        vec![
            (
                create(alone("four", vec![plain("10.7.0.0/24")])),
                Code::InvalidArgument,
                &["\"10.7.0.0/24\""],
            ),
            (create(nobody), Code::InvalidArgument, &["has neither IPv4 nor IPv6"]),
            (wrong, Code::InvalidArgument, &["10.9.0.9"]),
            (
                Command::CreateService { id, deployment_id, spec: Arc::new(four) },
                Code::InvalidArgument,
                &["10.7.0.9", "fd00:1::/64"],
            ),
        ],
    );
    cluster.check();
}

/// The rule is written down for people who look for clashes: it does not change.
#[test]
fn a_clusters_own_range_follows_from_its_id() {
    let range = |id: u128| super::super::address::own_range(id.into()).to_string();
    // printf '%032x' 0 | xxd -r -p | sha256sum
    assert_eq!(range(0), "fd37:4708:fff7::/48");
    assert_ne!(range(1), range(2));
}

#[test]
fn tasks_and_services_get_one_address_of_each_family() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let net = add(&mut cluster, "dual", true, vec![plain("10.7.0.0/24"), plain("fd00:1::/64")]);
    cluster.add_overlay("four", None);
    let web = cluster.add_service(joined("web", &["dual", "four"]));
    let task = cluster.add_running(web, 1, nodes[0]);
    let has = of_task(&cluster, task);
    let within: Vec<String> = has.iter().map(|a| a.trunc().to_string()).collect();
    assert_eq!(within, ["10.7.0.0/24", "fd00:1::/64", "10.0.0.0/24"]);
    let vips = cluster.state.service(web).unwrap().endpoint.virtual_ips.clone();
    let within: Vec<_> =
        vips.iter().map(|v| (v.network_id == net, v.addr.trunc().to_string())).collect();
    let expected = [(true, "10.7.0.0/24"), (true, "fd00:1::/64"), (false, "10.0.0.0/24")];
    assert_eq!(within, expected.map(|(own, text)| (own, text.to_owned())));
    assert_eq!(count(&cluster, net), (2, 251), "of the family that has fewer left");
    cluster.update_service(web, joined("web", &["dual"]));
    let kept = &cluster.state.service(web).unwrap().endpoint.virtual_ips;
    assert_eq!(kept[..], vips[..2], "what it had it keeps");
    cluster.check();
    cluster.report(task, TaskState::Shutdown);
    cluster.apply(Command::RemoveService { id: web });
    assert_eq!(count(&cluster, net), (0, 253));
    cluster.check();
}

#[test]
fn subnets_that_a_network_cannot_have() {
    let mut cluster = TestCluster::new();
    add(&mut cluster, "mine", true, vec![plain("fd00:1::/64"), plain("10.7.0.0/24")]);
    let create = |six, config| Command::CreateNetwork {
        id: NetworkId::from(99),
        spec: dual_spec("new", six, config),
    };
    let one = |six, subnet| create(six, vec![plain(subnet)]);
    let said = |range, gateway, aux: &[&str]| {
        create(false, vec![ipam_config("10.8.0.0/29", range, gateway, aux)])
    };
    let all = ["10.8.0.2", "10.8.0.3", "10.8.0.4", "10.8.0.5", "10.8.0.6"];
    all_refused(
        &cluster,
        vec![
            (one(true, "fd00::/16"), Code::FailedPrecondition, &["\"mine\" has fd00:1::/64"]),
            (one(true, "fd00:1::7:0/112"), Code::FailedPrecondition, &["fd00:1::/64"]),
            (one(false, "fd00:3::/64"), Code::InvalidArgument, &["\"fd00:3::/64\""]),
            (one(true, "fd00:3::/127"), Code::InvalidArgument, &["\"fd00:3::/127\"", "expected"]),
            (
                one(true, "fd73:686f:616c::/64"),
                Code::FailedPrecondition,
                &["nodes have fd73:686f:616c::/96 inside of their tunnels"],
            ),
            (
                create(true, vec![plain("10.8.0.0/24"), plain("10.8.0.128/25")]),
                Code::FailedPrecondition,
                &["\"new\" cannot have 10.8.0.128/25", "10.8.0.0/24"],
            ),
            (
                create(true, vec![plain("10.8.0.0/24"), plain("10.7.0.128/25")]),
                Code::FailedPrecondition,
                &["\"mine\" has 10.7.0.0/24"],
            ),
            (said("10.8.0.0/32", "", &[]), Code::InvalidArgument, &["\"10.8.0.0/29\""]),
            (said("", "10.9.0.1", &[]), Code::InvalidArgument, &["\"10.8.0.0/29\""]),
            (said("", "", &all), Code::InvalidArgument, &["\"10.8.0.0/29\""]),
        ],
    );
}

/// Of several subnets any that has a free address will do, and the last of all is told from none.
#[test]
fn several_subnets_are_used_up_before_somebody_is_refused() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let config = vec![
        ipam_config("10.7.0.0/29", "10.7.0.4/31", "", &[]),
        ipam_config("10.8.0.0/29", "", "10.8.0.6", &["10.8.0.3"]),
        plain("10.9.0.0/30"),
    ];
    let net = add(&mut cluster, "n", false, config);
    assert_eq!(count(&cluster, net), (0, 7));
    let web = cluster.add_service(joined("web", &["n"]));
    let tasks: Vec<TaskId> = (1..=6).map(|n| cluster.add_running(web, n, nodes[0])).collect();
    let mut given: BTreeSet<String> =
        tasks.iter().flat_map(|task| of_task(&cluster, *task)).map(|a| a.to_string()).collect();
    let vips = &cluster.state.service(web).unwrap().endpoint.virtual_ips;
    given.extend(vips.iter().map(|vip| vip.addr.to_string()));
    let expected = ["10.7.0.4/29", "10.7.0.5/29", "10.8.0.1/29", "10.8.0.2/29"];
    let expected = expected.iter().chain(&["10.8.0.4/29", "10.8.0.5/29", "10.9.0.2/30"]);
    assert_eq!(given, expected.map(|&text| text.to_owned()).collect());
    assert_eq!(count(&cluster, net), (7, 0));
    let (_, more) = cluster.new_task(web, Slot::Replica(7));
    assert!(matches!(refused(&cluster, more), Rejected::NoFreeAddress { count: 7, .. }));
    cluster.check();
}

/// A family without a free address refuses whoever comes, and the other one keeps nothing of it.
#[test]
fn a_task_gets_all_of_its_addresses_or_none() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let net = add(&mut cluster, "n", true, vec![plain("10.7.0.0/24"), plain("fd00:1::/126")]);
    // The service has the only one.
    let web = cluster.add_service(joined("web", &["n"]));
    let (_, task) = cluster.new_task(web, Slot::Replica(1));
    let full = refused(&cluster, task);
    assert_eq!(
        full,
        Rejected::NoFreeAddress {
            network: "n".to_owned(),
            user: "a task of service \"web\"".to_owned(),
            count: 1,
        }
    );
    assert_eq!(count(&cluster, net), (1, 0));
    assert_eq!(nodes.len(), 1);
    cluster.check();
}

#[test]
fn people_see_who_is_reached_where() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let config = vec![plain("10.7.0.0/24"), plain("10.8.0.0/30"), plain("fd00:1::/64")];
    let net = add(&mut cluster, "n", true, config);
    let web = cluster.add_service(joined("web", &["n"]));
    let tasks = [cluster.add_running(web, 1, nodes[0]), cluster.add_running(web, 2, nodes[0])];
    let ended = cluster.add_running(web, 3, nodes[1]);
    cluster.report(ended, TaskState::Failed);
    let members = cluster.state.members_of(cluster.state.network(net).unwrap()).unwrap();
    let used: Vec<_> = members
        .subnets
        .iter()
        .map(|s| (s.subnet.to_string(), s.gateway.to_string(), s.used + s.free))
        .collect();
    let expected = [("10.7.0.0/24", "10.7.0.1", 253), ("10.8.0.0/30", "10.8.0.1", 1)];
    let expected =
        expected.map(|(subnet, gateway, all)| (subnet.to_owned(), gateway.to_owned(), all));
    assert_eq!(used[..2], expected);
    assert_eq!((used[2].1.as_str(), members.subnets[2].used), ("fd00:1::1", 3));
    assert_eq!(members.subnets[0].used + members.subnets[1].used, 3);
    let listed: BTreeSet<_> = members.tasks.iter().map(|t| (t.task_id, t.node_id)).collect();
    assert_eq!(listed, tasks.map(|task| (task, nodes[0])).into());
    assert!(members.tasks.iter().all(|task| task.addresses == of_task(&cluster, task.task_id)));
    let services: Vec<_> =
        members.services.iter().map(|s| (s.name.as_str(), s.vips.len())).collect();
    assert_eq!(services, [("web", 2)]);
    let peers: Vec<_> =
        members.peers.iter().map(|peer| (peer.node_id, peer.name.as_str())).collect();
    assert_eq!((peers, members.left_out), (vec![(nodes[0], "node-1")], 0));
    let bridge = cluster.add_network("bridge-net");
    assert_eq!(cluster.state.members_of(cluster.state.network(bridge).unwrap()), None);
}

/// What is reserved while the network is there belongs to nobody afterwards.
#[test]
fn nothing_is_left_of_what_was_reserved() {
    let mut cluster = TestCluster::new();
    let fresh = cluster.state.indexes.addresses.clone();
    let config =
        vec![ipam_config("10.7.0.0/24", "10.7.0.0/28", "10.7.0.9", &["10.7.0.9", "10.7.0.77"])];
    let net = add(&mut cluster, "n", true, config);
    assert_eq!(count(&cluster, net), (0, 14));
    cluster.apply(Command::RemoveNetwork { id: net });
    assert!(cluster.state.indexes.addresses == fresh);
    let spec = overlay_spec("again", Some("10.7.0.76/30"));
    let id = cluster.ids.next_id();
    cluster.apply(Command::CreateNetwork { id, spec });
    cluster.check();
}

fn part(length: std::ops::RangeInclusive<u8>) -> impl Strategy<Value = (u8, u8)> {
    (any::<u8>(), length)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is said of a network, and whoever comes and goes: nobody has an address that somebody else has, that
    /// is outside of the range, or that is kept for others; and a place that is given back is there for the next.
    #[test]
    fn an_address_is_given_once_and_as_the_spec_says(
        range in part(26..=31),
        gateway in 0..255u8,
        aux in proptest::collection::btree_set(any::<u8>(), 0..6),
        six in any::<bool>(),
        steps in proptest::collection::vec(any::<u8>(), 1..80),
    ) {
        let address = |n: u8| format!("10.7.0.{n}");
        let range: IpNet = format!("{}/{}", address(range.0), range.1).parse().unwrap();
        let range = range.trunc();
        let gateway = if gateway == 0 { String::new() } else { address(gateway) };
        let aux: Vec<String> = aux.into_iter().map(address).collect();
        let aux_texts: Vec<&str> = aux.iter().map(String::as_str).collect();
        let config = ipam_config("10.7.0.0/24", &range.to_string(), &gateway, &aux_texts);
        let mut cluster = TestCluster::new();
        let id = cluster.ids.next_id();
        let made = cluster.try_apply(Command::CreateNetwork { id, spec: dual_spec("n", six, vec![config]) });
        let first = IpAddr::from([10, 7, 0, 1]);
        let gateway = gateway.parse().unwrap_or(first);
        let given = |ip: IpAddr| {
            range.contains(&ip) && ip != gateway && !aux.contains(&ip.to_string())
                && ip != IpAddr::from([10, 7, 0, 0]) && ip != IpAddr::from([10, 7, 0, 255])
        };
        let capacity = (0..=255).filter(|n| given([10, 7, 0, *n].into())).count();
        prop_assert_eq!(made.is_ok(), capacity > 0);
        if made.is_err() {
            return Ok(());
        }
        let web = cluster.add_service(joined("web", &["n"]));
        let mut tasks: Vec<TaskId> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            if step % 4 == 0 && !tasks.is_empty() {
                let task = tasks.swap_remove(usize::from(step) % tasks.len());
                cluster.apply(Command::OrphanTask { id: task });
                continue;
            }
            let (task, command) = cluster.new_task(web, Slot::Replica(n as u64 + 1));
            let room = tasks.len() + 1 < capacity;
            prop_assert_eq!(cluster.try_apply(command).is_ok(), room);
            tasks.extend(room.then_some(task));
        }
        let vips = cluster.state.service(web).unwrap().endpoint.virtual_ips.iter().map(|v| v.addr);
        let all: Vec<IpNet> = tasks.iter().flat_map(|t| of_task(&cluster, *t)).chain(vips).collect();
        let families = if six { 2 } else { 1 };
        prop_assert_eq!(all.len(), (tasks.len() + 1) * families);
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        prop_assert!(all.iter().all(|a| !a.addr().is_ipv4() || given(a.addr())), "{:?}", all);
        let used = tasks.len() as u64 + 1;
        prop_assert_eq!(count(&cluster, id), (used, capacity as u64 - used));
        cluster.check();
    }
}
