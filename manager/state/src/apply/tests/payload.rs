use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_types::id::{IdSource as _, SecretId, ServiceId, TaskId};
use shoal_types::object::{Payloads, Secret};
use shoal_types::spec::{
    ConfigSpec, NAMESPACE_LABEL, OnChange, PayloadReference, SecretSpec, ServiceSpec, StackSpec,
    TaskRuntime, UserRole, UserSpec,
};
use shoal_types::task_state::TaskState;

use super::*;
use crate::testing::{cluster_with_nodes, service_spec, with_task};
use crate::{Outcome, PayloadRefused, StackIds, StackPayloads};

fn spec(name: &str, data: &str) -> SecretSpec {
    SecretSpec { name: name.to_owned(), data: data.into(), ..SecretSpec::default() }
}

/// A version, with deployments of whoever follows it.
fn version(cluster: &mut TestCluster, name: &str, data: &str, replace: bool) -> Command {
    let following: Vec<String> =
        cluster.state.following_secret(name).map(|s| s.spec.name.clone()).collect();
    let deployments = following.into_iter().map(|name| (name, cluster.ids.next_id())).collect();
    Command::CreateSecret {
        id: cluster.ids.next_id(),
        spec: spec(name, data),
        replace,
        deployments,
    }
}

fn make(cluster: &mut TestCluster, name: &str, data: &str, replace: bool) -> Arc<Secret> {
    let command = version(cluster, name, data, replace);
    cluster.apply(command);
    cluster.check();
    Arc::clone(cluster.state.secret_named(name, None).expect("it is made"))
}

fn given(service: &str, references: Vec<PayloadReference>) -> ServiceSpec {
    with_task(service_spec(service, 1), |task| {
        let TaskRuntime::Container(container) = &mut task.runtime else { panic!("no container") };
        container.secrets = references;
    })
}

fn secrets_of(cluster: &TestCluster, id: ServiceId) -> Vec<SecretId> {
    cluster.state.service(id).expect("it is there").payloads.secrets.clone()
}

#[test]
fn versions_of_one_name_are_found_and_never_change() {
    let mut cluster = TestCluster::new();
    let first = make(&mut cluster, "db", "one", false);
    let taken = version(&mut cluster, "db", "two", false);
    assert!(matches!(refused(&cluster, taken), Rejected::NameTaken { .. }));
    let unknown = version(&mut cluster, "web", "two", true);
    assert!(matches!(refused(&cluster, unknown), Rejected::NotFound { .. }));
    let second = make(&mut cluster, "db", "two", true);
    assert_eq!((first.version, second.version), (1, 2));
    let again = version(&mut cluster, "db", "two", true);
    assert_eq!(cluster.apply(again), Outcome::Unchanged);
    // Other labels alone are no other version.
    let labels = BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
    let Command::CreateSecret { id, spec, replace, deployments } =
        version(&mut cluster, "db", "two", true)
    else {
        panic!("another command")
    };
    let spec = SecretSpec { labels: labels.clone(), ..spec };
    cluster.apply(Command::CreateSecret { id, spec, replace, deployments });
    let state = &cluster.state;
    assert_eq!(state.resolve_secret("db").map(|s| s.id), Ok(second.id));
    assert_eq!(state.secret(second.id).map(|s| &s.spec.labels), Some(&labels));
    assert_eq!(state.resolve_secret("db@1").map(|s| s.id), Ok(first.id));
    assert_eq!(state.resolve_secret(&first.id.to_string()).map(|s| s.version), Ok(1));
    assert!(state.resolve_secret("db@3").is_err() && state.resolve_secret("db@x").is_err());
    assert_eq!(state.secret(first.id).map(|s| &*s.spec.data), Some(&b"one"[..]));
    cluster.check();
}

#[test]
fn services_have_what_they_name_and_follow_what_they_do_not_pin() {
    let mut cluster = TestCluster::new();
    let unknown = given("web", vec![PayloadReference::to("db")]);
    let (id, deployment_id) = (cluster.ids.next_id(), cluster.ids.next_id());
    let command = Command::CreateService { id, deployment_id, spec: unknown.clone().into() };
    let rejected = refused(&cluster, command);
    assert!(matches!(rejected, Rejected::Payload(PayloadRefused::Unknown { .. })));
    assert!(rejected.to_string().contains("service \"web\" needs secret \"db\", which does not"));
    let first = make(&mut cluster, "db", "one", false);
    let follows = cluster.add_service(unknown);
    let pinned = PayloadReference { version: Some(1), ..PayloadReference::to("db") };
    let pins = cluster.add_service(given("pins", vec![pinned]));
    let quiet = PayloadReference { on_change: OnChange::Nothing, ..PayloadReference::to("db") };
    let waits = cluster.add_service(given("waits", vec![quiet.clone()]));
    let before = cluster.state.service(follows).unwrap().meta.spec_version;

    // Whoever follows has to be known.
    let mut blind = version(&mut cluster, "db", "two", true);
    let Command::CreateSecret { deployments, .. } = &mut blind else { panic!("another command") };
    assert_eq!(deployments.keys().collect::<Vec<_>>(), ["web"]);
    deployments.clear();
    assert_eq!(refused(&cluster, blind).code(), RejectedCode::Aborted);

    let second = make(&mut cluster, "db", "two", true);
    assert_eq!(secrets_of(&cluster, follows), [second.id]);
    assert_eq!(secrets_of(&cluster, pins), [first.id]);
    assert_eq!(secrets_of(&cluster, waits), [first.id]);
    let service = cluster.state.service(follows).unwrap();
    assert_eq!(service.meta.spec_version, before + 1, "its tasks are replaced");
    // Scaling brings nothing new; another container does.
    let scaled =
        ServiceSpec { mode: service_spec("", 3).mode, ..given("waits", vec![quiet.clone()]) };
    cluster.update_service(waits, scaled);
    assert_eq!(secrets_of(&cluster, waits), [first.id]);
    let forced = with_task(given("waits", vec![quiet]), |task| task.force_update = 1);
    cluster.update_service(waits, forced);
    assert_eq!(secrets_of(&cluster, waits), [second.id]);
    cluster.check();
}

#[test]
fn what_somebody_has_is_not_removed() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let first = make(&mut cluster, "db", "one", false);
    let web = cluster.add_service(given("web", vec![PayloadReference::to("db")]));
    let task: TaskId = cluster.add_running(web, 1, nodes[0]);
    let payloads = Payloads { secrets: vec![first.id], configs: Vec::new() };
    assert_eq!(*cluster.state.task(task).unwrap().payloads, payloads);
    cluster.add_service(given("api", vec![PayloadReference::to("db")]));
    let remove = |version| Command::RemoveSecret { name: "db".to_owned(), version };
    let rejected = refused(&cluster, remove(None));
    assert_eq!(rejected.code(), RejectedCode::FailedPrecondition);
    assert_eq!(rejected.to_string(), "secret \"db\" is in use by services api, web");
    // A task of before has the version of before.
    make(&mut cluster, "db", "two", true);
    assert_eq!(
        refused(&cluster, remove(Some(1))).to_string(),
        "secret \"db\" is in use by service web"
    );
    cluster.report(task, TaskState::Failed);
    cluster.apply(remove(Some(1)));
    assert_eq!(cluster.state.secrets().len(), 1);
    for name in ["web", "api"] {
        let id = cluster.state.service_by_name(name).unwrap().id;
        cluster.apply(Command::RemoveService { id });
    }
    cluster.apply(remove(None));
    assert_eq!(cluster.state.secrets().len(), 0);
    assert!(matches!(refused(&cluster, remove(None)), Rejected::NotFound { .. }));
    cluster.check();
}

#[test]
fn versions_that_nobody_has_are_few() {
    let mut cluster = TestCluster::new();
    make(&mut cluster, "db", "0", false);
    let pinned = PayloadReference { version: Some(1), ..PayloadReference::to("db") };
    cluster.add_service(given("pins", vec![pinned]));
    for n in 1..30 {
        make(&mut cluster, "db", &n.to_string(), true);
    }
    let kept: Vec<u64> = cluster.state.secrets().map(|s| s.version).collect();
    let (mut kept, expected): (Vec<u64>, Vec<u64>) =
        (kept, [1].into_iter().chain(21..=30).collect());
    kept.sort_unstable();
    assert_eq!(kept, expected);
}

fn stack(cluster: &mut TestCluster, data: Option<&str>, prune: bool) -> Command {
    let mut spec = StackSpec { name: "shop".to_owned(), ..StackSpec::default() };
    let mut payloads = StackPayloads::default();
    let reference = data.map(|_| PayloadReference::to("shop_db"));
    let web = given("shop_web", reference.into_iter().collect());
    spec.services.insert("web".to_owned(), web);
    if let Some(data) = data {
        spec.secrets.insert("db".to_owned(), "shop_db".to_owned());
        let secret = (cluster.ids.next_id(), self::spec("shop_db", data));
        payloads.secrets.insert("db".to_owned(), secret);
    }
    let pair = (cluster.ids.next_id(), cluster.ids.next_id());
    let ids = StackIds {
        stack: cluster.ids.next_id(),
        services: [("web".to_owned(), pair)].into(),
        networks: BTreeMap::new(),
    };
    Command::ApplyStack { spec: spec.into(), ids, prune, expected: None, payloads }
}

#[test]
fn a_stack_brings_its_secrets_and_their_later_versions() {
    let mut cluster = TestCluster::new();
    let apply = |cluster: &mut TestCluster, data, prune| {
        let command = stack(cluster, data, prune);
        let Outcome::Stack(outcome) = cluster.apply(command) else { panic!("no stack") };
        cluster.check();
        outcome
    };
    let done = apply(&mut cluster, Some("one"), false);
    assert_eq!(done.created, ["secret shop_db", "shop_web"]);
    let done = apply(&mut cluster, Some("one"), false);
    assert_eq!(done.unchanged, ["secret shop_db", "shop_web"]);
    // The same file with something else in it.
    let done = apply(&mut cluster, Some("two"), false);
    assert_eq!(done.updated, ["secret shop_db", "shop_web"]);
    let latest = cluster.state.secret_named("shop_db", None).unwrap().id;
    let web = cluster.state.service_by_name("shop_web").unwrap().id;
    assert_eq!(secrets_of(&cluster, web), [latest]);
    let done = apply(&mut cluster, None, false);
    assert_eq!(
        (done.kept, done.updated),
        (vec!["secret shop_db".to_owned()], vec!["shop_web".to_owned()])
    );
    let done = apply(&mut cluster, None, true);
    assert_eq!(
        (done.removed, cluster.state.secrets().len()),
        (vec!["secret shop_db".to_owned()], 0)
    );

    // One that somebody else has made is not taken over.
    make(&mut cluster, "shop_db", "own", false);
    let command = stack(&mut cluster, Some("two"), false);
    assert!(matches!(refused(&cluster, command), Rejected::NameTaken { .. }));
    cluster.apply(Command::RemoveSecret { name: "shop_db".to_owned(), version: None });
    apply(&mut cluster, Some("three"), false);
    let id = cluster.state.stack_by_name("shop").unwrap().id;
    let foreign = cluster.add_service(given("foreign", vec![PayloadReference::to("shop_db")]));
    assert!(refused(&cluster, Command::RemoveStack { id }).to_string().contains("service foreign"));
    cluster.apply(Command::RemoveService { id: foreign });
    cluster.apply(Command::RemoveStack { id });
    assert_eq!(cluster.state.secrets().len(), 0);
    cluster.check();
}

/// A deployer is given what is its stack's, and sees nothing else.
#[test]
fn secrets_of_others_are_for_nobody_else() {
    use crate::permission::{Asked, permit, sees_payload};
    let mut cluster = TestCluster::new();
    make(&mut cluster, "root", "0", false);
    let labels = BTreeMap::from([(NAMESPACE_LABEL.to_owned(), "shop".to_owned())]);
    let config =
        ConfigSpec { name: "lent".to_owned(), labels, data: b"x".to_vec(), templating: None };
    let (id, deployments) = (cluster.ids.next_id(), BTreeMap::new());
    cluster.apply(Command::CreateConfig { id, spec: config, replace: false, deployments });
    let admin = UserSpec { name: "a".to_owned(), role: UserRole::Admin, ..UserSpec::default() };
    cluster.apply(Command::CreateUser { id: 1.into(), spec: admin });
    let stacks = vec!["shop".to_owned()];
    let ci =
        UserSpec { name: "ci".to_owned(), role: UserRole::Deployer, stacks, ..Default::default() };
    cluster.apply(Command::CreateUser { id: 2.into(), spec: ci });
    let state = cluster.state.clone();
    let ci = state.user(2.into()).unwrap();
    assert!(!sees_payload(&state, &ci.spec, &**state.secret_named("root", None).unwrap()));
    assert!(sees_payload(&state, &ci.spec, &**state.config_named("lent", None).unwrap()));
    assert!(permit(&state, ci, Asked::Secret("root")).is_err());
    assert!(permit(&state, ci, Asked::Config("lent")).is_ok());
    let Command::ApplyStack { spec, .. } = stack(&mut cluster, Some("own"), false) else {
        panic!("another command")
    };
    assert!(permit(&state, ci, Asked::Apply(&spec)).is_ok());
    let mut spec = StackSpec::clone(&spec);
    let web = given("shop_web", vec![PayloadReference::to("root")]);
    spec.services.insert("web".to_owned(), web);
    let said = permit(&state, ci, Asked::Apply(&spec)).unwrap_err().to_string();
    assert!(said.contains("web.secrets[0]: \"root\" is none of the stack's"), "{said}");
}
