//! Nodes that say more than anybody can write down.

use std::time::Instant;

use super::questions::join_as;
use super::*;

/// Calls of the flood at once: more than wait for their turn.
const AT_ONCE: usize = 8;

/// How long it lasts.
const FLOOD: Duration = Duration::from_secs(5);

/// Index of the newest entry of the log.
async fn newest(control: &ControlClient<Channel>) -> u64 {
    let watch = control.clone().watch(pb::WatchRequest::default()).await.unwrap();
    let first = watch.into_inner().message().await.unwrap().unwrap().message.unwrap();
    let pb::watch_response::Message::Started(started) = first else { panic!("{first:?}") };
    started.index
}

/// Reports its tasks with ever new words until the time is over; reports that were taken.
async fn floods(agent: &Agent, until: Instant) -> u64 {
    let mut calls = tokio::task::JoinSet::new();
    for at in 0..AT_ONCE {
        let (mut client, session_id) = (agent.client.clone(), agent.session_id.clone());
        let tasks: Vec<_> = agent.held.tasks.keys().copied().collect();
        calls.spawn(async move {
            let mut taken = 0;
            for n in 0.. {
                let status = |id| {
                    let words = format!("{at} {n}");
                    let status =
                        TaskStatus::new(TaskState::Running, Timestamp::from_secs(1), &words);
                    pb::TaskStatusUpdate::from(&(id, status))
                };
                let updates = tasks.iter().copied().map(status).collect();
                let session_id = session_id.clone();
                let request = pb::UpdateTaskStatusRequest { session_id, updates };
                let left = until.saturating_duration_since(Instant::now());
                match tokio::time::timeout(left, client.update_task_status(request)).await {
                    Ok(Ok(_)) => taken += 1,
                    Ok(Err(status)) => {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                        tokio::task::yield_now().await;
                    }
                    Err(_) => break,
                }
            }
            taken
        });
    }
    calls.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reports_without_end_fills_no_log_and_holds_nobody_up() {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let Made { manager, mut control, node, agent_token } = bootstrap(dir.path(), address).await;
    let mut hostile = Agent::connect(channel(address, node.current()), "first").await;
    let mut honest = join_as(address, &agent_token, "second").await;
    control
        .create_service(pb::CreateServiceRequest {
            spec: Some(spec("web", 4)),
            ..Default::default()
        })
        .await
        .unwrap();
    hostile.receive_until("two tasks", |held| held.tasks.len() == 2).await;
    honest.receive_until("two tasks", |held| held.tasks.len() == 2).await;

    let (before, began) = (newest(&control).await, Instant::now());
    let until = began + FLOOD;
    let other = async {
        let mut longest = Duration::ZERO;
        while Instant::now() + Duration::from_secs(1) < until {
            let began = Instant::now();
            honest.report(TaskState::Running).await;
            longest = longest.max(began.elapsed());
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        longest
    };
    let (taken, longest) = tokio::join!(floods(&hostile, until), other);
    let entries = newest(&control).await - before;
    eprintln!("{taken} reports of the flood, {entries} entries, others waited {longest:?}");
    // A burst of 100, then 20 a second.
    assert!(taken <= 100 + 20 * 6, "{taken} reports");
    assert!(taken > 100, "what is within the rate gets through: {taken} reports");
    // With what the other node and its own heartbeats bring.
    assert!(entries <= taken + 60, "{entries} entries of {taken} reports");
    assert!(longest < Duration::from_secs(3), "another node waited {longest:?}");

    // Nobody gets more by opening sessions either.
    let (before, began) = (newest(&control).await, Instant::now());
    let mut opened = 0;
    while began.elapsed() < Duration::from_secs(2) {
        let left = Duration::from_secs(2).saturating_sub(began.elapsed());
        let open = Agent::try_connect(channel(address, node.current()), "first");
        if let Ok(Some(_)) = tokio::time::timeout(left, open).await {
            opened += 1;
        }
    }
    let entries = newest(&control).await - before;
    assert!(opened >= 5, "it is still let in: {opened} times");
    assert!(entries <= 100, "{entries} entries of {opened} sessions");
    manager.stop().await;
}
