//! Tasks that are rejected while they are prepared are tried again ever less often.

use shoal_types::id::ServiceId;

use super::*;

/// A service all of whose tasks are rejected.
fn rejected(spec: ServiceSpec) -> (Stage, ServiceId) {
    let mut stage = Stage::new(2);
    let web = stage.cluster.add_service(spec);
    stage.fate.insert((web, 1), TaskState::Rejected);
    stage.cannot_prepare = true;
    (stage, web)
}

/// When tasks reached their node, in seconds after the first one did.
fn tries(stage: &Stage, service: ServiceId) -> Vec<u64> {
    let times: Vec<Timestamp> =
        stage.placed.iter().filter(|(id, _)| *id == service).map(|(_, at)| *at).collect();
    times.iter().map(|at| at.since(times[0]).as_secs()).collect()
}

#[test]
fn each_try_waits_twice_as_long_as_the_one_before() {
    let without_delay = RestartPolicy { delay: Some(Duration::ZERO), ..Default::default() };
    let slow = RestartPolicy { delay: Some(40 * SECOND), ..Default::default() };
    let expected = [0, 5, 15, 35, 75, 155, 315, 615, 915];
    let cases = [
        (service_spec("web", 1), expected.to_vec()),
        (restart(service_spec("web", 1), without_delay), expected.to_vec()),
        (restart(service_spec("web", 1), slow), vec![0, 40, 120, 280, 580, 880]),
    ];
    for (spec, expected) in cases {
        let (mut stage, web) = rejected(spec);
        stage.run_for(1000 * SECOND);
        assert_eq!(tries(&stage, web), expected);
        assert!(stage.tasks(web).len() <= 6, "history stays bounded");
    }
}

#[test]
fn tasks_of_a_global_service_wait_too() {
    let (mut stage, log) = rejected(global_spec("log"));
    stage.run_for(40 * SECOND);
    assert_eq!(tries(&stage, log), [0, 0, 5, 5, 15, 15, 35, 35], "on each of two nodes");
}

#[test]
fn a_try_beside_the_one_that_still_runs_waits_too() {
    let never = RestartPolicy { condition: RestartCondition::None, ..Default::default() };
    let config = UpdateConfig {
        order: UpdateOrder::StartFirst,
        failure_action: FailureAction::Continue,
        ..Default::default()
    };
    let spec = || update(config.clone(), restart(service_spec("web", 1), never.clone()));
    for (cannot_prepare, end) in [(true, TaskState::Rejected), (false, TaskState::Failed)] {
        let mut stage = Stage::new(2);
        let web = stage.service(spec());
        stage.run_for(10 * SECOND);
        stage.placed.clear();
        stage.fate.insert((web, 2), end);
        stage.cannot_prepare = cannot_prepare;
        stage.cluster.update_service(web, image(spec(), "bad"));
        stage.run_for(80 * SECOND);
        let tries = tries(&stage, web);
        if cannot_prepare {
            assert_eq!(tries, [0, 5, 15, 35, 75]);
        } else {
            assert!((10..=18).contains(&tries.len()), "one in five seconds: {tries:?}");
        }
        assert_eq!(stage.running(web).len(), 1, "the old one runs on");
    }
}

#[test]
fn the_reason_and_the_time_of_the_next_try_are_in_the_waiting_task() {
    let (mut stage, web) = rejected(service_spec("web", 1));
    stage.run_for(SECOND);
    let tasks = stage.tasks(web);
    let waiting = tasks.last().expect("a task");
    assert_eq!(waiting.status.state, TaskState::Pending);
    assert_eq!(waiting.node_id, None);
    assert_eq!(waiting.rejections, 1);
    assert_eq!(waiting.start_after, Some(tasks[0].status.timestamp + 5 * SECOND));
    assert_eq!(waiting.status.err, format!("last try: {}", tasks[0].status.reason()));
    assert_eq!(stage.plan(), [], "nothing else happens until then");
}

#[test]
fn a_new_spec_version_is_tried_at_once() {
    let news = [image(service_spec("web", 1), "there"), service_spec("web", 1)];
    for new in news {
        let (mut stage, web) = rejected(service_spec("web", 1));
        stage.run_for(200 * SECOND);
        assert_eq!(stage.running(web).len(), 0);
        // Also the same spec once more: what was missing in the registry may be there by now.
        stage.cluster.update_service(web, new);
        stage.run();
        assert_eq!(stage.running(web).len(), 1);
        assert_eq!(stage.running(web)[0].rejections, 0);
    }
}

#[test]
fn a_task_that_ran_ends_the_row_of_rejections() {
    let (mut stage, web) = rejected(service_spec("web", 1));
    stage.run_for(100 * SECOND);
    stage.fate.clear();
    stage.cannot_prepare = false;
    stage.run_for(100 * SECOND);
    let running = stage.running(web).pop().expect("it runs by now");
    assert_eq!(running.rejections, 5);
    stage.end(running.id, TaskState::Failed);
    stage.run();
    let waiting = stage.tasks(web).pop().expect("a task");
    let ready = (waiting.desired_state, waiting.status.state, waiting.rejections);
    assert_eq!(ready, (DesiredState::Ready, TaskState::Ready, 0), "prepared at once");
}

#[test]
fn attempts_that_were_rejected_count() {
    let policy = RestartPolicy { max_attempts: 2, ..Default::default() };
    let (mut stage, web) = rejected(restart(service_spec("web", 1), policy));
    stage.run_for(1000 * SECOND);
    assert_eq!(tries(&stage, web), [0, 5, 15]);
}
