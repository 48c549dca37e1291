//! What comes from managers that are newer than this agent, or older than the one it obeys; and when
//! an assignment is applied.

use shoal_agent_runtime::fake::Call;
use shoal_types::assignment::{AssignedTask, AssignmentChange, Rejection};
use shoal_types::id::{ClusterId, TaskId};
use shoal_types::level::Level;
use shoal_types::task_state::{DesiredState, TaskState};

use super::Lab;
use super::lab::task;
use crate::testing::assigner::mark;

fn starts(lab: &Lab) -> usize {
    lab.runtime.calls().iter().filter(|(_, call)| *call == Call::Start).count()
}

fn newer(id: u128) -> AssignedTask {
    AssignedTask { level: Level::new(Level::OWN.number() + 1), ..task(id, |_| {}) }
}

fn unreadable(id: u128, desired_state: DesiredState) -> AssignmentChange {
    let why = "it cannot be read".to_owned();
    AssignmentChange::RejectTask(TaskId::from(id), Rejection { why, desired_state })
}

#[tokio::test]
async fn a_task_of_a_newer_level_is_rejected_and_the_others_run() {
    let mut lab = Lab::new().await;
    lab.assign([newer(1), task(2, |_| {})]);
    let status = lab.until_state(1, TaskState::Rejected).await;
    assert!(status.err.contains("the node is too old"), "{}", status.err);
    lab.until_state(2, TaskState::Running).await;
    // That it was rejected is remembered, whatever the agent can do after its upgrade.
    lab.crash().await;
    lab.assign([task(1, |_| {})]);
    let status = lab.until_state(1, TaskState::Rejected).await;
    assert!(status.err.contains("the node is too old"), "{}", status.err);
    lab.until_state(2, TaskState::Running).await;
    assert_eq!(starts(&lab), 1, "of the other one");
    lab.drop_task(1);
    lab.drop_task(2);
    lab.until_empty().await;
}

#[tokio::test]
async fn a_task_that_cannot_be_read_is_rejected_once_and_for_all() {
    let mut lab = Lab::new().await;
    lab.worker.change(vec![unreadable(1, DesiredState::Running)], mark(0, 1));
    let status = lab.until_state(1, TaskState::Rejected).await;
    assert_eq!(status.err, "it cannot be read");
    lab.crash().await;
    // As a newer agent reads it.
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Rejected).await;
    assert_eq!(starts(&lab), 0);
    lab.drop_task(1);
    lab.until_empty().await;
}

/// It was assigned again while that nothing is known of it any more was being written down.
#[tokio::test]
async fn what_was_rejected_is_rejected_again_by_an_agent_that_has_just_forgotten_it() {
    let lab = Lab::new().await;
    let all = vec![AssignmentChange::UpdateTask(newer(1)), unreadable(2, DesiredState::Running)];
    lab.worker.change(all, mark(0, 1));
    for (id, why, again) in [
        (1, "the node is too old", "the node is too old"),
        (2, "cannot be read", "could not read the task"),
    ] {
        let first = lab.until_state(id, TaskState::Rejected).await;
        assert!(first.err.contains(why), "{first:?}");
        lab.clock.advance(std::time::Duration::from_secs(1));
        lab.worker.forgotten(id.into());
        let is_new = |at| at > first.timestamp;
        lab.until(id, |status| is_new(status.timestamp) && status.err.contains(again)).await;
    }
    // Removing what may be there is all that is ever done for them.
    assert!(lab.runtime.calls().iter().all(|(_, call)| *call == Call::Remove));
}

#[tokio::test]
async fn a_task_that_is_held_goes_on_when_what_is_new_of_it_cannot_be_read() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {}), task(2, |_| {})]);
    for id in [1, 2] {
        lab.until_state(id, TaskState::Running).await;
    }
    // Also where everything is told anew.
    let mut all = lab.assignment.clone();
    all.tasks.remove(&1.into());
    let AssignmentChange::RejectTask(id, rejection) = unreadable(1, DesiredState::Running) else {
        panic!("no rejection")
    };
    all.rejected.insert(id, rejection);
    lab.worker.assign_all(all, mark(0, 2));
    lab.worker.change(vec![unreadable(2, DesiredState::Shutdown)], mark(0, 3));
    lab.until_state(2, TaskState::Shutdown).await;
    assert_eq!(lab.worker.applied("test", 2).await, 3);
    let summary = lab.worker.task_summary().await.unwrap();
    let first = summary.iter().find(|task| task.id == 1.into()).unwrap();
    assert_eq!((first.state, first.name.as_str()), (TaskState::Running, "web.1"));
    assert_eq!(starts(&lab), 2, "each once");
}

#[tokio::test]
async fn an_assignment_is_applied_when_it_is_on_disk() {
    let mut lab = Lab::new().await;
    lab.assign((1..=40).map(|id| task(id, |_| {})));
    assert_eq!(lab.worker.applied("test", 0).await, 1);
    let ledger = lab.dir.path().join("ledger");
    let files = std::fs::read_dir(ledger.join("tasks")).unwrap().map(|file| file.unwrap().path());
    // The next version of some may be being written.
    assert_eq!(files.filter(|path| path.extension().is_none()).count(), 40);
    assert!(ledger.join("networks").exists());
    lab.worker.change(vec![AssignmentChange::RemoveTask(1.into())], mark(0, 2));
    assert_eq!(lab.worker.applied("test", 1).await, 2);
    // Nothing of another session is applied.
    let other = tokio::time::timeout(
        std::time::Duration::from_millis(50),
        lab.worker.applied("another", 0),
    );
    assert!(other.await.is_err());
}

#[tokio::test]
async fn no_older_leader_is_obeyed_also_after_a_crash() {
    let (cluster, another) = (ClusterId::from(8), ClusterId::from(9));
    let mut lab = Lab::new().await;
    let obey = async |lab: &Lab, cluster, term| lab.worker.obey(cluster, term).await.unwrap();
    assert_eq!(obey(&lab, cluster, 0).await, 0, "nobody yet");
    assert_eq!(obey(&lab, cluster, 7).await, 7);
    let change = |id| vec![AssignmentChange::UpdateTask(task(id, |_| {}))];
    lab.worker.assign_all(lab.assignment.clone(), mark(7, 1));
    lab.worker.change(change(1), mark(7, 2));
    lab.worker.change(change(2), mark(6, 9));
    lab.until_state(1, TaskState::Running).await;
    let held = async |lab: &Lab| -> Vec<TaskId> {
        lab.worker.task_summary().await.unwrap().iter().map(|task| task.id).collect()
    };
    assert_eq!(held(&lab).await, [TaskId::from(1)]);
    assert_eq!(lab.worker.applied("test", 1).await, 2, "nor is it acknowledged");

    lab.crash().await;
    assert_eq!(obey(&lab, cluster, 6).await, 7, "what was obeyed is remembered");
    // That of an old leader would take the task away.
    lab.worker.assign_all(Default::default(), mark(6, 1));
    lab.worker.change(change(3), mark(8, 1));
    lab.until_state(3, TaskState::Running).await;
    assert_eq!(held(&lab).await, [TaskId::from(1), TaskId::from(3)]);
    // Terms of another cluster are its own.
    assert_eq!(obey(&lab, another, 1).await, 1);
    lab.worker.leave().await.unwrap();
    assert!(!lab.dir.path().join("ledger/term").exists());
}
