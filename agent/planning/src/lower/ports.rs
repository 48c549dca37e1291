//! How the ports of a task are published. Decided once: when it is prepared, to refuse what cannot be,
//! and when it is started, to do it.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_types::assignment::AssignedTask;
use shoal_types::id::NetworkId;
use shoal_types::object::Network;
use shoal_types::spec::{NetworkKind, PortConfig, PublishMode};

use super::{LowerError, invalid};
use crate::network::{PublishedPort, SharedPort};

/// How the ports of a task are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// It is on the host's network, and what it listens on is published by itself: on these ports.
    ByItself(Vec<PortConfig>),
    /// This node leads ports to it.
    ByNode {
        /// Its own.
        own: Vec<PublishedPort>,
        /// Those that answer on every node.
        shared: Vec<SharedPort>,
    },
}

/// Decides it, by the networks of the task.
///
/// # Errors
/// A port makes no sense, or cannot be had on the host's network, naming the field.
pub fn publication(
    task: &AssignedTask,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
) -> Result<Publication, LowerError> {
    let is_host = |id: &NetworkId| {
        let network = networks.get(id);
        network.is_some_and(|n| NetworkKind::of(&n.spec.driver) == Some(NetworkKind::Host))
    };
    let shared = task.ports.iter().filter_map(|port| SharedPort::of_spec(port).transpose());
    let shared: Vec<SharedPort> = shared.collect::<Result<_, _>>()?;
    let wanted = task.ports.iter().filter_map(|port| PublishedPort::of_spec(port).transpose());
    let wanted: Vec<PublishedPort> = wanted.collect::<Result<_, _>>()?;
    if !task.networks.iter().any(|network| is_host(&network.network_id)) {
        return Ok(Publication::ByNode { own: wanted, shared });
    }
    if let Some(i) = task.ports.iter().position(|port| port.publish_mode != PublishMode::Host) {
        let why = "answers on every node, which a task on the host's network cannot have";
        return Err(invalid(format!("ports[{i}]"), &task.ports[i].target_port.to_string(), why));
    }
    for (i, port) in wanted.iter().enumerate() {
        if port.host_port != 0 && port.host_port != port.target_port {
            let value = format!("{}:{}", port.host_port, port.target_port);
            let why = "leads to another port, which the host's network cannot do";
            return Err(invalid(format!("ports[{i}]"), &value, why));
        }
    }
    let same = |port: &PortConfig| PortConfig { published_port: port.target_port, ..port.clone() };
    Ok(Publication::ByItself(task.ports.iter().map(same).collect()))
}
