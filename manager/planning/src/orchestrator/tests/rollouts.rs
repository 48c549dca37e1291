//! How new specs are rolled out and back.

use shoal_manager_state::testing::with_networks;
use shoal_types::id::{ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::DeploymentKind;
use shoal_types::spec::{Affinity, EndpointSpec, Locality};

use super::*;

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

/// The tasks say it to those who lead others to their ports.
#[test]
fn a_change_of_whom_clients_are_led_to_replaces_tasks() {
    let mut stage = Stage::new(1);
    stage.cluster.set_level(stage.nodes[0], Level::AFFINITY);
    let web = stage.service(service_spec("web", 2));
    stage.run_for(10 * SECOND);
    let stays = EndpointSpec { affinity: Some(Affinity::ClientIp), ..Default::default() };
    let local = EndpointSpec { locality: Some(Locality::PreferLocal), ..stays.clone() };
    for endpoint in [stays, local].map(Some) {
        stage.cluster.update_service(
            web,
            ServiceSpec { endpoint_spec: endpoint.clone(), ..service_spec("web", 2) },
        );
        stage.run_for(20 * SECOND);
        let running = stage.running(web);
        let told: Vec<_> = running.iter().map(|t| t.endpoint.as_deref().cloned()).collect();
        assert_eq!(told, [endpoint.clone(), endpoint]);
    }
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
fn a_failing_update_goes_on_if_told_to_and_ends() {
    let action = UpdateConfig { failure_action: FailureAction::Continue, ..Default::default() };
    let of_version = |stage: &Stage, web, version| {
        let tasks = stage.tasks(web);
        tasks.iter().filter(|t| t.is_wanted() && t.spec_version == version).count()
    };
    for recovers in [true, false] {
        let mut stage = Stage::new(3);
        let web = stage.service(update(action.clone(), service_spec("web", 3)));
        stage.run_for(10 * SECOND);
        stage.fate.insert((web, 2), TaskState::Rejected);
        let new = update(action.clone(), image(service_spec("web", 3), "bad"));
        stage.cluster.update_service(web, new);
        stage.settle();
        stage.agents();
        stage.settle();
        assert_eq!(of_version(&stage, web, 1), 2, "one at a time all the same");
        stage.run_for(60 * SECOND);
        assert_eq!(of_version(&stage, web, 2), 3, "the others follow");
        assert_eq!(stage.deployment(web).state, DeploymentState::Updating);
        if recovers {
            stage.fate.clear();
        }
        stage.run_for(700 * SECOND);
        let deployment = stage.deployment(web);
        if recovers {
            assert_eq!(deployment.state, DeploymentState::Completed);
        } else {
            assert_eq!(deployment.state, DeploymentState::Paused);
            assert!(deployment.message.contains("no progress"), "{}", deployment.message);
        }
    }
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
    assert_eq!(why, "no suitable node (constraint node.labels.disk==ssd not satisfied on 1 node)");
    assert_eq!(stage.plan(), [], "an explanation is written once");
    stage.run_for(700 * SECOND);
    let deployment = stage.deployment(web);
    assert_eq!(deployment.state, DeploymentState::Paused);
    assert!(deployment.message.contains("no suitable node"), "{}", deployment.message);
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

#[test]
fn an_update_of_a_waiting_task_still_waits_for_the_one_that_runs() {
    let (mut stage, web) = slot_with_a_task_that_is_slow_to_stop(1);
    stage.cluster.update_service(web, image(service_spec("web", 1), "new"));
    stage.settle();
    assert_eq!(stage.tasks(web).last().expect("one").desired_state, DesiredState::Ready);
}

#[test]
fn the_same_spec_again_goes_on_where_a_deployment_failed() {
    let mut stage = Stage::new(2);
    let web = stage.service(service_spec("web", 3));
    stage.run_for(10 * SECOND);
    let new = image(service_spec("web", 3), "new");
    stage.fate.insert((web, 2), TaskState::Rejected);
    stage.cluster.update_service(web, new.clone());
    stage.run_for(20 * SECOND);
    assert_eq!(stage.deployment(web).state, DeploymentState::Paused);
    stage.fate.clear();
    stage.cluster.update_service(web, new);
    stage.run_for(60 * SECOND);
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
    assert!(stage.running(web).iter().all(|t| t.spec_version > 1));
    assert_eq!(stage.running(web).len(), 3);
}

#[test]
fn what_was_given_up_in_a_deployment_that_failed_is_tried_again_by_the_next() {
    let mut stage = Stage::new(1);
    let policy = RestartPolicy { condition: RestartCondition::None, ..Default::default() };
    let spec = restart(service_spec("web", 1), policy);
    let web = stage.cluster.add_service(spec.clone());
    stage.fate.insert((web, 1), TaskState::Rejected);
    stage.run_for(20 * SECOND);
    assert_eq!(stage.deployment(web).state, DeploymentState::Paused);
    stage.cluster.update_service(web, spec.clone());
    stage.run_for(20 * SECOND);
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
    let task = stage.running(web)[0].id;
    // What fails after all went well stays given up.
    stage.end(task, TaskState::Failed);
    stage.cluster.update_service(web, spec);
    stage.run_for(20 * SECOND);
    assert_eq!(stage.running(web), []);
}

/// A service of two replicas whose second spec fails in its first slot.
fn failing_update(config: &UpdateConfig, rollback: Option<&UpdateConfig>) -> (Stage, ServiceId) {
    let mut stage = Stage::new(2);
    let config = UpdateConfig { failure_action: FailureAction::Rollback, ..config.clone() };
    let spec = |name| {
        let spec = update(config.clone(), image(service_spec("web", 2), name));
        ServiceSpec { rollback_config: rollback.cloned(), ..spec }
    };
    let web = stage.service(spec("good"));
    stage.run_for(10 * SECOND);
    stage.fate.insert((web, 2), TaskState::Failed);
    stage.cluster.update_service(web, spec("bad"));
    (stage, web)
}

fn ordered(order: UpdateOrder) -> UpdateConfig {
    UpdateConfig { order, ..Default::default() }
}

#[test]
fn a_rollback_has_an_order_of_its_own() {
    use UpdateOrder::{StartFirst, StopFirst};
    for (forth, back) in [(StopFirst, StartFirst), (StartFirst, StopFirst)] {
        let (mut stage, web) = failing_update(&ordered(forth), Some(&ordered(back)));
        stage.run_for(60 * SECOND);
        let deployment = stage.deployment(web);
        let reached = (deployment.kind, deployment.state);
        let expected = (DeploymentKind::Rollback, DeploymentState::Completed);
        assert_eq!(reached, expected, "{forth:?} {back:?}: {}", deployment.message);
        assert_eq!(stage.running(web).len(), 2, "{forth:?} {back:?}");
        stage.cluster.check();
    }
}

#[test]
fn a_rollback_keeps_the_old_task_where_it_still_runs() {
    let (mut stage, web) = failing_update(&ordered(UpdateOrder::StartFirst), None);
    let before: Vec<TaskId> = stage.running(web).iter().map(|t| t.id).collect();
    stage.run_for(60 * SECOND);
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
    let after: Vec<TaskId> = stage.running(web).iter().map(|t| t.id).collect();
    assert_eq!(after, before);
    // The kept task is the one that counts from now on.
    stage.end(after[0], TaskState::Failed);
    stage.run();
    assert_eq!(stage.running(web).len(), 1, "its restart waits");
    stage.run_for(10 * SECOND);
    let node = stage.running(web)[1].node_id.expect("placed");
    stage.cluster.set_availability(node, Availability::Drain);
    stage.run_for(10 * SECOND);
    assert!(stage.running(web).iter().all(|t| t.node_id != Some(node)));
    assert_eq!(stage.running(web).len(), 2);
}

#[test]
fn a_change_of_order_in_the_middle_stops_every_old_task() {
    let mut stage = Stage::new(1);
    let first = update(ordered(UpdateOrder::StartFirst), service_spec("web", 1));
    let web = stage.service(first.clone());
    stage.run_for(10 * SECOND);
    stage.cluster.update_service(web, image(first, "second"));
    stage.settle();
    assert_eq!(stage.tasks(web).iter().filter(|t| t.is_wanted()).count(), 2);
    stage.cluster.update_service(web, image(service_spec("web", 1), "third"));
    stage.run_for(10 * SECOND);
    assert_eq!(stage.deployment(web).state, DeploymentState::Completed);
    assert_eq!(stage.running(web)[0].spec_version, 3);
}

#[test]
fn a_rollback_to_a_spec_that_is_no_longer_possible_pauses() {
    let mut stage = Stage::new(1);
    let backend = stage.cluster.add_network("backend");
    let action = UpdateConfig { failure_action: FailureAction::Rollback, ..Default::default() };
    let old = update(action, with_networks(service_spec("web", 1), &["backend"]));
    let web = stage.service(old.clone());
    stage.run_for(10 * SECOND);
    stage.cluster.update_service(web, with_networks(old, &[]));
    stage.run();
    stage.cluster.apply(Command::RemoveNetwork { id: backend });
    let new = stage.running(web)[0].id;
    stage.end(new, TaskState::Failed);
    stage.run_for(10 * SECOND);
    let deployment = stage.deployment(web);
    assert_eq!(deployment.state, DeploymentState::Paused);
    assert!(deployment.message.contains("network \"backend\""), "{}", deployment.message);
}

#[test]
fn an_update_goes_on_when_the_clock_is_turned_back() {
    let mut stage = Stage::new(1);
    let config = UpdateConfig { delay: 30 * SECOND, ..Default::default() };
    let web = stage.service(update(config.clone(), service_spec("web", 3)));
    stage.run_for(10 * SECOND);
    stage.cluster.update_service(web, update(config, image(service_spec("web", 3), "new")));
    stage.run();
    let new = |stage: &Stage| stage.running(web).iter().filter(|t| t.spec_version == 2).count();
    assert_eq!(new(&stage), 1);
    stage.cluster.now = Timestamp::from_secs(500);
    stage.run_for(100 * SECOND);
    assert_eq!(new(&stage), 3);
}
