//! What a node is told of others: where the tasks and services on its overlay networks are reached, and
//! the nodes to which these tasks are a tunnel away.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::id::{NetworkId, NodeId, ServiceId, TaskId};
use crate::object::{
    Node, Service, Slot, Task, TaskNetwork, TunnelDescription, TunnelEnd, TunnelEpochs, TunnelKey,
    VirtualIp,
};
use crate::spec::{Affinity, Locality, PortConfig, Protocol, PublishMode};
use crate::task_state::{DesiredState, TaskState};

/// Where a task is reached on overlay networks, and by ports that answer on every node: of all tasks that have
/// a node and have not ended, those of the node that is told among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEndpoint {
    /// The task.
    pub task_id: TaskId,
    /// Its service.
    pub service_id: ServiceId,
    /// Its service's name.
    pub service_name: String,
    /// The slot it fills.
    pub slot: Slot,
    /// The node that it is on.
    pub node_id: NodeId,
    /// Those of its networks that tasks of the node which is told have joined, too.
    pub networks: Vec<EndpointNetwork>,
    /// Ports that lead to it on every node, whatever networks that one has.
    pub ports: Vec<IngressPort>,
    /// Whether clients who ask at these ports are led to the same one of its service's tasks each time.
    pub affinity: Option<Affinity>,
    /// Whether they are led to tasks of the node that is asked before others.
    pub locality: Option<Locality>,
    /// Whether it runs and is to run: others are led to it only then.
    pub serving: bool,
}

/// A port that answers on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IngressPort {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The port there.
    pub published_port: u16,
}

/// Where a task is reached on one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointNetwork {
    /// Which network.
    pub network_id: NetworkId,
    /// Its addresses there, with the network's prefix length.
    pub addresses: Vec<IpNet>,
    /// Further names of the task there.
    pub aliases: Vec<String>,
}

/// Where a service is reached as one: its virtual addresses on the networks that tasks of the node which is
/// told have joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceVips {
    /// The service.
    pub service_id: ServiceId,
    /// Its name.
    pub service_name: String,
    /// By network.
    pub networks: Vec<VipNetwork>,
    /// Whether clients who ask at its addresses are led to the same one of its tasks each time.
    pub affinity: Option<Affinity>,
    /// Whether they are led to tasks of their own node before others.
    pub locality: Option<Locality>,
}

/// The virtual address of a service on one network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipNetwork {
    /// Which network.
    pub network_id: NetworkId,
    /// The address, with the network's prefix length.
    pub vip: IpNet,
    /// Further names of the service there.
    pub aliases: Vec<String>,
}

/// A node's end of the tunnel: of another one that has tasks of which this one is told, or that leads ports to
/// tasks of this one; and of the node itself, for its own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node_id: NodeId,
    /// By which it is known what comes from it.
    pub public_key: TunnelKey,
    /// Where it is sent to.
    pub addr: IpAddr,
    /// UDP port there.
    pub port: u16,
    /// Its address inside of the tunnel, to which others send what asks for published ports.
    pub tunnel_address: Option<IpAddr>,
    /// Of which epoch its key is, and what there is beside it.
    pub keys: PeerKeys,
}

/// What a node is told of the keys of another one, and of its own cluster's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerKeys {
    /// The epoch of the key that is named first. Absent: the node has that one for ever.
    pub epoch: Option<u64>,
    /// The node's end of the links of another epoch.
    pub other: Option<TunnelEnd>,
    /// Of which epochs there are links. Said to the node of itself alone.
    pub cluster: Option<TunnelEpochs>,
}

impl TaskEndpoint {
    /// Whether a task is reached anywhere: it has a node and has not ended.
    #[must_use]
    pub fn has_one(task: &Task) -> bool {
        task.node_id.is_some() && task.status.state.is_placed() && task.is_live()
    }

    /// Whether others are led to a task.
    #[must_use]
    pub fn is_serving(task: &Task) -> bool {
        task.status.state == TaskState::Running && task.desired_state == DesiredState::Running
    }

    /// Where a task is reached on those of its networks that somebody is `told` of, and at which `ports` if he is
    /// told of these, if that is so anywhere.
    #[must_use]
    pub fn of(task: &Task, told: impl Fn(NetworkId) -> bool, ports: bool) -> Option<Self> {
        let network = |network: &TaskNetwork| EndpointNetwork {
            network_id: network.network_id,
            addresses: network.addresses.clone(),
            aliases: network.aliases.clone(),
        };
        let networks: Vec<_> =
            task.networks.iter().filter(|n| told(n.network_id)).map(network).collect();
        let ports = if ports { IngressPort::of(task.ports()) } else { Vec::new() };
        if (networks.is_empty() && ports.is_empty()) || !Self::has_one(task) {
            return None;
        }
        Some(Self {
            task_id: task.id,
            service_id: task.service_id,
            service_name: String::from(&*task.service_name),
            slot: task.slot,
            node_id: task.node_id?,
            networks,
            ports,
            affinity: task.endpoint.as_ref().and_then(|endpoint| endpoint.affinity),
            locality: task.endpoint.as_ref().and_then(|endpoint| endpoint.locality),
            serving: Self::is_serving(task),
        })
    }

    /// Whether a task is reached at ports that answer on every node.
    #[must_use]
    pub fn has_ports(task: &Task) -> bool {
        let everywhere = |port: &PortConfig| port.publish_mode == PublishMode::Ingress;
        Self::has_one(task) && task.ports().iter().any(everywhere)
    }

    /// Whether a task is reached in the same way in both its versions. Taken apart field by field, so that
    /// none is forgotten.
    #[must_use]
    pub fn is_unchanged(old: &Task, new: &Task) -> bool {
        let Task {
            id,
            meta: _,
            service_id,
            service_name,
            service_labels: _,
            slot,
            node_id,
            spec: _,
            spec_version: _,
            endpoint,
            networks,
            // Who has one is reached nowhere.
            payloads: _,
            partner: _,
            // As far as it serves.
            desired_state: _,
            start_after: _,
            rejections: _,
            level: _,
            status: _,
        } = old;
        (Self::has_one(old), Self::is_serving(old)) == (Self::has_one(new), Self::is_serving(new))
            && (id, service_id, slot, node_id)
                == (&new.id, &new.service_id, &new.slot, &new.node_id)
            && service_name == &new.service_name
            && (Arc::ptr_eq(networks, &new.networks) || networks == &new.networks)
            && endpoint == &new.endpoint
    }
}

impl IngressPort {
    /// Those of some ports that answer on every node, in order.
    #[must_use]
    pub fn of(ports: &[PortConfig]) -> Vec<Self> {
        let everywhere = |port: &&PortConfig| {
            port.publish_mode == PublishMode::Ingress && port.published_port != 0
        };
        let mut found: Vec<_> = ports
            .iter()
            .filter(everywhere)
            .map(|port| Self { protocol: port.protocol, published_port: port.published_port })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl ServiceVips {
    /// Where a service is reached on those of its networks that somebody is `told` of, if that is so
    /// anywhere.
    #[must_use]
    pub fn of(service: &Service, told: impl Fn(NetworkId) -> bool) -> Option<Self> {
        let aliases = |id| {
            let found = service.networks.iter().find(|network| network.network_id == id);
            found.map(|network| network.aliases.clone()).unwrap_or_default()
        };
        let network = |ip: &VirtualIp| VipNetwork {
            network_id: ip.network_id,
            vip: ip.addr,
            aliases: aliases(ip.network_id),
        };
        let ips = service.endpoint.virtual_ips.iter().filter(|ip| told(ip.network_id));
        let networks: Vec<_> = ips.map(network).collect();
        let (service_id, service_name) = (service.id, service.spec.name.clone());
        let spec = service.spec.endpoint_spec.as_ref();
        let (affinity, locality) = (spec.and_then(|s| s.affinity), spec.and_then(|s| s.locality));
        let all = Self { service_id, service_name, networks, affinity, locality };
        (!all.networks.is_empty()).then_some(all)
    }

    /// Whether a service is reached in the same way in both its versions.
    #[must_use]
    pub fn is_unchanged(old: &Service, new: &Service) -> bool {
        let said = |service: &Service| Self::of(service, |_| true);
        let same = Arc::ptr_eq(&old.spec, &new.spec)
            && old.endpoint.virtual_ips == new.endpoint.virtual_ips
            && Arc::ptr_eq(&old.networks, &new.networks);
        same || said(old) == said(new)
    }
}

impl Peer {
    /// How others reach a node, if it has told enough to know that.
    #[must_use]
    pub fn of(node: &Node) -> Option<Self> {
        let TunnelDescription { public_key, port, addr, kind: _, keys } = node.description.tunnel?;
        let addr = addr.or(node.status.addr)?;
        let leads_somewhere = port != 0 && !addr.is_unspecified() && !addr.is_multicast();
        let tunnel_address = node.tunnel_address.map(|address| address.addr());
        let keys = PeerKeys {
            epoch: keys.map(|keys| keys.epoch),
            other: keys.and_then(|keys| keys.other),
            cluster: None,
        };
        let node_id = node.id;
        leads_somewhere.then_some(Self { node_id, public_key, addr, port, tunnel_address, keys })
    }

    /// By which key the node is known in an epoch, and at which port it listens then, if it has said so. One that has
    /// one key for ever has it in the `present` one.
    #[must_use]
    pub fn end(&self, epoch: u64, present: u64) -> Option<TunnelEnd> {
        let first = TunnelEnd { epoch, public_key: self.public_key, port: self.port };
        let is_first = self.keys.epoch.unwrap_or(present) == epoch;
        if is_first { Some(first) } else { self.keys.other.filter(|end| end.epoch == epoch) }
    }
}
