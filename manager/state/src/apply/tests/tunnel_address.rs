//! Addresses of nodes inside of their tunnels: who gets one when, and from where.

use shoal_types::id::{NetworkId, NodeId};
use shoal_types::level::Level;
use shoal_types::object::{ManagerStatus, NodeState};
use shoal_types::spec::{AddressPool, ClusterSpec};

use super::refused;
use crate::testing::{TestCluster, cluster_of, cluster_with_nodes, overlay_spec};
use crate::{Command, Rejected, RejectedCode as Code, SubnetHolder};

fn address(cluster: &TestCluster, id: NodeId) -> Option<String> {
    cluster.state.node(id).unwrap().tunnel_address.map(|address| address.to_string())
}

fn has_one_of(cluster: &TestCluster, id: NodeId, subnet: &str) -> bool {
    let address = cluster.state.node(id).unwrap().tunnel_address;
    address.is_some_and(|address| address.trunc() == subnet.parse().unwrap())
}

fn set_pool(cluster: &mut TestCluster, base: &str, size: u8) {
    let pools = vec![AddressPool { base: base.parse().unwrap(), size }];
    let spec = ClusterSpec { address_pools: pools, ..ClusterSpec::default() };
    let expected_spec_version = cluster.state.cluster().unwrap().meta.spec_version;
    cluster.apply(Command::UpdateCluster { expected_spec_version, spec });
}

/// A cluster of the newest level whose pools are these, with a manager that got an address before.
fn with_pool(base: &str, size: u8) -> TestCluster {
    let mut cluster = TestCluster::at(Level::INGRESS);
    set_pool(&mut cluster, base, size);
    cluster
}

fn subnet(cluster: &mut TestCluster, name: &str) -> String {
    let id = cluster.add_overlay(name, None);
    cluster.state.network(id).unwrap().subnets[0].to_string()
}

#[test]
fn a_member_gets_an_address_of_its_own_and_takes_it_along() {
    let (mut cluster, nodes) = cluster_of(Level::INGRESS, 3);
    assert!(nodes.iter().all(|id| has_one_of(&cluster, *id, "10.0.0.0/24")));
    let all = nodes.iter().map(|id| address(&cluster, *id));
    assert_eq!(all.collect::<std::collections::BTreeSet<_>>().len(), 3);
    assert_eq!(subnet(&mut cluster, "n"), "10.0.1.0/24", "the first one is the nodes'");
    cluster.check();
    let kept = address(&cluster, nodes[1]);
    cluster.set_node(nodes[1], NodeState::Down);
    cluster.set_node(nodes[1], NodeState::Ready);
    assert_eq!(address(&cluster, nodes[1]), kept);

    for id in &nodes[1..] {
        cluster.set_node(*id, NodeState::Down);
        cluster.apply(Command::RemoveNode { id: *id, force: false });
        cluster.check();
    }
    assert!(has_one_of(&cluster, nodes[0], "10.0.0.0/24"), "for as long as there is a node");
    let fresh = TestCluster::new().state.indexes.addresses;
    let first = cluster.state.node(nodes[0]).unwrap().clone();
    let mut left = cluster.state.indexes.addresses.clone();
    left.network(Some(&**cluster.state.network_by_name("n").unwrap()), None);
    left.node(Some(&*first), None);
    assert!(left == fresh, "nothing is left: {left:?}");
}

/// Which address it is follows from the command and the state; not from the order in which others came.
#[test]
fn an_address_follows_from_the_id_of_its_node() {
    let make = |order: [u128; 3]| {
        let mut cluster = TestCluster::at(Level::INGRESS);
        for id in order {
            let (spec, description) = Default::default();
            cluster.apply(Command::CreateNode { id: (id * 10).into(), spec, description });
        }
        [1u128, 2, 3].map(|id| address(&cluster, (id * 10).into()).unwrap())
    };
    assert_eq!(make([1, 2, 3]), ["10.0.0.12/24", "10.0.0.22/24", "10.0.0.32/24"]);
    assert_eq!(make([1, 2, 3]), make([3, 1, 2]));
}

/// A manager that does not know of them would not give the same ones.
#[test]
fn members_of_an_older_cluster_get_theirs_when_it_is_raised() {
    let (mut cluster, nodes) = cluster_with_nodes(3);
    let network = cluster.add_overlay("n", None);
    assert!(nodes.iter().all(|id| address(&cluster, *id).is_none()));
    let manager = |level| {
        let status = ManagerStatus { raft_id: 1, addr: "h:1".to_owned(), level };
        Command::SetManagerStatus { id: nodes[0], status: Some(status) }
    };
    for (level, given) in [(Level::OVERLAY, false), (Level::INGRESS, true)] {
        cluster.apply(manager(level));
        cluster.apply(Command::RaiseLevel { level });
        let has = |id: &NodeId| has_one_of(&cluster, *id, "10.0.1.0/24");
        assert!(nodes.iter().all(|id| has(id) == given), "level {level}");
        cluster.check();
    }
    assert_eq!(cluster.state.network(network).unwrap().subnets[0].to_string(), "10.0.0.0/24");
}

#[test]
fn another_subnet_is_set_aside_when_one_is_full() {
    let mut cluster = with_pool("10.5.0.0/24", 29);
    let nodes: Vec<NodeId> = (0..11).map(|n| cluster.add_node(&format!("h{n}"))).collect();
    let of = |cluster: &TestCluster, subnet| {
        nodes
            .iter()
            .filter(|id| {
                cluster.state.node(**id).is_some_and(|_| has_one_of(cluster, **id, subnet))
            })
            .count()
    };
    assert_eq!(of(&cluster, "10.5.0.0/29"), 5);
    assert_eq!((of(&cluster, "10.5.0.8/29"), of(&cluster, "10.5.0.16/29")), (5, 1));
    assert_eq!(subnet(&mut cluster, "n"), "10.5.0.24/29");
    cluster.check();

    // The one that has nobody left is anybody's.
    let last = *nodes.iter().find(|id| has_one_of(&cluster, **id, "10.5.0.16/29")).unwrap();
    cluster.set_node(last, NodeState::Down);
    cluster.apply(Command::RemoveNode { id: last, force: false });
    assert_eq!(subnet(&mut cluster, "m"), "10.5.0.16/29");
    cluster.check();
}

#[test]
fn nobody_else_gets_their_subnet() {
    let (cluster, _) = cluster_of(Level::INGRESS, 2);
    for wanted in ["10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/16"] {
        let spec = overlay_spec("n", Some(wanted));
        let taken = refused(&cluster, Command::CreateNetwork { id: NetworkId::from(99), spec });
        let said = "nodes have 10.0.0.0/24 inside of their tunnels";
        assert!(taken.to_string().contains(said), "{wanted}: {taken}");
        assert_eq!(taken.code(), Code::FailedPrecondition);
        assert!(matches!(taken, Rejected::SubnetTaken { holder: SubnetHolder::Nodes { .. }, .. }));
    }
}

/// Whoever joins is a member all the same, and gets one as soon as there is one.
#[test]
fn a_member_without_an_address_gets_one_later() {
    let mut cluster = with_pool("10.5.0.0/24", 24);
    let network = cluster.add_overlay("n", None);
    let (one, two) = (cluster.add_node("h1"), cluster.add_node("h2"));
    assert_eq!((address(&cluster, one), address(&cluster, two)), (None, None));
    cluster.apply(Command::RemoveNetwork { id: network });
    cluster.set_node(two, NodeState::Ready);
    assert!(has_one_of(&cluster, two, "10.5.0.0/24") && address(&cluster, one).is_none());
    // As soon as pools are other ones, without a word of the node.
    set_pool(&mut cluster, "10.6.0.0/24", 24);
    assert!(has_one_of(&cluster, one, "10.5.0.0/24"));
    cluster.check();
}

#[test]
fn ten_thousand_members_leave_nothing() {
    let (mut cluster, _) = cluster_of(Level::INGRESS, 1);
    let fresh = cluster.state.indexes.addresses.clone();
    for _ in 0..10_000 {
        let id = cluster.add_node("h");
        cluster.set_node(id, NodeState::Down);
        cluster.apply(Command::RemoveNode { id, force: false });
        cluster.events();
    }
    assert!(cluster.state.indexes.addresses == fresh);
    cluster.check();
}
