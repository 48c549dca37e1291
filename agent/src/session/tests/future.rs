//! Managers that are newer than this agent, and leaders that have been replaced.

use shoal_types::assignment::{AssignedTask, NodeAssignment};
use shoal_types::spec::{ContainerSpec, TaskRuntime};
use shoal_types::task_state::DesiredState;
use v1::AssignmentsKind::{Complete, Incremental};
use v1::assignment_change::Item;

use super::*;
use crate::testing::assigner::task;

fn update(task: AssignedTask) -> v1::AssignmentChange {
    (&AssignmentChange::UpdateTask(task)).into()
}

fn plain(id: u128) -> AssignedTask {
    task(id, ContainerSpec::default())
}

/// The task with something that this agent does not know.
fn newer(id: u128, change: impl FnOnce(&mut v1::AssignedTask)) -> v1::AssignmentChange {
    let mut update = update(plain(id));
    let Some(Item::Task(task)) = &mut update.item else { panic!("no task") };
    change(task);
    update
}

fn with_unknown_mount(id: u128) -> v1::AssignmentChange {
    newer(id, |task| {
        let spec = task.spec.as_mut().expect("a spec");
        let Some(v1::task_spec::Runtime::Container(container)) = &mut spec.runtime else {
            panic!("no container")
        };
        container.mounts.push(v1::Mount { kind: 99, ..Default::default() });
    })
}

#[tokio::test]
async fn what_a_newer_manager_says_costs_one_task_and_never_the_session() {
    let (bench, manager) = Bench::with_patient_manager().await;
    // A message as a whole, and kinds of items, that nobody knows today; what comes after it is heard.
    let session = manager.seen().sessions[0].clone();
    session.send(Ok(v1::SessionMessage { message: None })).await.expect("open");
    let addr = "10.9.9.9:1".to_owned();
    let managers = vec![v1::ManagerPeer { node_id: String::new(), addr: addr.clone() }];
    manager.say(Message::Facts(v1::ClusterFacts { managers, role: 0 })).await;
    eventually("the next message", || {
        let kept = bench.member.store.cluster().expect("readable").managers;
        kept.contains(&addr).then_some(())
    })
    .await;
    let unknown = v1::AssignmentChange { item: None, ..update(plain(9)) };
    let all = vec![
        unknown.clone(),
        with_unknown_mount(1),
        newer(2, |task| task.spec = None),
        update(plain(3)),
        newer(4, |task| task.desired_state = 77),
        v1::AssignmentChange { action: 55, ..update(plain(5)) },
        v1::AssignmentChange {
            item: Some(Item::Network(v1::Network::default())),
            ..unknown.clone()
        },
        // Of a level that is told apart where the task is run.
        newer(6, |task| task.level = 99),
    ];
    manager.assign(Complete, 0, 1, all).await;
    manager.assign(Incremental, 1, 2, vec![unknown, update(plain(7)), with_unknown_mount(8)]).await;
    let asked = eventually("both messages", || {
        let asked = bench.workload.inner().asked.clone();
        (asked.len() == 2).then_some(asked)
    })
    .await;
    let [Asked::All(assignment), Asked::Changes(changes)] = asked.as_slice() else {
        panic!("{asked:?}")
    };
    let ids = |ids: &[u128]| ids.iter().map(|id| TaskId::from(*id)).collect::<Vec<_>>();
    assert_eq!(assignment.tasks.keys().copied().collect::<Vec<_>>(), ids(&[3, 6]));
    assert_eq!(assignment.rejected.keys().copied().collect::<Vec<_>>(), ids(&[1, 2, 4, 5]));
    assert!(assignment.rejected[&1.into()].why.contains("mounts[0].kind"));
    assert!(matches!(
        changes.as_slice(),
        [AssignmentChange::UpdateTask(task), AssignmentChange::RejectTask(id, rejection)]
            if task.id == 7.into() && *id == 8.into()
                && rejection.desired_state == DesiredState::Running
    ));
    // And it is all acknowledged, in the one session that there is.
    eventually("the acknowledgement", || {
        let told = manager.seen().acknowledged.clone();
        (told.last() == Some(&("session-0".to_owned(), 2))).then_some(())
    })
    .await;
    let seen = manager.seen();
    assert_eq!((seen.sessions.len(), seen.assignments.len()), (1, 1));
    assert!(seen.unable.iter().all(String::is_empty), "{:?}", seen.unable);
}

/// 400 tasks that were once one message, which no agent took.
#[tokio::test]
async fn an_assignment_of_more_than_64_mib_is_taken_and_acknowledged() {
    const TASKS: u128 = 400;
    let (bench, manager) = Bench::with_patient_manager().await;
    let mut bytes = 0;
    for id in 1..=TASKS {
        let env = vec![format!("BIG={}", "x".repeat(190_000))];
        let change = update(task(id, ContainerSpec { env, ..ContainerSpec::default() }));
        bytes += prost::Message::encoded_len(&change);
        let number = u64::try_from(id).expect("small");
        manager
            .assign_message(v1::AssignmentsMessage {
                kind: if id == 1 { Complete } else { Incremental }.into(),
                applies_to: number - 1,
                results_in: number,
                changes: vec![change],
                more: id < TASKS,
                term: 0,
            })
            .await;
    }
    assert!(bytes > 64 << 20, "{bytes} bytes");
    let taken = || {
        let inner = bench.workload.inner();
        let [Asked::All(NodeAssignment { tasks, .. })] = inner.asked.as_slice() else {
            return None;
        };
        let whole = |task: &AssignedTask| match &task.spec.runtime {
            TaskRuntime::Container(container) => container.env[0].len() == 190_004,
            _ => false,
        };
        (tasks.len() == 400 && tasks.values().all(whole)).then_some(())
    };
    eventually("all tasks at once", taken).await;
    let told = || manager.seen().acknowledged.last().filter(|(_, n)| *n == 400).map(|_| ());
    eventually("the acknowledgement", told).await;
    assert_eq!(manager.seen().sessions.len(), 1);
}

#[tokio::test]
async fn a_leader_that_was_replaced_is_refused_and_another_one_is_looked_for() {
    let ca = Arc::new(TestCa::new(1));
    let (newest, old) = (FakeManager::start(ca.clone()).await, FakeManager::start(ca).await);
    (newest.seen().term, old.seen().term) = (7, 6);
    newest.seen().period = PATIENT;
    let addresses = [&newest, &old].map(|manager| manager.address.to_string());
    let bench = Bench::start(newest.ca.live(5, Role::Agent), addresses.to_vec());
    bench.sessions(&newest, 1).await;
    newest.assign(Complete, 0, 1, vec![removal(1)]).await;
    eventually("what it says", || (bench.workload.inner().asked.len() == 1).then_some(())).await;
    drop(newest);
    bench
        .standing("the reason", |standing| match standing {
            Standing::Pending(why) => {
                why.contains("leads in term 6, and this node has obeyed a leader of term 7")
            }
            _ => false,
        })
        .await;
    assert!(old.seen().assignments.is_empty(), "it is not even asked for tasks");
    let obeyed = old.seen().obeyed.clone();
    assert!(obeyed.iter().all(|term| *term == 7), "it is told whom this node obeys: {obeyed:?}");
    assert!(!obeyed.is_empty());
    // It is elected itself.
    old.seen().term = 8;
    eventually("a session", || (!old.seen().assignments.is_empty()).then_some(())).await;
    bench.standing("active", |s| *s == Standing::Active).await;
}

#[tokio::test]
async fn an_assignment_of_another_term_ends_the_session() {
    let manager = FakeManager::start(Arc::new(TestCa::new(1))).await;
    manager.seen().term = 7;
    let bench = Bench::start(manager.ca.live(5, Role::Agent), vec![manager.address.to_string()]);
    bench.sessions(&manager, 1).await;
    let message = v1::AssignmentsMessage {
        kind: Complete.into(),
        results_in: 1,
        changes: vec![removal(1)],
        term: 6,
        ..Default::default()
    };
    manager.assign_message(message).await;
    bench.sessions(&manager, 2).await;
    assert_eq!(bench.workload.inner().asked, []);
}
