//! Which ended or displaced tasks get successors.

use super::*;

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
fn history_is_bounded() {
    let mut stage = Stage::new(1);
    let web = stage.cluster.add_service(service_spec("web", 1));
    stage.fate.insert((web, 1), TaskState::Failed);
    stage.fate.insert((web, 2), TaskState::Failed);
    stage.run_for(200 * SECOND);
    assert_eq!(stage.tasks(web).len(), 5);
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

/// A service whose only task fails again and again after running for `life`.
fn keeps_failing(max_attempts: u64, window: u32, life: u32) -> (Stage, shoal_types::id::ServiceId) {
    let policy = RestartPolicy {
        max_attempts,
        delay: Some(SECOND),
        window: Some(window * SECOND),
        ..Default::default()
    };
    let mut stage = Stage::new(1);
    let web = stage.service(restart(service_spec("web", 1), policy));
    for _ in 0..4 {
        stage.run_for(life * SECOND);
        let Some(task) = stage.running(web).pop() else { break };
        stage.end(task.id, TaskState::Failed);
    }
    stage.run_for(2 * SECOND);
    (stage, web)
}

#[test]
fn restarts_are_counted_within_the_window() {
    let cases = [
        (2, 30, 5, 0, "restarted twice within 30 s"),
        (2, 8, 5, 1, "never more than one restart within 8 s"),
        (1, 12, 10, 0, "a restart counts from when it was, not from the start before it"),
    ];
    for (max_attempts, window, life, expected, why) in cases {
        let (mut stage, web) = keeps_failing(max_attempts, window, life);
        assert_eq!(stage.running(web).len(), expected, "{why}");
        stage.run_for(100 * SECOND);
        stage.cluster.add_node("later");
        stage.run();
        assert_eq!(stage.running(web).len(), expected, "and it stays so: {why}");
    }
}

#[test]
fn what_is_never_restarted_is_not_moved_either() {
    let mut stage = Stage::new(2);
    let policy = RestartPolicy { condition: RestartCondition::None, ..Default::default() };
    let once = stage.service(restart(service_spec("once", 1), policy.clone()));
    stage.run_for(10 * SECOND);
    let node = stage.running(once)[0].node_id.expect("placed");
    stage.cluster.set_availability(node, Availability::Drain);
    stage.run_for(10 * SECOND);
    assert_eq!(stage.tasks(once).len(), 1);
    assert_eq!(stage.tasks(once)[0].status.state, TaskState::Shutdown);
    assert_eq!(stage.plan(), []);
    stage.cluster.update_service(once, image(restart(service_spec("once", 1), policy), "new"));
    stage.run_for(10 * SECOND);
    assert_eq!(stage.running(once).len(), 1, "but a new spec is rolled out");
    assert_eq!(stage.deployment(once).state, DeploymentState::Completed);
}

#[test]
fn removing_a_node_runs_nothing_again_that_had_finished_there() {
    let mut stage = Stage::new(2);
    let policy = RestartPolicy { condition: RestartCondition::OnFailure, ..Default::default() };
    let once = stage.cluster.add_service(restart(service_spec("once", 2), policy));
    stage.fate.insert((once, 1), TaskState::Complete);
    stage.run_for(10 * SECOND);
    let node = stage.nodes[1];
    stage.cluster.set_node(node, NodeState::Down);
    stage.run();
    stage.cluster.apply(Command::RemoveNode { id: node, force: false });
    stage.run_for(10 * SECOND);
    let states: Vec<TaskState> = stage.tasks(once).iter().map(|t| t.status.state).collect();
    assert_eq!(states, [TaskState::Complete; 2]);
    assert_eq!(stage.plan(), []);
}

#[test]
fn tasks_of_a_removed_node_come_back_elsewhere() {
    let mut stage = Stage::new(2);
    let (web, log) = (stage.service(service_spec("web", 2)), stage.service(global_spec("log")));
    let node = stage.nodes[1];
    stage.cluster.apply(Command::RemoveNode { id: node, force: true });
    stage.run_for(10 * SECOND);
    assert_eq!(stage.spread(web), [2, 0]);
    assert_eq!(stage.spread(log), [1, 0]);
    assert_eq!(stage.tasks(log).len(), 1, "a global slot goes with its node");
    stage.cluster.apply(Command::RemoveService { id: web });
    stage.run();
    assert_eq!(stage.tasks(web).len(), 0);
}

#[test]
fn a_clock_that_is_turned_back_prolongs_no_delay() {
    let mut stage = Stage::new(2);
    let web = stage.service(service_spec("web", 1));
    stage.run_for(10 * SECOND);
    let first = stage.running(web)[0].id;
    stage.end(first, TaskState::Failed);
    stage.run();
    assert_eq!(stage.running(web).len(), 0, "it waits");
    stage.cluster.now = Timestamp::from_secs(500);
    stage.run_for(6 * SECOND);
    assert_eq!(stage.running(web).len(), 1);
}
