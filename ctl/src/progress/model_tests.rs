//! What the model concludes from what it is told.

use std::sync::Arc;

use shoal_types::level::Level;
use shoal_types::object::{
    DeploymentKind, DeploymentState, Endpoint, Meta, Slot, StackRevision, TaskStatus,
};
use shoal_types::spec::{ContainerSpec, Labels, ServiceSpec, StackSpec, TaskRuntime, TaskSpec};
use shoal_types::task_state::DesiredState;
use shoal_types::time::Timestamp;

use super::super::outcome::Outcome;
use super::*;
use crate::render::{Format, words};

fn task_spec(image: &str) -> Arc<TaskSpec> {
    let container = ContainerSpec { image: image.to_owned(), ..ContainerSpec::default() };
    Arc::new(TaskSpec::of(TaskRuntime::Container(container)))
}

fn service(image: &str, spec_version: u64, deployment: u128) -> Service {
    named_service(1, "web", image, spec_version, deployment)
}

fn named_service(
    id: u128,
    name: &str,
    image: &str,
    spec_version: u64,
    deployment: u128,
) -> Service {
    Service {
        id: ServiceId::from(id),
        meta: Meta { spec_version, ..Meta::created(1, Timestamp::ZERO) },
        spec: Arc::new(ServiceSpec {
            name: name.to_owned(),
            labels: Labels::new(),
            task_template: task_spec(image),
            mode: ServiceMode::Replicated { replicas: 2 },
            update_config: None,
            rollback_config: None,
            endpoint_spec: None,
        }),
        previous_spec: None,
        stack_id: (id > 10).then(|| StackId::from(5)),
        deployment_id: DeploymentId::from(deployment),
        networks: [].into(),
        payloads: Default::default(),
        endpoint: Endpoint::default(),
    }
}

fn deployment(id: u128, kind: DeploymentKind, state: DeploymentState) -> Deployment {
    Deployment {
        id: DeploymentId::from(id),
        meta: Meta::created(1, Timestamp::ZERO),
        service_id: ServiceId::from(1),
        service_version: 1,
        stack_version: None,
        kind,
        state,
        completed_at: None,
        message: String::new(),
    }
}

fn task(id: u128, image: &str, state: TaskState, err: &str) -> Task {
    let mut status = TaskStatus::new(state, Timestamp::ZERO, "");
    status.err = err.to_owned();
    Task {
        id: TaskId::from(id),
        meta: Meta::created(1, Timestamp::ZERO),
        service_id: ServiceId::from(1),
        service_name: "web".into(),
        service_labels: Default::default(),
        slot: Slot::Replica(1),
        node_id: None,
        spec: task_spec(image),
        spec_version: 1,
        endpoint: None,
        networks: [].into(),
        payloads: Default::default(),
        partner: None,
        desired_state: DesiredState::Running,
        start_after: None,
        rejections: 0,
        level: Level::FIRST,
        status,
    }
}

fn followed(services: &[Service]) -> Followed {
    Followed { services: services.to_vec(), stack: None }
}

use DeploymentKind::{Create, Rollback, Update};
use DeploymentState::{Completed, Paused, RolledBack, Superseded, Updating};
use Outcome::{Converged, Failed, Removed, RollbackFailed};

fn said(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        None => "under way",
        Some(Converged) => "converged",
        Some(Failed(_)) => "failed",
        Some(Outcome::RolledBack(_)) => "rolled back",
        Some(RollbackFailed(_)) => "rollback failed",
        Some(Outcome::Superseded(_)) => "superseded",
        Some(Removed(_)) => "removed",
    }
}

#[test]
fn a_task_that_waits_for_its_next_try_says_why_and_how_long() {
    let mut model = Model::new(&followed(&[service("new", 1, 1)]));
    model.deployment(deployment(1, Update, Updating));
    let mut waiting = task(1, "new", TaskState::Pending, "last try: no such image");
    waiting.rejections = 3;
    waiting.start_after = Some(waiting.meta.created_at + Duration::from_millis(19_990));
    let now = waiting.meta.created_at + Duration::from_secs(8);
    assert_eq!(words::current_state(&waiting, now), "Pending, next try in 11 seconds");
    model.tasks(vec![waiting]);
    let said = "web runs 0 of 2 (web.1 waits (next try after 20 seconds): last try: no such image)";
    assert_eq!(model.unfinished(), [said]);
}

#[test]
fn an_outcome_is_what_runs_now() {
    // (deployment that was asked for, what took its place, expected)
    let cases = [
        ((Update, Updating), None, "under way"),
        ((Update, Completed), None, "converged"),
        ((Update, Paused), None, "failed"),
        ((Rollback, Paused), None, "rollback failed"),
        ((Rollback, Completed), None, "converged"),
        // The event with what took its place is still to come.
        ((Update, Superseded), None, "under way"),
        ((Update, RolledBack), None, "under way"),
        ((Update, RolledBack), Some((Rollback, Updating)), "under way"),
        ((Update, RolledBack), Some((Rollback, Completed)), "rolled back"),
        ((Update, RolledBack), Some((Rollback, Paused)), "rollback failed"),
        ((Update, RolledBack), Some((Update, Updating)), "superseded"),
        ((Update, Superseded), Some((Update, Updating)), "superseded"),
        // It converged, and something else runs now.
        ((Update, Completed), Some((Update, Completed)), "superseded"),
        ((Update, Completed), Some((Rollback, Completed)), "superseded"),
    ];
    for ((kind, state), next, expected) in cases {
        let mut model = Model::new(&followed(&[service("a", 2, 1)]));
        assert_eq!(model.outcome(), None, "nothing is known yet");
        model.deployment(deployment(1, kind, state));
        if let Some((kind, state)) = next {
            model.service(service("b", 3, 2));
            assert_eq!(model.outcome(), None, "what took its place is not known yet");
            model.deployment(deployment(2, kind, state));
        }
        assert_eq!(said(model.outcome().as_ref()), expected, "{kind:?} {state:?} {next:?}");
    }
}

#[test]
fn whoever_took_over_is_named() {
    let mut model = Model::new(&followed(&[service("a", 2, 1)]));
    model.deployment(deployment(1, Update, Superseded));
    model.service(service("b", 3, 2));
    let newer = Deployment {
        stack_version: Some(7),
        service_version: 3,
        ..deployment(2, Update, Updating)
    };
    model.deployment(newer);
    let Some(Outcome::Superseded(list)) = model.outcome() else { panic!("{:?}", model.outcome()) };
    let id = DeploymentId::from(2);
    let expected = format!(
        "web: an update to version 3 (version 7 of the stack), begun {}, deployment {id}",
        Timestamp::ZERO
    );
    assert_eq!(list, [expected]);
}

/// A stack at version 2 of two services whose deployments it began, with what its history says.
fn stack_model(states: [DeploymentState; 2]) -> Model {
    let services = [named_service(11, "s_a", "new", 2, 1), named_service(12, "s_b", "new", 2, 2)];
    let stack = Some((StackId::from(5), 2));
    let mut model = Model::new(&Followed { services: services.to_vec(), stack });
    model.stack(Some(stack_at(2, None)));
    for (n, state) in (1..).zip(states) {
        let of = ServiceId::from(10 + n);
        let d = deployment(n, Update, state);
        model.deployment(Deployment { service_id: of, stack_version: Some(2), ..d });
    }
    model
}

fn stack_at(spec_version: u64, left: Option<&str>) -> Stack {
    let spec = Arc::new(StackSpec { name: "s".to_owned(), ..StackSpec::default() });
    let history = left.map(|why| StackRevision {
        spec_version: 2,
        applied_at: Timestamp::ZERO,
        spec: Arc::clone(&spec),
        rolled_back: Some(why.to_owned()),
        by_hand: false,
    });
    Stack {
        id: StackId::from(5),
        meta: Meta { spec_version, ..Meta::created(1, Timestamp::ZERO) },
        spec,
        services: BTreeMap::new(),
        networks: BTreeMap::new(),
        secrets: Vec::new(),
        configs: Vec::new(),
        history: history.into_iter().collect(),
    }
}

fn goes_back(model: &mut Model, n: u128, state: DeploymentState) {
    let name = if n == 1 { "s_a" } else { "s_b" };
    model.service(named_service(10 + n, name, "old", 3, 10 + n));
    let d = deployment(10 + n, Rollback, state);
    model.deployment(Deployment {
        service_id: ServiceId::from(10 + n),
        stack_version: Some(3),
        ..d
    });
}

#[test]
fn a_stack_has_gone_back_when_all_of_it_has() {
    let mut model = stack_model([RolledBack, Completed]);
    assert_eq!(model.outcome(), None);
    model.stack(Some(stack_at(3, Some("s_a.1 failed"))));
    goes_back(&mut model, 1, Completed);
    goes_back(&mut model, 2, Updating);
    assert_eq!(model.outcome(), None, "one of them is still on its way back");
    goes_back(&mut model, 2, Completed);
    assert_eq!(model.outcome(), Some(Outcome::RolledBack(vec!["s_a.1 failed".to_owned()])));
    let states: Vec<_> = model.reports().iter().map(|r| (r.service.clone(), r.state)).collect();
    assert_eq!(states, [("s_a".to_owned(), "rolled-back"), ("s_b".to_owned(), "rolled-back")]);
    goes_back(&mut model, 2, Paused);
    assert_eq!(said(model.outcome().as_ref()), "rollback failed");
    let error = model.outcome().unwrap().result(&model.reports()).unwrap_err();
    assert_eq!(error.kind().exit_code(), 6);
    assert!(error.report().contains("\n  s_a is rolled back, "), "{}", error.report());
    assert!(error.report().contains("\n  s_b is rollback failed, "), "{}", error.report());
}

#[test]
fn a_stack_that_somebody_takes_back_meanwhile_has_not_failed() {
    let mut model = stack_model([Superseded, Completed]);
    let mut stack = stack_at(3, Some("rolled back by hand"));
    stack.history[0].by_hand = true;
    model.stack(Some(stack));
    goes_back(&mut model, 1, Completed);
    model.removed(&ServiceId::from(12).to_string());
    assert_eq!(said(model.outcome().as_ref()), "superseded");
    let error = model.outcome().unwrap().result(&model.reports()).unwrap_err();
    assert_eq!(error.kind().exit_code(), 7);
    assert!(error.report().contains("rolled back by hand"), "{}", error.report());
}

#[test]
fn a_service_that_goes_with_the_version_that_failed_is_no_surprise() {
    let mut model = stack_model([Completed, Completed]);
    model.removed(&ServiceId::from(12).to_string());
    assert_eq!(said(model.outcome().as_ref()), "removed");
    model.stack(Some(stack_at(3, Some("s_b.1 failed"))));
    goes_back(&mut model, 1, Completed);
    assert_eq!(said(model.outcome().as_ref()), "rolled back");
    // What the version had taken away comes back and is waited for, too.
    model.service(named_service(13, "s_c", "old", 1, 13));
    assert_eq!(model.outcome(), None);
    let d = deployment(13, Rollback, Completed);
    model.deployment(Deployment { service_id: ServiceId::from(13), stack_version: Some(3), ..d });
    assert_eq!(said(model.outcome().as_ref()), "rolled back");
}

#[test]
fn a_service_that_goes_back_beside_one_that_stays_is_no_rollback() {
    let mut model = stack_model([RolledBack, Completed]);
    goes_back(&mut model, 1, Completed);
    assert_eq!(said(model.outcome().as_ref()), "failed");
    let report = model.outcome().unwrap().result(&model.reports()).unwrap_err().report();
    assert!(
        report.contains("s_a is rolled back") && report.contains("s_b is converged"),
        "{report}"
    );
}

#[test]
fn a_service_that_is_removed_meanwhile_ends_the_wait() {
    let mut model = Model::new(&followed(&[service("a", 1, 1)]));
    model.deployment(deployment(1, Create, Updating));
    let object = Object::Service(Box::new(service("a", 1, 1)));
    model.apply(Event { index: 9, time: Timestamp::ZERO, action: EventAction::Remove, object });
    assert_eq!(model.outcome(), Some(Removed(vec!["web".to_owned()])));
}

#[test]
fn only_tasks_of_the_present_spec_count() {
    let mut model = Model::new(&followed(&[service("new", 2, 1)]));
    model.deployment(deployment(1, Update, Updating));
    model.tasks(vec![
        task(1, "old", TaskState::Running, ""),
        task(2, "new", TaskState::Running, ""),
        task(3, "old", TaskState::Failed, "old trouble"),
        task(4, "new", TaskState::Pending, "no suitable node"),
    ]);
    let target = &model.targets[&ServiceId::from(1)];
    assert_eq!(model.counts(target), (1, 2));
    assert_eq!(model.unfinished(), ["web runs 1 of 2 (web.1 waits: no suitable node)"]);
}

#[test]
fn what_failed_before_is_no_news_of_this_deployment() {
    let mut model = Model::new(&followed(&[service("new", 2, 1)]));
    let asked = deployment(1, Update, Updating);
    let at = |seconds| Meta::created(1, Timestamp::from_secs(seconds));
    model.deployment(Deployment { meta: at(100), ..asked });
    // The same spec, tried before; its failure was told then.
    let old = Task { meta: at(90), ..task(1, "new", TaskState::Failed, "exit code 7") };
    model.tasks(vec![old.clone()]);
    assert!(!model.concerns(&old));
    assert_eq!(model.last_failure(), None);
    let new = Task { meta: at(101), ..task(2, "new", TaskState::Failed, "exit code 9") };
    model.apply(Event {
        index: 9,
        time: Timestamp::ZERO,
        action: EventAction::Update,
        object: Object::Task(Box::new(new)),
    });
    let (_, _, words) = model.last_failure().expect("this one is");
    assert_eq!(words, "web.1 failed: exit code 9");
}

#[test]
fn what_a_task_waits_for_is_told_once() {
    let mut model = Model::new(&followed(&[service("new", 2, 1)]));
    model.deployment(deployment(1, Update, Updating));
    model.tasks(vec![task(1, "new", TaskState::Pending, "no suitable node")]);
    let mut reporter = Reporter::new(Format::Table, true);
    model.report(&mut reporter, Duration::ZERO).unwrap();
    assert!(!model.told.is_empty(), "at once");
    assert_eq!(model.silent(Duration::from_secs(20)), []);
    // What has changed is told.
    model.tasks(vec![task(1, "new", TaskState::Pending, "no node has the label")]);
    assert_eq!(model.silent(Duration::from_secs(20)).len(), 1);
}

#[test]
fn what_a_task_is_doing_is_told_after_a_while_of_silence_and_at_a_timeout() {
    let mut model = Model::new(&followed(&[service("new", 2, 1)]));
    model.deployment(deployment(1, Update, Updating));
    let mut pulls = task(2, "new", TaskState::Preparing, "");
    pulls.status.message = "pulling docker.io/library/app:1".to_owned();
    model.tasks(vec![pulls.clone()]);
    let seconds = Duration::from_secs;
    let words = |news: Vec<News>| news.iter().map(News::words).collect::<Vec<_>>();
    assert!(model.silent(seconds(2)).is_empty());
    let expected = "web.1 is preparing: pulling docker.io/library/app:1";
    assert_eq!(words(model.silent(seconds(3))), [expected]);
    assert!(model.silent(seconds(30)).is_empty(), "nothing is told twice");
    assert_eq!(model.unfinished(), [format!("web runs 0 of 2 ({expected})")]);
    pulls.status.err = "connection refused".to_owned();
    model.tasks(vec![pulls]);
    assert_eq!(
        words(model.silent(seconds(31))),
        [format!("{expected}; last error: connection refused")]
    );
}
