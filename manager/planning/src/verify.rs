//! Whom to ask whether networks are as they should be, and what people read of the answers.

use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::ClusterState;
use shoal_types::id::{NetworkId, NodeId};
use shoal_types::question::{Finding, NetworkQuestion, NodeNetworks, PlacedNetworks};

use crate::words;

/// The nodes to be asked, and what: all of them about everything, or those that have tasks on one of `networks`,
/// about the ways between these.
#[must_use]
pub fn asked(
    view: &ClusterState,
    networks: &[NetworkId],
    peers_max: u64,
) -> BTreeMap<NodeId, NetworkQuestion> {
    if networks.is_empty() {
        let question = NetworkQuestion { peers: Vec::new(), peers_max };
        return view.nodes().map(|node| (node.id, question.clone())).collect();
    }
    let joins = |network: &NetworkId| networks.contains(network);
    let tasks = view.tasks().filter(|task| task.is_live());
    let on_one = tasks.filter(|task| task.networks.iter().any(|n| joins(&n.network_id)));
    let nodes: BTreeSet<NodeId> = on_one.filter_map(|task| task.node_id).collect();
    // Each is among them: who has no other would be asked about all.
    let question = NetworkQuestion { peers: nodes.iter().copied().collect(), peers_max };
    nodes.into_iter().map(|node| (node, question.clone())).collect()
}

/// The answers as people get them: nodes by name, and texts of nodes no longer than others.
#[must_use]
pub fn named(view: &ClusterState, told: BTreeMap<NodeId, NodeNetworks>) -> Vec<PlacedNetworks> {
    let mut all: Vec<PlacedNetworks> = told
        .into_iter()
        .map(|(node_id, mut networks)| {
            for Finding { subject, expected, found, known_since: _ } in &mut networks.findings {
                for text in [subject, expected, found] {
                    *text = words::text(text);
                }
            }
            for note in &mut networks.notes {
                *note = words::text(note);
            }
            for reach in &mut networks.reached {
                reach.hostname = view.hostname(reach.node_id);
                for text in [&mut reach.endpoint, &mut reach.trouble].into_iter().flatten() {
                    *text = words::text(text);
                }
            }
            networks
                .reached
                .sort_by(|a, b| (&a.hostname, a.node_id).cmp(&(&b.hostname, b.node_id)));
            PlacedNetworks { node_id, hostname: view.hostname(node_id), networks }
        })
        .collect();
    all.sort_by(|a, b| (&a.hostname, a.node_id).cmp(&(&b.hostname, b.node_id)));
    all
}

#[cfg(test)]
mod tests {
    use shoal_manager_state::testing::{cluster_with_nodes, service_spec, with_networks};
    use shoal_types::question::PeerReach;

    use super::*;

    #[test]
    fn who_has_a_task_on_a_network_is_asked_about_the_others_that_have() {
        let (mut cluster, nodes) = cluster_with_nodes(4);
        nodes.iter().zip(1..).for_each(|(node, n)| cluster.give_tunnel(*node, n, n));
        let network = cluster.add_overlay("net", None);
        let web = cluster.add_service(with_networks(service_spec("web", 2), &["net"]));
        let other = cluster.add_service(service_spec("other", 1));
        cluster.add_running(web, 1, nodes[0]);
        cluster.add_running(web, 2, nodes[1]);
        cluster.add_running(other, 1, nodes[2]);
        let mut sorted = nodes.clone();
        sorted.sort_unstable();
        let all = asked(&cluster.state, &[], 7);
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), sorted);
        assert!(all.values().all(|question| question.peers.is_empty() && question.peers_max == 7));
        let mut two = nodes[..2].to_vec();
        two.sort_unstable();
        let some = asked(&cluster.state, &[network], 7);
        assert_eq!(some.keys().copied().collect::<Vec<_>>(), two);
        assert!(some.values().all(|question| question.peers == two && question.peers_max == 7));
        assert_eq!(asked(&cluster.state, &[8.into()], 7), BTreeMap::new());
    }

    #[test]
    fn peers_have_names_and_nobody_says_more_than_is_read() {
        let (cluster, nodes) = cluster_with_nodes(2);
        let reach = PeerReach {
            node_id: nodes[1],
            hostname: "what it says".to_owned(),
            endpoint: None,
            handshake_age_seconds: None,
            received_bytes: 0,
            sent_bytes: 0,
            full_bytes: 1420,
            passes_bytes: 0,
            trouble: Some("x".repeat(1 << 20)),
        };
        let finding = Finding { subject: "y".repeat(1 << 20), ..Finding::default() };
        let (findings, reached) = (vec![finding], vec![reach]);
        let said = NodeNetworks { findings, reached, ..NodeNetworks::default() };
        let all = named(&cluster.state, [(nodes[0], said)].into());
        let told = &all[0];
        assert_eq!(told.hostname, cluster.state.hostname(nodes[0]));
        assert_eq!(told.networks.reached[0].hostname, cluster.state.hostname(nodes[1]));
        assert!(told.networks.findings[0].subject.len() < 1 << 16);
        assert!(told.networks.reached[0].trouble.as_ref().is_some_and(|why| why.len() < 1 << 16));
        assert!(!told.is_well());
    }
}
