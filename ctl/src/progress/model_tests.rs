//! What the model concludes from what it is told.

use std::sync::Arc;

use shoal_types::object::{Endpoint, Meta, Slot, TaskStatus};
use shoal_types::spec::{ContainerSpec, Labels, ServiceSpec, TaskRuntime, TaskSpec};
use shoal_types::time::Timestamp;

use super::*;
use crate::render::words;

fn task_spec(image: &str) -> Arc<TaskSpec> {
    let container = ContainerSpec { image: image.to_owned(), ..ContainerSpec::default() };
    Arc::new(TaskSpec {
        runtime: TaskRuntime::Container(container),
        resources: None,
        restart_policy: None,
        placement: None,
        networks: Vec::new(),
        log_driver: None,
        force_update: 0,
    })
}

fn service(image: &str, spec_version: u64, deployment: u128) -> Service {
    Service {
        id: ServiceId::from(1),
        meta: Meta { spec_version, ..Meta::created(1, Timestamp::ZERO) },
        spec: Arc::new(ServiceSpec {
            name: "web".to_owned(),
            labels: Labels::new(),
            task_template: task_spec(image),
            mode: ServiceMode::Replicated { replicas: 2 },
            update_config: None,
            rollback_config: None,
            endpoint_spec: None,
        }),
        previous_spec: None,
        stack_id: None,
        deployment_id: DeploymentId::from(deployment),
        networks: Vec::new(),
        endpoint: Endpoint::default(),
    }
}

fn deployment(id: u128, kind: DeploymentKind, state: DeploymentState) -> Deployment {
    Deployment {
        id: DeploymentId::from(id),
        meta: Meta::created(1, Timestamp::ZERO),
        service_id: ServiceId::from(1),
        service_version: 1,
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
        service_name: "web".to_owned(),
        service_labels: Labels::new(),
        slot: Slot::Replica(1),
        node_id: None,
        spec: task_spec(image),
        spec_version: 1,
        endpoint: None,
        networks: Vec::new(),
        desired_state: DesiredState::Running,
        start_after: None,
        rejections: 0,
        status,
    }
}

use DeploymentKind::{Create, Rollback, Update};
use DeploymentState::{Completed, Paused, RolledBack, Superseded, Updating};

#[test]
fn outcomes() {
    let failed = |rolled_back| Some(Outcome::Failed { why: vec!["web".to_owned()], rolled_back });
    // (deployment that was asked for, rollback that followed, expected)
    let cases = [
        (Updating, None, None),
        (Completed, None, Some(Outcome::Converged)),
        (Paused, None, failed(false)),
        (Superseded, None, Some(Outcome::Superseded(vec!["web".to_owned()]))),
        (RolledBack, Some(Updating), None),
        (RolledBack, Some(Completed), failed(true)),
        (RolledBack, Some(Paused), failed(false)),
        (RolledBack, None, failed(true)),
    ];
    for (asked, rollback, expected) in cases {
        let mut model = Model::new(&[service("a", 2, 1)]);
        assert_eq!(model.outcome(), None, "nothing is known yet");
        model.deployment(deployment(1, Update, asked));
        if let Some(state) = rollback {
            model.service(service("b", 3, 2));
            model.deployment(deployment(2, Rollback, state));
        }
        assert_eq!(model.outcome(), expected, "{asked:?} {rollback:?}");
    }
}

#[test]
fn a_task_that_waits_for_its_next_try_says_why_and_how_long() {
    let mut model = Model::new(&[service("new", 1, 1)]);
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
fn a_service_that_is_removed_meanwhile_ends_the_wait() {
    let mut model = Model::new(&[service("a", 1, 1)]);
    model.deployment(deployment(1, Create, Updating));
    let object = Object::Service(Box::new(service("a", 1, 1)));
    model.apply(Event { index: 9, time: Timestamp::ZERO, action: EventAction::Remove, object });
    assert_eq!(model.outcome(), Some(Outcome::Gone(vec!["web".to_owned()])));
}

#[test]
fn only_tasks_of_the_present_spec_count() {
    let mut model = Model::new(&[service("new", 2, 1)]);
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
