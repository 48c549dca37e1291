//! Stacks that go back to an earlier version.

use shoal_types::id::{DeploymentId, IdSource as _};
use shoal_types::object::{Deployment, DeploymentKind, DeploymentState};

use super::stack::{apply, db, shop, spec, web};
use super::{feed, refused};
use crate::testing::{TestCluster, service_spec};
use crate::{Command, Outcome, Rejected, RejectedCode as Code, StackIds, StackOutcome};

fn back(cluster: &mut TestCluster, to: u64, failed: Option<DeploymentId>) -> Command {
    let stack = shop(cluster).clone();
    let revision = stack.history.iter().find(|r| r.spec_version == to);
    let spec = revision.map(|r| (*r.spec).clone()).unwrap_or_default();
    let services = spec.services.keys();
    let ids = StackIds {
        stack: stack.id,
        services: services
            .map(|key| (key.clone(), (cluster.ids.next_id(), cluster.ids.next_id())))
            .collect(),
        networks: spec.networks.keys().map(|key| (key.clone(), cluster.ids.next_id())).collect(),
    };
    Command::RollBackStack { id: stack.id, expected: stack.meta.spec_version, to, ids, failed }
}

#[track_caller]
fn go_back(cluster: &mut TestCluster, to: u64, failed: Option<DeploymentId>) -> StackOutcome {
    let command = back(cluster, to, failed);
    match cluster.apply(command) {
        Outcome::Stack(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

fn deployment(cluster: &TestCluster, name: &str) -> Deployment {
    let id = cluster.state.service_by_name(name).unwrap().deployment_id;
    Deployment::clone(cluster.state.deployment(id).unwrap())
}

#[test]
fn an_earlier_version_is_put_back_as_a_version_of_its_own() {
    let mut cluster = TestCluster::new();
    let first = spec(&[web(2), db()], &["shop_net"]);
    apply(&mut cluster, first.clone(), true);
    let cache = service_spec("shop_cache", 1);
    let second = apply(&mut cluster, spec(&[web(3), cache], &["shop_net", "shop_new"]), true);
    assert_eq!((second.spec_version, second.deployments.len()), (2, 2));
    assert_eq!(second.deployments["shop_web"], deployment(&cluster, "shop_web").id);
    assert_eq!(deployment(&cluster, "shop_web").stack_version, Some(2));
    cluster.events();

    let outcome = go_back(&mut cluster, 1, None);
    assert_eq!((outcome.spec_version, outcome.created), (3, vec!["shop_db".to_owned()]));
    assert_eq!(outcome.updated, ["shop_web"]);
    assert_eq!(outcome.removed, ["shop_cache", "shop_new"]);
    let stack = shop(&cluster);
    assert_eq!((stack.meta.spec_version, &*stack.spec), (3, &first));
    let notes = stack.history.iter().map(|r| (r.rolled_back.as_deref(), r.by_hand));
    assert_eq!(notes.collect::<Vec<_>>(), [(None, false), (Some("rolled back by hand"), true)]);
    assert!(stack.rollback_target().is_none(), "there is nothing before it");
    for name in ["shop_web", "shop_db"] {
        let deployment = deployment(&cluster, name);
        assert_eq!(
            (deployment.kind, deployment.stack_version),
            (DeploymentKind::Rollback, Some(3)),
            "{name}"
        );
    }
    assert!(feed(&mut cluster).contains(&"remove network".to_owned()));
    cluster.check();
}

#[test]
fn going_back_again_goes_further_back() {
    let mut cluster = TestCluster::new();
    for replicas in 1..=3 {
        apply(&mut cluster, spec(&[web(replicas)], &["shop_net"]), true);
    }
    for (expected, replicas) in [(2, 2), (1, 1)] {
        let to = shop(&cluster).rollback_target().unwrap().spec_version;
        assert_eq!(to, expected);
        go_back(&mut cluster, to, None);
        assert_eq!(*shop(&cluster).spec, spec(&[web(replicas)], &["shop_net"]));
    }
    assert!(shop(&cluster).rollback_target().is_none());
    // What was left can be had again, if it is named.
    go_back(&mut cluster, 3, None);
    assert_eq!(*shop(&cluster).spec, spec(&[web(3)], &["shop_net"]));
    cluster.check();
}

#[test]
fn deployments_that_a_failure_cuts_off_say_why() {
    let mut cluster = TestCluster::new();
    apply(&mut cluster, spec(&[web(1), service_spec("shop_db", 1)], &["shop_net"]), false);
    apply(&mut cluster, spec(&[web(2), service_spec("shop_db", 2)], &["shop_net"]), false);
    let (failed, other) = (deployment(&cluster, "shop_web"), deployment(&cluster, "shop_db"));
    let message = "task shop_web.1 failed: exit code 7".to_owned();
    let state = DeploymentState::Updating;
    cluster.apply(Command::UpdateDeployment { id: failed.id, state, message: message.clone() });
    go_back(&mut cluster, 1, Some(failed.id));
    let ended = |id| Deployment::clone(cluster.state.deployment(id).unwrap());
    let (failed, other) = (ended(failed.id), ended(other.id));
    assert_eq!((failed.state, &failed.message), (DeploymentState::RolledBack, &message));
    let with_it = format!("rolled back with the stack: {message}");
    assert_eq!((other.state, other.message), (DeploymentState::RolledBack, with_it));
    let left = shop(&cluster).history.last().unwrap();
    assert_eq!((left.spec_version, left.rolled_back.as_ref()), (2, Some(&message)));
    assert!(!left.by_hand);
    cluster.check();
}

#[test]
fn versions_that_are_not_there_are_refused() {
    let mut cluster = TestCluster::new();
    apply(&mut cluster, spec(&[db()], &[]), false);
    let none = back(&mut cluster, 7, None);
    let stack = "shop".to_owned();
    assert_eq!(refused(&cluster, none), Rejected::NoRevision { stack, version: 7 });
    apply(&mut cluster, spec(&[web(1)], &["shop_net"]), false);
    let early = back(&mut cluster, 1, None);
    apply(&mut cluster, spec(&[web(2)], &["shop_net"]), false);
    assert_eq!(refused(&cluster, early).code(), Code::Aborted);
}

#[test]
fn what_cannot_be_put_back_whole_is_not_put_back_at_all() {
    let mut cluster = TestCluster::new();
    apply(&mut cluster, spec(&[web(1), db()], &["shop_net"]), true);
    apply(&mut cluster, spec(&[web(2)], &["shop_net"]), true);
    cluster.add_service(db());
    let command = back(&mut cluster, 1, None);
    assert_eq!(refused(&cluster, command).code(), Code::AlreadyExists);
    cluster.check();
}
