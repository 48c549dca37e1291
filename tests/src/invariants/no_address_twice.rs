//! No address is held twice, by tasks, services or nodes, and each is one of the network that it is for.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use shoal_manager_state::ClusterState;
use shoal_types::object::{Network, Task};

use super::Moment;

/// What is wrong with the addresses of one moment.
#[must_use]
pub fn judge(moment: &Moment<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    networks(moment.state, &mut wrong);
    holders(moment.state, &mut wrong);
    running(moment, &mut wrong);
    wrong
}

/// No address is one of two networks, or one of a network and one of the nodes inside of their tunnels.
fn networks(state: &ClusterState, wrong: &mut Vec<String>) {
    let subnets = || state.networks().flat_map(|n| n.subnets.iter().map(|s| (&n.spec.name, s)));
    for (i, (name, subnet)) in subnets().enumerate() {
        for (other, second) in subnets().skip(i + 1) {
            if subnet.contains(second) || second.contains(subnet) {
                wrong.push(format!("networks {name} and {other} share addresses of {subnet}"));
            }
        }
        for node in state.nodes() {
            if node
                .tunnel_address
                .is_some_and(|a| subnet.contains(&a) || a.trunc().contains(subnet))
            {
                wrong.push(format!("network {name} and node {} share {subnet}", node.id));
            }
        }
    }
}

/// The addresses of a network that are for no task: gateways, the first ones where none is named, and those that the
/// spec keeps for others.
fn nobodys(network: &Network) -> Vec<IpAddr> {
    let configs = network.spec.ipam.iter().flat_map(|ipam| &ipam.config);
    let said = configs.clone().flat_map(|c| c.aux_addresses.values().chain([&c.gateway]));
    let said = said.filter_map(|text| text.parse().ok());
    let first = |subnet: &IpNet| match subnet {
        IpNet::V4(net) => net.hosts().next().map(IpAddr::V4),
        IpNet::V6(net) => net.hosts().nth(1).map(IpAddr::V6),
    };
    let named = |subnet: &&IpNet| {
        let mut of = configs.clone().filter(|c| c.subnet == subnet.to_string());
        of.any(|config| !config.gateway.is_empty())
    };
    let first = network.subnets.iter().filter(|subnet| !named(subnet)).filter_map(first);
    said.chain(first).collect()
}

/// What a task has on each of its networks.
fn addresses(task: &Task) -> impl Iterator<Item = IpAddr> {
    task.networks.iter().flat_map(|joined| &joined.addresses).map(IpNet::addr)
}

fn holders(state: &ClusterState, wrong: &mut Vec<String>) {
    let mut held: BTreeMap<IpAddr, String> = BTreeMap::new();
    let mut hold = |address: IpAddr, holder: String| {
        if let Some(other) = held.insert(address, holder.clone()) {
            wrong.push(format!("address {address} is held twice: by {other} and {holder}"));
        }
    };
    for task in state.tasks().filter(|task| !task.status.state.is_terminal()) {
        addresses(task).for_each(|address| hold(address, format!("task {}", task.id)));
    }
    for service in state.services() {
        let vips = service.endpoint.virtual_ips.iter();
        vips.for_each(|vip| hold(vip.addr.addr(), format!("service {}", service.id)));
    }
    for node in state.nodes() {
        let address = node.tunnel_address.into_iter();
        address.for_each(|address| hold(address.addr(), format!("node {}", node.id)));
    }
    for task in state.tasks().filter(|task| !task.status.state.is_terminal()) {
        for joined in task.networks.iter() {
            // One that is gone has none to give.
            let Some(network) = state.network(joined.network_id) else { continue };
            let one = [true, false].into_iter().all(|v4| {
                let of = |all: &[IpNet]| all.iter().filter(|a| a.addr().is_ipv4() == v4).count();
                of(&joined.addresses) == of(&network.subnets).min(1)
            });
            let own = |address: &IpNet| network.subnets.iter().any(|s| s.contains(&address.addr()));
            let own = |address: &IpNet| own(address) && !nobodys(network).contains(&address.addr());
            if !one || !joined.addresses.iter().all(own) {
                let (name, has) = (&network.spec.name, &joined.addresses);
                wrong.push(format!("task {} has {has:?} on network {name}", task.id));
            }
        }
    }
}

/// The same of what really runs; but what the managers have given up is not their doing.
fn running(moment: &Moment<'_>, wrong: &mut Vec<String>) {
    let mut seen = BTreeMap::new();
    for running in moment.running {
        let task = moment.state.task(running.task).filter(|t| !t.status.state.is_terminal());
        for address in task.into_iter().flat_map(|task| addresses(task)) {
            if let Some(other) = seen.insert(address, running.task)
                && other != running.task
            {
                wrong.push(format!("{address} really runs twice: as {other} and {}", running.task));
            }
        }
    }
}
