//! Rollouts of global services while some nodes are paused or down: nobody else can fill their
//! slots, so nothing waits for them.

use shoal_manager_state::testing::{NODE_MEMORY_BYTES, with_reservation};
use shoal_types::id::{NodeId, ServiceId};

use super::*;

/// Of which spec the running task on each node is; 0 where none runs.
fn versions(stage: &Stage, service: ServiceId) -> Vec<u64> {
    let running = stage.running(service);
    let on = |node: &NodeId| running.iter().find(|t| t.node_id == Some(*node));
    stage.nodes.iter().map(|node| on(node).map_or(0, |t| t.spec_version)).collect()
}

/// A global service on three nodes.
fn on_three_nodes() -> (Stage, ServiceId) {
    let mut stage = Stage::new(3);
    let log = stage.service(global_spec("log"));
    stage.run_for(10 * SECOND);
    (stage, log)
}

#[test]
fn a_paused_node_keeps_its_global_task_until_it_is_active_again() {
    let mut stage = Stage::new(2);
    let log = stage.service(global_spec("log"));
    stage.run_for(10 * SECOND);
    stage.cluster.set_availability(stage.nodes[1], Availability::Pause);
    stage.cluster.update_service(log, image(global_spec("log"), "new"));
    stage.run_for(20 * SECOND);
    assert_eq!(stage.spread(log), [1, 1]);
    assert_eq!(stage.deployment(log).state, DeploymentState::Completed);
    assert_eq!(versions(&stage, log), [2, 1]);
    stage.cluster.set_availability(stage.nodes[1], Availability::Active);
    stage.run_for(20 * SECOND);
    assert_eq!(versions(&stage, log), [2, 2]);
}

#[test]
fn a_node_that_is_down_does_not_hold_up_the_others() {
    let (mut stage, log) = on_three_nodes();
    stage.cluster.set_node(stage.nodes[1], NodeState::Down);
    stage.cluster.update_service(log, image(global_spec("log"), "new"));
    stage.run_for(30 * SECOND);
    assert_eq!(versions(&stage, log), [2, 1, 2], "what runs on the lost node nobody knows");
    assert_eq!(stage.deployment(log).state, DeploymentState::Completed);
    stage.run_for(700 * SECOND);
    assert_eq!(stage.deployment(log).state, DeploymentState::Completed);
    stage.cluster.set_node(stage.nodes[1], NodeState::Ready);
    stage.run_for(30 * SECOND);
    assert_eq!(versions(&stage, log), [2, 2, 2]);
}

#[test]
fn a_node_that_comes_back_does_not_wait_for_one_that_has_no_room() {
    let mut stage = Stage::new(3);
    let full = with_reservation(global_spec("full"), 0, NODE_MEMORY_BYTES);
    stage.service(with_task(full, |task| {
        let constraints = vec!["node.hostname==node-1".to_owned()];
        task.placement = Some(Placement { constraints, ..Placement::default() });
    }));
    let log = stage.service(global_spec("log"));
    stage.run_for(10 * SECOND);
    stage.cluster.set_node(stage.nodes[0], NodeState::Down);
    stage.cluster.set_node(stage.nodes[1], NodeState::Down);
    stage.cluster.update_service(log, with_reservation(global_spec("log"), 0, 1));
    stage.run_for(30 * SECOND);
    assert_eq!(versions(&stage, log), [1, 1, 2]);
    assert_eq!(stage.deployment(log).state, DeploymentState::Completed);
    stage.cluster.set_node(stage.nodes[0], NodeState::Ready);
    stage.run_for(30 * SECOND);
    assert_eq!(versions(&stage, log), [0, 1, 2], "the new task finds no room");
    stage.cluster.set_node(stage.nodes[1], NodeState::Ready);
    stage.run_for(30 * SECOND);
    assert_eq!(versions(&stage, log), [0, 2, 2]);
}

#[test]
fn a_node_that_is_lost_or_paused_in_the_middle_does_not_hold_up_the_others() {
    for paused in [true, false] {
        let (mut stage, log) = on_three_nodes();
        stage.cluster.update_service(log, image(global_spec("log"), "new"));
        // Its new task is made, and has not been assigned yet.
        let made = stage.orchestrate();
        made.commands.into_iter().for_each(|c| drop(stage.cluster.apply(c)));
        let replaced = |t: &Task| t.desired_state == DesiredState::Shutdown;
        let first = stage.tasks(log).into_iter().find(replaced).expect("one is replaced");
        let node = first.node_id.expect("placed");
        let away = |stage: &mut Stage, away: bool| match (paused, away) {
            (true, true) => stage.cluster.set_availability(node, Availability::Pause),
            (true, false) => stage.cluster.set_availability(node, Availability::Active),
            (false, true) => drop(stage.cluster.set_node(node, NodeState::Down)),
            (false, false) => drop(stage.cluster.set_node(node, NodeState::Ready)),
        };
        away(&mut stage, true);
        stage.run_for(700 * SECOND);
        let reached = versions(&stage, log).into_iter().filter(|v| *v == 2).count();
        assert_eq!(reached, 2, "paused: {paused}");
        assert_eq!(stage.deployment(log).state, DeploymentState::Completed, "paused: {paused}");
        away(&mut stage, false);
        stage.run_for(30 * SECOND);
        assert_eq!(versions(&stage, log), [2, 2, 2], "paused: {paused}");
    }
}
