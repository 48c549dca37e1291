//! Calls that others come in between of, and callers that go away.

use tokio::task::JoinSet;

use super::sizes::large;
use super::users::{audit, make, stack, user_spec};
use super::*;

fn create(name: &str) -> pb::CreateServiceRequest {
    pb::CreateServiceRequest { spec: Some(spec(name, 0)), ..Default::default() }
}

/// Names of all services.
async fn services(control: &mut ControlClient<Channel>) -> Vec<String> {
    let request = pb::ListServicesRequest { stack: None };
    let listed = whole(control.list_services(request)).await.unwrap().services;
    listed.into_iter().map(|s| s.service.unwrap().spec.unwrap().name).collect()
}

/// A reset of the stream while a command is written takes nothing back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_caller_gave_up_is_in_the_audit_if_it_took_effect() {
    let log = audit();
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let given_up = r#"outcome="unknown" why="the call was given up before its answer""#;
    let mut found = Vec::new();
    for round in 0..500 {
        let mut calls = JoinSet::new();
        let name = |n: usize| format!("s-{round}-{n}");
        for n in 0..40 {
            let (mut control, name) = (control.clone(), name(n));
            calls.spawn(async move { control.create_service(create(&name)).await.map(|_| name) });
        }
        // The others wait for the disk, or are being written.
        let mut answered = vec![calls.join_next().await.unwrap().unwrap().unwrap()];
        calls.abort_all();
        while let Some(outcome) = calls.join_next().await {
            answered.extend(outcome.ok().map(Result::unwrap));
        }
        let prefix = format!("s-{round}-");
        let mut made = services(&mut control).await;
        made.retain(|name| name.starts_with(&prefix) && !answered.contains(name));
        found.extend(made);
        // Whose caller went just after its outcome was written says nothing of those that wait.
        if found.len() >= 3 && log.text().contains(given_up) {
            break;
        }
    }
    assert!(found.len() >= 3, "nothing took effect whose caller had gone: {found:?}");
    for name in found {
        let line = format!(r#"method="CreateService" object="service {name}" outcome="#);
        let written = || async { log.text().contains(&line).then_some(()) };
        eventually(&format!("{line} in the audit"), written).await;
    }
    assert!(log.text().contains(given_up), "no call was given up before its answer");
    manager.stop().await;
}

/// A name that leads nowhere may lead to another stack's service a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_is_what_was_permitted_to_be() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let ci = user_spec("ci", pb::UserRole::Deployer, &["shop"]);
    let ci = make(&mut control, address, ci).await;
    let stop = CancellationToken::new();
    let mut attackers = JoinSet::new();
    for _ in 0..8 {
        let (mut control, stop) = (ci.control.clone(), stop.clone());
        attackers.spawn(async move {
            let mut tries = 0;
            while !stop.is_cancelled() {
                tries += 1;
                let mut evil = spec("blog_web", 1);
                evil.labels.insert("evil".to_owned(), String::new());
                let change = Some(pb::update_service_request::Change::Spec(evil));
                let reference = "blog_web".to_owned();
                let request = pb::UpdateServiceRequest { reference, change, ..Default::default() };
                let status = control.update_service(request).await.expect_err("another stack's");
                let expected = [Code::NotFound, Code::PermissionDenied];
                assert!(expected.contains(&status.code()), "{status}");
            }
            tries
        });
    }
    for _ in 0..25 {
        let spec = Some(stack("blog"));
        control.apply_stack(pb::ApplyStackRequest { spec, ..Default::default() }).await.unwrap();
        let reference = "blog".to_owned();
        control.remove_stack(pb::RemoveStackRequest { reference }).await.unwrap();
    }
    stop.cancel();
    let tries: usize = attackers.join_all().await.into_iter().sum();
    assert!(tries >= 25, "only {tries} tries");
    manager.stop().await;
}

/// What waits for one watcher is bounded in bytes, and so is what waits for all watchers of a user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_takes_a_bounded_part_of_the_managers_memory() {
    const SPEC_BYTES: usize = 300_000;
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let kinds = vec![pb::ObjectKind::Stack as i32];
    let request = pb::WatchRequest { kinds, ..Default::default() };
    let mut open = control.watch(request.clone()).await.unwrap().into_inner();
    for version in 1..=8 {
        let (mut spec, web) = (stack("shop"), large("shop_web", version, SPEC_BYTES));
        spec.services.insert("web".to_owned(), web);
        let request = pb::ApplyStackRequest { spec: Some(spec), ..Default::default() };
        control.apply_stack(request).await.unwrap();
    }
    let mut last = None;
    for _ in 0..=8 {
        let message = open.message().await.unwrap().unwrap();
        assert!(message.encoded_len() < SPEC_BYTES + 10_000, "{} bytes", message.encoded_len());
        last = message.message;
    }
    let Some(pb::watch_response::Message::Event(event)) = last else { panic!("{last:?}") };
    let Some(pb::watch_event::Object::Stack(last)) = event.object else { panic!("{event:?}") };
    assert_eq!(
        last.history.iter().map(|r| r.spec_version).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6, 7]
    );
    let reference = "shop".to_owned();
    let found = control.get_stack(pb::GetStackRequest { reference }).await.unwrap().into_inner();
    assert!(found.encoded_len() > 8 * SPEC_BYTES, "asked for by name it is whole");

    let mut more = Vec::new();
    let status = loop {
        match control.watch(request.clone()).await {
            Ok(stream) => more.push(stream),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), more.len()), (Code::ResourceExhausted, 63), "{status}");
    assert!(status.message().starts_with("user admin has 64 open watches already"), "{status}");
    // Another user has its own.
    let mut op = make(&mut control, address, user_spec("op", pb::UserRole::Operator, &[])).await;
    op.control.watch(request.clone()).await.unwrap();
    drop(more);
    eventually("one that has ended makes room", || {
        let (mut control, request) = (control.clone(), request.clone());
        async move { control.watch(request).await.ok().map(drop) }
    })
    .await;
    manager.stop().await;
}
