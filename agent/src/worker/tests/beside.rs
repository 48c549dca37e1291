//! Tasks that share the network of others.

use std::sync::Arc;

use shoal_agent_runtime::{ContainerId, ExitStatus, NetworkMode};
use shoal_types::assignment::AssignedTask;
use shoal_types::id::TaskId;
use shoal_types::task_state::{DesiredState, TaskState};

use super::Lab;
use super::lab::task;

fn container(id: u128) -> ContainerId {
    TaskId::from(id).into()
}

fn exit(code: i32) -> ExitStatus {
    ExitStatus { code: Some(code), ..ExitStatus::default() }
}

/// A task that shares the network of another one.
fn beside(id: u128, partner: u128) -> AssignedTask {
    let mut sharer = task(id, |_| {});
    Arc::make_mut(&mut sharer.spec).network_of = Some("web".to_owned());
    sharer.networks.clear();
    (sharer.partner, sharer.slot) = (Some(partner.into()), task(partner, |_| {}).slot);
    sharer
}

/// The message of a task, once it says this.
async fn until_waits(lab: &mut Lab, id: u128, what: &str) {
    lab.until(id, |status| status.message.contains(what) || status.err.contains(what)).await;
}

#[tokio::test]
async fn it_waits_for_its_partner_joins_it_and_ends_with_it() {
    let mut lab = Lab::new().await;
    lab.assign([beside(2, 1)]);
    until_waits(&mut lab, 2, "which this node does not have").await;
    lab.assign([task(1, |_| {}), beside(2, 1)]);
    lab.until_state(2, TaskState::Running).await;
    let containers = lab.runtime.containers();
    assert_eq!(containers[&container(2)].spec.network, NetworkMode::Of(container(1)));
    let files = |id: u128, name: &str| {
        let dir = lab.dir.path().join("run/files").join(TaskId::from(id).to_string());
        std::fs::read_to_string(dir.join(name)).unwrap()
    };
    for name in ["hosts", "hostname", "resolv.conf"] {
        assert_eq!(files(1, name), files(2, name), "{name}");
    }
    assert!(files(2, "hosts").contains(&files(1, "hostname")), "its partner's address and name");
    let attached = |id: u128| lab.networks.leases().attachments(&TaskId::from(id).to_string());
    assert_eq!((attached(1).len(), attached(2).len()), (1, 0), "nothing of it is its own");

    // Both go on without the agent.
    lab.crash().await;
    lab.until_state(2, TaskState::Running).await;
    lab.runtime.exit(&container(1), exit(1));
    let status = lab.until_state(2, TaskState::Shutdown).await;
    assert_eq!(status.err, "the task whose network it shares, web.1, has ended");
    lab.until_state(1, TaskState::Failed).await;
    lab.drop_task(1);
    lab.drop_task(2);
    lab.until_empty().await;
}

/// It is to have its network until it has ended.
#[tokio::test]
async fn its_partner_is_not_cleaned_up_before_it_has_ended() {
    let mut lab = Lab::new().await;
    lab.runtime.ignore_term(&container(2));
    lab.assign([task(1, |_| {}), beside(2, 1)]);
    lab.until_state(2, TaskState::Running).await;
    lab.want(1, DesiredState::Shutdown);
    until_waits(&mut lab, 2, "the task whose network it shares, web.1").await;
    // Whatever else there is to be done is done meanwhile.
    lab.assign([task(3, |_| {})]);
    lab.until_state(3, TaskState::Running).await;
    let attached = |id: u128| lab.networks.leases().attachments(&TaskId::from(id).to_string());
    assert_eq!(attached(1).len(), 1);
    lab.runtime.exit(&container(2), exit(0));
    lab.until_state(2, TaskState::Shutdown).await;
    lab.until_state(1, TaskState::Shutdown).await;
    assert_eq!(attached(1).len(), 0);
    (1..=3).for_each(|id| lab.drop_task(id));
    lab.until_empty().await;
}

#[tokio::test]
async fn after_a_reboot_it_waits_for_its_partner_again() {
    let mut lab = Lab::new().await;
    lab.assign([task(1, |_| {}), beside(2, 1)]);
    lab.until_state(2, TaskState::Running).await;
    lab.reboot().await;
    lab.until(2, |status| {
        status.state == TaskState::Running
            && status.container_status.as_ref().is_some_and(|c| c.pid > 0)
    })
    .await;
    assert_eq!(lab.runtime.containers()[&container(2)].spec.network, NetworkMode::Of(container(1)));
    lab.worker.leave().await.unwrap();
    lab.until_empty().await;
}
