//! How a container is connected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use shoal_types::assignment::AssignedTask;
use shoal_types::id::{NetworkId, TaskId};
use shoal_types::object::{Network, TaskNetwork};
use shoal_types::spec::NetworkKind;

use super::{LowerError, unsupported};
use crate::network::{AttachRequest, NetworkConfig};

/// How a container is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkPlan {
    /// It shares the host's network.
    Host,
    /// It shares that of the container of another task, its partner: addresses, names and all.
    Of(TaskId),
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

/// The networks of a task that are made on its node, by id: the host's own and none are not. One that is
/// not known any more was made, as far as anybody can tell.
pub fn made_for(
    task: &AssignedTask,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
) -> BTreeSet<String> {
    let made = |id: &NetworkId| {
        networks.get(id).is_none_or(|network| {
            NetworkKind::of(&network.spec.driver).is_none_or(|kind| !kind.is_exclusive())
        })
    };
    let ids = task.networks.iter().map(|network| network.network_id);
    ids.filter(made).map(|id| id.to_string()).collect()
}

/// Whether a task is the one whose network another one is to share, as both say.
#[must_use]
pub fn is_partner(task: &AssignedTask, other: &AssignedTask) -> bool {
    task.partner == Some(other.id)
        && task.spec.network_of.as_deref() == Some(other.service_name.as_str())
        && (task.slot, task.node_id) == (other.slot, other.node_id)
        && other.spec.network_of.is_none()
}

/// One connection of a task, to the network of this id. `None` if it has none there.
///
/// # Errors
/// The network is not known to this node, or this node cannot do what it asks for.
pub fn connection(
    task: &AssignedTask,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
    network: &str,
) -> Result<Option<Joined>, LowerError> {
    let wanted = task.networks.iter().find(|joined| joined.network_id.to_string() == network);
    let Some(wanted) = wanted else { return Ok(None) };
    let id = wanted.network_id;
    let network = networks.get(&id).ok_or(LowerError::UnknownNetwork { id })?;
    join(task, wanted, network).map(Some)
}

pub(super) fn plan(
    task: &AssignedTask,
    partner: Option<&AssignedTask>,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
) -> Result<NetworkPlan, LowerError> {
    let shared = task.spec.network_of.as_ref();
    match (shared, partner.filter(|partner| is_partner(task, partner))) {
        (None, _) => {}
        // Never one of its own in its place.
        (Some(service), None) => return Err(LowerError::NoPartner { service: service.clone() }),
        (Some(_), Some(partner)) => {
            return Ok(match plan(partner, None, networks)? {
                NetworkPlan::Host => NetworkPlan::Host,
                NetworkPlan::Of(_) | NetworkPlan::Joined(_) => NetworkPlan::Of(partner.id),
            });
        }
    }
    let mut joined = Vec::new();
    let mut host = false;
    for wanted in &task.networks {
        let id = wanted.network_id;
        let network = networks.get(&id).ok_or(LowerError::UnknownNetwork { id })?;
        match NetworkKind::of(&network.spec.driver) {
            Some(
                NetworkKind::Bridge
                | NetworkKind::Overlay
                | NetworkKind::Macvlan
                | NetworkKind::Ipvlan,
            ) => {
                joined.push(join(task, wanted, network)?);
            }
            Some(NetworkKind::Host) => host = true,
            Some(NetworkKind::Nothing) => {}
            None => {
                let field = format!("driver of network {}", network.spec.name);
                return Err(unsupported(field, network.spec.driver.name.clone()));
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
    aliases.insert(task.name());
    let v4 = wanted.addresses.iter().find_map(|net| match net {
        IpNet::V4(net) => Some(net.addr()),
        IpNet::V6(_) => None,
    });
    let v6 = wanted.addresses.iter().find_map(|net| match net {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some(net.addr()),
    });
    let request = AttachRequest {
        container: task.id.to_string(),
        network: network.id.to_string(),
        aliases,
        address: v4,
        address_v6: v6,
        link_index: None,
    };
    let id = network.id.to_string();
    let config = if network.is_on_wire() {
        NetworkConfig::of_wire(id, &network.spec, &network.subnets)?
    } else if network.is_overlay() {
        NetworkConfig::of_overlay(id, &network.spec, &network.subnets)?
    } else {
        NetworkConfig::of_spec(id, &network.spec)?
    };
    Ok(Joined { config, request })
}
