//! Stacks that fail go back whole.

use std::sync::Arc;

use shoal_manager_state::{Outcome, StackIds};
use shoal_types::id::IdSource as _;
use shoal_types::object::{DeploymentKind, Stack};
use shoal_types::spec::StackSpec;

use super::*;

fn with_action(name: &str, tag: &str, action: FailureAction) -> ServiceSpec {
    let config = UpdateConfig { failure_action: action, ..Default::default() };
    update(config, image(service_spec(name, 2), &format!("docker.io/library/app:{tag}")))
}

fn web(tag: &str) -> ServiceSpec {
    with_action("shop_web", tag, FailureAction::Rollback)
}

fn worker(tag: &str) -> ServiceSpec {
    with_action("shop_worker", tag, FailureAction::Pause)
}

fn file(services: &[ServiceSpec]) -> StackSpec {
    StackSpec {
        name: "shop".to_owned(),
        services: services.iter().map(|s| (s.name.clone(), s.clone())).collect(),
        ..StackSpec::default()
    }
}

/// Applies a file; what left it goes.
fn deploy(stage: &mut Stage, services: &[ServiceSpec]) {
    let spec = file(services);
    let mut next = || (stage.cluster.ids.next_id(), stage.cluster.ids.next_id());
    let services = spec.services.keys().map(|key| (key.clone(), next())).collect();
    let ids = StackIds { stack: stage.cluster.ids.next_id(), services, networks: [].into() };
    let command = Command::ApplyStack {
        spec: Arc::new(spec),
        ids,
        prune: true,
        expected: None,
        payloads: Default::default(),
    };
    let Outcome::Stack(_) = stage.cluster.apply(command) else { panic!("no stack") };
}

fn shop(stage: &Stage) -> Stack {
    Stack::clone(stage.view().stack_by_name("shop").expect("there"))
}

/// Name, tag, state and kind of the present deployment of every service.
fn seen(stage: &Stage) -> Vec<(String, String, DeploymentKind, DeploymentState)> {
    let mut seen: Vec<_> = stage
        .view()
        .services()
        .map(|service| {
            let image = &service.spec.task_template.container().expect("one").image;
            let tag = image.rsplit(':').next().expect("one").to_owned();
            let deployment = stage.deployment(service.id);
            (service.spec.name.clone(), tag, deployment.kind, deployment.state)
        })
        .collect();
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    seen
}

/// Lets the tasks fail that a service gets with its next spec.
fn fail_next(stage: &mut Stage, name: &str) {
    let (id, version) = stage
        .view()
        .service_by_name(name)
        .map_or((None, 1), |s| (Some(s.id), s.meta.spec_version + 1));
    stage.fate.insert((id.expect("there"), version), TaskState::Failed);
}

fn back(name: &str, tag: &str) -> (String, String, DeploymentKind, DeploymentState) {
    (name.to_owned(), tag.to_owned(), DeploymentKind::Rollback, DeploymentState::Completed)
}

#[test]
fn one_service_that_fails_takes_the_whole_stack_back() {
    for worker_first in [true, false] {
        let mut stage = Stage::new(3);
        deploy(&mut stage, &[web("1"), worker("1")]);
        stage.run_for(20 * SECOND);
        fail_next(&mut stage, "shop_web");
        let before = stage.view().service_by_name("shop_web").expect("there").deployment_id;
        deploy(&mut stage, &[web("2"), worker("2")]);
        let failed = stage.view().service_by_name("shop_web").expect("there").deployment_id;
        assert_ne!(failed, before);
        if worker_first {
            // The worker has converged on the new version by the time the other one fails.
            let id = stage.view().service_by_name("shop_worker").expect("there").deployment_id;
            let (state, message) = (DeploymentState::Completed, String::new());
            stage.cluster.apply(Command::UpdateDeployment { id, state, message });
        }
        stage.run_for(60 * SECOND);
        assert_eq!(seen(&stage), [back("shop_web", "1"), back("shop_worker", "1")]);
        let stack = shop(&stage);
        assert_eq!((stack.meta.spec_version, &*stack.spec), (3, &file(&[web("1"), worker("1")])));
        let left = stack.history.last().expect("kept");
        let why = left.rolled_back.as_deref().expect("it says why");
        assert!(why.contains("shop_web") && why.contains("failed"), "{why}");
        let ended = stage.view().deployment(failed).expect("kept").clone();
        assert_eq!((ended.state, ended.stack_version), (DeploymentState::RolledBack, Some(2)));
        assert_eq!(stage.plan(), []);
    }
}

#[test]
fn a_service_that_only_stops_leaves_the_stack_where_it_is() {
    let mut stage = Stage::new(3);
    deploy(&mut stage, &[web("1"), worker("1")]);
    stage.run_for(20 * SECOND);
    fail_next(&mut stage, "shop_worker");
    deploy(&mut stage, &[web("2"), worker("2")]);
    stage.run_for(60 * SECOND);
    let updated =
        |name: &str, state| (name.to_owned(), "2".to_owned(), DeploymentKind::Update, state);
    let expected = [
        updated("shop_web", DeploymentState::Completed),
        updated("shop_worker", DeploymentState::Paused),
    ];
    assert_eq!(seen(&stage), expected);
    assert_eq!(shop(&stage).meta.spec_version, 2);
}

#[test]
fn what_came_with_the_failed_version_goes_and_what_it_took_comes_back() {
    let mut stage = Stage::new(3);
    let old = with_action("shop_old", "1", FailureAction::Pause);
    let new = with_action("shop_new", "1", FailureAction::Pause);
    deploy(&mut stage, &[web("1"), old.clone()]);
    stage.run_for(20 * SECOND);
    fail_next(&mut stage, "shop_web");
    deploy(&mut stage, &[web("2"), new]);
    stage.run_for(60 * SECOND);
    assert_eq!(seen(&stage), [back("shop_old", "1"), back("shop_web", "1")]);
    let kept: Vec<String> = shop(&stage).services.keys().cloned().collect();
    assert_eq!(kept, ["shop_old", "shop_web"]);
}

#[test]
fn a_new_service_that_fails_takes_the_stack_back_too() {
    let mut stage = Stage::new(3);
    deploy(&mut stage, &[web("1")]);
    stage.run_for(20 * SECOND);
    deploy(&mut stage, &[web("2"), with_action("shop_new", "1", FailureAction::Rollback)]);
    let new = stage.view().service_by_name("shop_new").expect("there").id;
    stage.fate.insert((new, 1), TaskState::Rejected);
    stage.run_for(60 * SECOND);
    assert_eq!(seen(&stage), [back("shop_web", "1")]);
}

#[test]
fn what_somebody_changed_meanwhile_stays_and_scaling_is_remembered() {
    let mut stage = Stage::new(3);
    deploy(&mut stage, &[web("1"), worker("1")]);
    stage.run_for(20 * SECOND);
    let web_id = stage.view().service_by_name("shop_web").expect("there").id;
    let worker_id = stage.view().service_by_name("shop_worker").expect("there").id;
    let scaled = ServiceSpec { mode: ServiceMode::Replicated { replicas: 4 }, ..web("1") };
    stage.cluster.update_service(web_id, scaled.clone());
    stage.run_for(20 * SECOND);
    fail_next(&mut stage, "shop_web");
    deploy(&mut stage, &[web("2"), worker("2")]);
    stage.cluster.update_service(worker_id, worker("hotfix"));
    stage.run_for(60 * SECOND);
    let present = stage.view().service(web_id).expect("there").spec.clone();
    assert_eq!(*present, scaled, "it runs what ran before, not what the file said");
    let hotfix = stage.view().service(worker_id).expect("there").spec.clone();
    assert_eq!(*hotfix, worker("hotfix"));
}

#[test]
fn a_service_that_fails_on_its_way_back_to_a_good_version_leaves_the_stack_there() {
    let mut stage = Stage::new(3);
    for tag in ["1", "2"] {
        deploy(&mut stage, &[web(tag), worker(tag)]);
        stage.run_for(30 * SECOND);
    }
    let id = stage.view().service_by_name("shop_web").expect("there").id;
    stage.cluster.update_service(id, web("hotfix"));
    stage.run_for(20 * SECOND);
    fail_next(&mut stage, "shop_web");
    deploy(&mut stage, &[web("2"), worker("2")]);
    stage.run_for(60 * SECOND);
    let (update, completed) = (DeploymentKind::Update, DeploymentState::Completed);
    let worker = ("shop_worker".to_owned(), "2".to_owned(), update, completed);
    assert_eq!(seen(&stage), [back("shop_web", "hotfix"), worker]);
    assert_eq!(shop(&stage).meta.spec_version, 2);
}

#[test]
fn a_service_that_was_removed_and_fails_when_it_is_made_again_leaves_the_stack_there() {
    let mut stage = Stage::new(3);
    for tag in ["1", "2"] {
        deploy(&mut stage, &[web(tag), worker(tag)]);
        stage.run_for(30 * SECOND);
    }
    let id = stage.view().service_by_name("shop_web").expect("there").id;
    stage.cluster.apply(Command::RemoveService { id });
    stage.run_for(30 * SECOND);
    deploy(&mut stage, &[web("2"), worker("2")]);
    let made = stage.view().service_by_name("shop_web").expect("there").id;
    stage.fate.insert((made, 1), TaskState::Failed);
    stage.run_for(60 * SECOND);
    let expected = [
        ("shop_web", DeploymentKind::Create, DeploymentState::Paused),
        ("shop_worker", DeploymentKind::Update, DeploymentState::Completed),
    ];
    let expected = expected.map(|(name, k, s)| (name.to_owned(), "2".to_owned(), k, s));
    assert_eq!(seen(&stage), expected);
    assert_eq!(shop(&stage).meta.spec_version, 2);
}

#[test]
fn a_failure_takes_back_all_versions_that_have_it() {
    let mut stage = Stage::new(3);
    let cache = |tag| with_action("shop_cache", tag, FailureAction::Pause);
    deploy(&mut stage, &[web("1"), worker("1"), cache("1")]);
    stage.run_for(20 * SECOND);
    fail_next(&mut stage, "shop_web");
    deploy(&mut stage, &[web("2"), worker("1"), cache("2")]);
    deploy(&mut stage, &[web("2"), worker("3"), cache("3")]);
    stage.run_for(60 * SECOND);
    let all = ["shop_cache", "shop_web", "shop_worker"].map(|name| back(name, "1"));
    assert_eq!(seen(&stage), all);
    let stack = shop(&stage);
    let first = file(&[web("1"), worker("1"), cache("1")]);
    assert_eq!((stack.meta.spec_version, &*stack.spec), (4, &first));
    let left: Vec<_> = stack.history.iter().map(|r| r.rolled_back.is_some()).collect();
    assert_eq!(left, [false, true, true]);
}

#[test]
fn a_rollback_that_fails_stops_and_is_not_rolled_back() {
    let mut stage = Stage::new(3);
    deploy(&mut stage, &[web("1"), worker("1")]);
    stage.run_for(20 * SECOND);
    let id = stage.view().service_by_name("shop_web").expect("there").id;
    stage.fate.insert((id, 2), TaskState::Failed);
    stage.fate.insert((id, 3), TaskState::Failed);
    deploy(&mut stage, &[web("2"), worker("2")]);
    stage.run_for(60 * SECOND);
    let web = stage.deployment(id);
    assert_eq!((web.kind, web.state), (DeploymentKind::Rollback, DeploymentState::Paused));
    assert_eq!(shop(&stage).meta.spec_version, 3);
}

#[test]
fn a_stack_that_cannot_go_back_whole_says_so() {
    let mut stage = Stage::new(3);
    let old = with_action("shop_old", "1", FailureAction::Pause);
    deploy(&mut stage, &[web("1"), old.clone()]);
    stage.run_for(20 * SECOND);
    fail_next(&mut stage, "shop_web");
    deploy(&mut stage, &[web("2")]);
    // Somebody takes the name of what would have to come back.
    stage.cluster.add_service(old);
    let failed = stage.view().service_by_name("shop_web").expect("there").deployment_id;
    stage.run_for(60 * SECOND);
    let ended = stage.view().deployment(failed).expect("kept").clone();
    assert_eq!(ended.state, DeploymentState::RolledBack, "the service at least is put back");
    let says = "the stack cannot go back: service name \"shop_old\" is in use";
    assert!(ended.message.contains(says), "{}", ended.message);
    assert_eq!(shop(&stage).meta.spec_version, 2);
}
