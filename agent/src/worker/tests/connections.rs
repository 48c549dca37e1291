//! A task gets networks while it lives, and loses them: its container goes on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use shoal_agent_network::NetworkDriver as _;
use shoal_types::assignment::{AssignmentChange, Rejection};
use shoal_types::id::TaskId;
use shoal_types::task_state::{DesiredState, TaskState};

use super::Lab;
use super::lab::{other_network, task};
use crate::testing::assigner::{joined, mark};

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn networks_of(lab: &Lab, id: u128) -> BTreeSet<String> {
    lab.networks.held().remove(&TaskId::from(id).to_string()).unwrap_or_default()
}

/// A container has so many networks, and is answered names on them.
async fn until_connected(lab: &Lab, id: u128, count: usize) {
    let id_of = TaskId::from(id).to_string();
    let askers = || lab.names.askers().into_iter().find(|asker| asker.container == id_of);
    let is_so = || {
        networks_of(lab, id).len() == count
            && askers().is_some_and(|asker| asker.networks.len() == count)
    };
    until(&format!("it does not have {count} networks"), is_so).await;
}

fn connect(lab: &mut Lab, id: u128) {
    let (other, network) = other_network();
    lab.assignment.networks.insert(other, network);
    let mut task = lab.assignment.tasks[&id.into()].clone();
    task.networks.push(joined(other));
    task.networks.last_mut().unwrap().aliases.push("db".to_owned());
    lab.assign([task]);
}

fn disconnect(lab: &mut Lab, id: u128) {
    let mut task = lab.assignment.tasks[&id.into()].clone();
    task.networks.truncate(1);
    lab.assign([task]);
}

#[tokio::test]
async fn a_running_task_is_connected_and_disconnected_and_never_started_again() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {}), task(2, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    lab.until_state(2, TaskState::Running).await;
    let begun = lab.runtime.begun();
    connect(&mut lab, 1);
    until_connected(&lab, 1, 2).await;
    assert_eq!(networks_of(&lab, 2).len(), 1);
    let container = TaskId::from(1).to_string();
    until("it is not known there", || {
        lab.names.ask(&container, "db").is_some_and(|told| told.len() == 1)
    })
    .await;
    assert_eq!(lab.names.ask(&TaskId::from(2).to_string(), "db"), None, "not on its network");

    lab.crash().await;
    until_connected(&lab, 1, 2).await;
    lab.assign([]);
    disconnect(&mut lab, 1);
    until_connected(&lab, 1, 1).await;
    until("it is still known there", || lab.names.ask(&container, "db").is_none()).await;
    let (other, _) = other_network();
    until("the network stays", || !lab.networks.networks().contains(&other.to_string())).await;
    assert_eq!(lab.runtime.begun(), begun);
    for id in [1, 2] {
        lab.want(id, DesiredState::Shutdown);
        lab.until_state(id, TaskState::Shutdown).await;
        lab.drop_task(id);
    }
    lab.until_empty().await;
}

#[tokio::test]
async fn what_cannot_be_connected_says_so_and_is_tried_again() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    lab.networks.set_broken(true);
    connect(&mut lab, 1);
    let told = lab.until(1, |status| !status.err.is_empty()).await;
    assert_eq!(told.state, TaskState::Running);
    assert!(told.err.contains("networks are not as they should be"), "{}", told.err);
    assert!(told.err.contains("network other: "), "{}", told.err);
    lab.networks.set_broken(false);
    lab.worker.look_around();
    until_connected(&lab, 1, 2).await;
    lab.until(1, |status| status.err.is_empty()).await;
}

/// What was begun for it and could not be ended is given back with all the rest.
#[tokio::test]
async fn a_task_that_stops_while_it_is_to_be_connected_leaves_nothing() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    connect(&mut lab, 1);
    until_connected(&lab, 1, 2).await;
    lab.networks.set_broken(true);
    disconnect(&mut lab, 1);
    lab.until(1, |status| !status.err.is_empty()).await;
    lab.want(1, DesiredState::Shutdown);
    lab.networks.set_broken(false);
    lab.until_state(1, TaskState::Shutdown).await;
    lab.drop_task(1);
    lab.until_empty().await;
}

#[tokio::test]
async fn a_task_that_is_being_prepared_is_connected_when_it_is() {
    let mut lab = Lab::new().await;
    let slow = "slow:1".parse().unwrap();
    lab.images.add("slow:1", None);
    lab.images.slow.lock().unwrap().insert(slow);
    lab.assign([task(1, |c| c.image = "slow:1".to_owned())]);
    lab.until_state(1, TaskState::Preparing).await;
    connect(&mut lab, 1);
    lab.images.slow.lock().unwrap().clear();
    lab.images.hurry.notify_waiters();
    lab.until_state(1, TaskState::Running).await;
    until_connected(&lab, 1, 2).await;
}

#[tokio::test]
async fn what_cannot_be_read_takes_no_network_away() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    connect(&mut lab, 1);
    until_connected(&lab, 1, 2).await;
    let rejection = Rejection { why: "too new".to_owned(), desired_state: DesiredState::Shutdown };
    lab.worker.change(vec![AssignmentChange::RejectTask(1.into(), rejection)], mark(0, 2));
    lab.until_state(1, TaskState::Shutdown).await;
    let known = lab.worker.task_summary().await.unwrap();
    assert_eq!(known[0].name, "web.1", "it is who it was");
}
