use std::time::Duration;

use shoal_types::id::{NodeId, TaskId};
use shoal_types::object::TaskStatus;
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::{feed, refused};
use crate::testing::{TestCluster, cluster_with_nodes, service_spec};
use crate::{Command, Outcome, RejectedCode as Code};

fn one_running() -> (TestCluster, Vec<NodeId>, TaskId) {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let web = cluster.add_service(service_spec("web", 2));
    let id = cluster.add_running(web, 1, nodes[0]);
    cluster.events();
    (cluster, nodes, id)
}

fn report(node_id: NodeId, id: TaskId, status: TaskStatus) -> Command {
    Command::UpdateTaskStatuses { node_id, statuses: vec![(id, status)] }
}

/// Those that an agent may report, named one by one.
fn is_an_agents(state: TaskState) -> bool {
    use TaskState::{
        Accepted, Complete, Draining, Failed, Preparing, Ready, Rejected, Running, Shutdown,
        Starting,
    };
    matches!(
        state,
        Accepted
            | Preparing
            | Ready
            | Starting
            | Running
            | Draining
            | Complete
            | Shutdown
            | Failed
            | Rejected
    )
}

#[test]
fn the_ladder_of_reports() {
    for from in TaskState::ALL {
        for to in TaskState::ALL {
            let (mut cluster, nodes) = cluster_with_nodes(1);
            let web = cluster.add_service(service_spec("web", 1));
            let id = cluster.add_task(web, 1);
            cluster.apply(Command::AssignTask { id, node_id: nodes[0], partner: None });
            if from == TaskState::Orphaned {
                cluster.apply(Command::OrphanTask { id });
            } else if is_an_agents(from) {
                cluster.report(id, from);
            } else if from != TaskState::Assigned {
                continue;
            }
            cluster.report(id, to);
            let allowed = is_an_agents(to) && from.may_become(to) && !from.is_terminal();
            let expected = if allowed { to } else { from };
            assert_eq!(cluster.state.task(id).unwrap().status.state, expected, "{from} -> {to}");
        }
    }
}

#[test]
fn the_same_state_is_news_only_with_a_later_time_and_another_content() {
    let now = Timestamp::from_secs(1000);
    let later = now + Duration::from_secs(1);
    let earlier = Timestamp::from_secs(999);
    let cases = [
        (now, "unhealthy", false),
        (earlier, "unhealthy", false),
        (later, "running", false),
        (later, "unhealthy", true),
    ];
    for (timestamp, message, news) in cases {
        let (mut cluster, nodes, id) = one_running();
        cluster.advance(Duration::from_secs(1));
        let mut status = cluster.state.task(id).unwrap().status.clone();
        (status.timestamp, status.message) = (timestamp, message.to_owned());
        let outcome = cluster.apply(report(nodes[0], id, status.clone()));
        assert_eq!(outcome == Outcome::Applied, news, "{timestamp:?} {message}");
        assert_eq!(!feed(&mut cluster).is_empty(), news);
        let kept = &cluster.state.task(id).unwrap().status;
        assert_eq!(kept.message == status.message, news || message == "running");
        assert_eq!(kept.timestamp, now, "when it got there does not change");
    }
}

#[test]
fn a_node_that_cannot_accept_a_task_says_why() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let web = cluster.add_service(service_spec("web", 1));
    let id = cluster.add_task(web, 1);
    cluster.apply(Command::AssignTask { id, node_id: nodes[0], partner: None });
    let mut status = cluster.state.task(id).unwrap().status.clone();
    status.timestamp = status.timestamp + Duration::from_secs(1);
    status.err = "no space left on device".to_owned();
    assert_eq!(cluster.apply(report(nodes[0], id, status.clone())), Outcome::Applied);
    let kept = &cluster.state.task(id).unwrap().status;
    assert_eq!((kept.state, &kept.err), (TaskState::Assigned, &status.err));
    // It is accepted once there is space.
    cluster.report(id, TaskState::Accepted);
    assert_eq!(cluster.state.task(id).unwrap().status.state, TaskState::Accepted);
}

#[test]
fn a_wrong_clock_hides_no_end_and_is_corrected() {
    for reported in [1, 999, 1000, 1001, 9000] {
        let (mut cluster, nodes, id) = one_running();
        cluster.advance(Duration::from_secs(5));
        let at = Timestamp::from_secs(reported);
        let status = TaskStatus::new(TaskState::Failed, at, "exit code 1");
        assert_eq!(cluster.apply(report(nodes[0], id, status.clone())), Outcome::Applied);
        // Between the report before and now.
        let timestamp = Timestamp::from_secs(reported.clamp(1000, 1005));
        let expected = TaskStatus { timestamp, ..status };
        assert_eq!(cluster.state.task(id).unwrap().status, expected);
    }
}

#[test]
fn foreign_unknown_and_unassigned_tasks_are_passed_over() {
    let (mut cluster, nodes, id) = one_running();
    let pending = {
        let service = cluster.state.task(id).unwrap().service_id;
        cluster.add_task(service, 2)
    };
    cluster.events();
    let failed = || TaskStatus::new(TaskState::Failed, Timestamp::from_secs(2000), "no");
    let foreign = vec![(id, failed()), (pending, failed()), (99.into(), failed())];
    let command = Command::UpdateTaskStatuses { node_id: nodes[1], statuses: foreign };
    assert_eq!(cluster.apply(command), Outcome::Unchanged);
    assert!(feed(&mut cluster).is_empty());

    // Of a mixed report the node's own part counts.
    let mixed = vec![(99.into(), failed()), (id, failed()), (pending, failed())];
    let command = Command::UpdateTaskStatuses { node_id: nodes[0], statuses: mixed };
    assert_eq!(cluster.apply(command), Outcome::Applied);
    assert_eq!(feed(&mut cluster), ["update task"]);

    let unknown = report(99.into(), id, failed());
    assert_eq!(refused(&cluster, unknown).code(), Code::NotFound);
}

#[test]
fn a_report_leaves_what_managers_want_alone() {
    let (mut cluster, _, id) = one_running();
    cluster.apply(Command::SetDesired { id, desired: DesiredState::Shutdown });
    let spec_version = cluster.state.task(id).unwrap().meta.spec_version;
    cluster.report(id, TaskState::Shutdown);
    let task = cluster.state.task(id).unwrap();
    assert_eq!(task.desired_state, DesiredState::Shutdown);
    assert_eq!(task.meta.spec_version, spec_version);
    assert_eq!(task.meta.version, cluster.state.applied_index());
    cluster.check();
}
