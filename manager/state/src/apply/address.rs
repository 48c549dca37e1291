//! Addresses of networks that span nodes, and of nodes: part of the command that makes what they are for. They follow
//! from the state and the ids in the command alone.

use std::sync::Arc;

use ipnet::IpNet;
use shoal_types::id::{NetworkId, NodeId, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{AddressCount, Endpoint, Network, Node, Service, TaskNetwork, VirtualIp};
use shoal_types::spec::{AddressPool, IpamConfig, NetworkKind, NetworkSpec};

use crate::addresses::is_subnet;
use crate::cluster_state::{ClusterState, Writer};
use crate::rejected::{Rejected, SubnetHolder};

/// The subnets of a new network: those that its spec names, or else the first one of the cluster's pools.
/// None if it does not span nodes: then each node chooses.
pub(super) fn subnets(state: &ClusterState, spec: &NetworkSpec) -> Result<Vec<IpNet>, Rejected> {
    if NetworkKind::of(&spec.driver) != Some(NetworkKind::Overlay) {
        return Ok(Vec::new());
    }
    let wanted: Vec<&IpamConfig> = spec.ipam.iter().flat_map(|ipam| &ipam.config).collect();
    if wanted.is_empty() {
        let pools = state.spec().pools();
        let found = state.indexes.addresses.free_subnet(pools);
        let count = || pools.iter().copied().map(AddressPool::count).sum();
        let none = || Rejected::PoolsExhausted { network: spec.name.clone(), count: count() };
        return Ok(vec![found.ok_or_else(none)?]);
    }
    let mut subnets: Vec<IpNet> = Vec::with_capacity(wanted.len());
    for config in wanted {
        let subnet = config.subnet.parse().ok().filter(is_subnet);
        let subnet: IpNet = subnet.ok_or_else(|| Rejected::SubnetUnusable {
            network: spec.name.clone(),
            subnet: config.subnet.clone(),
        })?;
        let own = subnets.iter().find(|own| own.contains(&subnet) || subnet.contains(*own));
        let own = own.map(|own| SubnetHolder::Network { name: spec.name.clone(), subnet: *own });
        if let Some(holder) = own.or_else(|| holder(state, &subnet)) {
            return Err(Rejected::SubnetTaken { network: spec.name.clone(), subnet, holder });
        }
        subnets.push(subnet);
    }
    Ok(subnets)
}

/// Who has addresses of a subnet.
fn holder(state: &ClusterState, subnet: &IpNet) -> Option<SubnetHolder> {
    let addresses = &state.indexes.addresses;
    let network = addresses.holder(subnet).and_then(|id| state.network(id)).and_then(|network| {
        let overlaps = |other: &&IpNet| other.contains(subnet) || subnet.contains(*other);
        let subnet = *network.subnets.iter().find(overlaps)?;
        Some(SubnetHolder::Network { name: network.spec.name.clone(), subnet })
    });
    let nodes = || addresses.aside(subnet).map(|subnet| SubnetHolder::Nodes { subnet });
    let tasks = || addresses.is_held(subnet).then_some(SubnetHolder::Tasks);
    network.or_else(nodes).or_else(tasks)
}

/// The address of a node inside of its tunnels. None before all managers would give it the same one, and none
/// while the pools are exhausted: a node is a member without, and gets it later.
pub(super) fn of_node(state: &ClusterState, id: NodeId) -> Option<IpNet> {
    if state.level() < Level::INGRESS {
        return None;
    }
    state.indexes.addresses.free_for_node(state.spec().pools(), id.bits())
}

/// Gives an address to each node that has none.
pub(super) fn of_nodes(w: &mut Writer<'_>) {
    let without: Vec<_> =
        w.state.nodes().filter(|node| node.tunnel_address.is_none()).cloned().collect();
    for node in without {
        if let Some(address) = of_node(w.state, node.id) {
            w.update(Node { tunnel_address: Some(address), ..Node::clone(&node) });
        }
    }
}

/// The networks of a new task, with an address on each of those that span nodes. Where none does, it shares
/// them with its service.
pub(super) fn of_task(
    state: &ClusterState,
    id: TaskId,
    service: &Service,
) -> Result<Arc<[TaskNetwork]>, Rejected> {
    let networks = &service.networks;
    if networks.iter().all(|joined| spanning(state, joined.network_id).is_none()) {
        return Ok(Arc::clone(networks));
    }
    let user = || format!("a task of service {:?}", service.spec.name);
    let with_address = |joined: &TaskNetwork| -> Result<TaskNetwork, Rejected> {
        let mut joined = joined.clone();
        if let Some(network) = spanning(state, joined.network_id) {
            joined.addresses = vec![free(state, network, id.bits(), user)?];
        }
        Ok(joined)
    };
    networks.iter().map(with_address).collect()
}

/// The virtual addresses of a service on those of its networks that span nodes: where it has one, that.
pub(super) fn of_service(
    state: &ClusterState,
    id: ServiceId,
    name: &str,
    networks: &[TaskNetwork],
    old: Option<&Endpoint>,
) -> Result<Vec<VirtualIp>, Rejected> {
    let spanning = networks.iter().filter_map(|joined| spanning(state, joined.network_id));
    let address = |network: &Network| -> Result<VirtualIp, Rejected> {
        let had = old.into_iter().flat_map(|old| &old.virtual_ips);
        let network_id = network.id;
        match had.into_iter().find(|vip| vip.network_id == network_id) {
            Some(vip) => Ok(vip.clone()),
            None => {
                let addr = free(state, network, id.bits(), || format!("service {name:?}"))?;
                Ok(VirtualIp { network_id, addr })
            }
        }
    };
    spanning.map(address).collect()
}

/// A network, if its addresses are chosen here.
fn spanning(state: &ClusterState, id: NetworkId) -> Option<&Network> {
    if !state.indexes.addresses.any() {
        return None;
    }
    state.network(id).map(AsRef::as_ref).filter(|network| !network.subnets.is_empty())
}

fn free(
    state: &ClusterState,
    network: &Network,
    seed: u128,
    user: impl FnOnce() -> String,
) -> Result<IpNet, Rejected> {
    state.indexes.addresses.free(&network.subnets, seed).ok_or_else(|| {
        let AddressCount { used, free } = state.addresses(network).unwrap_or_default();
        let (network, count) = (network.spec.name.clone(), used + free);
        Rejected::NoFreeAddress { network, user: user(), count }
    })
}
