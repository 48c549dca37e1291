//! Users: what each role may do over the wire, and how a right is taken back.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use shoal_transport::{EnrolError, renew};
use tokio_stream::StreamExt as _;

use super::*;

/// A user with a connection of its own.
pub(super) struct Known {
    id: String,
    pub(super) control: ControlClient<Channel>,
    credentials: Credentials,
    channel: Channel,
}

pub(super) fn user_spec(name: &str, role: pb::UserRole, stacks: &[&str]) -> pb::UserSpec {
    pb::UserSpec {
        name: name.to_owned(),
        role: role as i32,
        stacks: stacks.iter().map(|s| (*s).to_owned()).collect(),
        ..Default::default()
    }
}

pub(super) async fn make(
    admin: &mut ControlClient<Channel>,
    address: SocketAddr,
    spec: pb::UserSpec,
) -> Known {
    let key = PrivateKey::generate().unwrap();
    let request = pb::CreateUserRequest { spec: Some(spec), csr_der: key.request().unwrap() };
    let made = admin.create_user(request).await.unwrap().into_inner();
    let certificate = made.certificate.unwrap();
    let credentials =
        Credentials::from_pem(certificate.chain_pem, key.to_pem(), certificate.root_pem).unwrap();
    let channel = channel(address, credentials.clone());
    let control = ControlClient::new(channel.clone());
    Known { id: made.user.unwrap().id, control, credentials, channel }
}

async fn remove(admin: &mut ControlClient<Channel>, name: &str) {
    let reference = name.to_owned();
    admin.remove_user(pb::RemoveUserRequest { reference }).await.unwrap();
}

fn shop() -> pb::StackSpec {
    stack("shop")
}

pub(super) fn stack(name: &str) -> pb::StackSpec {
    let service = spec(&format!("{name}_web"), 1);
    pb::StackSpec {
        name: name.to_owned(),
        services: [("web".to_owned(), service)].into(),
        ..Default::default()
    }
}

async fn end_of<T>(stream: &mut Streaming<T>) -> tonic::Status {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended in good order"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("the stream ends")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_user_is_out_at_once_on_open_connections_and_streams_too() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let operator = user_spec("op", pb::UserRole::Operator, &[]);
    let mut op = make(&mut control, address, operator.clone()).await;
    let watch = pb::WatchRequest::default();
    let mut open = op.control.watch(watch.clone()).await.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    op.control
        .create_service(pb::CreateServiceRequest { spec: Some(spec("a", 0)), ..Default::default() })
        .await
        .unwrap();

    // What it is called is no right: nothing ends.
    let mut labelled = operator;
    labelled.labels.insert("team".to_owned(), "red".to_owned());
    let update = pb::UpdateUserRequest {
        reference: "op".to_owned(),
        expected_version: 1,
        spec: Some(labelled),
    };
    control.update_user(update).await.unwrap();
    let late = pb::CreateServiceRequest { spec: Some(spec("late", 0)), ..Default::default() };
    control.create_service(late).await.unwrap();
    let is_late = |message: pb::WatchResponse| {
        let Some(pb::watch_response::Message::Event(event)) = message.message else { return false };
        matches!(event.object, Some(pb::watch_event::Object::Service(s)) if s.spec.as_ref().unwrap().name == "late")
    };
    while !is_late(open.message().await.unwrap().unwrap()) {}

    // A change of its rights ends what was begun with the old ones.
    let update = pb::UpdateUserRequest {
        reference: "op".to_owned(),
        expected_version: 2,
        spec: Some(user_spec("op", pb::UserRole::Viewer, &[])),
    };
    control.update_user(update).await.unwrap();
    let status = end_of(&mut open).await;
    assert!(status.message().contains("rights have changed"), "{status}");
    let request = pb::CreateServiceRequest { spec: Some(spec("b", 0)), ..Default::default() };
    let status = op.control.create_service(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");

    let mut open = op.control.watch(watch).await.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    remove(&mut control, "op").await;
    let status = end_of(&mut open).await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let status = whole(op.control.list_nodes(pb::ListNodesRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert_eq!(
        status.message(),
        format!("user {} is not a member of this cluster (any more)", op.id)
    );
    match renew(op.channel, &op.credentials).await {
        Err(EnrolError::Refused(why)) => assert!(why.contains("not a member"), "{why}"),
        other => panic!("a removed user's certificate was renewed: {:?}", other.map(|_| ())),
    }
    // The admin goes on.
    whole(control.list_nodes(pb::ListNodesRequest {})).await.unwrap();
    let status = control.remove_user(pb::RemoveUserRequest { reference: "admin".to_owned() }).await;
    assert_eq!(status.unwrap_err().code(), Code::FailedPrecondition, "the last admin stays");
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_loses_its_streams_at_once() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, agent_token, .. } = bootstrap(dir.path(), address).await;
    let joined = joined(address, &agent_token).await;
    let reference = joined.identity().node().unwrap().to_string();
    let mut agent = Agent::connect(channel(address, joined), "second").await;
    agent.receive().await;
    // An answer that it has begun.
    let (mut user, nodes) = (control.clone(), vec![reference.clone()]);
    let asking = tokio::spawn(async move {
        whole(user.list_volumes(pb::ListVolumesRequest { nodes })).await.unwrap()
    });
    let (question_id, _) = agent.is_questioned().await;
    let attach = pb::answer_message::Message::Attach(pb::AnswerAttach { question_id });
    let attach = pb::AnswerMessage { message: Some(attach) };
    let unended = tokio_stream::iter([attach]).chain(tokio_stream::pending());
    let mut client = agent.client.clone();
    let answering = tokio::spawn(async move { client.answer_question(unended).await });

    control.remove_node(pb::RemoveNodeRequest { reference, force: true }).await.unwrap();
    let answered = tokio::time::timeout(PATIENCE, answering).await.expect("it is ended");
    // Its right has gone, or, if that is seen first, whoever waited for it.
    let status = answered.unwrap().unwrap_err();
    assert!(matches!(status.code(), Code::Unauthenticated | Code::Cancelled), "{status}");
    let told = tokio::time::timeout(PATIENCE, asking).await.expect("it is ended").unwrap();
    assert_eq!(told.silent.len(), 1, "{told:?}");
    for status in [end_of(&mut agent.session).await, end_of(&mut agent.assignments).await] {
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_reads_and_does_nothing_else() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    control
        .create_service(pb::CreateServiceRequest { spec: Some(spec("a", 1)), ..Default::default() })
        .await
        .unwrap();
    let mut viewer = make(&mut control, address, user_spec("v", pb::UserRole::Viewer, &[])).await;
    let v = &mut viewer.control;
    let services = whole(v.list_services(pb::ListServicesRequest { stack: None })).await.unwrap();
    assert_eq!(services.services.len(), 1);
    let own = v.get_user(pb::GetUserRequest::default()).await.unwrap().into_inner().user.unwrap();
    assert_eq!(own.spec.unwrap().name, "v");

    let token = pb::GetJoinTokenRequest { role: pb::NodeRole::Agent as i32 };
    let start =
        pb::ExecStart { task: "a.1".to_owned(), argv: vec!["sh".to_owned()], ..Default::default() };
    let start = pb::ExecInput { input: Some(pb::exec_input::Input::Start(start)) };
    let refused = [
        v.get_join_token(token).await.map(|_| ()),
        v.exec(tokio_stream::iter([start])).await.map(|_| ()),
        v.apply_stack(pb::ApplyStackRequest { spec: Some(shop()), ..Default::default() })
            .await
            .map(|_| ()),
        v.remove_service(pb::RemoveServiceRequest { reference: "a".to_owned() }).await.map(|_| ()),
        whole(v.list_users(pb::ListUsersRequest {})).await.map(|_| ()),
        v.get_user(pb::GetUserRequest { reference: "admin".to_owned() }).await.map(|_| ()),
        v.create_user(pb::CreateUserRequest::default()).await.map(|_| ()),
    ];
    for (i, outcome) in refused.into_iter().enumerate() {
        let status = outcome.expect_err("a viewer may not");
        assert_eq!(status.code(), Code::PermissionDenied, "{i}: {status}");
        assert!(status.message().starts_with("user v has role viewer"), "{i}: {status}");
    }
    manager.stop().await;
}

/// Names of services in all events until a stack is removed.
async fn names_until_a_stack_goes(watch: &mut Streaming<pb::WatchResponse>) -> Vec<String> {
    let mut seen = Vec::new();
    let all = async {
        loop {
            let message = watch.message().await.unwrap().unwrap().message.unwrap();
            let pb::watch_response::Message::Event(event) = message else { panic!("{message:?}") };
            match event.object.unwrap() {
                pb::watch_event::Object::Service(s) => seen.push(s.spec.unwrap().name),
                pb::watch_event::Object::Task(t) => seen.push(t.service_name),
                pb::watch_event::Object::User(_) => panic!("users are for admins"),
                pb::watch_event::Object::Stack(s) => {
                    seen.push(format!("{}_web", s.spec.unwrap().name));
                    if event.action == pb::EventAction::Remove as i32 {
                        return;
                    }
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("the stack is seen to go");
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployer_deploys_and_sees_its_own_stack_alone() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let apply = |spec| pb::ApplyStackRequest { spec: Some(spec), ..Default::default() };
    control.apply_stack(apply(stack("blog"))).await.unwrap();
    let deployer = user_spec("ci", pb::UserRole::Deployer, &["shop"]);
    let mut ci = make(&mut control, address, deployer).await;
    let c = &mut ci.control;
    let mut watch = c.watch(pb::WatchRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    c.apply_stack(apply(shop())).await.unwrap();
    let listed = whole(c.list_services(pb::ListServicesRequest { stack: None })).await.unwrap();
    let names: Vec<_> =
        listed.services.into_iter().map(|s| s.service.unwrap().spec.unwrap().name).collect();
    assert_eq!(names, ["shop_web"]);
    let stacks = whole(c.list_stacks(pb::ListStacksRequest {})).await.unwrap().stacks;
    assert_eq!(stacks.len(), 1);
    let tasks = eventually("the task of the own stack", || {
        let mut c = c.clone();
        async move {
            let tasks = whole(c.list_tasks(pb::ListTasksRequest::default())).await.unwrap();
            Some(tasks.tasks).filter(|tasks| !tasks.is_empty())
        }
    });
    assert!(tasks.await.iter().all(|t| t.service_name == "shop_web"));

    let reference = || "blog_web".to_owned();
    let refused = [
        c.apply_stack(apply(stack("blog"))).await.map(|_| ()),
        c.get_service(pb::GetServiceRequest { reference: reference() }).await.map(|_| ()),
        c.remove_service(pb::RemoveServiceRequest { reference: reference() }).await.map(|_| ()),
        c.service_logs(pb::ServiceLogsRequest { reference: reference(), options: None })
            .await
            .map(|_| ()),
        c.remove_stack(pb::RemoveStackRequest { reference: "blog".to_owned() }).await.map(|_| ()),
        c.create_service(pb::CreateServiceRequest {
            spec: Some(spec("x", 1)),
            ..Default::default()
        })
        .await
        .map(|_| ()),
    ];
    for (i, outcome) in refused.into_iter().enumerate() {
        let status = outcome.expect_err("a deployer may not");
        assert_eq!(status.code(), Code::PermissionDenied, "{i}: {status}");
    }
    // Nothing of the other stack came by, and the own one did.
    let update = pb::UpdateServiceRequest {
        reference: reference(),
        expected_version: None,
        change: Some(pb::update_service_request::Change::Spec(spec("blog_web", 2))),
        ..Default::default()
    };
    control.update_service(update).await.unwrap();
    c.remove_stack(pb::RemoveStackRequest { reference: "shop".to_owned() }).await.unwrap();
    let seen = names_until_a_stack_goes(&mut watch).await;
    assert!(seen.len() > 3 && seen.iter().all(|name| name == "shop_web"), "{seen:?}");
    manager.stop().await;
}

/// Names in all events of a time that is over.
async fn history(
    user: &mut ControlClient<Channel>,
    from_index: Option<u64>,
) -> Result<Vec<String>, tonic::Status> {
    let until = shoal_manager::clock::now() + Duration::from_millis(1);
    let request = pb::WatchRequest {
        from_index,
        since: from_index.is_none().then_some(1),
        until: Some(until.as_nanos()),
        ..Default::default()
    };
    let mut watch = user.watch(request).await?.into_inner();
    let mut seen = Vec::new();
    while let Some(message) = watch.message().await? {
        let Some(pb::watch_response::Message::Event(event)) = message.message else { continue };
        seen.push(match event.object.unwrap() {
            pb::watch_event::Object::Service(s) => format!("service {}", s.spec.unwrap().name),
            pb::watch_event::Object::Task(t) => format!("task {}", t.service_name),
            pb::watch_event::Object::Deployment(d) => format!("deployment {}", d.service_id),
            pb::watch_event::Object::Stack(s) => format!("stack {}", s.spec.unwrap().name),
            pb::watch_event::Object::User(u) => format!("user {}", u.spec.unwrap().name),
            _ => continue,
        });
    }
    Ok(seen)
}

/// What was is filtered as what is: also of stacks and services that are gone by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployer_reads_the_history_of_its_own_stacks_alone() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let apply = |spec| pb::ApplyStackRequest { spec: Some(spec), ..Default::default() };
    for name in ["shop", "blog", "shop2"] {
        control.apply_stack(apply(stack(name))).await.unwrap();
    }
    let services = whole(control.list_services(pb::ListServicesRequest { stack: None })).await;
    let services: BTreeMap<String, String> = services
        .unwrap()
        .services
        .into_iter()
        .map(|s| s.service.unwrap())
        .map(|s| (s.id, s.spec.unwrap().name))
        .collect();
    let ci = user_spec("ci", pb::UserRole::Deployer, &["shop"]);
    let mut ci = make(&mut control, address, ci).await;
    make(&mut control, address, user_spec("other", pb::UserRole::Admin, &[])).await;
    let own = |what: &String| {
        what.starts_with("stack shop")
            || services.iter().any(|(id, name)| {
                name == "shop_web" && (what.ends_with(id) || what.ends_with(name))
            })
            || what == "user ci"
    };
    for removed in [None, Some("shop"), Some("blog")] {
        if let Some(reference) = removed.map(str::to_owned) {
            control.remove_stack(pb::RemoveStackRequest { reference }).await.unwrap();
        }
        for from_index in [None, Some(0)] {
            let Ok(all) = history(&mut control, from_index).await else {
                assert_eq!(from_index, Some(0), "index 0 may be forgotten, a time is not");
                continue;
            };
            let seen = history(&mut ci.control, from_index).await.unwrap();
            for part in ["service shop_web", "task shop_web", "stack shop", "deployment "] {
                assert!(
                    seen.iter().any(|what| what.starts_with(part)),
                    "{removed:?}: {part}: {seen:?}"
                );
            }
            let foreign: Vec<_> =
                seen.iter().filter(|what| !own(what) || what.contains("shop2")).collect();
            assert!(foreign.is_empty(), "{removed:?}: {foreign:?}");
            // It goes on meanwhile: not less than was told before, and not more than after.
            let mut after = history(&mut control, from_index).await.unwrap();
            after.retain(|what| own(what) && !what.contains("shop2"));
            let least = all.iter().filter(|what| own(what) && !what.contains("shop2")).count();
            assert!(seen.len() >= least, "{removed:?}: {least}: {seen:?}");
            assert_eq!(after.get(..seen.len()), Some(&seen[..]), "{removed:?}");
        }
    }
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_lives_as_long_as_was_chosen_also_when_it_is_renewed() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let day = 24 * 3600;
    let end = shoal_manager::clock::now() + Duration::from_secs(200 * day);
    let spec = user_spec("ci", pb::UserRole::Operator, &[]);
    let spec = pb::UserSpec { expires_at: Some(end.as_nanos()), ..spec };
    let ci = make(&mut control, address, spec.clone()).await;
    let near = |found: Timestamp| end.since(found) < Duration::from_secs(60) && found <= end;
    assert!(near(ci.credentials.identity().not_after), "{:?}", ci.credentials.identity());
    let renewed = renew(ci.channel, &ci.credentials).await.unwrap();
    assert!(near(renewed.identity().not_after), "{:?}", renewed.identity());

    let key = PrivateKey::generate().unwrap();
    let late = shoal_manager::clock::now() + Duration::from_secs(400 * day);
    for end in [late.as_nanos(), 1] {
        let spec = pb::UserSpec { name: "late".to_owned(), expires_at: Some(end), ..spec.clone() };
        let csr_der = key.request().unwrap();
        let status = control.create_user(pb::CreateUserRequest { spec: Some(spec), csr_der }).await;
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("within the next 365 days"), "{status}");
    }
    manager.stop().await;
}

#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

static LOG: OnceLock<Log> = OnceLock::new();

impl Log {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// What this process writes to its audit from now on.
pub(super) fn audit() -> Log {
    let log = LOG.get_or_init(Log::default).clone();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_env_filter("audit=info")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .try_init()
        .expect("nobody else logs in this process");
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_and_every_refused_one_is_in_the_audit() {
    let log = audit();
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let mut viewer = make(&mut control, address, user_spec("v", pb::UserRole::Viewer, &[])).await;
    control
        .create_service(pb::CreateServiceRequest { spec: Some(spec("a", 1)), ..Default::default() })
        .await
        .unwrap();
    let reference = "a".to_owned();
    let remove = pb::RemoveServiceRequest { reference: reference.clone() };
    viewer.control.remove_service(remove).await.unwrap_err();
    let get = pb::GetServiceRequest { reference };
    viewer.control.get_service(get).await.unwrap();
    let absent = pb::RemoveServiceRequest { reference: "no-such".to_owned() };
    control.remove_service(absent).await.unwrap_err();
    manager.stop().await;
    let text = log.text();
    let expected = [
        r#"who="root of this host" role="root" method="Bootstrap" object="user admin" outcome="ok""#,
        r#"who="user admin" role="admin" method="CreateUser" object="user v" outcome="ok""#,
        r#"who="user admin" role="admin" method="CreateService" object="service a" outcome="ok""#,
        r#"who="user v" role="viewer" method="RemoveService" object="service a" outcome="refused""#,
        r#"who="user admin" role="admin" method="RemoveService" object="service no-such" outcome="failed""#,
    ];
    for line in expected {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("GetService"), "reads are not written down\n{text}");
}
