//! What this node knows of its overlay networks, and what follows from it.

mod courses;
mod plan;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use shoal_types::assignment::{AssignmentChange, NodeAssignment, Peer, ServiceVips, TaskEndpoint};
use shoal_types::id::{NetworkId, NodeId, ServiceId, TaskId};
use shoal_types::object::Network;

use crate::network::Family;
use crate::network::ingress::Backend;

pub use courses::Courses;
pub use plan::{Course, Crowded, Remote};

/// All that a node was told of its overlay networks. Clones share what they have in common: a change costs
/// the same however much there is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OverlayView {
    /// Counts what has been learned. Whoever follows says up to which one it has.
    pub revision: u64,
    /// The node. Absent before it was told anything, and when it belongs to no cluster any more.
    pub node_id: Option<NodeId>,
    /// The networks of its tasks that span nodes, those on wires among them.
    pub networks: OrdMap<NetworkId, Arc<Network>>,
    /// Tasks on these networks, the node's own among them.
    pub endpoints: OrdMap<TaskId, Arc<TaskEndpoint>>,
    /// Services with virtual addresses on these networks.
    pub vips: OrdMap<ServiceId, Arc<ServiceVips>>,
    /// Other nodes that have such tasks. One of which nobody knows how it is reached is not among them.
    pub peers: OrdMap<NodeId, Arc<Peer>>,
}

impl OverlayView {
    /// What all that a node is to hold says of overlay networks.
    #[must_use]
    pub fn of(node_id: Option<NodeId>, assignment: &NodeAssignment) -> Self {
        let NodeAssignment { networks, endpoints, vips, peers, .. } = assignment;
        let networks = networks.iter().filter(|(_, network)| network.spans_nodes());
        Self {
            revision: 0,
            node_id,
            networks: networks.map(|(id, network)| (*id, Arc::clone(network))).collect(),
            endpoints: endpoints.iter().map(|(id, one)| (*id, Arc::clone(one))).collect(),
            vips: vips.iter().map(|(id, one)| (*id, Arc::clone(one))).collect(),
            peers: peers.iter().map(|(id, one)| (*id, Arc::clone(one))).collect(),
        }
    }

    /// Whether nobody leads packets of a network: it is on a wire.
    #[must_use]
    pub fn is_on_wire(&self, network: NetworkId) -> bool {
        self.networks.get(&network).is_some_and(|network| network.is_on_wire())
    }

    /// Addresses of a task that packets are led to.
    pub(crate) fn led(&self, task: &TaskEndpoint) -> impl Iterator<Item = IpAddr> {
        let led = task.networks.iter().filter(|network| !self.is_on_wire(network.network_id));
        led.flat_map(|network| &network.addresses).map(IpNet::addr)
    }

    /// A task on the node with this address in the tunnel, with how it is reached there, as far as managers know: they
    /// do of networks that span nodes. On others it has IPv4.
    pub(crate) fn far(&self, task: &TaskEndpoint, node: Ipv4Addr) -> Backend {
        let has = |family| self.led(task).any(|address| Family::of(address) == family);
        match (has(Family::V4), has(Family::V6)) {
            (_, false) => Backend::Far(node),
            (true, true) => Backend::Both(node),
            (false, true) => Backend::Six(node),
        }
    }

    /// Carries out one change, as far as it is about overlay networks; whether anything is other than it
    /// was.
    pub fn apply(&mut self, change: &AssignmentChange) -> bool {
        match change {
            AssignmentChange::UpdateNetwork(network) if network.spans_nodes() => {
                put(&mut self.networks, network.id, network)
            }
            AssignmentChange::UpdateNetwork(network) => self.networks.remove(&network.id).is_some(),
            AssignmentChange::RemoveNetwork(id) => self.networks.remove(id).is_some(),
            AssignmentChange::UpdateEndpoint(endpoint) => {
                put(&mut self.endpoints, endpoint.task_id, endpoint)
            }
            AssignmentChange::RemoveEndpoint(id) => self.endpoints.remove(id).is_some(),
            AssignmentChange::UpdateVips(vips) => put(&mut self.vips, vips.service_id, vips),
            AssignmentChange::RemoveVips(id) => self.vips.remove(id).is_some(),
            AssignmentChange::UpdatePeer(peer) => put(&mut self.peers, peer.node_id, peer),
            AssignmentChange::RemovePeer(id) => self.peers.remove(id).is_some(),
            AssignmentChange::UpdateSecret(_)
            | AssignmentChange::RemoveSecret(_)
            | AssignmentChange::UpdateConfig(_)
            | AssignmentChange::RemoveConfig(_)
            | AssignmentChange::UpdateTask(_)
            | AssignmentChange::RemoveTask(_)
            | AssignmentChange::RejectTask(..) => false,
        }
    }
}

/// Whether that changes anything.
fn put<K: Ord + Clone, T: PartialEq>(map: &mut OrdMap<K, Arc<T>>, id: K, value: &Arc<T>) -> bool {
    map.insert(id, Arc::clone(value)).as_ref() != Some(value)
}

#[cfg(test)]
mod tests {
    use shoal_types::assignment::PeerKeys;
    use shoal_types::object::{Meta, Slot, TunnelKey};
    use shoal_types::spec::{Driver, NetworkSpec};

    use super::*;

    fn network(id: u128, driver: &str) -> AssignmentChange {
        let driver = Driver { name: driver.to_owned(), ..Driver::default() };
        let spec = NetworkSpec { name: format!("n{id}"), driver, ..NetworkSpec::default() };
        let (id, meta) = (id.into(), Meta::default());
        let network =
            Network { id, meta, spec, stack_id: None, predefined: false, subnets: Vec::new() };
        AssignmentChange::UpdateNetwork(Arc::new(network))
    }

    fn endpoint(task: u128, serving: bool) -> AssignmentChange {
        AssignmentChange::UpdateEndpoint(Arc::new(TaskEndpoint {
            task_id: task.into(),
            service_id: 1.into(),
            service_name: "web".to_owned(),
            slot: Slot::Replica(1),
            node_id: 2.into(),
            networks: Vec::new(),
            ports: Vec::new(),
            affinity: None,
            locality: None,
            serving,
        }))
    }

    fn vips(service: u128) -> AssignmentChange {
        let service_name = "web".to_owned();
        let vips = ServiceVips {
            service_id: service.into(),
            service_name,
            networks: Vec::new(),
            affinity: None,
            locality: None,
        };
        AssignmentChange::UpdateVips(Arc::new(vips))
    }

    fn peer(node: u128, port: u16) -> AssignmentChange {
        let public_key = TunnelKey([7; 32]);
        let addr = [192, 0, 2, 1].into();
        let peer = Peer {
            node_id: node.into(),
            public_key,
            addr,
            port,
            tunnel_address: None,
            keys: PeerKeys::default(),
        };
        AssignmentChange::UpdatePeer(Arc::new(peer))
    }

    /// Each step: what changes, whether that is news, and how many networks, endpoints, virtual addresses
    /// and peers are known then. What is known by increments is what is known when it is told whole.
    #[test]
    fn what_is_known_is_what_was_told() {
        use AssignmentChange as C;
        let steps = [
            (network(1, "overlay"), true, [1, 0, 0, 0]),
            (network(1, "overlay"), false, [1, 0, 0, 0]),
            (network(2, "bridge"), false, [1, 0, 0, 0]),
            (C::RemoveTask(7.into()), false, [1, 0, 0, 0]),
            (peer(5, 51820), true, [1, 0, 0, 1]),
            (peer(5, 51821), true, [1, 0, 0, 1]),
            (endpoint(7, false), true, [1, 1, 0, 1]),
            (endpoint(7, true), true, [1, 1, 0, 1]),
            (endpoint(7, true), false, [1, 1, 0, 1]),
            (endpoint(8, true), true, [1, 2, 0, 1]),
            (vips(3), true, [1, 2, 1, 1]),
            (vips(3), false, [1, 2, 1, 1]),
            (C::RemoveVips(3.into()), true, [1, 2, 0, 1]),
            (C::RemoveVips(3.into()), false, [1, 2, 0, 1]),
            (C::RemoveEndpoint(8.into()), true, [1, 1, 0, 1]),
            (C::RemovePeer(5.into()), true, [1, 1, 0, 0]),
            (C::RemovePeer(6.into()), false, [1, 1, 0, 0]),
            (C::RemoveNetwork(2.into()), false, [1, 1, 0, 0]),
            (network(1, "bridge"), true, [0, 1, 0, 0]),
        ];
        let mut view = OverlayView { node_id: Some(9.into()), ..OverlayView::default() };
        let mut told = NodeAssignment::default();
        for (n, (change, is_new, expected)) in steps.into_iter().enumerate() {
            let before = view.clone();
            assert_eq!(view.apply(&change), is_new, "step {n}: {change:?}");
            assert_eq!(view != before, is_new, "step {n}");
            told.apply(vec![change]);
            assert_eq!(view, OverlayView::of(Some(9.into()), &told), "step {n}");
            let OverlayView { revision: _, node_id: _, networks, endpoints, vips, peers } = &view;
            let known = [networks.len(), endpoints.len(), vips.len(), peers.len()];
            assert_eq!(known, expected, "step {n}");
        }
    }
}
