//! States of each level, as managers write them.

use shoal_manager_state::testing::{dual_spec, ipam_config, with_task};
use shoal_types::spec::{Affinity, OnChange, PayloadReference, PayloadTarget, TaskRuntime};

use super::*;

/// As states were before there were users.
pub(super) fn state_without_users() -> ClusterState {
    without_users().state
}

pub(super) fn full_state() -> ClusterState {
    let mut cluster = without_users();
    let spec = UserSpec { name: "admin".to_owned(), role: UserRole::Admin, ..UserSpec::default() };
    for spec in [spec, user_spec()] {
        let id = cluster.ids.next_id();
        cluster.apply(Command::CreateUser { id, spec });
    }
    cluster.check();
    cluster.events();
    cluster.state
}

fn without_users() -> TestCluster {
    let (mut cluster, nodes) = cluster_with_nodes(3);
    cluster.add_network("back");
    let web = with_networks(with_host_port(service_spec("web", 2), 8080), &["back"]);
    let web = cluster.add_service(web);
    cluster.add_running(web, 1, nodes[0]);
    cluster.add_running(web, 2, nodes[1]);
    let ids = StackIds {
        stack: cluster.ids.next_id(),
        services: BTreeMap::from([(
            "web".to_owned(),
            (cluster.ids.next_id(), cluster.ids.next_id()),
        )]),
        networks: BTreeMap::from([("back".to_owned(), cluster.ids.next_id())]),
    };
    let spec = Arc::new(stack_spec());
    cluster.apply(Command::ApplyStack {
        spec,
        ids,
        prune: false,
        expected: None,
        payloads: Default::default(),
    });
    let shop = cluster.state.service_by_name("shop_web").unwrap().id;
    cluster.add_task(shop, 1);
    cluster.check();
    cluster.events();
    cluster
}

/// A state as it was when deployments did not know the version of their stack.
pub(super) fn before_stack_versions(state: &ClusterState) -> ClusterState {
    let objects = state.export().into_iter().map(|object| match object {
        ObjectRef::Deployment(d) => {
            ObjectRef::Deployment(Arc::new(Deployment { stack_version: None, ..(*d).clone() }))
        }
        other => other,
    });
    ClusterState::import(state.applied_index(), objects).unwrap()
}

/// A stack that has gone back to its first version.
pub(super) fn stack_went_back() -> ClusterState {
    let (mut cluster, _) = cluster_with_nodes(1);
    let next = |cluster: &mut TestCluster| StackIds {
        stack: cluster.ids.next_id(),
        services: [("web".to_owned(), (cluster.ids.next_id(), cluster.ids.next_id()))].into(),
        networks: [("back".to_owned(), cluster.ids.next_id())].into(),
    };
    for replicas in [2, 3] {
        let ids = next(&mut cluster);
        let web = service_spec("shop_web", replicas);
        let services = BTreeMap::from([("web".to_owned(), web)]);
        let spec = Arc::new(StackSpec { services, ..stack_spec() });
        cluster.apply(Command::ApplyStack {
            spec,
            ids,
            prune: false,
            expected: None,
            payloads: Default::default(),
        });
    }
    let id = cluster.state.stack_by_name("shop").unwrap().id;
    let ids = StackIds { stack: id, ..next(&mut cluster) };
    cluster.apply(Command::RollBackStack { id, expected: 2, to: 1, ids, failed: None });
    cluster.check();
    cluster.events();
    cluster.state
}

/// A state of a later level, as those who have that level write it.
pub(super) fn raised() -> ClusterState {
    let (mut cluster, level) = (without_users(), Level::new(2));
    let nodes: Vec<NodeId> = cluster.state.nodes().map(|node| node.id).collect();
    for (raft_id, id) in (1..).zip(nodes.iter().copied().take(2)) {
        let status = Some(ManagerStatus { raft_id, addr: format!("h{raft_id}:4242"), level });
        cluster.apply(Command::SetManagerStatus { id, status });
    }
    cluster.apply(Command::RaiseLevel { level });
    let (id, status) = (nodes[2], NodeStatus { state: NodeState::Ready, ..NodeStatus::default() });
    let description = Some(NodeDescription { level, ..node_description("newer") });
    cluster.apply(Command::ReportNode { id, description, status });
    let web = cluster.state.service_by_name("web").unwrap().id;
    let (_, mut task) = cluster.new_task(web, Slot::Replica(9));
    if let Command::CreateTask { level: needed, .. } = &mut task {
        *needed = level;
    }
    cluster.apply(task);
    cluster.check();
    cluster.events();
    assert_eq!(cluster.state.level(), level);
    cluster.state
}

/// A state in which networks, tasks and services have addresses.
pub(super) fn with_addresses() -> ClusterState {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let expected_spec_version = cluster.state.cluster().unwrap().meta.spec_version;
    cluster.apply(Command::UpdateCluster { expected_spec_version, spec: with_pools() });
    cluster.add_overlay("front", None);
    cluster.add_overlay("back", Some("10.9.0.0/24"));
    let web = cluster.add_service(with_networks(service_spec("web", 2), &["front", "back"]));
    cluster.add_running(web, 1, nodes[0]);
    cluster.add_running(web, 2, nodes[1]);
    cluster.check();
    cluster.events();
    cluster.state
}

/// A state in which nodes have addresses inside of their tunnels, and services ports that answer on every node.
pub(super) fn with_ports() -> ClusterState {
    let (mut cluster, nodes) = cluster_of(Level::INGRESS, 2);
    cluster.add_overlay("front", None);
    let spec = with_networks(service_spec("web", 2), &["front"]);
    let spec = with_host_port(with_ingress_port(with_ingress_port(spec, 8080), 0), 9090);
    let web = cluster.add_service(spec);
    cluster.add_running(web, 1, nodes[0]);
    cluster.check();
    cluster.events();
    cluster.state
}

/// A state with networks of both families, an address that a service keeps for its task, a task that somebody has
/// connected to a network, and a service whose clients stay with a task.
pub(super) fn with_dual() -> ClusterState {
    let (mut cluster, nodes) = cluster_of(Level::DUAL, 1);
    let network_id = cluster.ids.next_id();
    let config = vec![
        ipam_config("10.7.0.0/24", "10.7.0.128/25", "10.7.0.9", &["10.7.0.5"]),
        ipam_config("fd00:1::/64", "", "", &[]),
    ];
    cluster.apply(Command::CreateNetwork { id: network_id, spec: dual_spec("back", true, config) });
    let keeper = with_task(with_networks(service_spec("db", 1), &["back"]), |task| {
        task.networks[0].addresses = vec![IpAddr::V4(Ipv4Addr::new(10, 7, 0, 7))];
        if let TaskRuntime::Container(container) = &mut task.runtime {
            container.drain_timeout = Some(Duration::from_secs(30));
        }
    });
    let keeper = cluster.add_service(keeper);
    cluster.add_running(keeper, 1, nodes[0]);
    let mut spec = with_ingress_port(service_spec("web", 2), 8080);
    spec.endpoint_spec.get_or_insert_default().affinity = Some(Affinity::ClientIp);
    let web = cluster.add_service(spec);
    let id = cluster.add_running(web, 1, nodes[0]);
    let aliases = vec!["guest".to_owned()];
    let addresses = vec![IpAddr::V4(Ipv4Addr::new(10, 7, 0, 20))];
    cluster.apply(Command::ConnectTask { id, network_id, aliases, addresses });
    cluster.check();
    cluster.events();
    cluster.state
}

/// A state with every kind of object, and with a stack that has brought a secret and a config, which its service has.
pub(super) fn with_payloads() -> ClusterState {
    let (mut cluster, nodes) = cluster_of(Level::PAYLOADS, 1);
    let admin = UserSpec { name: "admin".to_owned(), role: UserRole::Admin, ..UserSpec::default() };
    cluster.apply(Command::CreateUser { id: 99.into(), spec: admin });
    let mut spec = StackSpec { name: "shop".to_owned(), ..StackSpec::default() };
    spec.secrets.insert("db".to_owned(), "shop_db".to_owned());
    spec.configs.insert("web".to_owned(), "shop_web".to_owned());
    let web = with_task(service_spec("shop_web", 1), |task| {
        if let TaskRuntime::Container(container) = &mut task.runtime {
            container.secrets.push(PayloadReference {
                target: PayloadTarget::Env("PASSWORD".to_owned()),
                version: Some(1),
                on_change: OnChange::Nothing,
                ..PayloadReference::to("shop_db")
            });
            container.configs.push(PayloadReference::to("shop_web"));
        }
    });
    spec.services.insert("web".to_owned(), web);
    let ids = StackIds {
        stack: cluster.ids.next_id(),
        services: BTreeMap::from([(
            "web".to_owned(),
            (cluster.ids.next_id(), cluster.ids.next_id()),
        )]),
        networks: BTreeMap::new(),
    };
    let (secret, config) = (cluster.ids.next_id(), cluster.ids.next_id());
    let payloads = StackPayloads {
        secrets: BTreeMap::from([("db".to_owned(), (secret, secret_spec()))]),
        configs: BTreeMap::from([("web".to_owned(), (config, config_spec()))]),
    };
    let spec = spec.into();
    cluster.apply(Command::ApplyStack { spec, ids, prune: false, expected: None, payloads });
    let shop = cluster.state.service_by_name("shop_web").unwrap().id;
    cluster.add_running(shop, 1, nodes[0]);
    cluster.check();
    cluster.events();
    cluster.state
}

/// A state in which the keys of tunnels change: one node has followed, and another one has not.
pub(super) fn with_changed_keys() -> ClusterState {
    let (mut cluster, nodes) = cluster_of(Level::KEYS, 2);
    let expected_spec_version = cluster.state.cluster().unwrap().meta.spec_version;
    cluster.apply(Command::UpdateCluster { expected_spec_version, spec: with_keys() });
    cluster.give_tunnel(nodes[0], 1, 1);
    cluster.give_tunnel(nodes[1], 2, 2);
    let from = TunnelEpochs::default();
    cluster.apply(Command::SetTunnelEpochs { from, to: from.begun().unwrap(), forced: 3 });
    let end = |epoch, key| TunnelEnd { epoch, public_key: TunnelKey([key; 32]), port: 51821 };
    cluster.give_keys(
        nodes[0],
        DescribedKeys { epoch: 1, other: Some(end(0, 3)), lagging: 2, lacking: 0 },
    );
    cluster.give_keys(nodes[1], DescribedKeys::default());
    cluster.check();
    cluster.events();
    cluster.state
}
