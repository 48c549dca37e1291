use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_types::id::IdSource;
use shoal_types::object::{DeploymentState, Stack};
use shoal_types::spec::{NetworkSpec, ServiceSpec, StackSpec};
use shoal_types::task_state::{DesiredState, TaskState};

use super::{all_refused, feed, refused};
use crate::testing::{
    TestCluster, cluster_with_nodes, global_spec, network_spec, service_spec, with_networks,
};
use crate::{Command, ObjectKind, Outcome, Rejected, RejectedCode as Code, StackIds, StackOutcome};

/// A stack `shop`; services and networks get the keys of the file from their full names.
pub(super) fn spec(services: &[ServiceSpec], networks: &[&str]) -> StackSpec {
    let key = |name: &str| name.trim_start_matches("shop_").to_owned();
    StackSpec {
        name: "shop".to_owned(),
        services: services.iter().map(|s| (key(&s.name), s.clone())).collect(),
        networks: networks.iter().map(|n| (key(n), network_spec(n))).collect(),
        ..StackSpec::default()
    }
}

pub(super) fn web(replicas: u64) -> ServiceSpec {
    with_networks(service_spec("shop_web", replicas), &["shop_net"])
}

pub(super) fn db() -> ServiceSpec {
    service_spec("shop_db", 1)
}

fn command(cluster: &mut TestCluster, spec: StackSpec, prune: bool) -> Command {
    let services = spec.services.keys();
    let ids = StackIds {
        stack: cluster.ids.next_id(),
        services: services
            .map(|key| (key.clone(), (cluster.ids.next_id(), cluster.ids.next_id())))
            .collect(),
        networks: spec.networks.keys().map(|key| (key.clone(), cluster.ids.next_id())).collect(),
    };
    Command::ApplyStack {
        spec: Arc::new(spec),
        ids,
        prune,
        expected: None,
        payloads: Default::default(),
    }
}

#[track_caller]
pub(super) fn apply(cluster: &mut TestCluster, spec: StackSpec, prune: bool) -> StackOutcome {
    let command = command(cluster, spec, prune);
    match cluster.apply(command) {
        Outcome::Stack(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

pub(super) fn shop(cluster: &TestCluster) -> &Stack {
    cluster.state.stack_by_name("shop").unwrap()
}

#[test]
fn applying_twice_changes_nothing() {
    let mut cluster = TestCluster::new();
    cluster.events();
    let outcome = apply(&mut cluster, spec(&[web(2), db()], &["shop_net"]), false);
    assert_eq!(outcome.created, ["shop_net", "shop_db", "shop_web"]);
    let expected = [
        "create network",
        "create service",
        "create deployment",
        "create service",
        "create deployment",
        "create stack",
    ];
    assert_eq!(feed(&mut cluster), expected);
    assert_eq!(shop(&cluster).services.len(), 2);
    cluster.check();

    let again = apply(&mut cluster, spec(&[web(2), db()], &["shop_net"]), true);
    assert_eq!(again.unchanged, ["shop_net", "shop_db", "shop_web"]);
    assert_eq!((again.id, again.created.len(), again.updated.len()), (outcome.id, 0, 0));
    assert!(feed(&mut cluster).is_empty());
    assert_eq!(shop(&cluster).meta.spec_version, 1);
}

#[test]
fn what_failed_is_begun_again_by_the_same_file() {
    let mut cluster = TestCluster::new();
    let file = spec(&[web(2), db()], &["shop_net"]);
    apply(&mut cluster, file.clone(), false);
    let deployment_id =
        |cluster: &TestCluster, name| cluster.state.service_by_name(name).unwrap().deployment_id;
    let failed = deployment_id(&cluster, "shop_web");
    let (state, message) = (DeploymentState::Paused, "no registry".to_owned());
    cluster.apply(Command::UpdateDeployment { id: failed, state, message });

    let again = apply(&mut cluster, file.clone(), false);
    assert_eq!((again.updated, again.unchanged.len()), (vec!["shop_web".to_owned()], 2));
    let second = deployment_id(&cluster, "shop_web");
    assert_ne!(second, failed);
    let state = |id| cluster.state.deployment(id).unwrap().state;
    assert_eq!(
        (state(failed), state(second)),
        (DeploymentState::Paused, DeploymentState::Updating)
    );
    let service = cluster.state.service_by_name("shop_web").unwrap();
    assert_eq!(service.previous_spec, None, "there is nothing else to roll back to");
    assert_eq!(shop(&cluster).meta.spec_version, 1);
    cluster.check();
    assert_eq!(apply(&mut cluster, file, false).unchanged.len(), 3);
}

#[test]
fn only_what_changed_is_touched() {
    let mut cluster = TestCluster::new();
    apply(&mut cluster, spec(&[web(2), db()], &["shop_net"]), false);
    cluster.events();
    let outcome = apply(&mut cluster, spec(&[web(3), db()], &["shop_net"]), false);
    assert_eq!(outcome.updated, ["shop_web"]);
    assert_eq!(outcome.unchanged, ["shop_net", "shop_db"]);
    let expected = ["update deployment", "update service", "create deployment", "update stack"];
    assert_eq!(feed(&mut cluster), expected);
    let version = |name| cluster.state.service_by_name(name).unwrap().meta.spec_version;
    assert_eq!((version("shop_web"), version("shop_db")), (2, 1));
    let stack = shop(&cluster);
    assert_eq!((stack.meta.spec_version, stack.history.len()), (2, 1));
    assert_eq!(*stack.history[0].spec, spec(&[web(2), db()], &["shop_net"]));
    cluster.check();
}

#[test]
fn history_is_bounded() {
    let mut cluster = TestCluster::new();
    for replicas in 1..=15 {
        apply(&mut cluster, spec(&[web(replicas)], &["shop_net"]), false);
    }
    let versions: Vec<u64> = shop(&cluster).history.iter().map(|r| r.spec_version).collect();
    assert_eq!(versions, (5..=14).collect::<Vec<_>>());
}

#[test]
fn what_left_the_file_stays_unless_pruned() {
    let mut cluster = TestCluster::new();
    apply(&mut cluster, spec(&[web(1), db()], &["shop_net"]), false);
    let outcome = apply(&mut cluster, spec(&[db()], &[]), false);
    assert_eq!(outcome.kept, ["shop_web", "shop_net"]);
    assert_eq!(shop(&cluster).services.len(), 2);
    cluster.check();

    let outcome = apply(&mut cluster, spec(&[db()], &[]), true);
    assert_eq!(outcome.removed, ["shop_web", "shop_net"]);
    assert!(cluster.state.service_by_name("shop_web").is_none());
    assert!(cluster.state.network_by_name("shop_net").is_none());
    assert_eq!(shop(&cluster).services.keys().collect::<Vec<_>>(), ["shop_db"]);
    assert_eq!(shop(&cluster).meta.spec_version, 2, "the spec is the same");
    cluster.check();
}

#[test]
fn a_pruned_network_waits_for_tasks_of_the_old_spec() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    apply(&mut cluster, spec(&[web(1)], &["shop_net"]), true);
    let id = cluster.state.service_by_name("shop_web").unwrap().id;
    let old = cluster.add_running(id, 1, nodes[0]);
    let moved = || spec(&[service_spec("shop_web", 1)], &[]);
    assert_eq!(apply(&mut cluster, moved(), true).kept, ["shop_net"]);
    cluster.check();
    cluster.apply(Command::SetDesired { id: old, desired: DesiredState::Shutdown });
    assert_eq!(apply(&mut cluster, moved(), true).removed, ["shop_net"]);
    cluster.check();
}

#[test]
fn a_member_that_was_removed_comes_back() {
    let mut cluster = TestCluster::new();
    apply(&mut cluster, spec(&[web(1), db()], &["shop_net"]), false);
    let id = cluster.state.service_by_name("shop_db").unwrap().id;
    cluster.apply(Command::RemoveService { id });
    assert_eq!(shop(&cluster).services.len(), 1);
    cluster.check();
    let outcome = apply(&mut cluster, spec(&[web(1), db()], &["shop_net"]), false);
    assert_eq!(outcome.created, ["shop_db"]);
    assert_eq!(shop(&cluster).meta.spec_version, 1, "the spec is the same");
    cluster.check();
}

#[test]
fn what_has_no_effect_may_change_of_a_network_and_nothing_else() {
    let mut cluster = TestCluster::new();
    let with = |change: fn(&mut NetworkSpec)| {
        let mut spec = spec(&[], &["shop_net"]);
        change(spec.networks.get_mut("net").unwrap());
        spec
    };
    apply(&mut cluster, with(|_| {}), false);
    let outcome =
        apply(&mut cluster, with(|n| drop(n.labels.insert("a".into(), "b".into()))), false);
    assert_eq!(outcome.updated, ["shop_net"]);
    let said = |n: &mut NetworkSpec| {
        n.labels.insert("a".into(), "b".into());
        n.attachable = true;
    };
    assert_eq!(apply(&mut cluster, with(said), false).updated, ["shop_net"], "it has no effect");
    let other = command(&mut cluster, with(|n| n.internal = true), false);
    let name = "shop_net".to_owned();
    assert_eq!(refused(&cluster, other), Rejected::NetworkImmutable { name });
}

#[test]
fn a_refused_part_refuses_the_whole() {
    let mut cluster = TestCluster::new();
    cluster.add_service(service_spec("shop_taken", 1));
    cluster.add_network("shop_foreign");
    apply(&mut cluster, spec(&[web(1), db()], &["shop_net"]), false);
    // The feed of earlier commands must survive a refusal.
    assert!(!cluster.state.feed.is_empty());
    let lost = with_networks(service_spec("shop_z", 1), &["nowhere"]);
    let mut twice = spec(&[db()], &[]);
    twice.services.insert("other".to_owned(), db());
    let mut same_network = spec(&[], &["shop_a"]);
    same_network.networks.insert("b".to_owned(), network_spec("shop_a"));
    let mut c = |spec| command(&mut cluster, spec, true);
    let (lost, taken) =
        (c(spec(&[web(5), lost], &["shop_net"])), c(spec(&[service_spec("shop_taken", 1)], &[])));
    let (foreign, mode) =
        (c(spec(&[], &["shop_foreign"])), c(spec(&[global_spec("shop_db")], &[])));
    let (twice, same_network) = (c(twice), c(same_network));
    all_refused(
        &cluster,
        vec![
            (lost, Code::InvalidArgument, &["\"shop_z\"", "\"nowhere\""]),
            (taken, Code::AlreadyExists, &["\"shop_taken\""]),
            (foreign, Code::AlreadyExists, &["\"shop_foreign\""]),
            (mode, Code::InvalidArgument, &["cannot become global"]),
            (twice, Code::InvalidArgument, &["two services", "\"shop_db\""]),
            (same_network, Code::InvalidArgument, &["two networks", "\"shop_a\""]),
        ],
    );
    cluster.check();
}

#[test]
fn ids_must_be_brought_along() {
    let mut cluster = TestCluster::new();
    let bare = StackIds { stack: 1.into(), services: BTreeMap::new(), networks: BTreeMap::new() };
    let mut strip = |part| match command(&mut cluster, part, false) {
        Command::ApplyStack { spec, prune, expected, .. } => Command::ApplyStack {
            spec,
            ids: bare.clone(),
            prune,
            expected,
            payloads: Default::default(),
        },
        other => other,
    };
    let (service, network) = (strip(spec(&[db()], &[])), strip(spec(&[], &["shop_net"])));
    let missing = |kind, key: &str| Rejected::StackIdMissing { kind, key: key.to_owned() };
    assert_eq!(refused(&cluster, service), missing(ObjectKind::Service, "db"));
    assert_eq!(refused(&cluster, network), missing(ObjectKind::Network, "net"));
}

#[test]
fn expected_versions_of_stacks() {
    let mut cluster = TestCluster::new();
    let at = |cluster: &mut TestCluster, version| match command(cluster, spec(&[db()], &[]), false)
    {
        Command::ApplyStack { spec, ids, prune, .. } => Command::ApplyStack {
            spec,
            ids,
            prune,
            expected: Some(version),
            payloads: Default::default(),
        },
        other => other,
    };
    let early = at(&mut cluster, 1);
    assert!(matches!(refused(&cluster, early), Rejected::OutOfSequence { current: 0, .. }));
    let first = at(&mut cluster, 0);
    cluster.apply(first);
    let again = at(&mut cluster, 0);
    assert!(matches!(refused(&cluster, again), Rejected::OutOfSequence { current: 1, .. }));
    let right = at(&mut cluster, 1);
    cluster.apply(right);
}

#[test]
fn removing_a_stack_removes_its_parts_at_once() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let id = apply(&mut cluster, spec(&[web(1), db()], &["shop_net"]), false).id;
    let service = cluster.state.service_by_name("shop_web").unwrap().id;
    let task = cluster.add_running(service, 1, nodes[0]);
    cluster.apply(Command::RemoveStack { id });
    assert!(cluster.state.stack_by_name("shop").is_none());
    assert_eq!(cluster.state.services().len(), 0);
    assert_eq!(cluster.state.networks().len(), 3);
    let left = cluster.state.task(task).unwrap();
    assert_eq!((left.status.state, left.desired_state), (TaskState::Running, DesiredState::Remove));
    cluster.check();
    assert_eq!(refused(&cluster, Command::RemoveStack { id }).code(), Code::NotFound);
}

#[test]
fn a_stack_stays_while_others_use_its_network() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let id = apply(&mut cluster, spec(&[web(1)], &["shop_net"]), false).id;
    let other = cluster.add_service(with_networks(service_spec("other", 1), &["shop_net"]));
    let in_use = |cluster: &TestCluster| match refused(cluster, Command::RemoveStack { id }) {
        Rejected::NetworkInUse { user_kind, user, .. } => (user_kind, user),
        other => panic!("{other}"),
    };
    assert_eq!(in_use(&cluster), (ObjectKind::Service, "other".to_owned()));
    cluster.add_running(other, 1, nodes[0]);
    cluster.update_service(other, service_spec("other", 1));
    assert_eq!(in_use(&cluster), (ObjectKind::Task, "other.1".to_owned()));
    cluster.apply(Command::RemoveService { id: other });
    cluster.apply(Command::RemoveStack { id });
    cluster.check();
}

#[test]
fn a_network_of_a_stack_can_be_removed_by_itself() {
    let mut cluster = TestCluster::new();
    apply(&mut cluster, spec(&[db()], &["shop_net"]), false);
    let id = cluster.state.network_by_name("shop_net").unwrap().id;
    cluster.apply(Command::RemoveNetwork { id });
    assert!(shop(&cluster).networks.is_empty());
    cluster.check();
}
