use std::time::Duration;

use shoal_manager_state::testing::{global_spec, service_spec, with_host_port, with_task};
use shoal_manager_state::{Command, UpdateKind};
use shoal_types::object::{DeploymentState, NodeState, Slot, Task};
use shoal_types::spec::{
    Availability, FailureAction, Placement, RestartCondition, RestartPolicy, ServiceMode,
    ServiceSpec, TaskRuntime, UpdateConfig, UpdateOrder,
};
use shoal_types::task_state::{DesiredState, TaskState};

use crate::stage::Stage;

const SECOND: Duration = Duration::from_secs(1);

fn image(spec: ServiceSpec, image: &str) -> ServiceSpec {
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
fn a_deployment_completes_after_the_monitoring_time() {
    let mut stage = Stage::new(1);
    let web = stage.service(service_spec("web", 2));
    assert_eq!(stage.deployment(web).state, DeploymentState::Updating);
    stage.run_for(4 * SECOND);
    assert_eq!(stage.deployment(web).state, DeploymentState::Updating);
    stage.run_for(SECOND);
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
}

#[test]
fn nothing_to_run_is_complete_at_once() {
    let mut stage = Stage::new(1);
    let web = stage.service(service_spec("web", 0));
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
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
fn an_ended_task_gets_a_successor_after_the_delay() {
    let mut stage = Stage::new(2);
    let web = stage.service(service_spec("web", 1));
    stage.run_for(10 * SECOND);
    let first = stage.running(web)[0].clone();
    stage.end(first.id, TaskState::Failed);
    stage.run();
    let tasks = stage.tasks(web);
    assert_eq!(tasks.len(), 2);
    assert_eq!(tasks[0].desired_state, DesiredState::Shutdown);
    let waiting = (tasks[1].desired_state, tasks[1].status.state);
    assert_eq!(waiting, (DesiredState::Ready, TaskState::Ready), "prepared, and waits");
    stage.run_for(5 * SECOND);
    assert_eq!(stage.running(web).len(), 1);
}

#[test]
fn restart_policies() {
    use RestartCondition::{Any, None, OnFailure};
    let cases = [
        (None, 0, TaskState::Failed, 0),
        (None, 0, TaskState::Complete, 0),
        (OnFailure, 0, TaskState::Complete, 0),
        (OnFailure, 0, TaskState::Failed, 1),
        (Any, 0, TaskState::Complete, 1),
        (Any, 2, TaskState::Failed, 1),
    ];
    for (condition, max_attempts, ended, expected) in cases {
        let mut stage = Stage::new(1);
        let policy = RestartPolicy { condition, max_attempts, ..Default::default() };
        let web = stage.service(restart(service_spec("web", 1), policy));
        stage.run_for(10 * SECOND);
        let task = stage.running(web)[0].id;
        stage.end(task, ended);
        stage.run_for(10 * SECOND);
        let found = stage.running(web).len();
        assert_eq!(found, expected, "{condition:?} {max_attempts} {ended}");
    }
}

#[test]
fn attempts_are_counted_per_slot_and_spec() {
    let mut stage = Stage::new(1);
    let policy = RestartPolicy { max_attempts: 2, ..Default::default() };
    let web = stage.cluster.add_service(restart(service_spec("web", 1), policy.clone()));
    stage.fate.insert((web, 1), TaskState::Failed);
    stage.fate.insert((web, 2), TaskState::Failed);
    stage.run_for(60 * SECOND);
    assert_eq!(stage.tasks(web).len(), 3, "one and two more attempts");
    stage.cluster.update_service(web, image(restart(service_spec("web", 1), policy), "new"));
    stage.run_for(60 * SECOND);
    let new = stage.tasks(web).iter().filter(|t| t.spec_version == 2).count();
    assert_eq!(new, 3, "a new spec has attempts of its own");
}

#[test]
fn tasks_of_a_lost_node_come_back_elsewhere_at_once() {
    let mut stage = Stage::new(3);
    let web = stage.service(service_spec("web", 3));
    stage.cluster.set_node(stage.nodes[0], NodeState::Down);
    stage.run();
    let spread = stage.spread(web);
    assert_eq!(spread[1] + spread[2], 3, "{spread:?}");
    // The node comes back still running its task, and is told to stop it.
    stage.cluster.set_node(stage.nodes[0], NodeState::Ready);
    stage.run();
    assert_eq!(stage.running(web).len(), 3);
    let live = stage.tasks(web).iter().filter(|t| t.is_live()).count();
    assert_eq!(live, 3);
}

#[test]
fn a_drained_nodes_task_ends_before_its_successor_starts() {
    let mut stage = Stage::new(2);
    let web = stage.service(service_spec("web", 2));
    stage.cluster.set_availability(stage.nodes[0], Availability::Drain);
    stage.settle();
    let of_slot = |stage: &Stage, node| -> Vec<Task> {
        let slot = stage.tasks(web).iter().find(|t| t.node_id == Some(node)).expect("one").slot;
        stage.tasks(web).into_iter().filter(|t| t.slot == slot).collect()
    };
    let tasks = of_slot(&stage, stage.nodes[0]);
    assert_eq!(tasks.len(), 2);
    assert_eq!(tasks[0].desired_state, DesiredState::Shutdown);
    assert_eq!(tasks[1].desired_state, DesiredState::Ready);
    stage.run();
    assert_eq!(stage.spread(web), [0, 2]);
}

#[test]
fn an_update_replaces_one_slot_after_the_other() {
    let mut stage = Stage::new(3);
    let web = stage.service(service_spec("web", 3));
    stage.run_for(10 * SECOND);
    stage.cluster.update_service(web, image(service_spec("web", 3), "new"));
    let mut least = 3;
    for _ in 0..40 {
        stage.settle();
        least = least.min(stage.running(web).len());
        if !stage.agents() {
            break;
        }
    }
    assert_eq!(least, 2, "never more than one slot at a time");
    assert!(stage.running(web).iter().all(|t| t.spec_version == 2));
    stage.run_for(10 * SECOND);
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
}

#[test]
fn an_update_waits_between_slots() {
    let mut stage = Stage::new(1);
    let config = UpdateConfig { delay: 30 * SECOND, ..Default::default() };
    let web = stage.service(update(config.clone(), service_spec("web", 3)));
    stage.run_for(10 * SECOND);
    stage.cluster.update_service(web, update(config, image(service_spec("web", 3), "new")));
    let new = |stage: &Stage| stage.running(web).iter().filter(|t| t.spec_version == 2).count();
    stage.run_for(10 * SECOND);
    assert_eq!(new(&stage), 1);
    stage.run_for(30 * SECOND);
    assert_eq!(new(&stage), 2);
    stage.run_for(30 * SECOND);
    assert_eq!(new(&stage), 3);
}

#[test]
fn start_first_never_has_fewer() {
    let mut stage = Stage::new(2);
    let config = UpdateConfig { order: UpdateOrder::StartFirst, ..Default::default() };
    let web = stage.service(update(config.clone(), service_spec("web", 2)));
    stage.run_for(10 * SECOND);
    stage.cluster.update_service(web, update(config, image(service_spec("web", 2), "new")));
    for _ in 0..40 {
        stage.settle();
        assert!(stage.running(web).len() >= 2);
        if !stage.agents() {
            break;
        }
    }
    let versions: Vec<u64> = stage.running(web).iter().map(|t| t.spec_version).collect();
    assert_eq!(versions, [2, 2]);
}

#[test]
fn a_failing_update_pauses_and_says_why() {
    let mut stage = Stage::new(3);
    let web = stage.service(service_spec("web", 3));
    stage.run_for(10 * SECOND);
    stage.fate.insert((web, 2), TaskState::Failed);
    stage.cluster.update_service(web, image(service_spec("web", 3), "bad"));
    stage.run_for(20 * SECOND);
    let deployment = stage.deployment(web);
    assert_eq!(deployment.state, DeploymentState::Paused);
    assert!(deployment.message.contains("failed"), "{}", deployment.message);
    let old = stage.running(web).iter().filter(|t| t.spec_version == 1).count();
    assert_eq!(old, 2, "the other slots keep what works");
}

#[test]
fn a_failing_update_rolls_back_if_told_to() {
    let mut stage = Stage::new(3);
    let action = UpdateConfig { failure_action: FailureAction::Rollback, ..Default::default() };
    let web = stage.service(update(action.clone(), service_spec("web", 3)));
    stage.run_for(10 * SECOND);
    let id =
        stage.cluster.update_service(web, update(action, image(service_spec("web", 3), "bad")));
    stage.settle();
    stage.agents();
    stage.settle();
    let new = stage.tasks(web).iter().find(|t| t.spec_version == 2).expect("one slot is tried").id;
    stage.end(new, TaskState::Failed);
    stage.run_for(20 * SECOND);
    let failed = stage.view().deployment(id).expect("kept").clone();
    assert_eq!(failed.state, DeploymentState::RolledBack);
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
    assert_eq!(stage.running(web).len(), 3);
    let spec = &stage.view().service(web).expect("there").spec;
    assert_eq!(
        spec.task_template.container().map(|c| c.image.as_str()),
        Some("docker.io/library/busybox:1")
    );
}

#[test]
fn a_service_that_cannot_be_placed_fails_its_deployment_in_the_end() {
    let mut stage = Stage::new(1);
    let spec = with_task(service_spec("web", 1), |task| {
        let constraints = vec!["node.labels.disk==ssd".to_owned()];
        task.placement = Some(Placement { constraints, ..Default::default() });
    });
    let web = stage.service(spec);
    let why = stage.tasks(web)[0].status.err.clone();
    assert_eq!(why, "no suitable node (scheduling constraints not satisfied on 1 node)");
    assert_eq!(stage.plan(), [], "an explanation is written once");
    stage.run_for(700 * SECOND);
    let deployment = stage.deployment(web);
    assert_eq!(deployment.state, DeploymentState::Paused);
    assert!(deployment.message.contains("no suitable node"), "{}", deployment.message);
}

#[test]
fn a_finished_task_is_a_finished_deployment() {
    let mut stage = Stage::new(1);
    let policy = RestartPolicy { condition: RestartCondition::OnFailure, ..Default::default() };
    let once = stage.cluster.add_service(restart(service_spec("once", 1), policy));
    stage.fate.insert((once, 1), TaskState::Complete);
    stage.run_for(10 * SECOND);
    assert_eq!(stage.deployment(once).state, DeploymentState::Completed);
    assert_eq!(stage.tasks(once).len(), 1);
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
fn host_ports_keep_replicas_apart_and_an_update_still_goes_through() {
    let mut stage = Stage::new(3);
    let web = stage.service(with_host_port(service_spec("web", 3), 8080));
    assert_eq!(stage.spread(web), [1, 1, 1]);
    stage.run_for(10 * SECOND);
    let new = image(with_host_port(service_spec("web", 3), 8080), "new");
    stage.cluster.update_service(web, new);
    stage.run_for(30 * SECOND);
    assert_eq!(stage.spread(web), [1, 1, 1]);
    assert!(stage.running(web).iter().all(|t| t.spec_version == 2));
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
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
fn history_is_bounded() {
    let mut stage = Stage::new(1);
    let web = stage.cluster.add_service(service_spec("web", 1));
    stage.fate.insert((web, 1), TaskState::Failed);
    stage.fate.insert((web, 2), TaskState::Failed);
    stage.run_for(200 * SECOND);
    assert_eq!(stage.tasks(web).len(), 5);
}

#[test]
fn a_manual_rollback_replaces_tasks_again() {
    let mut stage = Stage::new(1);
    let web = stage.service(service_spec("web", 1));
    stage.cluster.update_service(web, image(service_spec("web", 1), "new"));
    stage.run_for(10 * SECOND);
    let service = stage.view().service(web).expect("there").clone();
    stage.cluster.apply(Command::UpdateService {
        id: web,
        expected: Some(service.meta.spec_version),
        deployment_id: 7.into(),
        spec: service.previous_spec.clone().expect("kept"),
        kind: UpdateKind::Rollback,
    });
    stage.run_for(10 * SECOND);
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
    assert_eq!(
        stage.running(web)[0].spec.container().expect("one").image,
        "docker.io/library/busybox:1"
    );
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
fn a_waiting_task_that_loses_its_place_is_not_told_to_run() {
    let mut stage = Stage::new(2);
    let web = stage.service(service_spec("web", 1));
    stage.run_for(10 * SECOND);
    let first = stage.running(web)[0].clone();
    stage.end(first.id, TaskState::Failed);
    stage.run();
    let waiting = stage.tasks(web)[1].node_id.expect("placed");
    stage.cluster.set_availability(waiting, Availability::Drain);
    stage.cluster.advance(5 * SECOND);
    stage.run();
    assert_eq!(stage.running(web).len(), 1);
}

#[test]
fn an_outdated_task_on_a_drained_node_gets_one_successor() {
    let mut stage = Stage::new(2);
    let web = stage.service(service_spec("web", 1));
    stage.run_for(10 * SECOND);
    let node = stage.running(web)[0].node_id.expect("placed");
    stage.cluster.set_availability(node, Availability::Drain);
    stage.cluster.update_service(web, image(service_spec("web", 1), "new"));
    stage.settle();
    assert_eq!(stage.tasks(web).iter().filter(|t| t.is_wanted()).count(), 1);
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
fn an_update_of_a_waiting_task_still_waits_for_the_one_that_runs() {
    let (mut stage, web) = slot_with_a_task_that_is_slow_to_stop(1);
    stage.cluster.update_service(web, image(service_spec("web", 1), "new"));
    stage.settle();
    assert_eq!(stage.tasks(web).last().expect("one").desired_state, DesiredState::Ready);
}

#[test]
fn a_task_whose_waiting_predecessor_is_lost_still_waits_for_the_one_that_runs() {
    let (mut stage, web) = slot_with_a_task_that_is_slow_to_stop(3);
    let waiting = stage.tasks(web)[1].node_id.expect("placed");
    stage.cluster.set_node(waiting, NodeState::Down);
    stage.settle();
    assert_eq!(stage.tasks(web).len(), 3);
    assert_eq!(stage.tasks(web)[2].desired_state, DesiredState::Ready);
}

#[test]
fn a_task_that_fails_beside_its_successor_is_history_too() {
    let mut stage = Stage::new(1);
    let config = UpdateConfig { order: UpdateOrder::StartFirst, ..Default::default() };
    let web = stage.service(update(config.clone(), service_spec("web", 1)));
    for version in 0..8 {
        let new = image(service_spec("web", 1), &format!("new:{version}"));
        let old = stage.running(web)[0].id;
        stage.cluster.update_service(web, update(config.clone(), new));
        stage.settle();
        stage.end(old, TaskState::Failed);
        stage.run();
    }
    assert_eq!(stage.tasks(web).len(), 5);
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
