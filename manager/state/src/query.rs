//! Reading the state.

#[cfg(test)]
mod tests;

use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use shoal_types::id::{
    ConfigId, DeploymentId, ID_LEN, NetworkId, NodeId, SecretId, ServiceId, StackId, TaskId, UserId,
};
use shoal_types::object::{
    Cluster, Config, Deployment, DeploymentKind, Network, Node, Secret, Service, Slot, Stack, Task,
    TunnelKey, User,
};
use shoal_types::spec::{ClusterSpec, UpdateConfig};
use shoal_types::time::Timestamp;

use crate::cluster_state::ClusterState;
use crate::event::ObjectKind;
use crate::stored::Stored;
use crate::usage::{NOTHING, NodeUsage};

/// Why a reference does not lead to one object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// Nothing is called that.
    #[error("no {kind} has the name, id or id prefix {reference:?}")]
    NotFound {
        /// What was looked for.
        kind: ObjectKind,
        /// What was asked for.
        reference: String,
    },
    /// Several things are.
    #[error("{reference:?} fits several {kind}s, {first} and {second} among them")]
    Ambiguous {
        /// What was looked for.
        kind: ObjectKind,
        /// What was asked for.
        reference: String,
        /// Id of one of them.
        first: String,
        /// Id of another one.
        second: String,
    },
}

macro_rules! tables {
    ($($one:ident $many:ident $object:ident $id:ident $what:literal;)*) => {
        impl ClusterState {
            $(
                #[doc = concat!("The ", $what, " of this id.")]
                #[must_use]
                pub fn $one(&self, id: $id) -> Option<&Arc<$object>> {
                    self.$many.get(&id)
                }

                #[doc = concat!("All ", $what, "s, in order of their ids.")]
                pub fn $many(&self) -> impl ExactSizeIterator<Item = &Arc<$object>> {
                    self.$many.values()
                }
            )*
        }
    };
}

tables! {
    node nodes Node NodeId "node";
    network networks Network NetworkId "network";
    service services Service ServiceId "service";
    deployment deployments Deployment DeploymentId "deployment";
    stack stacks Stack StackId "stack";
    task tasks Task TaskId "task";
    user users User UserId "user";
    secret secrets Secret SecretId "secret version";
    config configs Config ConfigId "config version";
}

/// Lowest and highest of each id, as bounds of ranges.
const LOW: u128 = 0;
const HIGH: u128 = u128::MAX;

impl ClusterState {
    /// The cluster's own object, once there is one.
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }

    /// The service of this name.
    #[must_use]
    pub fn service_by_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.service(*self.indexes.service_names.get(name)?)
    }

    /// The network of this name.
    #[must_use]
    pub fn network_by_name(&self, name: &str) -> Option<&Arc<Network>> {
        self.network(*self.indexes.network_names.get(name)?)
    }

    /// The stack of this name.
    #[must_use]
    pub fn stack_by_name(&self, name: &str) -> Option<&Arc<Stack>> {
        self.stack(*self.indexes.stack_names.get(name)?)
    }

    /// The user of this name.
    #[must_use]
    pub fn user_by_name(&self, name: &str) -> Option<&Arc<User>> {
        self.user(*self.indexes.user_names.get(name)?)
    }

    /// Nodes of this host name or given name.
    pub fn nodes_by_name(&self, name: &str) -> impl Iterator<Item = &Arc<Node>> {
        let name: Arc<str> = name.into();
        self.indexes
            .node_names
            .range((Arc::clone(&name), NodeId::from(LOW))..=(name, NodeId::from(HIGH)))
            .filter_map(|(_, id)| self.node(*id))
    }

    /// All tasks of a service, ended ones too, by slot and then by id.
    pub fn tasks_of_service(&self, id: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        let from = (id, Slot::Replica(0), TaskId::from(LOW));
        let to = (id, Slot::Node(NodeId::from(HIGH)), TaskId::from(HIGH));
        self.indexes.slot_tasks.range(from..=to).filter_map(|(.., task)| self.task(*task))
    }

    /// All tasks of one slot, ended ones too, by id.
    pub fn tasks_of_slot(&self, id: ServiceId, slot: Slot) -> impl Iterator<Item = &Arc<Task>> {
        let (from, to) = ((id, slot, TaskId::from(LOW)), (id, slot, TaskId::from(HIGH)));
        self.indexes.slot_tasks.range(from..=to).filter_map(|(.., task)| self.task(*task))
    }

    /// All tasks that have this node, ended ones and ones still to be assigned too, by id.
    pub fn tasks_on_node(&self, id: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        let (from, to) = ((id, TaskId::from(LOW)), (id, TaskId::from(HIGH)));
        self.indexes.node_tasks.range(from..=to).filter_map(|(_, task)| self.task(*task))
    }

    /// Nodes that have tasks, neither ended nor still to be assigned, which join a network.
    pub fn nodes_of_network(&self, id: NetworkId) -> impl Iterator<Item = NodeId> {
        let (from, to) = ((id, NodeId::from(LOW)), (id, NodeId::from(HIGH)));
        self.indexes.network_nodes.range(from..=to).map(|(_, node)| *node)
    }

    /// Tasks that are reached on a network that spans nodes, by id.
    pub fn endpoints_of_network(&self, id: NetworkId) -> impl Iterator<Item = &Arc<Task>> {
        let (from, to) = ((id, TaskId::from(LOW)), (id, TaskId::from(HIGH)));
        self.indexes.endpoints.range(from..=to).filter_map(|(_, task)| self.task(*task))
    }

    /// Tasks that are reached at ports on every node, by their nodes and ids.
    pub fn published_tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.published.iter().filter_map(|(_, task)| self.task(*task))
    }

    /// Whether a node has such tasks.
    #[must_use]
    pub fn publishes(&self, node: NodeId) -> bool {
        let (from, to) = ((node, TaskId::from(LOW)), (node, TaskId::from(HIGH)));
        self.indexes.published.range(from..=to).next().is_some()
    }

    /// Nodes that have such tasks.
    pub fn publishing_nodes(&self) -> impl Iterator<Item = NodeId> {
        let next = |from: (NodeId, TaskId)| self.indexes.published.range(from..).next();
        let after = move |(node, _): &&(NodeId, TaskId)| {
            let next_node = NodeId::from(node.bits().checked_add(1)?);
            next((next_node, LOW.into()))
        };
        std::iter::successors(next((LOW.into(), LOW.into())), after).map(|(node, _)| *node)
    }

    /// Services that have a virtual address on a network, by id.
    pub fn vips_of_network(&self, id: NetworkId) -> impl Iterator<Item = &Arc<Service>> {
        let (from, to) = ((id, ServiceId::from(LOW)), (id, ServiceId::from(HIGH)));
        self.indexes.vips.range(from..=to).filter_map(|(_, service)| self.service(*service))
    }

    /// Services that share the network of the service of this name, which need not exist, by id.
    pub fn sharers(&self, name: &str) -> impl Iterator<Item = &Arc<Service>> {
        let name: Arc<str> = name.into();
        let (from, to) = ((Arc::clone(&name), LOW.into()), (name, HIGH.into()));
        self.indexes.sharers.range(from..=to).filter_map(|(_, service)| self.service(*service))
    }

    /// Wanted tasks that wait for a node and share the network of the service of this name, by slot and id.
    pub fn pending_beside(&self, name: &str) -> impl Iterator<Item = &Arc<Task>> {
        self.pending_between(name, Slot::Replica(0), Slot::Node(HIGH.into()))
    }

    /// The same, of one slot.
    pub fn pending_beside_slot(&self, name: &str, slot: Slot) -> impl Iterator<Item = &Arc<Task>> {
        self.pending_between(name, slot, slot)
    }

    fn pending_between(
        &self,
        name: &str,
        first: Slot,
        last: Slot,
    ) -> impl Iterator<Item = &Arc<Task>> {
        let name: Arc<str> = name.into();
        let (from, to) = ((Arc::clone(&name), first, LOW.into()), (name, last, HIGH.into()));
        self.indexes.pending_beside.range(from..=to).filter_map(|(.., task)| self.task(*task))
    }

    /// Tasks that share the network of a task, ended ones too, by id.
    pub fn sharing(&self, partner: TaskId) -> impl Iterator<Item = &Arc<Task>> {
        let (from, to) = ((partner, LOW.into()), (partner, HIGH.into()));
        self.indexes.partners.range(from..=to).filter_map(|(_, task)| self.task(*task))
    }

    /// Slots in which there are tasks, from this one on, by service and slot. One stands there once for
    /// each of its tasks.
    pub fn slots_from(
        &self,
        service: ServiceId,
        slot: Slot,
    ) -> impl Iterator<Item = (ServiceId, Slot)> {
        let from = (service, slot, TaskId::from(LOW));
        self.indexes.slot_tasks.range(from..).map(|(service, slot, _)| (*service, *slot))
    }

    /// Of which services and spec versions wanted tasks wait for a node, any node.
    pub fn pending_groups(&self) -> impl Iterator<Item = (ServiceId, u64)> {
        let next = |from: (ServiceId, u64, TaskId)| self.indexes.pending.range(from..).next();
        let first = next((LOW.into(), 0, LOW.into()));
        let after = move |found: &&(ServiceId, u64, TaskId)| {
            next((found.0, found.1.saturating_add(1), LOW.into()))
        };
        std::iter::successors(first, after).map(|(service, version, _)| (*service, *version))
    }

    /// The tasks of one such group, by id.
    pub fn pending_of(&self, service: ServiceId, version: u64) -> impl Iterator<Item = &Arc<Task>> {
        let (from, to) = ((service, version, LOW.into()), (service, version, HIGH.into()));
        self.indexes.pending.range(from..=to).filter_map(|(.., task)| self.task(*task))
    }

    /// Wanted tasks that wait for this one node, by id.
    pub fn pending_on_node(&self, node: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        let (from, to) = ((node, LOW.into()), (node, HIGH.into()));
        self.indexes.pending_on_node.range(from..=to).filter_map(|(_, task)| self.task(*task))
    }

    /// Nodes for which tasks wait that are for no other one.
    pub fn awaited_nodes(&self) -> impl Iterator<Item = NodeId> {
        let mut last = None;
        let nodes = self.indexes.pending_on_node.iter().map(|(node, _)| *node);
        nodes.filter(move |node| last.replace(*node) != Some(*node))
    }

    /// When tasks of a service ended badly on a node, oldest first.
    pub fn failures(
        &self,
        node: NodeId,
        service: ServiceId,
    ) -> impl DoubleEndedIterator<Item = Timestamp> {
        let from = (node, service, Timestamp::ZERO, LOW.into());
        let to = (node, service, Timestamp::from_nanos(u64::MAX), HIGH.into());
        self.indexes.failures.range(from..=to).map(|(.., at, _)| *at)
    }

    /// Tasks that are to be forgotten once they have ended, by id. Those whose service is gone are
    /// among them.
    pub fn leaving(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.leaving.iter().filter_map(|id| self.task(*id))
    }

    /// The cluster's settings; the usual ones before there is a cluster.
    #[must_use]
    pub fn spec(&self) -> &ClusterSpec {
        static USUAL: LazyLock<ClusterSpec> = LazyLock::new(ClusterSpec::default);
        self.cluster.as_ref().map_or(&USUAL, |cluster| &cluster.spec)
    }

    /// Whether nobody knows what a node does: it is lost, or no member any more.
    #[must_use]
    pub fn is_lost(&self, node: NodeId) -> bool {
        self.node(node).is_none_or(|node| node.is_lost())
    }

    /// All nodes with what their tasks hold there, in order of their ids.
    pub fn nodes_with_usage(&self) -> impl Iterator<Item = (&Arc<Node>, &NodeUsage)> {
        let mut usage = self.indexes.usage.iter().peekable();
        self.nodes.values().map(move |node| {
            while usage.next_if(|(id, _)| **id < node.id).is_some() {}
            let own = usage.next_if(|(id, _)| **id == node.id);
            (node, own.map_or(&NOTHING, |(_, usage)| &**usage))
        })
    }

    /// The deployments of a service, oldest first.
    pub fn deployments_of(
        &self,
        id: ServiceId,
    ) -> impl DoubleEndedIterator<Item = &Arc<Deployment>> {
        let from = (id, 0, DeploymentId::from(LOW));
        let to = (id, u64::MAX, DeploymentId::from(HIGH));
        let found = self.indexes.service_deployments.range(from..=to);
        found.filter_map(|(.., id)| self.deployment(*id))
    }

    /// How the service's present deployment is rolled out. A rollback may have settings of its own.
    #[must_use]
    pub fn rollout_config(&self, service: &Service) -> UpdateConfig {
        let (spec, deployment) = (&service.spec, self.deployment(service.deployment_id));
        let back = deployment.is_some_and(|d| d.kind == DeploymentKind::Rollback);
        let own = spec.rollback_config.as_ref().filter(|_| back);
        own.or(spec.update_config.as_ref()).cloned().unwrap_or_default()
    }

    /// What a node is called for people: its host's name, its id if it is not known.
    #[must_use]
    pub fn hostname(&self, id: NodeId) -> String {
        self.node(id).map_or_else(|| id.to_string(), |node| node.description.hostname.clone())
    }

    /// What the tasks on a node hold there.
    #[must_use]
    pub fn node_usage(&self, id: NodeId) -> &NodeUsage {
        self.indexes.usage.get(&id).map_or(&NOTHING, |usage| usage)
    }

    /// Nodes that say they have this tunnel key.
    pub(crate) fn nodes_with_key(&self, key: TunnelKey) -> impl Iterator<Item = NodeId> {
        let (from, to) = ((key, NodeId::from(LOW)), (key, NodeId::from(HIGH)));
        self.indexes.tunnel_keys.range(from..=to).map(|(_, node)| *node)
    }

    /// The network that a service means: an id, or else a name.
    #[must_use]
    pub fn network_target(&self, target: &str) -> Option<&Arc<Network>> {
        let by_id = NetworkId::from_str(target).ok().and_then(|id| self.network(id));
        by_id.or_else(|| self.network_by_name(target))
    }

    /// The node meant by an id, a host name or given name, or the beginning of an id. Of nodes with
    /// one name those that can be reached are meant, if there are any: a host that came back as
    /// another node is not hidden by what it was before.
    ///
    /// # Errors
    /// None, or several, are meant. So for all `resolve_*`.
    pub fn resolve_node(&self, reference: &str) -> Result<&Arc<Node>, Unresolved> {
        let mut named: Vec<_> = self.nodes_by_name(reference).collect();
        if named.iter().any(|node| node.is_reachable()) {
            named.retain(|node| node.is_reachable());
        }
        self.resolve(reference, &named)
    }

    /// The service meant by an id, a name, or the beginning of an id.
    ///
    /// # Errors
    /// See [`ClusterState::resolve_node`].
    pub fn resolve_service(&self, reference: &str) -> Result<&Arc<Service>, Unresolved> {
        self.resolve(reference, self.service_by_name(reference).as_slice())
    }

    /// The network meant by an id, a name, or the beginning of an id.
    ///
    /// # Errors
    /// See [`ClusterState::resolve_node`].
    pub fn resolve_network(&self, reference: &str) -> Result<&Arc<Network>, Unresolved> {
        self.resolve(reference, self.network_by_name(reference).as_slice())
    }

    /// The stack meant by an id, a name, or the beginning of an id.
    ///
    /// # Errors
    /// See [`ClusterState::resolve_node`].
    pub fn resolve_stack(&self, reference: &str) -> Result<&Arc<Stack>, Unresolved> {
        self.resolve(reference, self.stack_by_name(reference).as_slice())
    }

    /// The user meant by an id, a name, or the beginning of an id.
    ///
    /// # Errors
    /// See [`ClusterState::resolve_node`].
    pub fn resolve_user(&self, reference: &str) -> Result<&Arc<User>, Unresolved> {
        self.resolve(reference, self.user_by_name(reference).as_slice())
    }

    /// The deployment meant by an id or the beginning of one.
    ///
    /// # Errors
    /// See [`ClusterState::resolve_node`].
    pub fn resolve_deployment(&self, reference: &str) -> Result<&Arc<Deployment>, Unresolved> {
        self.resolve(reference, &[])
    }

    /// The task meant by an id, a name such as `web.3`, or the beginning of an id. A name means
    /// the task of the slot that has not ended, or the newest one if all have.
    ///
    /// # Errors
    /// See [`ClusterState::resolve_node`].
    pub fn resolve_task(&self, reference: &str) -> Result<&Arc<Task>, Unresolved> {
        let mut named: Vec<_> = self.tasks_by_name(reference).collect();
        if named.iter().any(|task| task.is_live()) {
            named.retain(|task| task.is_live());
        } else {
            let newest = named.iter().copied().max_by_key(|t| (t.meta.created_at, t.id));
            named = newest.into_iter().collect();
        }
        self.resolve(reference, &named)
    }

    fn tasks_by_name(&self, name: &str) -> impl Iterator<Item = &Arc<Task>> {
        let parsed = name.rsplit_once('.').and_then(|(service, slot)| {
            let number = slot.parse().map(Slot::Replica);
            let slot = number.or_else(|_| slot.parse().map(Slot::Node)).ok()?;
            Some((self.service_by_name(service)?.id, slot))
        });
        parsed.into_iter().flat_map(|(service, slot)| self.tasks_of_slot(service, slot))
    }

    /// Id before name before the beginning of an id.
    pub(crate) fn resolve<'a, T: Stored>(
        &'a self,
        reference: &str,
        named: &[&'a Arc<T>],
    ) -> Result<&'a Arc<T>, Unresolved> {
        let exact = T::Id::from_str(reference).ok().and_then(|id| T::table(self).get(&id));
        if let Some(found) = exact {
            return Ok(found);
        }
        let candidates =
            if named.is_empty() { self.with_prefix(reference) } else { named.to_vec() };
        match candidates.as_slice() {
            [] => Err(Unresolved::NotFound { kind: T::KIND, reference: reference.to_owned() }),
            [one] => Ok(one),
            [first, second, ..] => Err(Unresolved::Ambiguous {
                kind: T::KIND,
                reference: reference.to_owned(),
                first: first.id().to_string(),
                second: second.id().to_string(),
            }),
        }
    }

    /// Up to two objects whose id begins so.
    fn with_prefix<T: Stored>(&self, prefix: &str) -> Vec<&Arc<T>> {
        if prefix.is_empty() || prefix.len() >= ID_LEN {
            return Vec::new();
        }
        // Ids are ordered as their texts are, so all that begin so stand together.
        let Ok(first) = T::Id::from_str(&format!("{prefix:0<ID_LEN$}")) else {
            return Vec::new();
        };
        let found = T::table(self).range(first..).map(|(_, object)| object);
        found.take_while(|o| o.id().to_string().starts_with(prefix)).take(2).collect()
    }
}
