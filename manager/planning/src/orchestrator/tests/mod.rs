mod addresses;
mod held;
mod partners;
mod rejections;
mod restarts;
mod rollouts;
mod stacks;

use std::time::Duration;

use shoal_manager_state::testing::{global_spec, service_spec, with_host_port, with_task};
use shoal_manager_state::{Command, UpdateKind};
use shoal_types::object::{DeploymentState, NodeState, Slot, Task};
use shoal_types::spec::{
    Availability, FailureAction, Placement, RestartCondition, RestartPolicy, ServiceMode,
    ServiceSpec, TaskRuntime, UpdateConfig, UpdateOrder,
};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use crate::stage::Stage;

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn image(spec: ServiceSpec, image: &str) -> ServiceSpec {
    with_task(spec, |task| {
        if let TaskRuntime::Container(container) = &mut task.runtime {
            container.image = image.to_owned();
        }
    })
}

fn restart(spec: ServiceSpec, policy: RestartPolicy) -> ServiceSpec {
    with_task(spec, |task| task.restart_policy = Some(policy))
}

fn update(config: UpdateConfig, spec: ServiceSpec) -> ServiceSpec {
    ServiceSpec { update_config: Some(config), ..spec }
}

#[test]
fn replicas_are_filled_and_planning_twice_changes_nothing() {
    let mut stage = Stage::new(3);
    let web = stage.service(service_spec("web", 6));
    assert_eq!(stage.spread(web), [2, 2, 2]);
    let slots: Vec<Slot> = stage.running(web).iter().map(|t| t.slot).collect();
    assert_eq!(slots, (1..=6).map(Slot::Replica).collect::<Vec<_>>());
    assert_eq!(stage.plan(), []);
}

#[test]
fn scaling_touches_no_task_that_stays() {
    let mut stage = Stage::new(3);
    let web = stage.service(service_spec("web", 3));
    let before = stage.running(web);
    stage.cluster.update_service(web, service_spec("web", 5));
    stage.run();
    let after = stage.running(web);
    assert_eq!(after.len(), 5);
    assert!(before.iter().all(|old| after.iter().any(|new| new.id == old.id)));
    stage.cluster.update_service(web, service_spec("web", 2));
    stage.run();
    assert_eq!(stage.running(web).len(), 2);
    assert_eq!(stage.tasks(web).len(), 2, "tasks of slots that are gone are forgotten");
}

#[test]
fn scaling_down_gives_up_first_what_serves_least() {
    let mut stage = Stage::new(2);
    let web = stage.service(service_spec("web", 3));
    let crowded = stage.nodes[usize::from(stage.spread(web)[1] > 1)];
    stage.cluster.update_service(web, service_spec("web", 2));
    stage.run();
    assert_eq!(stage.spread(web), [1, 1], "the node with most tasks gives one up: {crowded}");
}

#[test]
fn global_services_follow_the_nodes() {
    let mut stage = Stage::new(2);
    let log = stage.service(global_spec("log"));
    assert_eq!(stage.spread(log), [1, 1]);
    let third = stage.cluster.add_node("node-3");
    stage.nodes.push(third);
    stage.run();
    assert_eq!(stage.spread(log), [1, 1, 1]);
    stage.cluster.set_node(stage.nodes[0], NodeState::Down);
    let before = stage.tasks(log).len();
    stage.run();
    assert_eq!(stage.tasks(log).len(), before, "nobody else can fill the slot of a lost node");
    stage.cluster.set_node(stage.nodes[0], NodeState::Ready);
    stage.cluster.set_availability(stage.nodes[1], Availability::Drain);
    stage.run();
    assert_eq!(stage.spread(log), [1, 0, 1]);
}

#[test]
fn removing_a_service_leaves_no_task() {
    let mut stage = Stage::new(2);
    let web = stage.service(service_spec("web", 4));
    stage.cluster.set_node(stage.nodes[1], NodeState::Down);
    stage.cluster.apply(Command::RemoveService { id: web });
    stage.run();
    assert_eq!(stage.view().tasks().len(), 0);
    assert_eq!(stage.plan(), []);
}

#[test]
fn a_slot_number_is_reused_only_after_its_tasks_have_ended() {
    let mut stage = Stage::new(1);
    let web = stage.service(service_spec("web", 1));
    stage.cluster.update_service(web, service_spec("web", 0));
    stage.settle();
    stage.cluster.update_service(web, service_spec("web", 1));
    stage.settle();
    let desired: Vec<DesiredState> = stage.tasks(web).iter().map(|t| t.desired_state).collect();
    assert_eq!(desired, [DesiredState::Remove, DesiredState::Ready]);
    stage.run();
    assert_eq!(stage.running(web).len(), 1);
    assert!(matches!(
        stage.view().service(web).expect("there").spec.mode,
        ServiceMode::Replicated { replicas: 1 }
    ));
}

#[test]
fn a_task_is_forgotten_once() {
    let mut stage = Stage::new(1);
    let web = stage.service(service_spec("web", 1));
    // More tasks that are slow to stop than the history keeps.
    for replicas in [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1] {
        stage.cluster.update_service(web, service_spec("web", replicas));
        stage.settle();
    }
    stage.run();
    assert_eq!(stage.running(web).len(), 1);
}

/// A slot whose first task is told to stop on a drained node and does not, because the agent is
/// busy, and whose second one waits.
fn slot_with_a_task_that_is_slow_to_stop(nodes: usize) -> (Stage, shoal_types::id::ServiceId) {
    let mut stage = Stage::new(nodes);
    let web = stage.service(service_spec("web", 1));
    stage.run_for(10 * SECOND);
    let node = stage.running(web)[0].node_id.expect("placed");
    stage.cluster.set_availability(node, Availability::Drain);
    stage.settle();
    let desired: Vec<DesiredState> = stage.tasks(web).iter().map(|t| t.desired_state).collect();
    assert_eq!(desired, [DesiredState::Shutdown, DesiredState::Ready]);
    (stage, web)
}

#[test]
fn scaling_down_leaves_the_nodes_in_balance() {
    let mut stage = Stage::new(2);
    let web = stage.service(service_spec("web", 7));
    stage.cluster.update_service(web, service_spec("web", 3));
    stage.run();
    let mut spread = stage.spread(web);
    spread.sort_unstable();
    assert_eq!(spread, [1, 2]);
}
