//! What a node is told of others: where the tasks and services on its overlay networks are reached, and
//! the nodes to which these tasks are a tunnel away.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::id::{NetworkId, NodeId, ServiceId, TaskId};
use crate::object::{Slot, TunnelKey};

/// Where a task is reached on overlay networks: of all tasks that have a node and have not ended, those
/// of the node that is told among them.
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
    /// Whether it runs and is to run: others are led to it only then.
    pub serving: bool,
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

/// Another node, on which there are tasks that this one is told of, and its end of the tunnel.
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
}
