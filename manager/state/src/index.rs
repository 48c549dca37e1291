//! Indexes: second ways to find objects. All of them follow from the tables; nothing here is
//! ever stored.
//!
//! Each kind of object has one function, which is told what there was and what there is. A place in
//! an index is left and taken only where the two differ: most changes of a task move it nowhere.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use shoal_types::assignment::TaskEndpoint;
use shoal_types::id::{
    ConfigId, DeploymentId, NetworkId, NodeId, SecretId, ServiceId, StackId, TaskId, UserId,
};
use shoal_types::object::{
    Config, Deployment, Network, Node, Secret, Service, Slot, Stack, Task, TunnelKey, User,
};
use shoal_types::spec::{EndpointSpec, Labels, ServiceSpec};
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

use crate::addresses::Addresses;
use crate::payload::PayloadIndex;
use crate::ports::Ports;
use crate::usage::NodeUsage;

/// What of a service its tasks take over, once for all of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Inherited {
    pub(crate) name: Arc<str>,
    pub(crate) labels: Arc<Labels>,
    pub(crate) endpoint: Option<Arc<EndpointSpec>>,
}

impl Inherited {
    fn of(service: &Service) -> Self {
        let ServiceSpec { name, labels, endpoint_spec, .. } = &*service.spec;
        // Tasks know the numbers that were chosen.
        let ports = || service.endpoint.ports.clone();
        let endpoint = endpoint_spec.as_ref().map(|e| EndpointSpec { ports: ports(), ..e.clone() });
        let endpoint = endpoint.map(Arc::new);
        Self { name: name.as_str().into(), labels: Arc::new(labels.clone()), endpoint }
    }
}

/// All indexes. Names are shared texts, so that copying a part of a map copies no text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Indexes {
    pub(crate) service_names: OrdMap<Arc<str>, ServiceId>,
    pub(crate) inherited: OrdMap<ServiceId, Inherited>,
    pub(crate) network_names: OrdMap<Arc<str>, NetworkId>,
    pub(crate) stack_names: OrdMap<Arc<str>, StackId>,
    pub(crate) user_names: OrdMap<Arc<str>, UserId>,
    /// Host names and given names; neither has to be unique.
    pub(crate) node_names: OrdSet<(Arc<str>, NodeId)>,
    pub(crate) slot_tasks: OrdSet<(ServiceId, Slot, TaskId)>,
    pub(crate) node_tasks: OrdSet<(NodeId, TaskId)>,
    /// With the service's spec version in the middle: oldest first.
    pub(crate) service_deployments: OrdSet<(ServiceId, u64, DeploymentId)>,
    /// Only of nodes that hold anything.
    pub(crate) usage: OrdMap<NodeId, Arc<NodeUsage>>,
    /// Nodes whose tasks join a network; how many tasks stands in their usage.
    pub(crate) network_nodes: OrdSet<(NetworkId, NodeId)>,
    /// Networks that span nodes.
    pub(crate) overlays: OrdSet<NetworkId>,
    /// Tasks that are reached on them.
    pub(crate) endpoints: OrdSet<(NetworkId, TaskId)>,
    /// Tasks that are reached at ports on every node, by their nodes.
    pub(crate) published: OrdSet<(NodeId, TaskId)>,
    /// Services with a virtual address there.
    pub(crate) vips: OrdSet<(NetworkId, ServiceId)>,
    /// Services that share the network of that of a name.
    pub(crate) sharers: OrdSet<(Arc<str>, ServiceId)>,
    /// Tasks that share the network of a task, which comes first.
    pub(crate) partners: OrdSet<(TaskId, TaskId)>,
    /// Wanted tasks that wait for a node, any node.
    pub(crate) pending: OrdSet<(ServiceId, u64, TaskId)>,
    /// Wanted tasks that wait for a node and share the network of the service of a name.
    pub(crate) pending_beside: OrdSet<(Arc<str>, Slot, TaskId)>,
    /// Wanted tasks that wait for the one node they are for.
    pub(crate) pending_on_node: OrdSet<(NodeId, TaskId)>,
    /// Tasks that ended badly, by where and when.
    pub(crate) failures: OrdSet<(NodeId, ServiceId, Timestamp, TaskId)>,
    /// Tasks that are to be forgotten, those without a service among them.
    pub(crate) leaving: OrdSet<TaskId>,
    /// Of networks that span nodes, and of nodes inside of their tunnels.
    pub(crate) addresses: Addresses,
    /// Published ports of services.
    pub(crate) ports: Ports,
    /// Of secrets.
    pub(crate) secrets: PayloadIndex<SecretId>,
    /// Of configs.
    pub(crate) configs: PayloadIndex<ConfigId>,
    /// Which nodes say that they have which tunnel key.
    pub(crate) tunnel_keys: OrdSet<(TunnelKey, NodeId)>,
}

/// Moves an entry of a map from one key to another.
fn shift_key<T: PartialEq + Copy>(
    map: &mut OrdMap<Arc<str>, T>,
    old: Option<(&str, T)>,
    new: Option<(&str, T)>,
) {
    if old == new {
        return;
    }
    if let Some((name, _)) = old {
        map.remove(name);
    }
    if let Some((name, id)) = new {
        map.insert(name.into(), id);
    }
}

/// Moves an entry of a set.
fn shift<K: Ord + Clone>(set: &mut OrdSet<K>, old: Option<K>, new: Option<K>) {
    if old == new {
        return;
    }
    if let Some(key) = old {
        set.remove(&key);
    }
    if let Some(key) = new {
        set.insert(key);
    }
}

impl Indexes {
    pub(crate) fn service(&mut self, old: Option<&Service>, new: Option<&Service>) {
        match (old, new) {
            (Some(old), Some(new))
                if Arc::ptr_eq(&old.spec, &new.spec)
                    && old.endpoint.ports == new.endpoint.ports => {}
            (_, Some(new)) => drop(self.inherited.insert(new.id, Inherited::of(new))),
            (Some(old), None) => drop(self.inherited.remove(&old.id)),
            (None, None) => {}
        }
        self.payloads_of_service::<Secret>(old, new);
        self.payloads_of_service::<Config>(old, new);
        self.addresses.service(old, new);
        self.ports.service(old, new);
        let vips = |s: Option<&Service>| {
            let vips = s.into_iter().flat_map(|s| s.endpoint.virtual_ips.iter().map(|v| (v, s.id)));
            vips.map(|(vip, id)| (vip.network_id, id)).collect::<Vec<_>>()
        };
        let (before, now) = (vips(old), vips(new));
        if before != now {
            for key in &before {
                self.vips.remove(key);
            }
            self.vips.extend(now);
        }
        let shared = |s: &Service| Some((s.spec.task_template.network_of.as_deref()?.into(), s.id));
        shift(&mut self.sharers, old.and_then(shared), new.and_then(shared));
        let (old, new) = (old.map(|s| (&*s.spec.name, s.id)), new.map(|s| (&*s.spec.name, s.id)));
        shift_key(&mut self.service_names, old, new);
    }

    /// What a new task of a service takes over.
    pub(crate) fn inherited(&self, service: &Service) -> Inherited {
        let known = self.inherited.get(&service.id).cloned();
        known.unwrap_or_else(|| Inherited::of(service))
    }

    pub(crate) fn network(&mut self, old: Option<&Network>, new: Option<&Network>) {
        self.addresses.network(old, new);
        let overlay = |n: &Network| n.spans_nodes().then_some(n.id);
        shift(&mut self.overlays, old.and_then(overlay), new.and_then(overlay));
        let (old, new) = (old.map(|n| (&*n.spec.name, n.id)), new.map(|n| (&*n.spec.name, n.id)));
        shift_key(&mut self.network_names, old, new);
    }

    pub(crate) fn stack(&mut self, old: Option<&Stack>, new: Option<&Stack>) {
        let (old, new) = (old.map(|s| (&*s.spec.name, s.id)), new.map(|s| (&*s.spec.name, s.id)));
        shift_key(&mut self.stack_names, old, new);
    }

    pub(crate) fn user(&mut self, old: Option<&User>, new: Option<&User>) {
        let (old, new) = (old.map(|u| (&*u.spec.name, u.id)), new.map(|u| (&*u.spec.name, u.id)));
        shift_key(&mut self.user_names, old, new);
    }

    pub(crate) fn node(&mut self, old: Option<&Node>, new: Option<&Node>) {
        self.addresses.node(old, new);
        let keys = |node: Option<&Node>| {
            let tunnel = node.and_then(|node| Some((node.id, node.description.tunnel?)));
            let all = tunnel.map(|(id, tunnel)| tunnel.public_keys().map(move |key| (key, id)));
            all.into_iter().flatten()
        };
        for key in keys(old) {
            self.tunnel_keys.remove(&key);
        }
        self.tunnel_keys.extend(keys(new));
        let names = |n: &Node| (n.id, n.description.hostname.clone(), n.spec.name.clone());
        if old.map(names) == new.map(names) {
            return;
        }
        for name in old.into_iter().flat_map(node_names) {
            self.node_names.remove(&name);
        }
        self.node_names.extend(new.into_iter().flat_map(node_names));
    }

    pub(crate) fn deployment(&mut self, old: Option<&Deployment>, new: Option<&Deployment>) {
        let key = |d: &Deployment| (d.service_id, d.service_version, d.id);
        shift(&mut self.service_deployments, old.map(key), new.map(key));
    }

    pub(crate) fn task(&mut self, old: Option<&Task>, new: Option<&Task>) {
        let key = |t: &Task| (t.service_id, t.slot, t.id);
        shift(&mut self.slot_tasks, old.map(key), new.map(key));
        let key = |t: &Task| Some((t.node_id?, t.id));
        shift(&mut self.node_tasks, old.and_then(key), new.and_then(key));
        let key = |t: &Task| {
            (is_pending(t) && t.node_id.is_none()).then_some((t.service_id, t.spec_version, t.id))
        };
        shift(&mut self.pending, old.and_then(key), new.and_then(key));
        let key = |t: &Task| is_pending(t).then_some((t.node_id?, t.id));
        shift(&mut self.pending_on_node, old.and_then(key), new.and_then(key));
        let key = |t: &Task| {
            let shared = t.spec.network_of.as_deref().filter(|_| is_pending(t));
            Some((Arc::from(shared?), t.slot, t.id))
        };
        shift(&mut self.pending_beside, old.and_then(key), new.and_then(key));
        let key = |t: &Task| Some((t.partner?, t.id));
        shift(&mut self.partners, old.and_then(key), new.and_then(key));
        let key = |t: &Task| {
            let failed = t.status.state.ended_badly();
            failed.then_some((t.node_id?, t.service_id, t.status.timestamp, t.id))
        };
        shift(&mut self.failures, old.and_then(key), new.and_then(key));
        let key = |t: &Task| (t.desired_state == DesiredState::Remove).then_some(t.id);
        shift(&mut self.leaving, old.and_then(key), new.and_then(key));
        self.payloads_of_task::<Secret>(old, new);
        self.payloads_of_task::<Config>(old, new);
        self.addresses.task(old, new);
        self.reached(old, new);
        self.used(old, new);
    }

    /// A task has addresses on networks that span nodes, and on no others. Its ports never change; its networks do
    /// when it is connected to one.
    fn reached(&mut self, old: Option<&Task>, new: Option<&Task>) {
        let reached = |task: &Task| TaskEndpoint::has_one(task);
        let (was, is) = (old.filter(|t| reached(t)), new.filter(|t| reached(t)));
        if was.is_some() == is.is_some() && same_networks(was, is) {
            return;
        }
        let key = |t: &Task| Some((t.node_id.filter(|_| TaskEndpoint::has_ports(t))?, t.id));
        shift(&mut self.published, was.and_then(key), is.and_then(key));
        let spanning = |task: &Task| {
            let joined = task.networks.iter().filter(|n| n.spans_nodes());
            joined.map(|n| (n.network_id, task.id)).collect::<Vec<_>>()
        };
        for key in was.map(spanning).unwrap_or_default() {
            self.endpoints.remove(&key);
        }
        self.endpoints.extend(is.map(spanning).unwrap_or_default());
    }

    /// What a task reserves never changes; its networks do when it is connected to one.
    fn used(&mut self, old: Option<&Task>, new: Option<&Task>) {
        let key = |t: &Task| NodeUsage::counts(t).then_some((t.node_id, t.is_wanted()));
        if old.and_then(key) == new.and_then(key) && same_networks(old, new) {
            return;
        }
        if let Some((task, node)) = old.filter(|t| NodeUsage::counts(t)).and_then(with_node)
            && let Some(usage) = self.usage.get_mut(&node)
        {
            let usage = Arc::make_mut(usage);
            usage.subtract(task);
            for network in task.networks.iter().filter(|n| !usage.joins(n.network_id)) {
                self.network_nodes.remove(&(network.network_id, node));
            }
            if usage.tasks == 0 {
                self.usage.remove(&node);
            }
        }
        if let Some((task, node)) = new.filter(|t| NodeUsage::counts(t)).and_then(with_node) {
            let usage = Arc::make_mut(self.usage.entry(node).or_default());
            for network in task.networks.iter().filter(|n| !usage.joins(n.network_id)) {
                self.network_nodes.insert((network.network_id, node));
            }
            usage.add(task);
        }
    }
}

/// Whether a task has the networks that it had, if there was one and is one.
fn same_networks(old: Option<&Task>, new: Option<&Task>) -> bool {
    old.zip(new).is_none_or(|(old, new)| Arc::ptr_eq(&old.networks, &new.networks))
}

fn with_node(task: &Task) -> Option<(&Task, NodeId)> {
    Some((task, task.node_id?))
}

/// Whether a task is wanted and waits for a node.
fn is_pending(task: &Task) -> bool {
    task.status.state == TaskState::Pending && task.is_wanted()
}

fn node_names(node: &Node) -> impl Iterator<Item = (Arc<str>, NodeId)> {
    [node.description.hostname.as_str(), node.spec.name.as_str()]
        .into_iter()
        .filter(|name| !name.is_empty())
        .map(|name| (name.into(), node.id))
}
