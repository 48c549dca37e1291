//! Connecting one task to a further network: what it has there, for how long, and who may not.

use std::net::IpAddr;

use shoal_types::id::{NetworkId, TaskId};
use shoal_types::level::Level;
use shoal_types::task_state::{DesiredState, TaskState};

use super::{all_refused, feed, refused};
use crate::testing::{TestCluster, cluster_of, service_spec, with_networks};
use crate::{Command, Outcome, Rejected, RejectedCode as Code};

fn connect(id: TaskId, network_id: NetworkId, addresses: &[&str]) -> Command {
    let addresses = addresses.iter().map(|a| a.parse::<IpAddr>().unwrap()).collect();
    Command::ConnectTask { id, network_id, aliases: vec!["db".to_owned()], addresses }
}

fn disconnect(id: TaskId, network_id: NetworkId, force: bool) -> Command {
    Command::DisconnectTask { id, network_id, force }
}

fn used(cluster: &TestCluster, id: NetworkId) -> u64 {
    cluster.state.addresses(cluster.state.network(id).unwrap()).unwrap().used
}

/// A service on network `own` with a running task, and network `back` with a service of its own.
fn cluster() -> (TestCluster, TaskId, NetworkId, NetworkId) {
    let (mut cluster, nodes) = cluster_of(Level::DUAL, 1);
    let own = cluster.add_overlay("own", None);
    let back = cluster.add_overlay("back", Some("10.7.0.0/28"));
    let web = cluster.add_service(with_networks(service_spec("web", 2), &["own"]));
    cluster.add_service(with_networks(service_spec("db", 1), &["back"]));
    let task = cluster.add_running(web, 1, nodes[0]);
    feed(&mut cluster);
    (cluster, task, own, back)
}

#[test]
fn a_task_has_an_address_where_it_is_connected_until_it_is_disconnected_or_ends() {
    let (mut cluster, task, own, back) = cluster();
    let before = cluster.state.task(task).unwrap().networks.clone();
    assert_eq!(cluster.apply(connect(task, back, &["10.7.0.9"])), Outcome::Applied);
    assert_eq!(feed(&mut cluster), ["update task"]);
    let now = cluster.state.task(task).unwrap();
    let joined = now.on(back).unwrap();
    assert_eq!(joined.addresses, ["10.7.0.9/28".parse().unwrap()]);
    assert!(joined.connected && joined.aliases == ["db"] && now.on(own) == Some(&before[0]));
    assert_eq!(now.level, Level::DUAL, "an older node would not heed it");
    assert_eq!((used(&cluster, own), used(&cluster, back)), (2, 2), "a service has one, too");
    let nodes: Vec<_> = cluster.state.nodes_of_network(back).collect();
    assert_eq!(nodes, [now.node_id.unwrap()], "it hears of that network from now on");
    assert_eq!(cluster.state.endpoints_of_network(back).count(), 1);
    cluster.check();
    let refusal = refused(&cluster, Command::RemoveNetwork { id: back });
    assert!(refusal.to_string().contains("in use by service db"), "{refusal}");

    // The task has it, and no other one of its service.
    let service = now.service_id;
    let other = cluster.add_task(service, 2);
    assert!(cluster.state.task(other).unwrap().on(back).is_none());

    cluster.apply(disconnect(task, back, false));
    assert_eq!(cluster.state.task(task).unwrap().networks, before);
    assert_eq!(used(&cluster, back), 1);
    assert_eq!(cluster.state.nodes_of_network(back).count(), 0);
    assert_eq!(cluster.state.endpoints_of_network(back).count(), 0);
    cluster.check();
    assert_eq!(cluster.apply(disconnect(task, back, true)), Outcome::Unchanged);

    cluster.apply(connect(task, back, &[]));
    assert_eq!(used(&cluster, back), 2, "one is chosen");
    cluster.report(task, TaskState::Failed);
    assert_eq!(used(&cluster, back), 1, "free with its end");
    assert_eq!(cluster.apply(disconnect(task, back, true)), Outcome::Unchanged);
    let next = cluster.add_task(service, 1);
    assert!(cluster.state.task(next).unwrap().on(back).is_none(), "its successor is another one");
    cluster.check();
}

#[test]
fn a_network_with_a_connected_task_is_in_use_by_that() {
    let (mut cluster, task, ..) = cluster();
    let alone = cluster.add_overlay("alone", None);
    cluster.apply(connect(task, alone, &[]));
    let refusal = refused(&cluster, Command::RemoveNetwork { id: alone });
    assert!(refusal.to_string().contains("in use by task web.1"), "{refusal}");
    cluster.apply(disconnect(task, alone, false));
    cluster.apply(Command::RemoveNetwork { id: alone });
    cluster.check();
}

#[test]
fn a_task_that_waits_is_connected_too_and_every_bridge_can_be() {
    let (mut cluster, task, ..) = cluster();
    let service = cluster.state.task(task).unwrap().service_id;
    let waiting = cluster.add_task(service, 2);
    let bridge = cluster.state.network_by_name("bridge").unwrap().id;
    for id in [waiting, task] {
        cluster.apply(connect(id, bridge, &[]));
        let joined = cluster.state.task(id).unwrap().on(bridge).unwrap().clone();
        assert!(joined.connected && joined.addresses.is_empty(), "its node chooses");
    }
    cluster.check();
}

#[test]
fn who_is_not_connected_and_to_what() {
    let (mut cluster, task, own, back) = cluster();
    let named = |name: &str| cluster.state.network_by_name(name).unwrap().id;
    let (host, none, bridge) = (named("host"), named("none"), named("bridge"));
    let plain = cluster.add_service(with_networks(service_spec("plain", 1), &["host"]));
    let on_host = cluster.add_task(plain, 1);
    let service = cluster.state.task(task).unwrap().service_id;
    let ended = cluster.add_task(service, 2);
    cluster.apply(Command::SetDesired { id: ended, desired: DesiredState::Shutdown });
    cluster.apply(connect(task, bridge, &[]));
    let vip = cluster.state.service_by_name("db").unwrap().endpoint.virtual_ips[0].addr.addr();
    let (vip, nobody) = (vip.to_string(), TaskId::from(9999));
    all_refused(
        &cluster,
        vec![
            (connect(nobody, back, &[]), Code::NotFound, &["task"]),
            (connect(task, 9999.into(), &[]), Code::NotFound, &["network"]),
            (connect(task, host, &[]), Code::FailedPrecondition, &["web.1", "\"host\" excludes"]),
            (connect(task, none, &[]), Code::FailedPrecondition, &["\"none\" excludes"]),
            (connect(on_host, back, &[]), Code::FailedPrecondition, &["\"back\"", "\"host\" excl"]),
            (connect(ended, back, &[]), Code::FailedPrecondition, &["web.2", "shutdown"]),
            (connect(task, own, &[]), Code::AlreadyExists, &["web.1", "\"own\" already"]),
            (connect(task, bridge, &[]), Code::AlreadyExists, &["\"bridge\" already"]),
            (connect(task, back, &["10.7.0.1"]), Code::InvalidArgument, &["10.7.0.1", "gateway"]),
            (
                connect(task, back, &["10.7.0.16"]),
                Code::InvalidArgument,
                &["expected one of 10.7.0.0/28"],
            ),
            (connect(task, back, &["fd00::5"]), Code::InvalidArgument, &["fd00::5"]),
            (
                connect(task, back, &["10.7.0.5", "10.7.0.6"]),
                Code::InvalidArgument,
                &["task web.1 cannot have 10.7.0.6", "one of each"],
            ),
            (connect(task, back, &[&vip]), Code::FailedPrecondition, &[&vip, "of service \"db\""]),
            (
                disconnect(task, own, true),
                Code::FailedPrecondition,
                &["\"web\" names it", "shoalctl service update --network-rm own web"],
            ),
            (
                disconnect(task, back, false),
                Code::FailedPrecondition,
                &["not connected to", "back"],
            ),
        ],
    );
    let spare = cluster.add_network("spare");
    let refusal = refused(&cluster, connect(task, spare, &["10.7.0.5"]));
    assert!(refusal.to_string().contains("each node chooses"), "{refusal}");

    let second = cluster.add_task(service, 3);
    cluster.apply(connect(second, back, &["10.7.0.5"]));
    let refusal = refused(&cluster, connect(task, back, &["10.7.0.5"]));
    assert!(refusal.to_string().contains("task web.3 has it"), "{refusal}");
    cluster.check();
}

#[test]
fn a_node_that_cannot_is_named_with_its_level() {
    let (mut cluster, task, _, back) = cluster();
    let node = cluster.state.task(task).unwrap().node_id.unwrap();
    cluster.set_level(node, Level::INGRESS);
    let refusal = refused(&cluster, connect(task, back, &[]));
    let (has, needed) = (Level::INGRESS, Level::DUAL);
    assert_eq!(refusal, Rejected::NodeTooOld { node, has, needed });
    // And a task that waits does not go to such a node.
    let service = cluster.state.task(task).unwrap().service_id;
    let waiting = cluster.add_task(service, 2);
    cluster.apply(connect(waiting, back, &[]));
    let assign = Command::AssignTask { id: waiting, node_id: node, partner: None };
    assert_eq!(refused(&cluster, assign), Rejected::NodeTooOld { node, has, needed });
}

#[test]
fn a_cluster_of_an_earlier_level_logs_no_connection() {
    let (cluster, _) = cluster_of(Level::INGRESS, 1);
    for command in [connect(1.into(), 2.into(), &[]), disconnect(1.into(), 2.into(), false)] {
        let refusal = cluster.state.permits(&command).unwrap_err();
        assert_eq!(refusal, Rejected::TooNew { needed: Level::DUAL, has: Level::INGRESS });
    }
}
