//! What one node is told of others: where tasks and services on its overlay networks are reached, where tasks are
//! that publish ports on every node, and how the nodes of all these are. Who has a task that publishes ports is led
//! to by every node, and knows all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_manager_state::ClusterState;
use shoal_types::assignment::{AssignmentChange, IngressPort, Peer, ServiceVips, TaskEndpoint};
use shoal_types::id::{NetworkId, NodeId, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{Node, Service, Task};

use super::leads_ports;

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

/// What is looked at as a whole: overlay networks, and published ports.
#[derive(Debug, Clone, Default)]
pub(super) struct Turned {
    /// The node has joined them, or has left them.
    pub(super) flipped: BTreeSet<NetworkId>,
    /// The node may not have heard of changes there: it had left them for a moment.
    pub(super) unheard: BTreeSet<NetworkId>,
    /// All published ports, and whether the node is told about them.
    pub(super) ports: Option<bool>,
}

impl Turned {
    fn has(&self, network: NetworkId) -> bool {
        self.flipped.contains(&network) || self.unheard.contains(&network)
    }
}

/// What the node was told. Tasks and services are the state's own, as they were then.
#[derive(Debug, Clone)]
pub(super) struct Others {
    node: NodeId,
    /// Whether it is told about published ports.
    ports: bool,
    /// How many tasks of its own publish any.
    publishing: usize,
    /// The overlay networks about which it is told.
    networks: BTreeSet<NetworkId>,
    endpoints: BTreeMap<TaskId, Arc<Task>>,
    vips: BTreeMap<ServiceId, Arc<Service>>,
    peers: BTreeMap<NodeId, Beside>,
}

/// Another node.
#[derive(Debug, Clone, Copy, Default)]
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
    /// Whether it is told about published ports.
    ports: bool,
    /// Whether that is news.
    ports_flipped: bool,
}

/// The other nodes that are told of a task, as they may lead somebody to it. Who cannot be reached is not waited
/// for.
#[must_use]
pub fn listeners(view: &ClusterState, task: TaskId) -> BTreeSet<NodeId> {
    let Some(task) = view.task(task) else { return BTreeSet::new() };
    let everywhere = !IngressPort::of(task.ports()).is_empty();
    let able = view.nodes().filter(|node| everywhere && leads_ports(node.description.level));
    let joined = task.networks.iter().filter(|network| network.spans_nodes());
    let beside = joined.flat_map(|network| view.nodes_of_network(network.network_id));
    able.map(|node| node.id)
        .chain(beside)
        .filter(|node| Some(*node) != task.node_id && is_reachable(view, *node))
        .collect()
}

/// Whether a node can be told anything, as far as managers know.
#[must_use]
pub fn is_reachable(view: &ClusterState, node: NodeId) -> bool {
    view.node(node).is_some_and(|node| node.is_reachable())
}

impl Others {
    pub(super) const fn new(node: NodeId) -> Self {
        Self {
            node,
            ports: false,
            publishing: 0,
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

    /// What the node is to be told after news, and because all about what has `turned` may be other than it
    /// was told.
    pub(super) fn catch_up(
        &mut self,
        view: &ClusterState,
        mut named: Named,
        turned: &Turned,
    ) -> OtherChanges {
        let mut changes =
            OtherChanges { networks: self.networks.clone(), ..OtherChanges::default() };
        let had = self.is_led_to();
        self.turn_ports(view, turned, &mut named, &mut changes);
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
        let has = self.is_led_to();
        if has != had || (has && turned.ports.is_some()) {
            named.peers.extend(self.peers.keys().copied().chain(view.nodes().map(|node| node.id)));
        }
        for id in named.peers {
            self.peer(view, id, &mut changes);
        }
        changes
    }

    /// Whether other nodes lead ports to tasks of this one.
    const fn is_led_to(&self) -> bool {
        self.ports && self.publishing > 0
    }

    /// Names all that has to do with published ports, if that is to be looked at.
    fn turn_ports(
        &mut self,
        view: &ClusterState,
        turned: &Turned,
        named: &mut Named,
        changes: &mut OtherChanges,
    ) {
        if let Some(ports) = turned.ports {
            changes.ports_flipped = std::mem::replace(&mut self.ports, ports) != ports;
            let known = self.endpoints.values().filter(|task| TaskEndpoint::has_ports(task));
            named.endpoints.extend(known.map(|task| task.id));
            named.endpoints.extend(view.published_tasks().filter(|_| ports).map(|task| task.id));
            named.peers.extend(self.peers.keys());
            named.peers.insert(self.node);
        }
        changes.ports = self.ports;
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
            let on_network = || task.networks.iter().any(|n| self.knows(n.network_id));
            TaskEndpoint::has_one(task)
                && (on_network() || (self.ports && TaskEndpoint::has_ports(task)))
        };
        let new = view.task(id).filter(told).cloned();
        let old = match &new {
            Some(task) => self.endpoints.insert(id, Arc::clone(task)),
            None => self.endpoints.remove(&id),
        };
        for (task, is_new) in [(&old, false), (&new, true)] {
            let Some(node) = task.as_ref().and_then(|task| task.node_id) else { continue };
            let count = &mut self.peers.entry(node).or_default().endpoints;
            let change = |count: usize| if is_new { count + 1 } else { count.saturating_sub(1) };
            *count = change(*count);
            if node == self.node && task.as_ref().is_some_and(|task| TaskEndpoint::has_ports(task))
            {
                self.publishing = change(self.publishing);
            }
            peers.insert(node);
        }
        match (old, new) {
            (Some(old), Some(new))
                if TaskEndpoint::is_unchanged(&old, &new)
                    && !(changes.ports_flipped && TaskEndpoint::has_ports(&new))
                    && !new.networks.iter().any(|n| turned.flipped.contains(&n.network_id)) => {}
            (Some(old), Some(new)) if says_the_same(&old, &new, turned, changes) => {}
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
        let is_told = |id: NetworkId| changes.networks.contains(&id);
        let was_told = |id: NetworkId| is_told(id) != turned.flipped.contains(&id);
        let new = view.service(id).filter(|service| on(service, &self.networks)).cloned();
        let old = match &new {
            Some(service) => self.vips.insert(id, Arc::clone(service)),
            None => self.vips.remove(&id),
        };
        match (old, new) {
            (Some(old), Some(new))
                if ServiceVips::of(&old, was_told) == ServiceVips::of(&new, is_told) => {}
            (_, Some(new)) => changes.vips.push(new),
            (Some(_), None) => changes.gone_vips.push(id),
            (None, None) => {}
        }
    }

    /// Looks at one node, after all tasks.
    fn peer(&mut self, view: &ClusterState, id: NodeId, changes: &mut OtherChanges) {
        let Beside { endpoints, told } = self.peers.get(&id).copied().unwrap_or_default();
        let leads_here = |node: &Node| self.is_led_to() && leads_ports(node.description.level);
        let has_to_do = |node: &&Arc<Node>| match id == self.node {
            true => self.ports,
            false => endpoints > 0 || leads_here(node),
        };
        let mut new = view.node(id).filter(has_to_do).and_then(|node| Peer::of(node));
        if let Some(own) = new.as_mut().filter(|_| id == self.node && view.level() >= Level::KEYS) {
            own.keys.cluster = view.cluster().map(|cluster| cluster.tunnel_keys.epochs);
        }
        match (told, new) {
            (old, new) if old == new => {}
            (_, Some(new)) => changes.peers.push(new),
            (_, None) => changes.gone_peers.push(id),
        }
        if endpoints == 0 && new.is_none() {
            self.peers.remove(&id);
        } else {
            self.peers.insert(id, Beside { endpoints, told: new });
        }
    }
}

/// Whether a task that was connected elsewhere is reached as before where the node is told about it.
fn says_the_same(
    old: &Arc<Task>,
    new: &Arc<Task>,
    turned: &Turned,
    changes: &OtherChanges,
) -> bool {
    let is_told = |id: NetworkId| changes.networks.contains(&id);
    let was_told = |id: NetworkId| is_told(id) != turned.flipped.contains(&id);
    let had_ports = changes.ports != changes.ports_flipped;
    !Arc::ptr_eq(&old.networks, &new.networks)
        && TaskEndpoint::of(old, was_told, had_ports)
            == TaskEndpoint::of(new, is_told, changes.ports)
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
        let Self {
            peers,
            endpoints,
            vips,
            gone_vips,
            gone_endpoints,
            gone_peers,
            networks,
            ports,
            ports_flipped: _,
        } = self;
        let networks = Arc::new(networks);
        let also = Arc::clone(&networks);
        let endpoint =
            move |task: Arc<Task>| TaskEndpoint::of(&task, |id| networks.contains(&id), ports);
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
