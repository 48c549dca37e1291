//! What belongs to no task, and what a task has lost.

use std::time::Duration;

use shoal_agent_network::{AttachRequest, Netns, NetworkConfig, NetworkDriver as _};
use shoal_agent_runtime::fake::Call;
use shoal_agent_runtime::{ContainerId, Runtime as _};
use shoal_agent_volume::VolumeDriver as _;
use shoal_types::assignment::AssignmentChange;
use shoal_types::id::TaskId;
use shoal_types::task_state::{DesiredState, TaskState};

use super::Lab;
use super::lab::task;
use crate::testing::assigner::mark;

const PATIENCE: Duration = Duration::from_secs(20);

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_container_that_lost_its_links_is_connected_again() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    let name = TaskId::from(1).to_string();
    let before = lab.networks.attachments(&name);
    let calls = lab.runtime.calls();
    lab.networks.lose(&name, &before[0].network);
    let lost = lab.networks.lost();
    until("it was not connected again", async || lost.borrow().is_empty()).await;
    assert_eq!(lab.networks.attachments(&name), before, "the same address and names");
    assert_eq!(lab.runtime.calls(), calls, "the container knows nothing of it");
    // What cannot be done at once is tried again in the next round.
    lab.networks.set_broken(true);
    lab.networks.lose(&name, &before[0].network);
    let tried = lab.networks.attempts();
    until("nobody tried", async || lab.networks.attempts() > tried).await;
    lab.networks.set_broken(false);
    lab.worker.look_around();
    until("it was not connected again", async || lost.borrow().is_empty()).await;
    // Also where the code that was to do it panicked.
    lab.networks.set_panicking(true);
    lab.networks.lose(&name, &before[0].network);
    let tried = lab.networks.attempts();
    until("nobody tried", async || lab.networks.attempts() > tried).await;
    lab.networks.set_panicking(false);
    until("it was not connected again", async || {
        lab.worker.look_around();
        lost.borrow().is_empty()
    })
    .await;
    // And it can be stopped as ever.
    lab.want(1, DesiredState::Shutdown);
    lab.until_state(1, TaskState::Shutdown).await;
    assert!(lab.runtime.calls().iter().any(|(_, call)| *call == Call::Release));
}

/// While it is being started nobody else does anything for it; from then on nobody waits for a round.
#[tokio::test]
async fn links_that_are_lost_during_a_start_are_connected_when_it_is_over() {
    let mut lab = Lab::new().await;
    let (id, name) = (TaskId::from(1), TaskId::from(1).to_string());
    lab.runtime.hang_start(&id.into());
    lab.assign([task(1, |_| {}), task(2, |_| {})]);
    lab.until_state(1, TaskState::Starting).await;
    lab.until_state(2, TaskState::Running).await;
    let lost = lab.networks.lost();
    let network = lab.networks.attachments(&name).remove(0).network;
    lab.networks.lose(&name, &network);
    let other = TaskId::from(2).to_string();
    lab.networks.lose(&other, &network);
    until("the other one was not connected", async || {
        !lost.borrow().contains(&(other.clone(), network.clone()))
    })
    .await;
    assert!(lost.borrow().contains(&(name, network)), "it is busy");
    lab.runtime.go_on(&id.into());
    lab.until_state(1, TaskState::Running).await;
    until("it was not connected", async || lost.borrow().is_empty()).await;
}

#[tokio::test]
async fn what_comes_to_belong_to_nobody_goes_while_the_worker_works() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    let stray = TaskId::from(9).to_string();
    let config = NetworkConfig { id: "nobodys".to_owned(), ..NetworkConfig::default() };
    lab.networks.ensure_network(config).await.unwrap();
    let request = AttachRequest {
        container: stray.clone(),
        network: "nobodys".to_owned(),
        ..AttachRequest::default()
    };
    lab.networks.attach(request, Netns::OfProcess(1)).await.unwrap();
    let volume = shoal_agent_volume::VolumeConfig {
        name: "data".to_owned(),
        ..shoal_agent_volume::VolumeConfig::default()
    };
    lab.volumes.ensure(volume).await.unwrap();
    lab.volumes.mount("data".to_owned(), stray.clone(), None).await.unwrap();
    let files = lab.dir.path().join("run/files").join(&stray);
    std::fs::create_dir_all(&files).unwrap();

    let held = lab.networks.held();
    lab.worker.look_around();
    until("something is left", async || {
        let used = lab.volumes.describe().await.unwrap().iter().any(|v| !v.users.is_empty());
        let networks = lab.networks.networks();
        !used && !files.exists() && networks.len() == 1 && !networks.contains("nobodys")
    })
    .await;
    // What people named stays, and so does all that the task has.
    assert_eq!(lab.volumes.list().await.unwrap().len(), 1);
    let mut expected = held;
    expected.remove(&stray);
    assert_eq!(lab.networks.held(), expected);
    lab.worker.leave().await.unwrap();
    lab.until_empty().await;
}

/// However much comes at once: wherever the loop ends a round, nothing is put behind what came later.
#[tokio::test]
async fn what_is_heard_is_heard_in_the_order_in_which_it_came() {
    for before in [1016, 1017] {
        let lab = Lab::new().await;
        for _ in 0..before {
            lab.worker.look_around();
        }
        for id in 1..=8 {
            lab.worker.change(vec![AssignmentChange::UpdateTask(task(id, |_| {}))], mark(0, 1));
            lab.worker.change(vec![AssignmentChange::RemoveTask(id.into())], mark(0, 1));
        }
        // The second question comes after whatever was put behind the first.
        for _ in 0..2 {
            lab.worker.task_summary().await.unwrap();
        }
        lab.until_empty().await;
    }
}

fn id(name: &str) -> ContainerId {
    ContainerId::new(name).unwrap()
}

#[tokio::test]
async fn containers_and_mounts_of_nobody_go_while_the_worker_works() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {})]);
    lab.until_state(1, TaskState::Running).await;
    let mine = id(&TaskId::from(1).to_string());
    let spec = lab.runtime.containers()[&mine].spec.clone();
    // One that has never been a task's, and one of a task that nobody knows.
    let strays = [id("stray"), id(&TaskId::from(9).to_string())];
    for stray in &strays {
        lab.runtime.prepare(stray, spec.clone()).await.unwrap();
        lab.runtime.start(stray).await.unwrap();
    }
    let volume = shoal_agent_volume::VolumeConfig {
        name: "data".to_owned(),
        options: [("type", "tmpfs"), ("device", "tmpfs")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ..shoal_agent_volume::VolumeConfig::default()
    };
    lab.volumes.ensure(volume).await.unwrap();
    lab.volumes.leave_mounted("data");
    // A container that is just being made.
    let made = id(&TaskId::from(2).to_string());
    lab.runtime.hang_start(&made);
    lab.assign([task(1, |_| {}), task(2, |_| {})]);
    let starts = |lab: &Lab| lab.runtime.calls().contains(&(made.clone(), Call::Start));
    until("it does not begin", async || starts(&lab)).await;

    lab.worker.look_around();
    until("something is left", async || {
        let left = lab.runtime.containers();
        let mounted = lab.volumes.mounted().await.unwrap();
        strays.iter().all(|stray| !left.contains_key(stray)) && mounted.is_empty()
    })
    .await;
    let left: Vec<ContainerId> = lab.runtime.containers().into_keys().collect();
    assert_eq!(left, [mine.clone(), made.clone()], "what tasks have stays");
    let touched = |call: &(ContainerId, Call)| {
        [&mine, &made].contains(&&call.0) && matches!(call.1, Call::Remove | Call::Release)
    };
    assert!(!lab.runtime.calls().iter().any(touched), "{:?}", lab.runtime.calls());
    // What is in order is not put in order again.
    let calls = lab.runtime.calls();
    lab.worker.look_around();
    // The loop does one thing after another: what it is told now it hears after what it saw.
    lab.want(1, DesiredState::Shutdown);
    lab.until_state(1, TaskState::Shutdown).await;
    let later = &lab.runtime.calls()[calls.len()..];
    assert!(later.iter().all(|(whose, _)| *whose == mine), "{later:?}");
}
