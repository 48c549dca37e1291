//! Levels and terms, as agents and users meet them.

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
    assert_eq!((started.level, started.cluster_level), (1, 1));

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
    let refused = raise(2).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().starts_with("manager first ("), "{refused}");
    assert!(refused.message().contains("has feature level 1: expected 2"), "{refused}");
    for level in [0, 1] {
        let answer = raise(level).await.unwrap().into_inner();
        assert_eq!((answer.cluster.unwrap().level, answer.raised), (1, false));
    }
    let reference = "first".to_owned();
    let found = control.get_node(pb::GetNodeRequest { reference }).await.unwrap().into_inner();
    let found = found.node.unwrap().node.unwrap();
    assert_eq!(found.description.unwrap().level, 1);
    assert_eq!(found.manager_status.unwrap().level, 1);
    manager.stop().await;
}
