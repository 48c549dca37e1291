use shoal_types::id::IdSource;
use shoal_types::level::Level;
use shoal_types::object::{JoinTokens, RootCa};
use shoal_types::spec::{ClusterSpec, NodeRole, NodeSpec};

use super::{all_refused, feed, refused};
use crate::testing::{TestCluster, cluster_with_nodes, node_description};
use crate::{
    ClusterState, Command, JoinSecret, Outcome, PredefinedIds, Rejected, RejectedCode as Code,
};

fn create(bridge: u128, host: u128, none: u128) -> Command {
    Command::CreateCluster {
        id: 1.into(),
        spec: ClusterSpec::default(),
        root_ca: RootCa { cert_pem: String::new(), key_pem: "key".to_owned() },
        join_tokens: JoinTokens { agent: "agent".to_owned(), manager: "manager".to_owned() },
        networks: PredefinedIds { bridge: bridge.into(), host: host.into(), none: none.into() },
        level: Level::FIRST,
    }
}

#[test]
fn a_new_cluster_has_its_networks() {
    let mut cluster = TestCluster::new();
    assert_eq!(
        feed(&mut cluster),
        ["create cluster"].into_iter().chain(["create network"; 3]).collect::<Vec<_>>()
    );
    for name in ["bridge", "host", "none"] {
        let network = cluster.state.network_by_name(name).unwrap();
        assert!(network.predefined && network.spec.driver.name == name);
        let id = network.id;
        let rejected = refused(&cluster, Command::RemoveNetwork { id });
        assert_eq!(rejected, Rejected::PredefinedNetwork { name: name.to_owned() });
    }
    cluster.check();
}

#[test]
fn without_a_cluster_nothing_else_is_possible() {
    let mut empty = TestCluster::new();
    empty.state = ClusterState::new();
    let id = empty.ids.next_id();
    let description = node_description("a");
    let join = Command::CreateNode { id, spec: NodeSpec::default(), description };
    assert_eq!(refused(&empty, join), Rejected::NoCluster);
    for ids in [(1, 1, 2), (1, 2, 1), (2, 1, 1)] {
        let rejected = refused(&empty, create(ids.0, ids.1, ids.2));
        assert!(matches!(rejected, Rejected::IdTaken { .. }), "{rejected}");
    }
    assert_eq!(empty.apply(create(1, 2, 3)), Outcome::Applied);
    empty.check();
}

#[test]
fn refusals() {
    let (cluster, _) = cluster_with_nodes(1);
    let stale = Command::UpdateCluster { expected_spec_version: 7, spec: ClusterSpec::default() };
    all_refused(
        &cluster,
        vec![
            (create(1, 2, 3), Code::AlreadyExists, &["already"]),
            (stale, Code::Aborted, &["out of sequence", "version 7", "present one is 1"]),
        ],
    );
}

#[test]
fn settings_and_tokens_change() {
    let mut cluster = TestCluster::new();
    let spec = ClusterSpec { name: "prod".to_owned(), ..ClusterSpec::default() };
    cluster.apply(Command::UpdateCluster { expected_spec_version: 1, spec: spec.clone() });
    let secret = JoinSecret("fresh".to_owned());
    cluster.apply(Command::RotateJoinToken { role: NodeRole::Agent, secret });
    let object = cluster.state.cluster().unwrap();
    assert_eq!(object.spec, spec);
    assert_eq!((object.meta.spec_version, object.meta.version), (2, 3));
    assert_eq!(object.join_tokens.agent, "fresh");
    assert_eq!(object.join_tokens.manager, "m".repeat(25));
}

#[test]
fn no_secret_is_shown() {
    let secret = JoinSecret("hidden".to_owned());
    let shown = format!(
        "{:?} {:?}",
        Command::RotateJoinToken { role: NodeRole::Agent, secret },
        create(1, 2, 3)
    );
    for word in ["hidden", "\"key\"", "\"agent\"", "\"manager\""] {
        assert!(!shown.contains(word), "{shown}");
    }
}
