use shoal_types::id::NodeId;
use shoal_types::level::Level;
use shoal_types::object::{ManagerStatus, NodeState, NodeStatus};
use shoal_types::spec::{Availability, NodeRole, NodeSpec};
use shoal_types::task_state::{DesiredState, TaskState};
use std::time::Duration;

use super::{all_refused, feed, refused};
use crate::testing::{TestCluster, cluster_of, cluster_with_nodes, node_description, service_spec};
use crate::{Command, Outcome, Rejected, RejectedCode as Code};

#[test]
fn refusals() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let missing = NodeId::from(99);
    let web = cluster.add_service(service_spec("web", 1));
    cluster.add_running(web, 1, nodes[1]);
    cluster.set_availability(nodes[1], Availability::Drain);
    let (spec, description) = (NodeSpec::default(), node_description("a"));
    let update = |id, expected| Command::UpdateNode { id, expected, spec: NodeSpec::default() };
    let status = NodeStatus::default();
    all_refused(
        &cluster,
        vec![
            (
                Command::CreateNode { id: nodes[0], spec, description },
                Code::AlreadyExists,
                &["node"],
            ),
            (update(missing, 1), Code::NotFound, &["does not exist"]),
            (update(nodes[1], 1), Code::Aborted, &["out of sequence"]),
            (update(nodes[0], 1), Code::FailedPrecondition, &["only manager"]),
            (
                Command::RemoveNode { id: nodes[0], force: false },
                Code::FailedPrecondition,
                &["is the only manager"],
            ),
            (
                // Drained only when the last of its tasks has ended.
                Command::RemoveNode { id: nodes[1], force: false },
                Code::FailedPrecondition,
                &["neither down nor drained"],
            ),
            (Command::RemoveNode { id: missing, force: true }, Code::NotFound, &[]),
            (Command::ReportNode { id: missing, description: None, status }, Code::NotFound, &[]),
            (Command::SetManagerStatus { id: missing, status: None }, Code::NotFound, &[]),
        ],
    );
}

#[test]
fn the_last_manager_cannot_be_demoted_but_another_can() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let promoted = NodeSpec { role: NodeRole::Manager, ..NodeSpec::default() };
    cluster.apply(Command::UpdateNode { id: nodes[1], expected: 1, spec: promoted });
    cluster.apply(Command::UpdateNode { id: nodes[0], expected: 1, spec: NodeSpec::default() });
    let again = Command::UpdateNode { id: nodes[1], expected: 2, spec: NodeSpec::default() };
    assert_eq!(refused(&cluster, again), Rejected::LastManager { id: nodes[1] });
}

#[test]
fn what_a_user_wants_and_what_a_node_reports_have_versions_of_their_own() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let before = cluster.state.node(nodes[0]).unwrap().meta;
    cluster.set_node(nodes[0], NodeState::Down);
    let after = cluster.state.node(nodes[0]).unwrap().meta;
    assert_eq!(after.spec_version, before.spec_version);
    assert_eq!(after.version, cluster.state.applied_index());
    cluster.set_availability(nodes[0], Availability::Pause);
    assert_eq!(cluster.state.node(nodes[0]).unwrap().meta.spec_version, before.spec_version + 1);
}

#[test]
fn a_report_that_says_nothing_new_writes_nothing() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let since = cluster.state.node(nodes[0]).unwrap().status.since;
    cluster.advance(Duration::from_secs(60));
    cluster.events();
    assert_eq!(cluster.set_node(nodes[0], NodeState::Ready), Outcome::Unchanged);
    assert!(feed(&mut cluster).is_empty());
    assert_eq!(cluster.state.node(nodes[0]).unwrap().status.since, since);
    cluster.set_node(nodes[0], NodeState::Down);
    assert_eq!(cluster.state.node(nodes[0]).unwrap().status.since, cluster.now);
}

#[test]
fn a_node_is_found_by_its_new_host_name() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let description = Some(node_description("renamed"));
    let status = cluster.state.node(nodes[0]).unwrap().status.clone();
    cluster.apply(Command::ReportNode { id: nodes[0], description, status });
    assert_eq!(cluster.state.nodes_by_name("node-1").count(), 0);
    assert_eq!(cluster.state.nodes_by_name("renamed").next().unwrap().id, nodes[0]);
}

#[test]
fn manager_status_comes_and_goes() {
    let (mut cluster, nodes) = cluster_with_nodes(1);
    let status =
        Some(ManagerStatus { raft_id: 7, addr: "10.0.0.1:4242".to_owned(), level: Level::FIRST });
    let set = |status| Command::SetManagerStatus { id: nodes[0], status };
    assert_eq!(cluster.apply(set(status.clone())), Outcome::Applied);
    assert_eq!(cluster.apply(set(status.clone())), Outcome::Unchanged);
    assert_eq!(cluster.state.node(nodes[0]).unwrap().manager_status, status);
    assert_eq!(cluster.apply(set(None)), Outcome::Applied);
}

#[test]
fn removing_a_node_orphans_its_tasks() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let web = cluster.add_service(service_spec("web", 3));
    let running = cluster.add_running(web, 1, nodes[1]);
    let ended = cluster.add_running(web, 2, nodes[1]);
    cluster.report(ended, TaskState::Failed);
    let elsewhere = cluster.add_running(web, 3, nodes[0]);
    cluster.set_node(nodes[1], NodeState::Down);
    cluster.apply(Command::RemoveNode { id: nodes[1], force: false });

    let cases = [
        (running, TaskState::Orphaned, DesiredState::Running),
        (ended, TaskState::Failed, DesiredState::Running),
        (elsewhere, TaskState::Running, DesiredState::Running),
    ];
    for (id, state, desired) in cases {
        let task = cluster.state.task(id).unwrap();
        assert_eq!((task.status.state, task.desired_state), (state, desired));
    }
    let status = &cluster.state.task(running).unwrap().status;
    assert!(status.container_status.is_some(), "what was last heard of the container is kept");
    assert_eq!(status.err, "its node was removed from the cluster");
    cluster.check();
}

#[test]
fn a_drained_or_forced_node_goes() {
    let (mut cluster, nodes) = cluster_with_nodes(3);
    cluster.set_availability(nodes[1], Availability::Drain);
    cluster.apply(Command::RemoveNode { id: nodes[1], force: false });
    let busy = Command::RemoveNode { id: nodes[2], force: false };
    assert_eq!(refused(&cluster, busy), Rejected::NodeInUse { id: nodes[2] });
    cluster.apply(Command::RemoveNode { id: nodes[2], force: true });
    assert_eq!(cluster.state.nodes().len(), 1);
}

#[test]
fn a_manager_goes_only_if_it_is_down_and_another_stays() {
    let (mut cluster, nodes) = cluster_with_nodes(2);
    let [first, second] = [nodes[0], nodes[1]];
    let remove = |id, force| Command::RemoveNode { id, force };
    cluster.set_node(first, NodeState::Down);
    for force in [false, true] {
        let last = refused(&cluster, remove(first, force));
        assert_eq!(last, Rejected::LastManager { id: first }, "{force}");
    }
    let status =
        ManagerStatus { raft_id: 2, addr: "10.0.0.2:4242".to_owned(), level: Level::FIRST };
    // One that was demoted and has not left Raft yet counts.
    cluster.apply(Command::SetManagerStatus { id: second, status: Some(status) });
    for force in [false, true] {
        let up = refused(&cluster, remove(second, force));
        assert_eq!(up, Rejected::NodeIsManager { id: second }, "{force}");
    }
    assert_eq!(refused(&cluster, remove(first, false)), Rejected::NodeIsManager { id: first });
    cluster.apply(remove(first, true));
    let last = refused(&cluster, remove(second, true));
    assert_eq!(last, Rejected::LastManager { id: second });
}

#[test]
fn a_tunnel_key_is_one_nodes() {
    let (mut older, pair) = cluster_of(Level::OVERLAY, 2);
    pair.iter().for_each(|node| older.give_tunnel(*node, 7, 1));
    let have = |node: &NodeId| older.state.node(*node).unwrap().description.tunnel.is_some();
    assert!(pair.iter().all(have), "as managers of before have it");
    let (mut cluster, nodes) = cluster_of(Level::INGRESS, 3);
    let key = |cluster: &TestCluster, at: usize| {
        let tunnel = cluster.state.node(nodes[at]).unwrap().description.tunnel?;
        Some(tunnel.public_key.0[0])
    };
    cluster.give_tunnel(nodes[0], 7, 1);
    // Whoever has it keeps it, and may say it again.
    cluster.give_tunnel(nodes[1], 7, 2);
    cluster.give_tunnel(nodes[0], 7, 3);
    assert_eq!([key(&cluster, 0), key(&cluster, 1)], [Some(7), None]);
    // A host that has joined anew while its former node is still remembered.
    cluster.set_node(nodes[0], NodeState::Down);
    cluster.give_tunnel(nodes[1], 7, 2);
    assert_eq!([key(&cluster, 0), key(&cluster, 1)], [None, Some(7)]);
    cluster.give_tunnel(nodes[1], 8, 2);
    cluster.give_tunnel(nodes[2], 7, 2);
    assert_eq!([key(&cluster, 1), key(&cluster, 2)], [Some(8), Some(7)]);
}
