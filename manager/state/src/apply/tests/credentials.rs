use std::sync::Arc;

use shoal_types::id::{IdSource as _, ServiceId};
use shoal_types::registry_auth::{RegistryAuth, RegistryAuths};
use shoal_types::spec::{ServiceSpec, StackSpec, TaskRuntime};

use super::{feed, refused};
use crate::testing::{TestCluster, service_spec, with_task};
use crate::{Command, RejectedCode, StackIds, UpdateKind};

fn with_image(name: &str, image: &str) -> ServiceSpec {
    with_task(service_spec(name, 1), |task| {
        if let TaskRuntime::Container(container) = &mut task.runtime {
            container.image = image.to_owned();
        }
    })
}

fn auths(list: &[(&str, &str)]) -> RegistryAuths {
    let auth = |password: &str| RegistryAuth::Basic {
        username: "u".to_owned(),
        password: password.to_owned(),
    };
    list.iter().map(|(registry, password)| ((*registry).to_owned(), auth(password))).collect()
}

fn with(list: &[(&str, &str)], command: Command) -> Command {
    Command::WithRegistryAuth { auths: auths(list), command: Box::new(command) }
}

fn create(cluster: &mut TestCluster, image: &str, list: &[(&str, &str)]) -> ServiceId {
    let id = cluster.ids.next_id();
    let deployment_id = cluster.ids.next_id();
    let spec = Arc::new(with_image("web", image));
    cluster.apply(with(list, Command::CreateService { id, deployment_id, spec }));
    id
}

fn update(cluster: &mut TestCluster, id: ServiceId, image: &str, kind: UpdateKind) -> Command {
    let deployment_id = cluster.ids.next_id();
    let spec = Arc::new(with_image("web", image));
    Command::UpdateService { id, expected: None, deployment_id, spec, kind }
}

fn password<'a>(cluster: &'a TestCluster, id: ServiceId, image: &str) -> Option<&'a str> {
    match cluster.state.registry_auth(id, image)? {
        RegistryAuth::Basic { password, .. } => Some(password),
        RegistryAuth::Identity(_) | RegistryAuth::Token(_) => None,
    }
}

#[test]
fn a_credential_goes_to_its_registry_alone_and_stays_through_updates() {
    let mut cluster = TestCluster::new();
    let id = create(&mut cluster, "a.lan/web:1", &[("a.lan", "one"), ("c.lan", "unused")]);
    assert_eq!(password(&cluster, id, "a.lan/web:2"), Some("one"));
    for other in ["b.lan/web:1", "c.lan/web:1", "a.lan.evil.org/web", "web", "not an image"] {
        assert_eq!(password(&cluster, id, other), None, "{other}");
    }
    // Another repository of the same registry, then another registry.
    let next = update(&mut cluster, id, "a.lan/other:1", UpdateKind::Update);
    cluster.apply(next);
    assert_eq!(password(&cluster, id, "a.lan/other:1"), Some("one"));
    let next = update(&mut cluster, id, "b.lan/web:1", UpdateKind::Update);
    cluster.apply(next);
    assert_eq!(password(&cluster, id, "b.lan/web:1"), None, "it goes to no other registry");
    let back = update(&mut cluster, id, "a.lan/other:1", UpdateKind::Rollback);
    cluster.apply(back);
    assert_eq!(password(&cluster, id, "a.lan/other:1"), Some("one"), "the way back is open");
    for image in ["b.lan/web:1", "b.lan/web:2", "b.lan/web:3"] {
        let next = update(&mut cluster, id, image, UpdateKind::Update);
        cluster.apply(next);
    }
    assert_eq!(password(&cluster, id, "a.lan/other:1"), None, "nothing leads back to it");
    cluster.check();
}

#[test]
fn a_new_credential_replaces_the_former_one_at_once() {
    let mut cluster = TestCluster::new();
    let id = create(&mut cluster, "a.lan/x:1", &[("a.lan", "one")]);
    let next = update(&mut cluster, id, "a.lan/x:2", UpdateKind::Update);
    cluster.apply(with(&[("a.lan", "two")], next));
    assert_eq!(password(&cluster, id, "a.lan/x:1"), Some("two"));
    let back = update(&mut cluster, id, "a.lan/x:1", UpdateKind::Rollback);
    cluster.apply(back);
    assert_eq!(password(&cluster, id, "a.lan/x:1"), Some("two"), "what was rotated is worthless");
    // Deploy tokens of some registries are good for one repository each.
    let next = update(&mut cluster, id, "a.lan/y:1", UpdateKind::Update);
    cluster.apply(with(&[("a.lan", "for y")], next));
    assert_eq!(password(&cluster, id, "a.lan/y:1"), Some("for y"));
    let back = update(&mut cluster, id, "a.lan/x:1", UpdateKind::Rollback);
    cluster.apply(back);
    assert_eq!(password(&cluster, id, "a.lan/x:1"), Some("two"));
    cluster.check();
}

#[test]
fn credentials_end_with_their_service_and_no_event_has_one() {
    let mut cluster = TestCluster::new();
    cluster.events();
    let id = create(&mut cluster, "a.lan/x:1", &[("a.lan", "hunter2")]);
    let shown = format!("{:?} {:?}", cluster.state, cluster.clone().events());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(feed(&mut cluster), ["create service", "create deployment"]);
    let state = &cluster.state;
    let credentials: Vec<_> = state.credentials().map(|(id, c)| (id, c.clone())).collect();
    let imported = crate::ClusterState::import(state.applied_index(), state.export()).unwrap();
    assert!(imported.clone().with_credentials([(7.into(), credentials[0].1.clone())]).is_err());
    assert_eq!(&imported.with_credentials(credentials).unwrap(), state);

    cluster.apply(Command::RemoveService { id });
    assert_eq!(password(&cluster, id, "a.lan/x:1"), None);
    assert_eq!(cluster.state.credentials().len(), 0);
    cluster.check();
}

#[test]
fn a_stack_gives_each_service_its_own() {
    let mut cluster = TestCluster::new();
    let services = [("a", "a.lan/x:1"), ("b", "b.lan/x:1"), ("c", "c.lan/x:1")];
    let spec = StackSpec {
        name: "shop".to_owned(),
        services: services
            .map(|(key, image)| (key.to_owned(), with_image(&format!("shop_{key}"), image)))
            .into(),
        ..StackSpec::default()
    };
    let apply = |cluster: &mut TestCluster, list: &[(&str, &str)]| {
        let ids = StackIds {
            stack: cluster.ids.next_id(),
            services: services
                .map(|(key, _)| (key.to_owned(), (cluster.ids.next_id(), cluster.ids.next_id())))
                .into(),
            networks: Default::default(),
        };
        let spec = Arc::new(spec.clone());
        cluster.apply(with(
            list,
            Command::ApplyStack {
                spec,
                ids,
                prune: true,
                expected: None,
                payloads: Default::default(),
            },
        ));
        services.map(|(key, image)| {
            let id = cluster.state.service_by_name(&format!("shop_{key}")).unwrap().id;
            password(cluster, id, image).unwrap_or("none").to_owned()
        })
    };
    let first = apply(&mut cluster, &[("a.lan", "one"), ("b.lan", "other")]);
    assert_eq!(first, ["one", "other", "none"]);
    cluster.events();
    // The same file with another password: nothing is deployed, and the next pull has it.
    assert_eq!(apply(&mut cluster, &[("a.lan", "two")]), ["two", "other", "none"]);
    assert_eq!(feed(&mut cluster), [""; 0]);
    cluster.check();
    let id = cluster.state.stack_by_name("shop").unwrap().id;
    cluster.apply(Command::RemoveStack { id });
    assert_eq!(cluster.state.credentials().len(), 0);
}

#[test]
fn what_makes_no_service_takes_no_credentials() {
    let mut cluster = TestCluster::new();
    let id = create(&mut cluster, "a.lan/x:1", &[("a.lan", "one")]);
    let nested = update(&mut cluster, id, "a.lan/x:2", UpdateKind::Update);
    let nested = with(&[("a.lan", "two")], nested);
    for command in [Command::RemoveService { id }, nested] {
        let rejected = refused(&cluster, with(&[("a.lan", "two")], command));
        assert_eq!(rejected.code(), RejectedCode::InvalidArgument);
    }
    let lost = update(&mut cluster, 999.into(), "a.lan/x:1", UpdateKind::Update);
    assert_eq!(refused(&cluster, with(&[("a.lan", "x")], lost)).code(), RejectedCode::NotFound);
}
