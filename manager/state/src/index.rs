//! Indexes: second ways to find objects. All of them follow from the tables; nothing here is
//! ever stored.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use shoal_types::id::{DeploymentId, NetworkId, NodeId, ServiceId, StackId, TaskId, UserId};
use shoal_types::object::{Deployment, Network, Node, Service, Slot, Stack, Task, User};

use crate::usage::NodeUsage;

/// All indexes. Names are shared texts, so that copying a part of a map copies no text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Indexes {
    pub(crate) service_names: OrdMap<Arc<str>, ServiceId>,
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
}

impl Indexes {
    pub(crate) fn enter_service(&mut self, service: &Service) {
        self.service_names.insert(service.spec.name.as_str().into(), service.id);
    }

    pub(crate) fn leave_service(&mut self, service: &Service) {
        self.service_names.remove(service.spec.name.as_str());
    }

    pub(crate) fn enter_network(&mut self, network: &Network) {
        self.network_names.insert(network.spec.name.as_str().into(), network.id);
    }

    pub(crate) fn leave_network(&mut self, network: &Network) {
        self.network_names.remove(network.spec.name.as_str());
    }

    pub(crate) fn enter_stack(&mut self, stack: &Stack) {
        self.stack_names.insert(stack.spec.name.as_str().into(), stack.id);
    }

    pub(crate) fn leave_stack(&mut self, stack: &Stack) {
        self.stack_names.remove(stack.spec.name.as_str());
    }

    pub(crate) fn enter_user(&mut self, user: &User) {
        self.user_names.insert(user.spec.name.as_str().into(), user.id);
    }

    pub(crate) fn leave_user(&mut self, user: &User) {
        self.user_names.remove(user.spec.name.as_str());
    }

    pub(crate) fn enter_node(&mut self, node: &Node) {
        for name in node_names(node) {
            self.node_names.insert((name.into(), node.id));
        }
    }

    pub(crate) fn leave_node(&mut self, node: &Node) {
        for name in node_names(node) {
            self.node_names.remove(&(name.into(), node.id));
        }
    }

    pub(crate) fn enter_deployment(&mut self, d: &Deployment) {
        self.service_deployments.insert((d.service_id, d.service_version, d.id));
    }

    pub(crate) fn leave_deployment(&mut self, d: &Deployment) {
        self.service_deployments.remove(&(d.service_id, d.service_version, d.id));
    }

    pub(crate) fn enter_task(&mut self, task: &Task) {
        self.slot_tasks.insert((task.service_id, task.slot, task.id));
        let Some(node) = task.node_id else { return };
        self.node_tasks.insert((node, task.id));
        if NodeUsage::counts(task) {
            Arc::make_mut(self.usage.entry(node).or_default()).add(task);
        }
    }

    pub(crate) fn leave_task(&mut self, task: &Task) {
        self.slot_tasks.remove(&(task.service_id, task.slot, task.id));
        let Some(node) = task.node_id else { return };
        self.node_tasks.remove(&(node, task.id));
        if !NodeUsage::counts(task) {
            return;
        }
        if let Some(usage) = self.usage.get_mut(&node) {
            let usage = Arc::make_mut(usage);
            usage.subtract(task);
            if usage.tasks == 0 {
                self.usage.remove(&node);
            }
        }
    }
}

fn node_names(node: &Node) -> impl Iterator<Item = &str> {
    [node.description.hostname.as_str(), node.spec.name.as_str()]
        .into_iter()
        .filter(|name| !name.is_empty())
}
