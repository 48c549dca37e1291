//! Who is reached on a network that spans nodes: what people ask, not what is stored.

use shoal_types::object::{
    AddressCount, Network, NetworkMembers, NetworkPeer, NetworkService, NetworkTask, Service,
    SubnetUse, Task,
};
use shoal_types::spec::SubnetPlan;

use crate::cluster_state::ClusterState;

/// The first of some things, and how many are left out.
fn first<T>(all: impl Iterator<Item = T>, left_out: &mut u64) -> Vec<T> {
    let mut found = Vec::new();
    for one in all {
        if found.len() < NetworkMembers::MAX {
            found.push(one);
        } else {
            *left_out += 1;
        }
    }
    found
}

impl ClusterState {
    /// Who is reached on a network, and how many addresses of each of its subnets are in use; `None` if managers do
    /// not choose its addresses.
    #[must_use]
    pub fn members_of(&self, network: &Network) -> Option<NetworkMembers> {
        if network.subnets.is_empty() {
            return None;
        }
        let subnet = |plan: SubnetPlan| {
            let AddressCount { used, free } = self.addresses_of(network.id, &plan);
            SubnetUse { subnet: plan.subnet, gateway: plan.gateway, used, free }
        };
        let task = |task: &Task| {
            let own = task.networks.iter().find(|joined| joined.network_id == network.id)?;
            let (task_id, name, node_id) = (task.id, task.name(), task.node_id?);
            Some(NetworkTask { task_id, name, node_id, addresses: own.addresses.clone() })
        };
        let service = |service: &Service| {
            let own = service.endpoint.virtual_ips.iter().filter(|v| v.network_id == network.id);
            let (service_id, name) = (service.id, service.spec.name.clone());
            NetworkService { service_id, name, vips: own.map(|vip| vip.addr).collect() }
        };
        let peer = |node_id| {
            let node = self.node(node_id)?;
            let ip = node.tunnel_address.map(|address| address.addr());
            Some(NetworkPeer { node_id, name: node.description.hostname.clone(), ip })
        };
        let mut left_out = 0;
        let tasks = self.endpoints_of_network(network.id).filter_map(|one| task(one));
        let services = self.vips_of_network(network.id).map(|one| service(one));
        let peers = self.nodes_of_network(network.id).filter_map(peer);
        Some(NetworkMembers {
            subnets: network.plans().map(subnet).collect(),
            tasks: first(tasks, &mut left_out),
            services: first(services, &mut left_out),
            peers: first(peers, &mut left_out),
            left_out,
        })
    }
}
