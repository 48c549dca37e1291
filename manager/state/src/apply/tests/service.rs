use std::sync::Arc;

use shoal_types::id::{DeploymentId, ServiceId};
use shoal_types::object::{DeploymentKind, DeploymentState};
use shoal_types::spec::ServiceSpec;
use shoal_types::task_state::{DesiredState, TaskState};

use super::{all_refused, feed, refused};
use crate::testing::{
    TestCluster, cluster_with_nodes, global_spec, service_spec, with_host_port, with_networks,
};
use crate::{Command, Outcome, Rejected, RejectedCode as Code, UpdateKind};

fn update(id: ServiceId, deployment: u128, spec: ServiceSpec) -> Command {
    Command::UpdateService {
        id,
        expected: None,
        deployment_id: deployment.into(),
        spec: Arc::new(spec),
        kind: UpdateKind::Update,
    }
}

#[test]
fn refusals() {
    let mut cluster = TestCluster::new();
    let web = cluster.add_service(service_spec("web", 1));
    let deployment = cluster.state.service(web).unwrap().deployment_id;
    let create = |id: ServiceId, deployment_id: DeploymentId, name| Command::CreateService {
        id,
        deployment_id,
        spec: Arc::new(service_spec(name, 1)),
    };
    let (free, free_deployment) = (ServiceId::from(98), DeploymentId::from(99));
    let stale = Command::UpdateService {
        id: web,
        expected: Some(3),
        deployment_id: free_deployment,
        spec: Arc::new(service_spec("web", 2)),
        kind: UpdateKind::Update,
    };
    let lost = with_networks(service_spec("web", 1), &["nowhere"]);
    all_refused(
        &cluster,
        vec![
            (create(web, free_deployment, "new"), Code::AlreadyExists, &["service"]),
            (create(free, deployment, "new"), Code::AlreadyExists, &["deployment"]),
            (create(free, free_deployment, "web"), Code::AlreadyExists, &["\"web\""]),
            (update(free, 99, service_spec("web", 1)), Code::NotFound, &["service"]),
            (stale, Code::Aborted, &["out of sequence", "version 3"]),
            (update(web, deployment.bits(), service_spec("web", 1)), Code::AlreadyExists, &[]),
            (update(web, 99, service_spec("shop", 1)), Code::InvalidArgument, &["renamed"]),
            (update(web, 99, global_spec("web")), Code::InvalidArgument, &["cannot become global"]),
            (update(web, 99, lost), Code::InvalidArgument, &["\"nowhere\""]),
            (Command::RemoveService { id: free }, Code::NotFound, &[]),
        ],
    );
}

#[test]
fn a_new_service_has_a_deployment_and_an_endpoint() {
    let mut cluster = TestCluster::new();
    cluster.events();
    let spec = with_host_port(service_spec("web", 2), 8080);
    let web = cluster.add_service(spec.clone());
    assert_eq!(feed(&mut cluster), ["create service", "create deployment"]);
    let service = cluster.state.service_by_name("web").unwrap();
    assert_eq!((service.id, service.meta.spec_version), (web, 1));
    assert_eq!(service.endpoint.spec, spec.endpoint_spec);
    assert_eq!(service.endpoint.ports[0].published_port, 8080);
    let deployment = cluster.state.deployment(service.deployment_id).unwrap();
    assert_eq!(deployment.kind, DeploymentKind::Create);
    assert_eq!(deployment.state, DeploymentState::Updating);
    cluster.check();
}

#[test]
fn an_update_supersedes_what_is_unfinished() {
    let mut cluster = TestCluster::new();
    let web = cluster.add_service(service_spec("web", 1));
    let first = cluster.state.service(web).unwrap().deployment_id;
    let second = cluster.update_service(web, service_spec("web", 2));
    cluster.apply(Command::UpdateDeployment {
        id: second,
        state: DeploymentState::Completed,
        message: "all tasks run".to_owned(),
    });
    let third = cluster.update_service(web, service_spec("web", 3));
    let state = |id| cluster.state.deployment(id).unwrap().state;
    assert_eq!(state(first), DeploymentState::Superseded);
    assert_eq!(state(second), DeploymentState::Completed);
    assert_eq!(state(third), DeploymentState::Updating);
    let service = cluster.state.service(web).unwrap();
    assert_eq!(service.meta.spec_version, 3);
    assert_eq!(service.previous_spec.as_deref(), Some(&service_spec("web", 2)));
    cluster.check();
}

#[test]
fn a_rollback_says_why_if_it_was_said() {
    let (back, over) = (DeploymentState::RolledBack, DeploymentState::Superseded);
    // Where nothing has failed, somebody wanted it so.
    let table = [(Some("2 of 3 failed"), back, "2 of 3 failed"), (None, over, "superseded by")];
    for (said, state, expected) in table {
        let mut cluster = TestCluster::new();
        let web = cluster.add_service(service_spec("web", 1));
        let failed = cluster.update_service(web, service_spec("web", 2));
        if let Some(why) = said {
            let (state, message) = (DeploymentState::Updating, why.to_owned());
            cluster.apply(Command::UpdateDeployment { id: failed, state, message });
        }
        cluster.apply(Command::UpdateService {
            id: web,
            expected: Some(2),
            deployment_id: 99.into(),
            spec: Arc::new(service_spec("web", 1)),
            kind: UpdateKind::Rollback,
        });
        let old = cluster.state.deployment(failed).unwrap();
        assert_eq!(old.state, state);
        assert!(old.message.starts_with(expected), "{}", old.message);
        assert_eq!(old.completed_at, Some(cluster.now));
        let new = cluster.state.deployment(99.into()).unwrap();
        assert_eq!((new.kind, new.service_version), (DeploymentKind::Rollback, 3));
        cluster.check();
    }
}

#[test]
fn the_newest_deployments_are_kept() {
    let mut cluster = TestCluster::new();
    let web = cluster.add_service(service_spec("web", 1));
    for replicas in 2..=25 {
        cluster.update_service(web, service_spec("web", replicas));
    }
    let versions: Vec<u64> = cluster.state.deployments_of(web).map(|d| d.service_version).collect();
    assert_eq!(versions, (16..=25).collect::<Vec<_>>());
    assert_eq!(cluster.state.deployments().len(), 10);
    cluster.check();
}

#[test]
fn deployments_end_once() {
    let mut cluster = TestCluster::new();
    let web = cluster.add_service(service_spec("web", 1));
    let id = cluster.state.service(web).unwrap().deployment_id;
    let to =
        |state, message: &str| Command::UpdateDeployment { id, state, message: message.to_owned() };
    let (going, done) = (DeploymentState::Updating, DeploymentState::Completed);
    assert_eq!(cluster.apply(to(going, "")), Outcome::Unchanged);
    assert_eq!(cluster.apply(to(going, "1 of 2")), Outcome::Applied);
    assert_eq!(cluster.state.deployment(id).unwrap().completed_at, None);
    assert_eq!(cluster.apply(to(done, "2 of 2")), Outcome::Applied);
    assert_eq!(cluster.state.deployment(id).unwrap().completed_at, Some(cluster.now));
    assert_eq!(cluster.apply(to(done, "2 of 2")), Outcome::Unchanged);
    let rejected = refused(&cluster, to(DeploymentState::Paused, "late"));
    let (current, wanted) = (done, DeploymentState::Paused);
    assert_eq!(rejected, Rejected::DeploymentEnded { id, current, wanted });
    let unknown = Command::UpdateDeployment { id: 99.into(), state: going, message: String::new() };
    assert_eq!(refused(&cluster, unknown).code(), Code::NotFound);
}

#[test]
fn removing_a_service_lets_its_tasks_end() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let web = cluster.add_service(service_spec("web", 2));
    let running = cluster.add_running(web, 1, nodes[0]);
    let pending = cluster.add_task(web, 2);
    cluster.events();
    cluster.apply(Command::RemoveService { id: web });
    let expected = ["update task", "update task", "remove deployment", "remove service"];
    assert_eq!(feed(&mut cluster), expected);
    let states = |id| {
        let task = cluster.state.task(id).unwrap();
        (task.status.state, task.desired_state)
    };
    assert_eq!(states(running), (TaskState::Running, DesiredState::Remove));
    assert_eq!(states(pending), (TaskState::Shutdown, DesiredState::Remove));
    assert!(cluster.state.service_by_name("web").is_none());
    cluster.check();

    // The name is free at once, and the old tasks do not count for the new service.
    let again = cluster.add_service(service_spec("web", 2));
    assert_eq!(cluster.state.tasks_of_service(again).count(), 0);
    cluster.report(running, TaskState::Shutdown);
    cluster.apply(Command::RemoveTask { id: running });
    cluster.apply(Command::RemoveTask { id: pending });
    assert_eq!(cluster.state.tasks().len(), 0);
    cluster.check();
}
