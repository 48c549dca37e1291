//! Members alone and together.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use bytes::Bytes;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::machine::Applier;
use super::members::{TestMember, eventually, leader_among};
use super::snapshot::SnapshotDir;
use super::testing::{Recorder, open, quick};
use super::types::StorageError;
use super::*;

type TypeConfig = types::TypeConfig<String>;
type LogStore = store::LogStore<String>;

struct Stores;

impl StoreBuilder<TypeConfig, LogStore, Applier<Recorder>, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, LogStore, Applier<Recorder>), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = dir.path().join("snapshots");
        fs::create_dir(&snapshots).unwrap();
        let snapshots = SnapshotDir::open(&snapshots).unwrap();
        let log = LogStore::open(dir.path()).unwrap();
        Ok((dir, log, Applier::new(Recorder::default(), snapshots, None).unwrap()))
    }
}

#[test]
fn openrafts_own_suite_passes() {
    Suite::test_all(Stores).unwrap();
}

async fn write(node: &RaftNode<String>, command: &str) -> Vec<String> {
    node.write(Batch::new(vec![Bytes::copy_from_slice(command.as_bytes())])).await.unwrap()
}

/// Whoever waits for an election has not led when [`until_leader`] gives up.
fn patient() -> RaftConfig {
    let (election_timeout_min, election_timeout_max) =
        (Duration::from_secs(60), Duration::from_secs(120));
    RaftConfig { election_timeout_min, election_timeout_max, ..RaftConfig::default() }
}

/// A leader stays the leader, also on a machine that stands still for a second.
fn steady() -> RaftConfig {
    let (election_timeout_min, election_timeout_max) =
        (Duration::from_secs(2), Duration::from_secs(4));
    RaftConfig { election_timeout_min, election_timeout_max, ..quick() }
}

async fn until_leader(node: &RaftNode<String>) {
    let mut leader = node.leader();
    let waiting = leader.wait_for(|state| matches!(state, LeaderState::Leader { .. }));
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member_serves_at_once_and_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = patient();
    let mut id = None;
    let mut written = Vec::new();
    for round in 0..4 {
        let machine = Recorder::default();
        let node = open(dir.path(), &machine, &config).await;
        assert_eq!(node.is_pristine(), round == 0);
        if round == 0 {
            node.initialize(7.into(), "127.0.0.1:1").await.unwrap();
        }
        let again = node.initialize(7.into(), "127.0.0.1:1").await;
        assert!(matches!(again, Err(RaftCallError::NotAllowed(_))), "{again:?}");
        until_leader(&node).await;
        assert_eq!(*id.get_or_insert(node.id()), node.id());
        assert_eq!(machine.applied(), written, "round {round}");
        node.ensure_linearizable().await.unwrap();
        let command = format!("round {round}");
        assert_eq!(write(&node, &command).await, [format!("done {command}")]);
        written.push(command.into_bytes());
        node.shutdown().await;
        assert_eq!(*node.leader().borrow(), LeaderState::Unknown);
    }
}

fn term_of(node: &RaftNode<String>) -> u64 {
    match &*node.leader().borrow() {
        LeaderState::Leader { term } => *term,
        other => panic!("{other:?}"),
    }
}

/// What was obeyed before an old copy of the disk came back is never obeyed again.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_brought_back_leads_in_a_later_term() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |error: RaiseTermError| error.to_string();
    let told = refused(raise_term(dir.path(), 0).await.unwrap_err());
    assert!(told.starts_with("there is no raft log in "), "{told}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "and none is made");

    let node = open(dir.path(), &Recorder::default(), &quick()).await;
    node.shutdown().await;
    let told = refused(raise_term(dir.path(), 0).await.unwrap_err());
    assert!(told.ends_with("belongs to no cluster yet"), "{told}");

    let node = open(dir.path(), &Recorder::default(), &quick()).await;
    node.initialize(7.into(), "127.0.0.1:1").await.unwrap();
    until_leader(&node).await;
    write(&node, "kept").await;
    let first = term_of(&node);
    assert!(raise_term(dir.path(), 0).await.is_err(), "it runs");
    assert!(raise_term(dir.path(), u64::MAX).await.is_err(), "no room for elections");
    node.shutdown().await;
    for above in [0, first + 40, 3] {
        let raised = raise_term(dir.path(), above).await.unwrap();
        assert!(raised > above && raised > first, "{raised} after {above}");
        let machine = Recorder::default();
        let node = open(dir.path(), &machine, &quick()).await;
        until_leader(&node).await;
        assert!(term_of(&node) > raised, "{} after {raised}", term_of(&node));
        assert_eq!(machine.applied()[0], b"kept");
        write(&node, "more").await;
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_shorten_the_log_and_a_restart_uses_both() {
    let dir = tempfile::tempdir().unwrap();
    let config = RaftConfig { snapshot_after_entries: 40, keep_entries: 5, ..quick() };
    let machine = Recorder::default();
    let node = open(dir.path(), &machine, &config).await;
    node.initialize(7.into(), "127.0.0.1:1").await.unwrap();
    until_leader(&node).await;
    for number in 0..150 {
        write(&node, &number.to_string()).await;
    }
    let snapshots = dir.path().join("snapshots");
    eventually("a snapshot and a purge", || {
        fs::read_dir(&snapshots).unwrap().count() == 1 && node.purged().is_some_and(|p| p > 80)
    })
    .await;
    let expected = machine.applied();
    node.shutdown().await;

    let machine = Recorder::default();
    let node = open(dir.path(), &machine, &config).await;
    until_leader(&node).await;
    assert_eq!(machine.applied(), expected);
    node.shutdown().await;

    // Without the snapshot the log alone would be a state with a hole.
    for file in fs::read_dir(&snapshots).unwrap() {
        let path = file.unwrap().path();
        let mut content = fs::read(&path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(&path, content).unwrap();
    }
    let refused = RaftNode::open(
        dir.path(),
        Recorder::default(),
        std::sync::Arc::new(testing::Loopback),
        &config,
    )
    .await;
    assert!(matches!(refused.map(|_| ()), Err(OpenError::SnapshotMissing { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_survive_the_loss_of_the_leader() {
    let config = steady();
    let mut members = BTreeMap::new();
    for place in 0..3 {
        members.insert(place, TestMember::start(&config).await);
    }
    members[&0].node.initialize(TestMember::NODE.into(), &members[&0].address).await.unwrap();
    until_leader(&members[&0].node).await;
    let mut written = Vec::new();
    for number in 0..20 {
        write(&members[&0].node, &format!("alone {number}")).await;
        written.push(format!("alone {number}").into_bytes());
    }
    for place in 1..3 {
        members[&0].add_voter(&members[&place]).await;
        members[&0].add_voter(&members[&place]).await;
    }
    assert_eq!(members[&0].node.members().iter().filter(|m| m.voter).count(), 3);

    for round in 0..3 {
        let place = leader_among(&members).await;
        for number in 0..20 {
            let command = format!("round {round} {number}");
            write(&members[&place].node, &command).await;
            written.push(command.into_bytes());
        }
        let follower = members.iter().find(|(p, _)| **p != place).unwrap().1;
        eventually("the follower knows the leader", || {
            let known = LeaderState::Follower(Leader {
                id: members[&place].node.id(),
                node: TestMember::NODE.into(),
                address: members[&place].address.clone(),
            });
            *follower.node.leader().borrow() == known
        })
        .await;
        let refused = follower.node.ensure_linearizable().await;
        assert!(
            matches!(refused, Err(RaftCallError::NotLeader { leader: Some(_) })),
            "{refused:?}"
        );

        let stopped = members.remove(&place).unwrap().stop().await;
        let next = leader_among(&members).await;
        let command = format!("after {round}");
        write(&members[&next].node, &command).await;
        written.push(command.into_bytes());
        members.insert(place, stopped.restart(&config).await);
        for member in members.values() {
            eventually("everybody has everything", || member.machine.applied() == written).await;
        }
    }

    let place = leader_among(&members).await;
    let gone = members.iter().find(|(p, _)| **p != place).map(|(p, m)| (*p, m.node.id())).unwrap();
    members[&place].node.remove_member(gone.1).await.unwrap();
    members[&place].node.remove_member(gone.1).await.unwrap();
    members.remove(&gone.0).unwrap().stop().await;
    write(&members[&place].node, "two are left").await;
    assert_eq!(members[&place].node.members().len(), 2);
    for member in members.into_values() {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_far_behind_gets_a_snapshot() {
    let config = RaftConfig { snapshot_after_entries: 50, keep_entries: 0, ..steady() };
    let first = TestMember::start(&config).await;
    first.node.initialize(TestMember::NODE.into(), &first.address).await.unwrap();
    until_leader(&first.node).await;
    // More than one piece of a snapshot stream.
    let large = "x".repeat(200_000);
    for number in 0..120 {
        let command = if number < 5 { large.clone() } else { number.to_string() };
        write(&first.node, &command).await;
    }
    eventually("a purged log", || first.node.purged().is_some_and(|purged| purged > 90)).await;
    let second = TestMember::start(&config).await;
    first.add_voter(&second).await;
    write(&first.node, "together").await;
    eventually("the same state", || second.machine.applied() == first.machine.applied()).await;
    assert_eq!(second.machine.applied().len(), 121);

    // The received snapshot is the second member's own now.
    let stopped = second.stop().await;
    let writer = first.node.clone();
    let pending = tokio::spawn(async move { write(&writer, "not lost").await });
    let second = stopped.restart(&config).await;
    pending.await.unwrap();
    eventually("the same state again", || {
        let (ours, theirs) = (first.machine.applied(), second.machine.applied());
        ours.len() == 122 && ours == theirs
    })
    .await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_another_member_is_refused() {
    let member = TestMember::start(&quick()).await;
    let url = format!("http://{}", member.address);
    let mut client = shoal_proto::v1::raft_client::RaftClient::connect(url).await.unwrap();
    let request = shoal_proto::v1::VoteRequest {
        target: member.node.id() ^ 1,
        vote: Some(shoal_proto::v1::Vote { term: 99, node_id: 1, committed: false }),
        last_log_id: None,
    };
    let status = client.request_vote(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(member.node.is_pristine());
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_understood_stops_the_member() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), &Recorder::default(), &quick()).await;
    node.initialize(7.into(), "127.0.0.1:1").await.unwrap();
    until_leader(&node).await;
    write(&node, "a command").await;
    assert!(node.write(Batch::new(vec![Bytes::from_static(b"nonsense")])).await.is_err());
    let reason = tokio::time::timeout(Duration::from_secs(20), node.failed()).await.unwrap();
    assert!(reason.contains("this is no command"), "{reason}");
    assert_eq!(*node.leader().borrow(), LeaderState::Unknown);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_majority_is_not_shown_as_one() {
    let config = quick();
    let first = TestMember::start(&config).await;
    first.node.initialize(TestMember::NODE.into(), &first.address).await.unwrap();
    until_leader(&first.node).await;
    let second = TestMember::start(&config).await;
    first.add_voter(&second).await;
    until_leader(&first.node).await;
    let id = second.node.id();
    let answered = || first.node.members().iter().find(|m| m.id == id).and_then(|m| m.answered);
    let soon = config.election_timeout_min;
    eventually("the second one answers", || answered().is_some_and(|ago| ago < soon)).await;
    let stopped = second.stop().await;
    eventually("it does not any more", || answered().is_some_and(|ago| ago > soon)).await;
    let own = first.node.members().iter().find(|m| m.id == first.node.id()).unwrap().answered;
    assert_eq!(own, Some(Duration::ZERO));
    let leader = first.node.leader();
    eventually("no leader without a majority", || *leader.borrow() == LeaderState::Unknown).await;
    assert!(first.node.ensure_linearizable().await.is_err());
    let members = BTreeMap::from([(0, first), (1, stopped.restart(&config).await)]);
    leader_among(&members).await;
    for member in members.into_values() {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sole_voter_that_had_not_won_its_election_leads_without_a_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let config = patient();
    let node = open(dir.path(), &Recorder::default(), &config).await;
    node.initialize(7.into(), "127.0.0.1:1").await.unwrap();
    until_leader(&node).await;
    write(&node, "a command").await;
    let id = node.id();
    node.shutdown().await;
    let mut log = LogStore::open(dir.path()).unwrap();
    openraft::storage::RaftLogStorage::save_vote(&mut log, &types::Vote::new(9, id)).await.unwrap();
    log.close().await.unwrap();

    let machine = Recorder::default();
    let node = open(dir.path(), &machine, &config).await;
    until_leader(&node).await;
    assert_eq!(machine.applied(), [b"a command"]);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lead_is_handed_over_at_once_and_loses_nothing() {
    // Elections that come by themselves would take longer than this test waits.
    let config = patient();
    for count in [2, 3] {
        let mut members = BTreeMap::new();
        for place in 0..count {
            members.insert(place, TestMember::start(&config).await);
        }
        members[&0].node.initialize(TestMember::NODE.into(), &members[&0].address).await.unwrap();
        until_leader(&members[&0].node).await;
        for place in 1..count {
            members[&0].add_voter(&members[&place]).await;
        }
        let mut written = Vec::new();
        let mut from = 0;
        for to in [1, 0, count - 1, 0] {
            let id = members[&to].node.id();
            let command = format!("{from} to {to}");
            write(&members[&from].node, &command).await;
            written.push(command.into_bytes());
            // Whoever asks for it may be gone as soon as it has begun.
            if from == 0 {
                let asked = members[&from].node.hand_over(id);
                let mut leader = members[&from].node.leader();
                tokio::select! {
                    given = asked => given.unwrap(),
                    lost = leader.wait_for(|s| !matches!(s, LeaderState::Leader { .. })) => {
                        lost.unwrap();
                    }
                }
            } else {
                members[&from].node.hand_over(id).await.unwrap();
            }
            until_leader(&members[&to].node).await;
            let refused = members[&from].node.hand_over(id).await.unwrap_err();
            assert!(matches!(refused, RaftCallError::NotLeader { .. }), "{refused}");
            from = to;
        }
        let refused = members[&0].node.hand_over(members[&0].node.id()).await.unwrap_err();
        assert!(matches!(refused, RaftCallError::NotAllowed(_)), "{refused}");
        write(&members[&0].node, "last").await;
        written.push(b"last".to_vec());
        for member in members.values() {
            eventually("everybody has everything", || member.machine.applied() == written).await;
        }
        for member in members.into_values() {
            member.stop().await;
        }
    }
}
