//! What one node is told to hold: made by managers, obeyed by the agent.

mod overlay;

pub use overlay::{
    EndpointNetwork, IngressPort, Peer, PeerKeys, ServiceVips, TaskEndpoint, VipNetwork,
};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId};
use crate::level::Level;
use crate::object::{Config, Network, Payloads, Secret, Slot, Task, TaskNetwork};
use crate::spec::{Labels, PortConfig, TaskSpec};
use crate::task_state::DesiredState;

/// A task as its node sees it: everything needed to run it, nothing that changes when the node
/// itself reports on it.
#[derive(Debug, Clone, PartialEq)]
pub struct AssignedTask {
    /// Its id.
    pub id: TaskId,
    /// Its service.
    pub service_id: ServiceId,
    /// Its service's name.
    pub service_name: String,
    /// Its service's labels.
    pub service_labels: Labels,
    /// The slot it fills.
    pub slot: Slot,
    /// The node it was assigned to.
    pub node_id: NodeId,
    /// What it is.
    pub spec: Arc<TaskSpec>,
    /// Ports it publishes.
    pub ports: Vec<PortConfig>,
    /// Networks it joins.
    pub networks: Vec<TaskNetwork>,
    /// The secrets and configs that it is given. What is in them is told beside it.
    pub payloads: Arc<Payloads>,
    /// The task whose network it shares.
    pub partner: Option<TaskId>,
    /// What managers want of it.
    pub desired_state: DesiredState,
    /// What its agent must be able to do to run it: there may be more to it than an older one reads.
    pub level: Level,
}

impl AssignedTask {
    /// As [`Task::name`].
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.service_name, self.slot)
    }

    /// The node's view of a task that has been placed.
    #[must_use]
    pub fn of(task: &Task) -> Option<Self> {
        Some(Self {
            id: task.id,
            service_id: task.service_id,
            service_name: String::from(&*task.service_name),
            service_labels: Labels::clone(&task.service_labels),
            slot: task.slot,
            node_id: task.node_id?,
            spec: Arc::clone(&task.spec),
            ports: task.ports().to_vec(),
            networks: task.networks.to_vec(),
            payloads: Arc::clone(&task.payloads),
            partner: task.partner,
            desired_state: task.desired_state,
            level: task.level,
        })
    }

    /// Whether the node sees the same in both versions of a task. Taken apart field by field, so that
    /// none is forgotten.
    #[must_use]
    pub fn is_unchanged(old: &Task, new: &Task) -> bool {
        let Task {
            id,
            meta: _,
            service_id,
            service_name,
            service_labels,
            slot,
            node_id,
            spec,
            spec_version: _,
            endpoint: _,
            networks,
            payloads,
            partner,
            desired_state,
            start_after: _,
            rejections: _,
            level,
            status: _,
        } = old;
        (id, service_id, slot, node_id) == (&new.id, &new.service_id, &new.slot, &new.node_id)
            && (desired_state, level, partner) == (&new.desired_state, &new.level, &new.partner)
            && (Arc::ptr_eq(spec, &new.spec) || *spec == new.spec)
            && (service_name, service_labels) == (&new.service_name, &new.service_labels)
            && (old.ports(), &**networks) == (new.ports(), &*new.networks)
            && (Arc::ptr_eq(payloads, &new.payloads) || *payloads == new.payloads)
    }
}

/// All that one node is told to hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeAssignment {
    /// Tasks to run, or to stop.
    pub tasks: BTreeMap<TaskId, AssignedTask>,
    /// Networks that these tasks need.
    pub networks: BTreeMap<NetworkId, Arc<Network>>,
    /// Secrets that these tasks are given.
    pub secrets: BTreeMap<SecretId, Arc<Secret>>,
    /// Configs likewise.
    pub configs: BTreeMap<ConfigId, Arc<Config>>,
    /// Where tasks on its overlay networks are reached.
    pub endpoints: BTreeMap<TaskId, Arc<TaskEndpoint>>,
    /// Where services on its overlay networks are reached.
    pub vips: BTreeMap<ServiceId, Arc<ServiceVips>>,
    /// The other nodes that have to do with these, and the node itself.
    pub peers: BTreeMap<NodeId, Arc<Peer>>,
    /// Tasks that the node cannot be told of, or cannot understand, and why. They are assigned to it
    /// all the same: it rejects them, unless it has accepted them before.
    pub rejected: BTreeMap<TaskId, Rejection>,
}

/// What is known of a task that its node cannot take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Why, for people.
    pub why: String,
    /// What managers want of it, if the node has accepted it before.
    pub desired_state: DesiredState,
}

/// One change of what a node is to hold.
#[derive(Debug, Clone, PartialEq)]
pub enum AssignmentChange {
    /// Hold this task, in place of what was known of it.
    UpdateTask(AssignedTask),
    /// Forget this task; if anything of it is still there, stop and remove it.
    RemoveTask(TaskId),
    /// Reject this task; but if it was accepted before, only heed what is wanted of it.
    RejectTask(TaskId, Rejection),
    /// Hold this network.
    UpdateNetwork(Arc<Network>),
    /// Forget this network.
    RemoveNetwork(NetworkId),
    /// Hold this secret, in memory alone.
    UpdateSecret(Arc<Secret>),
    /// Forget this secret.
    RemoveSecret(SecretId),
    /// Hold this config, in memory alone.
    UpdateConfig(Arc<Config>),
    /// Forget this config.
    RemoveConfig(ConfigId),
    /// A task is reached there, in place of what was known of it.
    UpdateEndpoint(Arc<TaskEndpoint>),
    /// Nobody of this node reaches that task any more.
    RemoveEndpoint(TaskId),
    /// A service is reached there, in place of what was known of it.
    UpdateVips(Arc<ServiceVips>),
    /// Nobody of this node reaches that service by a virtual address any more.
    RemoveVips(ServiceId),
    /// Let this node in, and send to it there.
    UpdatePeer(Arc<Peer>),
    /// Have nothing to do with that node any more.
    RemovePeer(NodeId),
}

impl NodeAssignment {
    /// Carries out changes, in order.
    pub fn apply(&mut self, changes: Vec<AssignmentChange>) {
        for change in changes {
            match change {
                AssignmentChange::UpdateTask(task) => {
                    self.rejected.remove(&task.id);
                    self.tasks.insert(task.id, task);
                }
                AssignmentChange::RemoveTask(id) => {
                    self.tasks.remove(&id);
                    self.rejected.remove(&id);
                }
                AssignmentChange::RejectTask(id, rejection) => {
                    self.tasks.remove(&id);
                    self.rejected.insert(id, rejection);
                }
                AssignmentChange::UpdateNetwork(network) => {
                    self.networks.insert(network.id, network);
                }
                AssignmentChange::RemoveNetwork(id) => {
                    self.networks.remove(&id);
                }
                AssignmentChange::UpdateSecret(secret) => {
                    self.secrets.insert(secret.id, secret);
                }
                AssignmentChange::RemoveSecret(id) => {
                    self.secrets.remove(&id);
                }
                AssignmentChange::UpdateConfig(config) => {
                    self.configs.insert(config.id, config);
                }
                AssignmentChange::RemoveConfig(id) => {
                    self.configs.remove(&id);
                }
                AssignmentChange::UpdateEndpoint(endpoint) => {
                    self.endpoints.insert(endpoint.task_id, endpoint);
                }
                AssignmentChange::RemoveEndpoint(id) => {
                    self.endpoints.remove(&id);
                }
                AssignmentChange::UpdateVips(vips) => {
                    self.vips.insert(vips.service_id, vips);
                }
                AssignmentChange::RemoveVips(id) => {
                    self.vips.remove(&id);
                }
                AssignmentChange::UpdatePeer(peer) => {
                    self.peers.insert(peer.node_id, peer);
                }
                AssignmentChange::RemovePeer(id) => {
                    self.peers.remove(&id);
                }
            }
        }
    }
}
