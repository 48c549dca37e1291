use std::time::Duration;

use shoal_types::id::{NodeId, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{NodeState, Slot};
use shoal_types::resources::NANO_CPUS_PER_CPU;
use shoal_types::spec::{Availability, Protocol};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use super::{all_refused, feed, refused};
use crate::testing::{
    NODE_MEMORY_BYTES, TestCluster, cluster_with_nodes, global_spec, service_spec, with_host_port,
    with_reservation,
};
use crate::{Command, Outcome, Rejected, RejectedCode as Code};

const GIB: u64 = 1 << 30;

fn create(service_id: ServiceId, slot: Slot, node_id: Option<NodeId>) -> Command {
    Command::CreateTask {
        id: 500.into(),
        service_id,
        service_version: 1,
        slot,
        node_id,
        desired: DesiredState::Running,
        start_after: None,
        rejections: 0,
        level: Level::FIRST,
    }
}

#[test]
fn refusals_of_creation() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let web = cluster.add_service(service_spec("web", 1));
    let agent = cluster.add_service(global_spec("agent"));
    let taken = cluster.add_task(web, 1);
    let (unknown, first) = (NodeId::from(99), nodes[0]);
    let with = |change: fn(&mut Command, TaskId)| {
        let mut command = create(web, Slot::Replica(1), None);
        change(&mut command, taken);
        command
    };
    let same_id = with(|c, taken| {
        if let Command::CreateTask { id, .. } = c {
            *id = taken;
        }
    });
    let stale = with(|c, _| {
        if let Command::CreateTask { service_version, .. } = c {
            *service_version = 2;
        }
    });
    let stopped = with(|c, _| {
        if let Command::CreateTask { desired, .. } = c {
            *desired = DesiredState::Shutdown;
        }
    });
    let mismatch: &[&str] = &["does not fit"];
    all_refused(
        &cluster,
        vec![
            (same_id, Code::AlreadyExists, &["task"]),
            (stale, Code::Aborted, &["version 2", "present one is 1"]),
            (stopped, Code::InvalidArgument, &["expected ready or running"]),
            (create(99.into(), Slot::Replica(1), None), Code::NotFound, &["service"]),
            (create(web, Slot::Replica(0), None), Code::InvalidArgument, mismatch),
            (create(web, Slot::Replica(1), Some(first)), Code::InvalidArgument, mismatch),
            (create(web, Slot::Node(first), Some(first)), Code::InvalidArgument, mismatch),
            (create(agent, Slot::Replica(1), None), Code::InvalidArgument, mismatch),
            (create(agent, Slot::Node(first), Some(nodes[1])), Code::InvalidArgument, mismatch),
            (create(agent, Slot::Node(unknown), Some(unknown)), Code::NotFound, &["node"]),
        ],
    );
}

#[test]
fn a_task_is_a_copy_of_its_service() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let spec = with_host_port(service_spec("web", 1), 80);
    let web = cluster.add_service(spec.clone());
    cluster.events();
    let id = cluster.add_task(web, 3);
    assert_eq!(feed(&mut cluster), ["create task"]);
    let task = cluster.state.task(id).unwrap();
    assert_eq!(task.name(), "web.3");
    assert_eq!((task.status.state, task.node_id), (TaskState::Pending, None));
    assert_eq!(task.spec, spec.task_template);
    assert_eq!(task.endpoint.as_deref(), spec.endpoint_spec.as_ref());
    assert_eq!(task.networks, cluster.state.service(web).unwrap().networks);
    let slot: Vec<_> = cluster.state.tasks_of_slot(web, Slot::Replica(3)).map(|t| t.id).collect();
    assert_eq!(slot, [id]);

    let agent = cluster.add_service(global_spec("agent"));
    let (id, command) = cluster.new_task(agent, Slot::Node(nodes[0]));
    cluster.apply(command);
    assert_eq!(cluster.state.task(id).unwrap().node_id, Some(nodes[0]));
    assert_eq!(cluster.state.node_usage(nodes[0]).tasks, 0, "pending tasks hold nothing");
    cluster.check();
}

#[test]
fn refusals_of_assignment() {
    let (mut cluster, nodes) = cluster_with_nodes(4);
    let web = cluster.add_service(service_spec("web", 9));
    let agent = cluster.add_service(global_spec("agent"));
    let running = cluster.add_running(web, 1, nodes[0]);
    let pending = cluster.add_task(web, 2);
    let unwanted = cluster.add_task(web, 3);
    cluster.apply(Command::SetDesired { id: unwanted, desired: DesiredState::Shutdown });
    let (global, command) = cluster.new_task(agent, Slot::Node(nodes[0]));
    cluster.apply(command);
    cluster.set_node(nodes[1], NodeState::Down);
    cluster.set_availability(nodes[2], Availability::Pause);
    cluster.set_availability(nodes[3], Availability::Drain);
    let assign = |id, node_id| Command::AssignTask { id, node_id, partner: None };
    let not_pending: &[&str] = &["expected a pending one"];
    let explain = Command::ExplainTask { id: running, err: "no node".to_owned() };
    all_refused(
        &cluster,
        vec![
            (assign(99.into(), nodes[0]), Code::NotFound, &["task"]),
            (assign(pending, 99.into()), Code::NotFound, &["node"]),
            (assign(running, nodes[0]), Code::FailedPrecondition, not_pending),
            (assign(unwanted, nodes[0]), Code::FailedPrecondition, not_pending),
            (assign(global, nodes[2]), Code::FailedPrecondition, &["belongs on node"]),
            (assign(pending, nodes[1]), Code::FailedPrecondition, &["takes no tasks", "down"]),
            (assign(pending, nodes[2]), Code::FailedPrecondition, &["ready", "pause"]),
            (assign(pending, nodes[3]), Code::FailedPrecondition, &["drain"]),
            (explain, Code::FailedPrecondition, not_pending),
        ],
    );
}

#[test]
fn reservations_are_checked_and_given_back() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let big = cluster.add_service(with_reservation(service_spec("big", 9), 0, 3 * GIB));
    let first = cluster.add_running(big, 1, nodes[0]);
    cluster.add_running(big, 2, nodes[0]);
    let third = cluster.add_task(big, 3);
    let assign = Command::AssignTask { id: third, node_id: nodes[0], partner: None };
    match refused(&cluster, assign.clone()) {
        Rejected::NoRoom { free, wanted, .. } => {
            assert_eq!(free.memory_bytes, NODE_MEMORY_BYTES - 6 * GIB);
            assert_eq!(wanted.memory_bytes, 3 * GIB);
        }
        other => panic!("{other}"),
    }
    // A task that is to stop holds its share until it has.
    cluster.apply(Command::SetDesired { id: first, desired: DesiredState::Shutdown });
    assert!(matches!(refused(&cluster, assign.clone()), Rejected::NoRoom { .. }));
    cluster.report(first, TaskState::Shutdown);
    cluster.apply(assign);
    let usage = cluster.state.node_usage(nodes[0]);
    assert_eq!((usage.tasks, usage.reserved.memory_bytes), (2, 6 * GIB));

    let cpu = with_reservation(service_spec("cpu", 1), 5 * NANO_CPUS_PER_CPU, 0);
    let cpu = cluster.add_service(cpu);
    let id = cluster.add_task(cpu, 1);
    let rejected = refused(&cluster, Command::AssignTask { id, node_id: nodes[0], partner: None });
    assert!(matches!(rejected, Rejected::NoRoom { .. }), "{rejected}");
    cluster.check();
}

#[test]
fn host_ports_are_held_once() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let a = cluster.add_service(with_host_port(service_spec("a", 1), 80));
    let b = cluster.add_service(with_host_port(service_spec("b", 1), 80));
    let holder = cluster.add_running(a, 1, nodes[0]);
    let id = cluster.add_task(b, 1);
    let assign = Command::AssignTask { id, node_id: nodes[0], partner: None };
    let (node, port, protocol) = (nodes[0], 80, Protocol::Tcp);
    let expected = Rejected::PortTaken { node, port, protocol, holder };
    assert_eq!(refused(&cluster, assign.clone()), expected);
    cluster.report(holder, TaskState::Failed);
    cluster.apply(assign);
    cluster.check();
}

#[test]
fn addresses_of_the_host_keep_ports_apart() {
    let cases = [
        (Some("10.0.0.1"), Some("10.0.0.2"), true),
        (Some("10.0.0.1"), Some("10.0.0.1"), false),
        (Some("10.0.0.1"), None, false),
        (None, Some("10.0.0.1"), false),
    ];
    for (first, second, both) in cases {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let mut service = |name, ip: Option<&str>| {
            let mut spec = with_host_port(service_spec(name, 1), 80);
            let ports = &mut spec.endpoint_spec.as_mut().unwrap().ports;
            ports[0].host_ip = ip.map(|ip| ip.parse().unwrap());
            cluster.add_service(spec)
        };
        let (a, b) = (service("a", first), service("b", second));
        cluster.add_running(a, 1, nodes[0]);
        let id = cluster.add_task(b, 1);
        let result =
            cluster.try_apply(Command::AssignTask { id, node_id: nodes[0], partner: None });
        assert_eq!(result.is_ok(), both, "{first:?} {second:?}");
        cluster.check();
    }
}

#[test]
fn a_port_without_number_never_clashes() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let web = cluster.add_service(with_host_port(service_spec("web", 2), 0));
    cluster.add_running(web, 1, nodes[0]);
    cluster.add_running(web, 2, nodes[0]);
    cluster.check();
}

#[test]
fn an_explanation_lasts_until_assignment() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let web = cluster.add_service(service_spec("web", 1));
    let id = cluster.add_task(web, 1);
    let explain = Command::ExplainTask { id, err: "no node has room".to_owned() };
    assert_eq!(cluster.apply(explain.clone()), Outcome::Applied);
    assert_eq!(cluster.apply(explain), Outcome::Unchanged);
    assert_eq!(cluster.state.task(id).unwrap().status.err, "no node has room");
    cluster.apply(Command::AssignTask { id, node_id: nodes[0], partner: None });
    let status = &cluster.state.task(id).unwrap().status;
    assert_eq!((status.state, status.err.as_str()), (TaskState::Assigned, ""));
}

#[test]
fn desired_states_only_climb() {
    use DesiredState::{Ready, Remove, Running, Shutdown};
    let all = [Ready, Running, Shutdown, Remove];
    for from in [Ready, Running] {
        for (to, and) in all.iter().flat_map(|to| all.map(|and| (*to, and))) {
            let (mut cluster, nodes) = cluster_with_nodes(1);
            let web = cluster.add_service(service_spec("web", 1));
            let mut command = create(web, Slot::Replica(1), None);
            if let Command::CreateTask { desired, .. } = &mut command {
                *desired = from;
            }
            cluster.apply(command);
            let id = TaskId::from(500);
            cluster.apply(Command::AssignTask { id, node_id: nodes[0], partner: None });
            let mut at = from;
            for wanted in [to, and] {
                let result = cluster.try_apply(Command::SetDesired { id, desired: wanted });
                match result {
                    Ok(Outcome::Unchanged) => assert_eq!(wanted, at),
                    Ok(_) => assert!(at.may_become(wanted)),
                    Err(rejected) => {
                        let current = at;
                        let expected = Rejected::DesiredBackwards { task: id, current, wanted };
                        assert_eq!(rejected, expected);
                        assert!(wanted.may_become(at));
                    }
                }
                at = if at.may_become(wanted) { wanted } else { at };
                assert_eq!(cluster.state.task(id).unwrap().desired_state, at);
            }
        }
    }
}

#[test]
fn a_task_that_starts_forgets_its_delay() {
    let (mut cluster, _) = cluster_with_nodes(1);
    let web = cluster.add_service(service_spec("web", 1));
    let mut command = create(web, Slot::Replica(1), None);
    if let Command::CreateTask { desired, start_after, .. } = &mut command {
        (*desired, *start_after) = (DesiredState::Ready, Some(Timestamp::from_secs(2000)));
    }
    cluster.apply(command);
    let id = TaskId::from(500);
    assert_eq!(cluster.state.task(id).unwrap().start_after, Some(Timestamp::from_secs(2000)));
    cluster.apply(Command::SetDesired { id, desired: DesiredState::Running });
    assert_eq!(cluster.state.task(id).unwrap().start_after, None);
}

#[test]
fn only_what_has_ended_is_forgotten() {
    let cases = [
        (TaskState::Assigned, false),
        (TaskState::Preparing, false),
        (TaskState::Running, false),
        (TaskState::Draining, false),
        (TaskState::Complete, true),
        (TaskState::Shutdown, true),
        (TaskState::Failed, true),
        (TaskState::Rejected, true),
    ];
    for (state, gone) in cases {
        let (mut cluster, nodes) = cluster_with_nodes(1);
        let web = cluster.add_service(service_spec("web", 1));
        let id = cluster.add_task(web, 1);
        cluster.apply(Command::AssignTask { id, node_id: nodes[0], partner: None });
        cluster.report(id, state);
        let result = cluster.try_apply(Command::RemoveTask { id });
        assert_eq!(result.is_ok(), gone, "{state}");
        assert_eq!(cluster.state.task(id).is_none(), gone, "{state}");
        if !gone {
            // A node that is gone will not say more.
            cluster.apply(Command::OrphanTask { id });
            cluster.apply(Command::RemoveTask { id });
        }
        assert_eq!(cluster.state.node_usage(nodes[0]).tasks, 0);
        cluster.check();
    }
    let cluster = TestCluster::new();
    let unknown = Command::RemoveTask { id: 99.into() };
    assert_eq!(refused(&cluster, unknown).code(), Code::NotFound);
}

#[test]
fn a_pending_task_can_be_forgotten() {
    let mut cluster = TestCluster::new();
    let web = cluster.add_service(service_spec("web", 1));
    let id = cluster.add_task(web, 1);
    cluster.apply(Command::RemoveTask { id });
    assert_eq!(cluster.state.tasks_of_service(web).count(), 0);
    cluster.check();
}

#[test]
fn an_orphan_is_wanted_no_more() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let web = cluster.add_service(service_spec("web", 2));
    let id = cluster.add_running(web, 1, nodes[0]);
    assert_eq!(cluster.apply(Command::OrphanTask { id }), Outcome::Applied);
    assert_eq!(cluster.apply(Command::OrphanTask { id }), Outcome::Unchanged);
    let task = cluster.state.task(id).unwrap();
    assert_eq!(task.status.state, TaskState::Orphaned);
    assert_eq!(task.desired_state, DesiredState::Shutdown);
    assert_eq!(cluster.state.node_usage(nodes[0]).tasks, 0);

    let failed = cluster.add_running(web, 2, nodes[0]);
    cluster.report(failed, TaskState::Failed);
    assert_eq!(cluster.apply(Command::OrphanTask { id: failed }), Outcome::Unchanged);
    assert_eq!(cluster.state.task(failed).unwrap().status.state, TaskState::Failed);
    cluster.check();
}

#[test]
fn the_last_made_task_of_a_slot_is_the_newest_whatever_the_clock_says() {
    let (mut cluster, _) = cluster_with_nodes(1);
    let web = cluster.add_service(service_spec("web", 1));
    let first = cluster.add_task(web, 1);
    let second = cluster.add_task(web, 1);
    // A leader takes over whose clock is behind.
    cluster.now = Timestamp::from_secs(900);
    let third = cluster.add_task(web, 1);
    let made = |id| cluster.state.task(id).expect("there").meta.created_at;
    assert!(made(first) < made(second) && made(second) < made(third));
}

#[test]
fn a_try_after_a_rejection_is_refused_if_it_was_planned_before_it() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let web = cluster.add_service(service_spec("web", 1));
    let before = cluster.add_running(web, 1, nodes[0]);
    let (task, planned) = cluster.new_task(web, Slot::Replica(1));
    // Both happen while the plan is on its way.
    cluster.report(before, TaskState::Rejected);
    cluster.apply(Command::SetDesired { id: before, desired: DesiredState::Shutdown });
    let refused = Err(Rejected::TriedAtOnce { task, before });
    assert_eq!(cluster.try_apply(planned.clone()), refused);
    let Command::CreateTask { id, service_id, service_version, slot, node_id, desired, .. } =
        planned
    else {
        panic!("another command")
    };
    let start_after = Some(cluster.now + Duration::from_secs(5));
    let rejections = 1;
    let waits = Command::CreateTask {
        id,
        service_id,
        service_version,
        slot,
        node_id,
        desired,
        start_after,
        rejections,
        level: Level::FIRST,
    };
    assert_eq!(cluster.apply(waits), Outcome::Applied);
    cluster.check();
}

#[test]
fn a_task_runs_only_when_nothing_of_its_slot_may_be_running() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let web = cluster.add_service(service_spec("web", 1));
    let holder = cluster.add_running(web, 1, nodes[0]);
    cluster.apply(Command::SetDesired { id: holder, desired: DesiredState::Shutdown });
    let (task, at_once) = cluster.new_task(web, Slot::Replica(1));
    let expected = Rejected::SlotTaken { task, holder };
    assert_eq!(cluster.try_apply(at_once.clone()), Err(expected.clone()));
    let Command::CreateTask { id, service_id, service_version, slot, .. } = at_once else {
        panic!("another command")
    };
    let (desired, node_id, start_after) = (DesiredState::Ready, None, None);
    cluster.apply(Command::CreateTask {
        id,
        service_id,
        service_version,
        slot,
        node_id,
        desired,
        start_after,
        rejections: 0,
        level: Level::FIRST,
    });
    let run = Command::SetDesired { id, desired: DesiredState::Running };
    assert_eq!(cluster.try_apply(run.clone()), Err(expected));
    cluster.set_node(nodes[0], NodeState::Down);
    cluster.apply(run);
}
