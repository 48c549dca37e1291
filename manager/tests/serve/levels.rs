//! Levels and terms, as agents and users meet them.

use shoal_types::level::Level;

use super::*;

async fn greeting(channel: Channel, term: u64) -> Result<pb::SessionStarted, tonic::Status> {
    let description = Some((&description("first")).into());
    let request = pb::SessionRequest { description, term, ..Default::default() };
    let mut session = DispatcherClient::new(channel).session(request).await?.into_inner();
    match session.message().await?.unwrap().message {
        Some(pb::session_message::Message::Started(started)) => Ok(started),
        other => panic!("{other:?}"),
    }
}

/// How far people are told that the node is: what was sent, what is applied.
async fn progress(control: &ControlClient<Channel>) -> Option<(u64, u64)> {
    let request = pb::GetNodeRequest { reference: "first".to_owned() };
    let found = control.clone().get_node(request).await.unwrap().into_inner();
    found.node.unwrap().assignment.map(|progress| (progress.sent, progress.applied))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_of_one_leader_and_acknowledges_what_that_has_sent() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, control, node, .. } = bootstrap(dir.path(), address).await;
    assert_eq!(progress(&control).await, None, "it has no session");
    let started = greeting(channel(address, node.current()), 0).await.unwrap();
    assert!(started.term > 0);
    let own = Level::OWN.number();
    assert_eq!((started.level, started.cluster_level), (own, own));

    // Who has obeyed a later leader knows better than this one.
    let term = started.term + 1;
    let refused = greeting(channel(address, node.current()), term).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let expected = format!("has obeyed a leader of term {term}, and this manager leads in term");
    assert!(refused.message().contains(&expected), "{refused}");

    let mut agent = Agent::connect(channel(address, node.current()), "first").await;
    let message = agent.assignments.message().await.unwrap().unwrap();
    assert_eq!((message.term, message.results_in), (started.term, 1));
    assert_eq!(progress(&control).await, Some((1, 0)));
    let session_id = agent.session_id.clone();
    let acknowledge = |applied| pb::AcknowledgeRequest { session_id: session_id.clone(), applied };
    agent.client.acknowledge(acknowledge(1)).await.unwrap();
    agent.client.acknowledge(acknowledge(1)).await.unwrap();
    assert_eq!(progress(&control).await, Some((1, 1)));
    let unsent = agent.client.acknowledge(acknowledge(2)).await.unwrap_err();
    assert_eq!(unsent.code(), Code::InvalidArgument, "{unsent}");
    // The numbers go on through the streams of a session.
    let request = pb::AssignmentsRequest { session_id: session_id.clone(), message_bytes_max: 0 };
    let mut again = agent.client.assignments(request).await.unwrap().into_inner();
    let message = again.message().await.unwrap().unwrap();
    assert_eq!(message.kind, pb::AssignmentsKind::Complete as i32);
    assert_eq!(message.results_in, 2);
    assert_eq!(progress(&control).await, Some((2, 1)), "the node is one message behind");
    agent.client.acknowledge(acknowledge(2)).await.unwrap();
    assert_eq!(progress(&control).await, Some((2, 2)));
    manager.stop().await;

    let manager = Manager::start(dir.path(), address);
    let later = eventually("the next leader", || async {
        greeting(channel(address, node.current()), started.term).await.ok()
    })
    .await;
    // The same one leads again, which needs no other term.
    assert!(later.term >= started.term, "{} follows {}", later.term, started.term);
    let mut client = DispatcherClient::new(channel(address, node.current()));
    let beat = pb::HeartbeatRequest { session_id, ..Default::default() };
    let refused = client.heartbeat(beat).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    manager.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_is_raised_no_further_than_its_managers() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let _agent = Agent::connect(channel(address, node.current()), "first").await;
    let mut raise = async |level| control.raise_level(pb::RaiseLevelRequest { level }).await;
    let own = Level::OWN.number();
    let refused = raise(own + 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().starts_with("manager first ("), "{refused}");
    let expected = format!("has feature level {own}: expected {}", own + 1);
    assert!(refused.message().contains(&expected), "{refused}");
    for level in [0, own] {
        let answer = raise(level).await.unwrap().into_inner();
        assert_eq!((answer.cluster.unwrap().level, answer.raised), (own, false));
    }
    let reference = "first".to_owned();
    let found = control.get_node(pb::GetNodeRequest { reference }).await.unwrap().into_inner();
    let found = found.node.unwrap().node.unwrap();
    assert_eq!(found.description.unwrap().level, 1);
    assert_eq!(found.manager_status.unwrap().level, own);
    manager.stop().await;
}

/// As after an old copy of the manager's disk was put back: its agents have obeyed it in a later term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_have_obeyed_a_later_term_come_back_when_the_term_was_raised() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, node, .. } = bootstrap(dir.path(), address).await;
    let first = greeting(channel(address, node.current()), 0).await.unwrap();
    let obeyed = first.term + 40;
    let refused = greeting(channel(address, node.current()), obeyed).await.unwrap_err();
    let hint = format!("run shoal-manager raise-term --above {obeyed} on its host");
    assert!(refused.message().ends_with(&hint), "{refused}");
    manager.stop().await;

    shoal_manager::raft::raise_term(&dir.path().join("raft"), obeyed).await.unwrap();
    let manager = Manager::start(dir.path(), address);
    let later = eventually("a leader that is obeyed", || async {
        greeting(channel(address, node.current()), obeyed).await.ok()
    })
    .await;
    assert!(later.term > obeyed, "{} follows {obeyed}", later.term);
    manager.stop().await;
}

/// Others will dial it by the name of its node: one that nobody is would be dialled in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_is_known_by_its_node_although_an_earlier_attempt_had_another_key() {
    use shoal_manager_raft::testing::{Recorder, open, quick};
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let raft = dir.path().join("raft");
    let member = open(&raft, &Recorder::default(), &quick()).await;
    member.initialize(77.into(), "127.0.0.1:1").await.unwrap();
    member.shutdown().await;

    let Made { manager, node, .. } = bootstrap(dir.path(), address).await;
    manager.stop().await;
    let member = open(&raft, &Recorder::default(), &quick()).await;
    let known = eventually("its members", || async { member.members().pop() }).await;
    assert_eq!(Some(known.node), node.current().identity().node());
    assert_eq!(known.address, address.to_string());
    member.shutdown().await;
}

/// Agents may be upgraded before managers: what one says that this manager cannot read costs that
/// alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_agent_says_costs_one_status_and_never_the_session() {
    use pb::generic_resource::Value;
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let mut newer = pb::NodeDescription::from(&description("first"));
    let resource = |kind: &str, value| pb::GenericResource { kind: kind.to_owned(), value };
    newer.resources.as_mut().unwrap().generic_resources =
        vec![resource("slices", None), resource("gpu", Some(Value::Discrete(2)))];
    let mut agent = Agent::open(channel(address, node.current()), newer).await.unwrap();
    let reference = "first".to_owned();
    let found = control.get_node(pb::GetNodeRequest { reference }).await.unwrap().into_inner();
    let known = found.node.unwrap().node.unwrap().description.unwrap().resources.unwrap();
    assert_eq!(known.generic_resources, [resource("gpu", Some(Value::Discrete(2)))]);

    let spec = Some(spec("web", 3));
    let request = pb::CreateServiceRequest { spec, ..Default::default() };
    control.create_service(request).await.unwrap();
    agent.receive_until("three tasks", |held| held.tasks.len() == 3).await;
    let status = TaskStatus::new(TaskState::Running, Timestamp::from_secs(1), "said by a test");
    let mut updates: Vec<pb::TaskStatusUpdate> =
        agent.held.tasks.keys().map(|id| (&(*id, status.clone())).into()).collect();
    let ids: Vec<String> = updates.iter().map(|update| update.task_id.clone()).collect();
    // A state that this manager does not know; of a known one, a port of an unknown kind.
    updates[0].status.as_mut().unwrap().state = 9999;
    let known = pb::PortConfig {
        target_port: 80,
        protocol: pb::Protocol::Tcp.into(),
        publish_mode: pb::PublishMode::Host.into(),
        ..Default::default()
    };
    let unknown = pb::PortConfig { protocol: 9999, ..known.clone() };
    updates[1].status.as_mut().unwrap().port_status = vec![unknown, known];
    let session_id = agent.session_id.clone();
    let request = pb::UpdateTaskStatusRequest { session_id, updates };
    agent.client.update_task_status(request).await.unwrap();

    let mut seen = Vec::new();
    for reference in ids {
        let request = pb::GetTaskRequest { reference };
        let task = control.get_task(request).await.unwrap().into_inner().task.unwrap();
        let status = task.status.unwrap();
        seen.push((status.message == "said by a test", status.port_status.len()));
    }
    assert_eq!(seen, [(false, 0), (true, 1), (true, 0)]);
    manager.stop().await;
}

/// Each stream may have parts on its way that its agent does not take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_opens_streams_and_reads_none_gets_no_more_of_them() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, .. } = bootstrap(dir.path(), address).await;
    let mut agent = Agent::connect(channel(address, node.current()), "first").await;
    // More than the windows of a connection hold.
    let mut large = spec("large", 40);
    let task = large.task_template.as_mut().unwrap();
    let Some(pb::task_spec::Runtime::Container(container)) = &mut task.runtime else { panic!() };
    container.env = vec![format!("BIG={}", "x".repeat(190_000))];
    let request = pb::CreateServiceRequest { spec: Some(large), ..Default::default() };
    control.create_service(request).await.unwrap();
    agent.receive_until("its tasks", |held| held.tasks.len() == 40).await;
    let session_id = agent.session_id.clone();
    let request = pb::AssignmentsRequest { session_id, message_bytes_max: 0 };
    let (mut unread, mut refused) = (Vec::new(), None);
    for _ in 0..20 {
        match agent.client.assignments(request.clone()).await {
            Ok(stream) => unread.push(stream.into_inner()),
            Err(status) => {
                refused = Some(status);
                break;
            }
        }
    }
    let refused = refused.expect("twenty are too many");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("streams of assignments"), "{refused}");
    // What is let go makes room.
    drop(unread);
    eventually("another stream", || {
        let (mut client, request) = (agent.client.clone(), request.clone());
        async move { client.assignments(request).await.ok() }
    })
    .await;
    manager.stop().await;
}
