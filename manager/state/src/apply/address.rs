//! Addresses of networks that span nodes, and of nodes: part of the command that makes what they are for. They follow
//! from the state and the ids in the command alone.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};
use sha2::{Digest as _, Sha256};
use shoal_types::id::{ClusterId, NetworkId, NodeId, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{
    Endpoint, Network, Node, Service, TUNNEL_TWINS, Task, TaskNetwork, VirtualIp,
};
use shoal_types::spec::{
    AddressPool, IpamConfig, NetworkKind, NetworkSpec, ServiceSpec, SubnetPlan, overlap,
};

use crate::addresses::{Addresses, Family, Range};
use crate::cluster_state::{ClusterState, Writer};
use crate::rejected::{AddressProblem, Rejected, SubnetHolder};

/// The subnets of a new network: of each family those that its spec names, or else the first one of the cluster's
/// pools, or of its own range of IPv6. None if it does not span nodes: then each node chooses.
pub(super) fn subnets(state: &ClusterState, spec: &NetworkSpec) -> Result<Vec<IpNet>, Rejected> {
    if !NetworkKind::of(&spec.driver).is_some_and(NetworkKind::spans_nodes) {
        return Ok(Vec::new());
    }
    if !spec.has_ipv4() && !spec.enable_ipv6 {
        return Err(Rejected::NetworkWithoutAddresses { network: spec.name.clone() });
    }
    let mut subnets: Vec<IpNet> = Vec::new();
    let on_wire = NetworkKind::of(&spec.driver).is_some_and(NetworkKind::is_on_wire);
    for config in spec.ipam.iter().flat_map(|ipam| &ipam.config) {
        let subnet = named(spec, config)?;
        let own = subnets.iter().find(|own| overlap(own, &subnet));
        let own = own.map(|own| SubnetHolder::Network { name: spec.name.clone(), subnet: *own });
        // On a wire all who are there have addresses of its subnet.
        let host = || if on_wire { None } else { host(state, &subnet) };
        if let Some(holder) = own.or_else(|| holder(state, &subnet)).or_else(host) {
            return Err(Rejected::SubnetTaken { network: spec.name.clone(), subnet, holder });
        }
        subnets.push(subnet);
    }
    let has = |family| Family::all_of(&subnets).any(|own| own == family);
    let (v4, v6) = (has(Family::V4), has(Family::V6));
    let addresses = &state.indexes.addresses;
    let exhausted = |count| Rejected::PoolsExhausted { network: spec.name.clone(), count };
    if spec.has_ipv4() && !v4 {
        let pools = state.spec().pools();
        let count = || pools.iter().copied().map(AddressPool::count).sum();
        subnets.insert(0, addresses.free_subnet(pools).ok_or_else(|| exhausted(count()))?);
    }
    if spec.enable_ipv6 && !v6 {
        let range = state.cluster().map(|cluster| own_range(cluster.id));
        let found = range.and_then(|range| addresses.free_subnet_6(range));
        subnets.push(found.ok_or_else(|| exhausted(1 << (64 - OWN_RANGE_LENGTH)))?);
    }
    Ok(subnets)
}

/// A subnet that a spec names, if the network may have it and somebody can get an address of it.
fn named(spec: &NetworkSpec, config: &IpamConfig) -> Result<IpNet, Rejected> {
    let fits = |subnet: &IpNet| {
        let enabled = match Family::of(subnet) {
            Family::V4 => spec.has_ipv4(),
            Family::V6 => spec.enable_ipv6,
        };
        enabled && *subnet == subnet.trunc() && SubnetPlan::of(*subnet, Some(config)).is_some()
    };
    config.subnet.parse().ok().filter(fits).ok_or_else(|| Rejected::SubnetUnusable {
        network: spec.name.clone(),
        subnet: config.subnet.clone(),
    })
}

/// Prefix length of a cluster's own range of IPv6 addresses (RFC 4193 3.1).
const OWN_RANGE_LENGTH: u8 = 48;

/// The range that networks of a cluster have their IPv6 subnets from: a unique local one. What is random in it (RFC 4193
/// 3.2.2) are the first five bytes of the SHA-256 of the cluster's id, of its 16 bytes in network order: all managers
/// have the same, and two clusters, or a cluster and another site, most likely not.
pub(super) fn own_range(id: ClusterId) -> Ipv6Net {
    let digest = Sha256::digest(id.bits().to_be_bytes());
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    for (byte, random) in bytes[1..6].iter_mut().zip(digest) {
        *byte = random;
    }
    Ipv6Net::new_assert(bytes.into(), OWN_RANGE_LENGTH)
}

/// Who has addresses of a subnet.
fn holder(state: &ClusterState, subnet: &IpNet) -> Option<SubnetHolder> {
    let addresses = &state.indexes.addresses;
    let network = addresses.holder(subnet).and_then(|id| state.network(id)).and_then(|network| {
        let subnet = *network.subnets.iter().find(|own| overlap(own, subnet))?;
        Some(SubnetHolder::Network { name: network.spec.name.clone(), subnet })
    });
    let twins = IpNet::from(TUNNEL_TWINS);
    let twins = overlap(&twins, subnet).then_some(twins);
    let nodes = || addresses.aside(subnet).or(twins).map(|subnet| SubnetHolder::Nodes { subnet });
    let tasks = || addresses.is_held(subnet).then_some(SubnetHolder::Tasks);
    network.or_else(nodes).or_else(tasks)
}

/// Which host uses addresses of a subnet for something else.
fn host(state: &ClusterState, subnet: &IpNet) -> Option<SubnetHolder> {
    let (id, others) = state.indexes.addresses.host_user(subnet)?;
    let description = &state.node(id)?.description;
    let used = description.host_subnets.iter().find(|host| host.overlaps(subnet))?;
    Some(SubnetHolder::Host {
        node: description.hostname.clone(),
        used: Box::new(used.clone()),
        others,
    })
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
            let kept = std::mem::take(&mut joined.addresses);
            let of_family = |family| kept.iter().find(|kept| Family::of(kept) == family);
            for family in Family::all_of(&network.subnets) {
                joined.addresses.push(match of_family(family) {
                    None => free(&state.indexes.addresses, network, family, id.bits(), user)?,
                    Some(kept) if state.indexes.addresses.has_holders(*kept) => {
                        let (service, address) = (service.spec.name.clone(), kept.addr());
                        return Err(Rejected::AddressAwaited { service, address });
                    }
                    Some(kept) => *kept,
                });
            }
        }
        Ok(joined)
    };
    networks.iter().map(with_address).collect()
}

/// The addresses that a service names on a network, and keeps there for its task: nobody else gets them, also while
/// it has no task.
pub(super) fn kept(
    state: &ClusterState,
    id: ServiceId,
    spec: &ServiceSpec,
    network: &Network,
    wanted: &[IpAddr],
) -> Result<Vec<IpNet>, Rejected> {
    let user = || format!("service {:?}", spec.name);
    wanted.iter().map(|address| named_one(state, network, *address, Some(id), user)).collect()
}

/// The addresses of a task on a network that it is connected to: those that are `wanted`, and of a family of which
/// none is, a free one.
pub(super) fn of_connection(
    state: &ClusterState,
    network: &Network,
    task: &Task,
    wanted: &[IpAddr],
) -> Result<Vec<IpNet>, Rejected> {
    let user = || format!("task {}", task.name());
    let wanted = wanted.iter().map(|address| named_one(state, network, *address, None, user));
    let wanted = wanted.collect::<Result<Vec<IpNet>, Rejected>>()?;
    let mut given = Vec::new();
    for family in Family::all_of(&network.subnets) {
        let mut own = wanted.iter().filter(|address| Family::of(address) == family);
        given.push(match (own.next(), own.next()) {
            (None, _) => free(&state.indexes.addresses, network, family, task.id.bits(), user)?,
            (Some(one), None) => *one,
            (Some(_), Some(more)) => {
                let (address, network) = (more.addr(), network.spec.name.clone());
                let problem = AddressProblem::Several;
                return Err(Rejected::AddressUnusable { user: user(), address, network, problem });
            }
        });
    }
    Ok(given)
}

/// An address of a network that somebody names, if nobody has it but a service and its tasks.
fn named_one(
    state: &ClusterState,
    network: &Network,
    address: IpAddr,
    service: Option<ServiceId>,
    user: impl FnOnce() -> String,
) -> Result<IpNet, Rejected> {
    let plan = network.plans().find(|plan| plan.subnet.contains(&address));
    let problem = match plan {
        _ if network.subnets.is_empty() => AddressProblem::Local,
        None => AddressProblem::Outside { subnets: network.subnets.clone() },
        Some(plan) if !plan.may_name(address) => AddressProblem::Nobodys,
        Some(plan) => {
            let length = plan.subnet.prefix_len();
            let address = IpNet::new(address, length).unwrap_or_else(|_| address.into());
            match state.other_holder(service, address) {
                None => return Ok(address),
                Some(holder) => AddressProblem::Taken { holder },
            }
        }
    };
    let network = network.spec.name.clone();
    Err(Rejected::AddressUnusable { user: user(), address, network, problem })
}

/// The virtual addresses of a service on those of its networks that span nodes: where it has one, that.
pub(super) fn of_service(
    state: &ClusterState,
    id: ServiceId,
    name: &str,
    networks: &[TaskNetwork],
    old: Option<&Endpoint>,
) -> Result<Vec<VirtualIp>, Rejected> {
    let had = |network: &Network, family| {
        let mut had = old.into_iter().flat_map(|old| &old.virtual_ips);
        had.find(|vip| vip.network_id == network.id && Family::of(&vip.addr) == family)
    };
    let user = || format!("service {name:?}");
    // Those that it names now are not in the index yet.
    let addresses = state.indexes.addresses.with(networks.iter().flat_map(|n| &n.addresses));
    let mut virtual_ips = Vec::new();
    // On a wire nobody leads packets for one address to another.
    let led = networks.iter().filter_map(|joined| spanning(state, joined.network_id));
    for network in led.filter(|network| !network.is_on_wire()) {
        for family in Family::all_of(&network.subnets) {
            let addr = match had(network, family) {
                Some(vip) => vip.addr,
                None => free(&addresses, network, family, id.bits(), user)?,
            };
            virtual_ips.push(VirtualIp { network_id: network.id, addr });
        }
    }
    Ok(virtual_ips)
}

/// A network, if its addresses are chosen here.
fn spanning(state: &ClusterState, id: NetworkId) -> Option<&Network> {
    if !state.indexes.addresses.any() {
        return None;
    }
    state.network(id).map(AsRef::as_ref).filter(|network| !network.subnets.is_empty())
}

fn free(
    addresses: &Addresses,
    network: &Network,
    family: Family,
    seed: u128,
    user: impl FnOnce() -> String,
) -> Result<IpNet, Rejected> {
    let plans = network.plans().filter(|plan| Family::of(&plan.subnet) == family);
    let plans: Vec<SubnetPlan> = plans.collect();
    let ranges: Vec<Range> = plans.iter().map(Range::of).collect();
    addresses.free(&ranges, seed).ok_or_else(|| {
        let count = plans.iter().map(SubnetPlan::count).sum::<u128>();
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        Rejected::NoFreeAddress { network: network.spec.name.clone(), user: user(), count }
    })
}
