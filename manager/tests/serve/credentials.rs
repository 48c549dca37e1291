//! Credentials for registries: who gets them, and who does not.

use prost::Message as _;

use super::*;

const SECRET: &str = "hunter2-of-the-registry";

fn secret() -> pb::RegistryAuth {
    pb::RegistryAuth {
        username: "ci".to_owned(),
        password: SECRET.to_owned(),
        ..pb::RegistryAuth::default()
    }
}

async fn ask(agent: &mut Agent, session_id: &str, task_id: &str) -> Result<Option<String>, Code> {
    let request = pb::GetRegistryAuthRequest {
        session_id: session_id.to_owned(),
        task_id: task_id.to_owned(),
    };
    let answer = agent.client.get_registry_auth(request).await;
    answer.map(|a| a.into_inner().auth.map(|auth| auth.password)).map_err(|status| {
        assert!(!status.message().contains(SECRET), "{status}");
        status.code()
    })
}

/// The task that an agent holds and that is to run.
fn held(agent: &Agent) -> String {
    let wanted = agent.held.tasks.values().find(|t| t.desired_state == DesiredState::Running);
    wanted.unwrap().id.to_string()
}

fn has_secret(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_is_for_the_node_of_its_task_and_shown_to_nobody_else() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, agent_token } = bootstrap(dir.path(), address).await;
    let joined = joined(address, &agent_token).await;

    let mut own = Agent::connect(channel(address, node.current()), "first").await;
    let request = pb::CreateServiceRequest {
        spec: Some(spec("web", 1)),
        registry_auths: [("docker.io".to_owned(), secret())].into(),
    };
    let made = control.create_service(request).await.unwrap().into_inner();
    assert!(!has_secret(&made.encode_to_vec()));
    own.receive_until("a task", |held| held.tasks.len() == 1).await;
    assert!(!format!("{:?}", own.held).contains(SECRET));
    let (session, task) = (own.session_id.clone(), held(&own));
    assert_eq!(ask(&mut own, &session, &task).await, Ok(Some(SECRET.to_owned())));

    // Another node, with a session of its own or with that of the first.
    let mut other = Agent::connect(channel(address, joined), "second").await;
    let foreign = other.session_id.clone();
    for session in [&foreign, &session] {
        assert_eq!(ask(&mut other, session, &task).await, Err(Code::NotFound));
    }
    let nothing = shoal_types::id::TaskId::from(7).to_string();
    assert_eq!(ask(&mut other, &foreign, &nothing).await, Err(Code::NotFound));
    assert_eq!(ask(&mut other, &foreign, "no id").await, Err(Code::InvalidArgument));
    assert_eq!(ask(&mut own, &foreign, &task).await, Err(Code::NotFound));

    // A user sees the service, and nothing of it.
    let reference = made.service.unwrap().id;
    let get = pb::GetServiceRequest { reference: reference.clone() };
    let answer = control.get_service(get).await.unwrap().into_inner();
    assert!(!has_secret(&answer.encode_to_vec()));
    let tasks = whole(control.list_tasks(pb::ListTasksRequest::default())).await.unwrap();
    assert!(!has_secret(&tasks.encode_to_vec()));
    let watch = pb::WatchRequest { since: Some(0), ..pb::WatchRequest::default() };
    let mut events = control.watch(watch).await.unwrap().into_inner();
    let mut seen = 0;
    while let Ok(Ok(Some(event))) =
        tokio::time::timeout(Duration::from_millis(500), events.message()).await
    {
        assert!(!has_secret(&event.encode_to_vec()));
        seen += 1;
    }
    assert!(seen > 3, "the feed was looked at: {seen}");

    // It is as durable as the service.
    drop((own, other));
    manager.stop().await;
    let manager = Manager::start(dir.path(), address);
    let mut own =
        eventually("a session", || Agent::try_connect(channel(address, node.current()), "first"))
            .await;
    own.receive_until("a task", |held| held.tasks.len() == 1).await;
    let (session, task) = (own.session_id.clone(), held(&own));
    assert_eq!(ask(&mut own, &session, &task).await, Ok(Some(SECRET.to_owned())));

    let mut control = control_at(dir.path(), address).await;
    control.remove_service(pb::RemoveServiceRequest { reference }).await.unwrap();
    eventually("it goes with its service", || {
        let (mut client, session, task) = (own.client.clone(), session.clone(), task.clone());
        async move {
            let request = pb::GetRegistryAuthRequest { session_id: session, task_id: task };
            client.get_registry_auth(request).await.err().filter(|s| s.code() == Code::NotFound)
        }
    })
    .await;
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_ask_for_no_credential_and_bad_ones_are_refused_unrepeated() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, .. } = bootstrap(dir.path(), address).await;
    let user = user_channel(dir.path(), address).await;
    let request = pb::GetRegistryAuthRequest::default();
    let refused = DispatcherClient::new(user).get_registry_auth(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    let bad = pb::RegistryAuth { username: "a:b".to_owned(), ..secret() };
    let request = pb::CreateServiceRequest {
        spec: Some(spec("web", 1)),
        registry_auths: [("docker.io".to_owned(), bad)].into(),
    };
    let refused = control.create_service(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let said = refused.message();
    assert!(said.contains("registry_auths[\"docker.io\"]") && !said.contains(SECRET), "{said}");
    manager.stop().await;
}
