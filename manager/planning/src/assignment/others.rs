//! What one node is told of others: where tasks and services on its overlay networks are reached, and how
//! the nodes of these tasks are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_manager_state::ClusterState;
use shoal_types::assignment::{AssignmentChange, Peer, ServiceVips, TaskEndpoint};
use shoal_types::id::{NetworkId, NodeId, ServiceId, TaskId};
use shoal_types::object::{Service, Task};

/// What may have changed of that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) endpoints: BTreeSet<TaskId>,
    pub(super) vips: BTreeSet<ServiceId>,
    pub(super) peers: BTreeSet<NodeId>,
}

impl Named {
    pub(super) fn add(&mut self, other: &Self) {
        self.endpoints.extend(&other.endpoints);
        self.vips.extend(&other.vips);
        self.peers.extend(&other.peers);
    }

    pub(super) fn len(&self) -> usize {
        self.endpoints.len() + self.vips.len() + self.peers.len()
    }
}

/// Overlay networks that are looked at as a whole.
#[derive(Debug, Clone, Default)]
pub(super) struct Turned {
    /// The node has joined them, or has left them.
    pub(super) flipped: BTreeSet<NetworkId>,
    /// The node may not have heard of changes there: it had left them for a moment.
    pub(super) unheard: BTreeSet<NetworkId>,
}

impl Turned {
    fn has(&self, network: NetworkId) -> bool {
        self.flipped.contains(&network) || self.unheard.contains(&network)
    }
}

/// What the node was told. Tasks and services are the state's own, as they were then.
#[derive(Debug, Clone)]
pub(super) struct Others {
    /// The overlay networks about which it is told.
    networks: BTreeSet<NetworkId>,
    endpoints: BTreeMap<TaskId, Arc<Task>>,
    vips: BTreeMap<ServiceId, Arc<Service>>,
    peers: BTreeMap<NodeId, Beside>,
}

/// Another node.
#[derive(Debug, Clone, Default)]
struct Beside {
    /// How many tasks of it the node was told of.
    endpoints: usize,
    /// How it is reached, if that is known.
    told: Option<Peer>,
}

/// What the node is to be told.
#[derive(Debug, Default)]
pub(super) struct OtherChanges {
    peers: Vec<Peer>,
    endpoints: Vec<Arc<Task>>,
    vips: Vec<Arc<Service>>,
    gone_vips: Vec<ServiceId>,
    gone_endpoints: Vec<TaskId>,
    gone_peers: Vec<NodeId>,
    /// The networks about which the node is told from now on.
    networks: BTreeSet<NetworkId>,
}

impl Others {
    pub(super) const fn new() -> Self {
        Self {
            networks: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            vips: BTreeMap::new(),
            peers: BTreeMap::new(),
        }
    }

    /// Whether the node is told about this network.
    pub(super) fn knows(&self, network: NetworkId) -> bool {
        self.networks.contains(&network)
    }

    /// The networks about which it is told.
    pub(super) fn networks(&self) -> impl Iterator<Item = NetworkId> {
        self.networks.iter().copied()
    }

    /// From now on the node is told about a network, or no more.
    pub(super) fn turn(&mut self, network: NetworkId, told: bool) {
        if told {
            self.networks.insert(network);
        } else {
            self.networks.remove(&network);
        }
    }

    /// What `node` is to be told after news, and because all about the networks that have `turned` may be
    /// other than it was told.
    pub(super) fn catch_up(
        &mut self,
        view: &ClusterState,
        node: NodeId,
        mut named: Named,
        turned: &Turned,
    ) -> OtherChanges {
        let mut changes =
            OtherChanges { networks: self.networks.clone(), ..OtherChanges::default() };
        for network in turned.flipped.union(&turned.unheard) {
            named.endpoints.extend(view.endpoints_of_network(*network).map(|task| task.id));
            named.vips.extend(view.vips_of_network(*network).map(|service| service.id));
        }
        if !turned.flipped.is_empty() || !turned.unheard.is_empty() {
            let joins = |task: &Task| task.networks.iter().any(|n| turned.has(n.network_id));
            let known = self.endpoints.values().filter(|task| joins(task));
            named.endpoints.extend(known.map(|task| task.id));
            named.vips.extend(self.vips.keys());
        }
        for id in named.endpoints {
            self.endpoint(view, id, turned, &mut named.peers, &mut changes);
        }
        for id in named.vips {
            self.vips(view, id, turned, &mut changes);
        }
        for id in named.peers.into_iter().filter(|id| *id != node) {
            self.peer(view, id, &mut changes);
        }
        changes
    }

    /// Looks at one task, and notes the nodes that it is or was on.
    fn endpoint(
        &mut self,
        view: &ClusterState,
        id: TaskId,
        turned: &Turned,
        peers: &mut BTreeSet<NodeId>,
        changes: &mut OtherChanges,
    ) {
        let told = |task: &&Arc<Task>| {
            TaskEndpoint::has_one(task) && task.networks.iter().any(|n| self.knows(n.network_id))
        };
        let new = view.task(id).filter(told).cloned();
        let old = match &new {
            Some(task) => self.endpoints.insert(id, Arc::clone(task)),
            None => self.endpoints.remove(&id),
        };
        for (task, is_new) in [(&old, false), (&new, true)] {
            let Some(node) = task.as_ref().and_then(|task| task.node_id) else { continue };
            let count = &mut self.peers.entry(node).or_default().endpoints;
            *count = if is_new { *count + 1 } else { count.saturating_sub(1) };
            peers.insert(node);
        }
        match (old, new) {
            (Some(old), Some(new))
                if TaskEndpoint::is_unchanged(&old, &new)
                    && !new.networks.iter().any(|n| turned.flipped.contains(&n.network_id)) => {}
            (_, Some(new)) => changes.endpoints.push(new),
            (Some(_), None) => changes.gone_endpoints.push(id),
            (None, None) => {}
        }
    }

    /// Looks at one service.
    fn vips(
        &mut self,
        view: &ClusterState,
        id: ServiceId,
        turned: &Turned,
        changes: &mut OtherChanges,
    ) {
        let on = |service: &Service, wanted: &BTreeSet<NetworkId>| {
            service.endpoint.virtual_ips.iter().any(|ip| wanted.contains(&ip.network_id))
        };
        let networks = self.networks.clone();
        let said = |service: &Service| ServiceVips::of(service, |id| networks.contains(&id));
        let new = view.service(id).filter(|service| on(service, &self.networks)).cloned();
        let old = match &new {
            Some(service) => self.vips.insert(id, Arc::clone(service)),
            None => self.vips.remove(&id),
        };
        match (old, new) {
            (Some(old), Some(new))
                if !on(&old, &turned.flipped)
                    && !on(&new, &turned.flipped)
                    && said(&old) == said(&new) => {}
            (_, Some(new)) => changes.vips.push(new),
            (Some(_), None) => changes.gone_vips.push(id),
            (None, None) => {}
        }
    }

    /// Looks at one node, after all tasks.
    fn peer(&mut self, view: &ClusterState, id: NodeId, changes: &mut OtherChanges) {
        let Some(beside) = self.peers.get_mut(&id) else { return };
        let known = view.node(id).filter(|_| beside.endpoints > 0);
        let new = known.and_then(|node| Peer::of(node));
        match (beside.told, new) {
            (old, new) if old == new => {}
            (_, Some(new)) => changes.peers.push(new),
            (_, None) => changes.gone_peers.push(id),
        }
        beside.told = new;
        if beside.endpoints == 0 {
            self.peers.remove(&id);
        }
    }
}

impl OtherChanges {
    /// What is said before, and what after, all that is said of the node's own tasks. Copies for the wire are
    /// made one at a time.
    pub(super) fn in_order(
        self,
    ) -> (
        impl Iterator<Item = AssignmentChange> + use<>,
        impl Iterator<Item = AssignmentChange> + use<>,
    ) {
        use AssignmentChange as C;
        let Self { peers, endpoints, vips, gone_vips, gone_endpoints, gone_peers, networks } = self;
        let networks = Arc::new(networks);
        let also = Arc::clone(&networks);
        let endpoint = move |task: Arc<Task>| TaskEndpoint::of(&task, |id| networks.contains(&id));
        let vip = move |one: Arc<Service>| ServiceVips::of(&one, |id| also.contains(&id));
        let peers = peers.into_iter().map(|peer| C::UpdatePeer(Arc::new(peer)));
        let endpoints = endpoints.into_iter().filter_map(endpoint);
        let endpoints = endpoints.map(|endpoint| C::UpdateEndpoint(Arc::new(endpoint)));
        let vips = vips.into_iter().filter_map(vip).map(|vips| C::UpdateVips(Arc::new(vips)));
        let gone_vips = gone_vips.into_iter().map(C::RemoveVips);
        let gone_endpoints = gone_endpoints.into_iter().map(C::RemoveEndpoint);
        let gone_peers = gone_peers.into_iter().map(C::RemovePeer);
        (peers.chain(endpoints).chain(vips), gone_vips.chain(gone_endpoints).chain(gone_peers))
    }
}
