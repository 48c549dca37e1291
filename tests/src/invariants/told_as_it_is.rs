//! A node knows of others what is so: where tasks are that it may lead somebody to, and the nodes that these are on or
//! that lead somebody to its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use shoal_manager_state::ClusterState;
use shoal_types::assignment::NodeAssignment;
use shoal_types::id::{NetworkId, NodeId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::Task;
use shoal_types::spec::{Protocol, PublishMode};
use shoal_types::task_state::{DesiredState, TaskState};

/// Where a task is, how it is reached, and whether it serves.
#[derive(Debug, PartialEq, Eq)]
struct Reached {
    node: NodeId,
    addresses: BTreeSet<(NetworkId, IpAddr)>,
    ports: BTreeSet<(Protocol, u16)>,
    serving: bool,
}

/// What is wrong with what an agent was told, in a state in which nothing is under way any more.
#[must_use]
pub fn judge(state: &ClusterState, node: NodeId, told: &NodeAssignment) -> Vec<String> {
    let wanted = wanted(state, node);
    let mut wrong = Vec::new();
    let known: BTreeMap<TaskId, Reached> = told
        .endpoints
        .values()
        .map(|endpoint| {
            let addresses = endpoint
                .networks
                .iter()
                .flat_map(|n| n.addresses.iter().map(|address| (n.network_id, address.addr())));
            let ports = endpoint.ports.iter().map(|p| (p.protocol, p.published_port));
            let reached = Reached {
                node: endpoint.node_id,
                addresses: addresses.collect(),
                ports: ports.collect(),
                serving: endpoint.serving,
            };
            (endpoint.task_id, reached)
        })
        .collect();
    let tasks: BTreeSet<_> = wanted.keys().chain(known.keys()).collect();
    for task in tasks {
        let (is, knows) = (wanted.get(task), known.get(task));
        if is != knows {
            wrong.push(format!("node {node} knows {knows:?} of task {task}, and it is {is:?}"));
        }
    }
    let (peers, known) = (peers(state, node, &wanted), &told.peers);
    let known: BTreeSet<(NodeId, Option<IpAddr>)> =
        known.values().map(|peer| (peer.node_id, peer.tunnel_address)).collect();
    if peers != known {
        wrong.push(format!("node {node} knows the nodes {known:?}, and they are {peers:?}"));
    }
    wrong
}

fn level(state: &ClusterState, node: NodeId) -> Level {
    state.node(node).map(|node| node.description.level).unwrap_or_default()
}

/// Tasks that are somewhere, and have not ended.
fn placed(state: &ClusterState) -> impl Iterator<Item = (&Task, NodeId)> {
    let tasks = state.tasks().filter(|task| !task.status.state.is_terminal());
    let tasks = tasks.filter(|task| task.status.state.is_placed());
    tasks.filter_map(|task| Some((&**task, task.node_id?)))
}

fn wanted(state: &ClusterState, node: NodeId) -> BTreeMap<TaskId, Reached> {
    let level = level(state, node);
    let own = placed(state).filter(|(_, on)| *on == node && level >= Level::OVERLAY);
    let joined: BTreeSet<NetworkId> = own
        .flat_map(|(task, _)| task.networks.iter().map(|n| n.network_id))
        .filter(|id| state.network(*id).is_some_and(|network| !network.subnets.is_empty()))
        .collect();
    let everywhere = level >= Level::INGRESS;
    placed(state)
        .map(|(task, on)| {
            let known = task.networks.iter().filter(|n| joined.contains(&n.network_id));
            let addresses = known
                .flat_map(|n| n.addresses.iter().map(|address| (n.network_id, address.addr())));
            let ports = task
                .ports()
                .iter()
                .filter(|port| everywhere && port.publish_mode == PublishMode::Ingress);
            let serving = task.status.state == TaskState::Running
                && task.desired_state == DesiredState::Running;
            let reached = Reached {
                node: on,
                addresses: addresses.collect(),
                ports: ports.map(|port| (port.protocol, port.published_port)).collect(),
                serving,
            };
            (task.id, reached)
        })
        .filter(|(_, reached)| !reached.addresses.is_empty() || !reached.ports.is_empty())
        .collect()
}

/// The nodes of tasks that a node leads to; those that lead to its own; and itself.
fn peers(
    state: &ClusterState,
    node: NodeId,
    reached: &BTreeMap<TaskId, Reached>,
) -> BTreeSet<(NodeId, Option<IpAddr>)> {
    let publishes = reached.values().any(|one| one.node == node && !one.ports.is_empty());
    let leads = |id: NodeId| level(state, id) >= Level::INGRESS;
    let beside = |id: NodeId| reached.values().any(|one| one.node == id);
    let known = state.nodes().filter(|other| {
        let id = other.id;
        other.description.tunnel.is_some()
            && if id == node { leads(id) } else { beside(id) || (publishes && leads(id)) }
    });
    known.map(|node| (node.id, node.tunnel_address.map(|address| address.addr()))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_manager_planning::assignment::{Held, News};
    use shoal_manager_state::testing::{
        cluster_of, service_spec, with_ingress_port, with_networks,
    };
    use shoal_types::assignment::{Peer, TaskEndpoint};

    use super::*;

    #[test]
    fn what_a_node_does_not_know_or_knows_wrongly_is_noticed() {
        let (mut cluster, nodes) = cluster_of(Level::INGRESS, 2);
        nodes.iter().zip(1..).for_each(|(node, n)| cluster.give_tunnel(*node, n, n));
        cluster.add_overlay("n", None);
        let web = with_ingress_port(with_networks(service_spec("web", 2), &["n"]), 8080);
        let web = cluster.add_service(web);
        let tasks = [0, 1].map(|n| cluster.add_running(web, n as u64 + 1, nodes[n]));
        let mut told = NodeAssignment::default();
        told.apply(Held::new(nodes[0]).catch_up(&cluster.state, &News::whole()).collect());
        assert_eq!(judge(&cluster.state, nodes[0], &told), Vec::<String>::new());

        type Breakage<'a> = Box<dyn Fn(&mut NodeAssignment) + 'a>;
        let endpoint = |change: fn(&mut TaskEndpoint)| -> Breakage<'_> {
            Box::new(move |told| {
                change(Arc::make_mut(told.endpoints.get_mut(&tasks[1]).unwrap()));
            })
        };
        let breakages: [Breakage<'_>; 6] = [
            endpoint(|endpoint| endpoint.serving = false),
            endpoint(|endpoint| endpoint.ports.clear()),
            endpoint(|endpoint| endpoint.networks.clear()),
            Box::new(|told| drop(told.endpoints.remove(&tasks[1]))),
            Box::new(|told| drop(told.peers.remove(&nodes[0]))),
            Box::new(|told| {
                let peer: &mut Peer = Arc::make_mut(told.peers.get_mut(&nodes[1]).unwrap());
                peer.tunnel_address = None;
            }),
        ];
        for (i, breakage) in breakages.iter().enumerate() {
            let mut broken = told.clone();
            breakage(&mut broken);
            assert_eq!(judge(&cluster.state, nodes[0], &broken).len(), 1, "{i}");
        }
        cluster.set_level(nodes[1], Level::OVERLAY);
        let one = judge(&cluster.state, nodes[1], &told);
        assert!(!one.is_empty(), "it is told of no ports then");
    }
}
