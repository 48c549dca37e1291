//! How a container is connected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use shoal_types::assignment::AssignedTask;
use shoal_types::id::NetworkId;
use shoal_types::object::{Network, TaskNetwork};

use super::{LowerError, unsupported};
use crate::network::{AttachRequest, NetworkConfig};

/// How a container is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkPlan {
    /// It shares the host's network.
    Host,
    /// It has a network of its own, with these connections in the order of its interfaces. Without
    /// any it reaches nobody.
    Joined(Vec<Joined>),
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The network as it has to exist on this node.
    pub config: NetworkConfig,
    /// The connection.
    pub request: AttachRequest,
}

pub(super) fn plan(
    task: &AssignedTask,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
) -> Result<NetworkPlan, LowerError> {
    let mut joined = Vec::new();
    let mut host = false;
    for wanted in &task.networks {
        let id = wanted.network_id;
        let network = networks.get(&id).ok_or(LowerError::UnknownNetwork { id })?;
        match network.spec.driver.name.as_str() {
            "" | "bridge" => joined.push(join(task, wanted, network)?),
            "host" => host = true,
            "none" | "null" => {}
            other => {
                let field = format!("driver of network {}", network.spec.name);
                return Err(unsupported(field, other));
            }
        }
    }
    if host && !joined.is_empty() {
        let what = "the host's network together with others";
        return Err(unsupported("networks", what));
    }
    Ok(if host { NetworkPlan::Host } else { NetworkPlan::Joined(joined) })
}

fn join(
    task: &AssignedTask,
    wanted: &TaskNetwork,
    network: &Network,
) -> Result<Joined, LowerError> {
    let mut aliases: BTreeSet<String> = wanted.aliases.iter().cloned().collect();
    aliases.insert(task.service_name.clone());
    aliases.insert(format!("{}.{}", task.service_name, task.slot));
    let address = match wanted.addresses.as_slice() {
        [] => None,
        [IpNet::V4(net), ..] => Some(net.addr()),
        [IpNet::V6(net), ..] => {
            return Err(unsupported("networks.addresses", format!("the IPv6 address {net}")));
        }
    };
    let request = AttachRequest {
        container: task.id.to_string(),
        network: network.id.to_string(),
        aliases,
        address,
    };
    Ok(Joined { config: NetworkConfig::of_spec(network.id.to_string(), &network.spec)?, request })
}
