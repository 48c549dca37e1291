use std::collections::BTreeMap;

use super::super::LeaderState;
use super::super::members::{TestMember, eventually, leader_among};
use super::super::testing::quick;
use super::*;

async fn leading() -> TestMember {
    let member = TestMember::start(&quick()).await;
    member.node.initialize(TestMember::NODE.into(), &member.address).await.unwrap();
    let members = BTreeMap::from([(0, member)]);
    leader_among(&members).await;
    members.into_values().next().unwrap()
}

async fn leader(config: ProposeConfig) -> (TestMember, Proposer<String>, CancellationToken) {
    let member = leading().await;
    let stop = CancellationToken::new();
    let (proposer, task) = Proposer::new(member.node.clone(), config, stop.clone());
    tokio::spawn(task);
    (member, proposer, stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_commands_share_the_disk_barrier() {
    let member = leading().await;
    let stop = CancellationToken::new();
    let (proposer, task) = Proposer::new(member.node.clone(), ProposeConfig::default(), stop);
    let before = member.node.log_writes();
    let propose = |n: usize| Box::pin(proposer.propose(Bytes::from(format!("{n}"))));
    let mut proposals: Vec<_> = (0..200).map(propose).collect();
    // All of them wait before anybody works on the queue.
    for proposal in &mut proposals {
        assert!(futures::poll!(proposal).is_pending());
    }
    tokio::spawn(task);
    for (number, answer) in futures::future::join_all(proposals).await.into_iter().enumerate() {
        assert_eq!(answer.unwrap(), format!("done {number}"));
    }
    assert_eq!(member.machine.applied().len(), 200);
    let writes = member.node.log_writes() - before;
    assert!((1..=3).contains(&writes), "200 commands took {writes} disk barriers");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_bounded() {
    let config = ProposeConfig { batch_commands: 3, batch_bytes: 10, ..ProposeConfig::default() };
    let member = leading().await;
    let (proposer, task) = Proposer::new(member.node.clone(), config, CancellationToken::new());
    let expected: [&[usize]; 7] = [&[1, 1, 1], &[1, 9], &[9], &[30], &[2, 2, 2], &[2], &[9]];
    let sizes = expected.concat();
    let propose = |size: &usize| Box::pin(proposer.propose(Bytes::from(vec![b'x'; *size])));
    let mut proposals: Vec<_> = sizes.iter().map(propose).collect();
    // All of them wait before anybody works on the queue.
    for proposal in &mut proposals {
        assert!(futures::poll!(proposal).is_pending());
    }
    tokio::spawn(task);
    for result in futures::future::join_all(proposals).await {
        result.unwrap();
    }
    let entries: Vec<Vec<_>> =
        member.machine.entries().iter().map(|e| e.iter().map(Vec::len).collect()).collect();
    assert_eq!(entries, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_and_a_large_command_are_refused_at_once() {
    let config = ProposeConfig {
        queue_commands: 4,
        queue_bytes: 100,
        command_bytes: 60,
        ..Default::default()
    };
    let member = leading().await;
    let (proposer, task) = Proposer::new(member.node.clone(), config, CancellationToken::new());
    let too_large = proposer.propose(Bytes::from(vec![0; 61])).await;
    assert_eq!(too_large, Err(ProposeError::TooLarge { bytes: 61, max: 60 }));
    // Nobody works on the queue yet.
    let mut waiting: Vec<_> =
        (0..2).map(|_| Box::pin(proposer.propose(Bytes::from(vec![0; 50])))).collect();
    for proposal in &mut waiting {
        assert!(futures::poll!(proposal).is_pending());
    }
    let full = Err(ProposeError::Unavailable { reason: "too many commands are waiting" });
    assert_eq!(proposer.propose(Bytes::from_static(b"x")).await, full);
    // Withdrawn commands are not written, and make room once the queue moves.
    drop(waiting);
    assert_eq!(proposer.propose(Bytes::from_static(b"x")).await, full);
    tokio::spawn(task);
    let moved = async {
        loop {
            match proposer.propose(Bytes::from_static(b"x")).await {
                Err(error) => assert_eq!(Err(error), full),
                Ok(_) => break,
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), moved).await.expect("there is room");
    assert_eq!(member.machine.applied(), [b"x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_stops_takes_no_commands() {
    let member = TestMember::start(&quick()).await;
    let config = ProposeConfig::default();
    let (proposer, task) = Proposer::new(member.node.clone(), config, CancellationToken::new());
    drop(task);
    let stopping = proposer.propose(Bytes::from_static(b"x")).await;
    assert!(matches!(stopping, Err(ProposeError::Unavailable { .. })), "{stopping:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_names_the_leader_and_writes_nothing() {
    let (first, _proposer, _stop) = leader(ProposeConfig::default()).await;
    let second = TestMember::start(&quick()).await;
    let (proposer, task) =
        Proposer::new(second.node.clone(), ProposeConfig::default(), CancellationToken::new());
    tokio::spawn(task);
    let alone = proposer.propose(Bytes::from_static(b"x")).await;
    assert_eq!(alone, Err(ProposeError::NotLeader { leader: None }));
    first.node.add_learner(second.node.id(), second.member()).await.unwrap();
    eventually("the learner knows the leader", || {
        matches!(*second.node.leader().borrow(), LeaderState::Follower(_))
    })
    .await;
    let expected = Leader {
        id: first.node.id(),
        node: TestMember::NODE.into(),
        address: first.address.clone(),
    };
    let refused = proposer.propose(Bytes::from_static(b"x")).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(expected) }));
    assert!(first.machine.applied().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_the_outcome_is_unknown_and_may_come_later() {
    let config = ProposeConfig { patience: Duration::from_secs(3), ..Default::default() };
    let (first, proposer, _stop) = leader(config).await;
    let second = TestMember::start(&quick()).await;
    first.add_voter(&second).await;
    assert_eq!(proposer.propose(Bytes::from_static(b"a")).await.unwrap(), "done a");
    let stopped = second.stop().await;
    let before = first.node.log_writes();
    let (written, waiting) = tokio::join!(proposer.propose(Bytes::from_static(b"b")), async {
        // Behind the one that hangs.
        eventually("the first is in the log", || first.node.log_writes() > before).await;
        proposer.propose(Bytes::from_static(b"c")).await
    });
    assert!(matches!(written, Err(ProposeError::Unknown { .. })), "{written:?}");
    assert!(matches!(waiting, Err(ProposeError::Unavailable { .. })), "{waiting:?}");
    let second = stopped.restart(&quick()).await;
    eventually("the command that was said to be unknown", || {
        first.machine.applied() == [b"a", b"b"]
    })
    .await;
    let mut members = BTreeMap::from([(0, first), (1, second)]);
    let place = leader_among(&members).await;
    members.remove(&place).unwrap().stop().await;
}
