//! Who holds which subnet, address and host port on this node.
//!
//! The one book behind every driver: the real one writes it down before the kernel is told, the
//! fake one only keeps it. The kernel's table and links are derived from it whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::pool::{self, AddressPool};
use super::publish::Publication;
use super::{AttachRequest, Attached, Mac, NetworkConfig, NetworkState, SharedPort, names};

mod error;
mod settings;

pub use self::error::LeaseError;
use self::settings::{MTU_MAX, MTU_MIN, choose_gateway, choose_subnet, label, same_settings};
pub use super::publish::{PublishError, Refusal};

/// What a node gives out and under which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// First letters of every interface of this agent ([`names::is_valid_prefix`]).
    pub prefix: String,
    /// Where subnets come from when the user names none.
    pub pools: Vec<AddressPool>,
    /// Bytes per packet where the network does not say.
    pub default_mtu: u32,
    /// Host ports that are chosen when the user asks for any.
    pub ports: RangeInclusive<u16>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            prefix: "sh".to_owned(),
            pools: pool::default_pools(),
            default_mtu: 1500,
            ports: 32_768..=60_999,
        }
    }
}

/// A range of addresses that the host uses for something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The range.
    pub subnet: Ipv4Net,
    /// What uses it, for messages: an interface or a route.
    pub by: String,
}

/// The book.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leases {
    pub(super) networks: BTreeMap<String, NetworkLease>,
    pub(super) containers: BTreeMap<String, ContainerLease>,
    /// The address given last on each network; the search for the next starts behind it.
    last_addresses: BTreeMap<String, Ipv4Addr>,
    /// Where the search for the next free host port starts.
    pub(super) next_port: u16,
}

/// One network in the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkLease {
    pub(super) config: NetworkConfig,
    pub(super) state: NetworkState,
}

/// One container in the book.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLease {
    /// By network id.
    pub(super) attachments: BTreeMap<String, Attached>,
    #[serde(default)]
    pub(super) publication: Option<Publication>,
    /// Ports that answer on every node. An agent that does not know them leads nobody there.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) shared: BTreeSet<SharedPort>,
}

impl ContainerLease {
    /// Whether it connects the container to a network.
    #[must_use]
    pub fn has(&self, network: &str) -> bool {
        self.attachments.contains_key(network)
    }
}

impl Leases {
    /// Enters a network, or finds it again.
    ///
    /// # Errors
    /// The configuration is contradictory or its subnet is used by `in_use` or another network,
    /// the pools are exhausted, or a network that connects containers would change.
    pub fn ensure_network(
        &mut self,
        config: &NetworkConfig,
        rules: &Rules,
        in_use: &[InUse],
    ) -> Result<NetworkState, LeaseError> {
        if let Some(lease) = self.networks.get_mut(&config.id) {
            if same_settings(&lease.config, config) {
                lease.config = config.clone();
                return Ok(lease.state.clone());
            }
            let containers = self.members(&config.id).count();
            if containers > 0 {
                return Err(LeaseError::NetworkChanged { network: label(config), containers });
            }
        }
        let state = self.new_state(config, rules, in_use)?;
        let lease = NetworkLease { config: config.clone(), state: state.clone() };
        self.networks.insert(config.id.clone(), lease);
        Ok(state)
    }

    fn new_state(
        &self,
        config: &NetworkConfig,
        rules: &Rules,
        in_use: &[InUse],
    ) -> Result<NetworkState, LeaseError> {
        let mtu = config.mtu.unwrap_or(rules.default_mtu);
        if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
            return Err(LeaseError::MtuInvalid { network: label(config), mtu });
        }
        let bridge = names::bridge(&rules.prefix, &config.id);
        let others = || self.networks.values().filter(|lease| lease.config.id != config.id);
        if let Some(other) = others().find(|lease| lease.state.bridge == bridge) {
            let (id, other) = (config.id.clone(), other.config.id.clone());
            return Err(LeaseError::NameCollision { ifname: bridge, id, other });
        }
        let used: Vec<InUse> = others()
            .map(|lease| InUse {
                subnet: lease.state.subnet,
                by: format!("network `{}`", label(&lease.config)),
            })
            .chain(in_use.iter().cloned())
            .collect();
        let subnet = choose_subnet(config, rules, &used)?;
        let gateway = choose_gateway(config, subnet)?;
        let (id, internal, routed) = (config.id.clone(), config.internal, config.routed);
        Ok(NetworkState { id, bridge, subnet, gateway, mtu, internal, routed })
    }

    /// Strikes a network out; `None` when it is not in the book.
    ///
    /// # Errors
    /// Containers are still connected.
    pub fn remove_network(&mut self, network: &str) -> Result<Option<NetworkState>, LeaseError> {
        let containers = self.members(network).count();
        if containers > 0 {
            let network = self.name_of(network);
            return Err(LeaseError::NetworkInUse { network, containers });
        }
        self.last_addresses.remove(network);
        Ok(self.networks.remove(network).map(|lease| lease.state))
    }

    /// Gives a container an address on a network, or finds the one it has.
    ///
    /// The first attachment to a network that leads out becomes the container's default route.
    ///
    /// # Errors
    /// The network is unknown, the wanted address is unusable or held, or none is free.
    pub fn attach(
        &mut self,
        request: &AttachRequest,
        rules: &Rules,
    ) -> Result<Attached, LeaseError> {
        if let Some(attached) = self.find_again(request)? {
            return Ok(attached);
        }
        let lease = self
            .networks
            .get(&request.network)
            .ok_or_else(|| LeaseError::UnknownNetwork { network: request.network.clone() })?;
        let state = lease.state.clone();
        let host_ifname = names::port(&rules.prefix, &request.container, &request.network);
        if let Some(other) = self.ports().find(|other| other.host_ifname == host_ifname) {
            let (id, other) = (request.container.clone(), other.container.clone());
            return Err(LeaseError::NameCollision { ifname: host_ifname, id, other });
        }
        let address = self.choose_address(request, lease)?;
        self.last_addresses.insert(request.network.clone(), address);
        let container = self.containers.entry(request.container.clone()).or_default();
        let attached = Attached {
            container: request.container.clone(),
            network: request.network.clone(),
            address: Ipv4Net::new_assert(
                address,
                if state.routed { 32 } else { state.subnet.prefix_len() },
            ),
            gateway: state.gateway,
            mac: Mac::of_address(address),
            ifname: container.free_ifname(),
            host_ifname,
            mtu: state.mtu,
            default_route: !state.internal
                && container.attachments.values().all(|other| !other.default_route),
            behind_gateway: state.routed.then_some(state.subnet).into_iter().collect(),
            aliases: request.aliases.clone(),
        };
        container.attachments.insert(request.network.clone(), attached.clone());
        Ok(attached)
    }

    fn find_again(&mut self, request: &AttachRequest) -> Result<Option<Attached>, LeaseError> {
        let Some(attached) = self
            .containers
            .get_mut(&request.container)
            .and_then(|container| container.attachments.get_mut(&request.network))
        else {
            return Ok(None);
        };
        let address = attached.address.addr();
        if request.address.is_some_and(|wanted| wanted != address) {
            let (container, network) = (request.container.clone(), request.network.clone());
            return Err(LeaseError::AlreadyAttached { container, network, address });
        }
        attached.aliases.clone_from(&request.aliases);
        Ok(Some(attached.clone()))
    }

    fn choose_address(
        &self,
        request: &AttachRequest,
        lease: &NetworkLease,
    ) -> Result<Ipv4Addr, LeaseError> {
        let network = || label(&lease.config);
        let (subnet, gateway) = (lease.state.subnet, lease.state.gateway);
        let holders: BTreeMap<Ipv4Addr, &str> = self
            .members(&request.network)
            .map(|member| (member.address.addr(), member.container.as_str()))
            .collect();
        if lease.state.routed && request.address.is_none() {
            return Err(LeaseError::AddressMissing { network: network() });
        }
        if let Some(address) = request.address {
            if !pool::is_usable(&subnet, address) {
                return Err(LeaseError::AddressUnusable { address, network: network(), subnet });
            }
            let holder = match holders.get(&address) {
                Some(container) => format!("container `{container}`"),
                None if address == gateway => "the gateway".to_owned(),
                None if lease.config.reserved.contains(&address) => "a reservation".to_owned(),
                None => return Ok(address),
            };
            return Err(LeaseError::AddressTaken { address, network: network(), holder });
        }
        let range = lease.config.ip_range.unwrap_or(subnet);
        let taken =
            holders.into_keys().chain([gateway]).chain(lease.config.reserved.clone()).collect();
        let last = self.last_addresses.get(&request.network).copied();
        pool::choose_address(&subnet, &range, &taken, last)
            .ok_or_else(|| LeaseError::NoFreeAddress { network: network(), range })
    }

    /// Takes a container off one network; `None` when it is not on it.
    pub fn detach(&mut self, container: &str, network: &str) -> Option<Attached> {
        let lease = self.containers.get_mut(container)?;
        let attached = lease.attachments.remove(network);
        self.forget_if_empty(container);
        attached
    }

    /// Takes a container off every network and withdraws its ports.
    pub fn release(&mut self, container: &str) -> Vec<Attached> {
        let lease = self.containers.remove(container).unwrap_or_default();
        lease.attachments.into_values().collect()
    }

    /// Releases every container and then every network that is not named. Networks that still
    /// connect a named container stay.
    pub fn retain(&mut self, containers: &BTreeSet<String>, networks: &BTreeSet<String>) {
        self.containers.retain(|id, _| containers.contains(id));
        let used: BTreeSet<String> = self.ports().map(|port| port.network.clone()).collect();
        self.networks.retain(|id, _| networks.contains(id) || used.contains(id));
        self.last_addresses.retain(|id, _| self.networks.contains_key(id));
    }

    pub(super) fn forget_if_empty(&mut self, container: &str) {
        let empty = |lease: &ContainerLease| {
            lease.attachments.is_empty() && lease.publication.is_none() && lease.shared.is_empty()
        };
        if self.containers.get(container).is_some_and(empty) {
            self.containers.remove(container);
        }
    }
}

/// Keeping the book: networks outlive the boot of a host, containers do not.
impl Leases {
    /// Opens the book again.
    #[must_use]
    pub fn restore(
        networks: BTreeMap<String, NetworkLease>,
        containers: BTreeMap<String, ContainerLease>,
    ) -> Self {
        Self { networks, containers, ..Self::default() }
    }

    /// The pages of all networks.
    #[must_use]
    pub fn network_pages(&self) -> &BTreeMap<String, NetworkLease> {
        &self.networks
    }

    /// The page of one container.
    #[must_use]
    pub fn container_page(&self, container: &str) -> Option<&ContainerLease> {
        self.containers.get(container)
    }

    /// Who has a page.
    pub fn container_ids(&self) -> impl Iterator<Item = &str> {
        self.containers.keys().map(String::as_str)
    }
}

/// Reading the book.
impl Leases {
    /// A network, if it is known with exactly this configuration.
    #[must_use]
    pub fn find_network(&self, config: &NetworkConfig) -> Option<&NetworkState> {
        let lease = self.networks.get(&config.id)?;
        (lease.config == *config).then_some(&lease.state)
    }

    /// A network, if known.
    #[must_use]
    pub fn network(&self, network: &str) -> Option<&NetworkState> {
        self.networks.get(network).map(|lease| &lease.state)
    }

    /// Every network.
    pub fn networks(&self) -> impl Iterator<Item = &NetworkState> {
        self.networks.values().map(|lease| &lease.state)
    }

    /// Every attachment of one container, in the order of its interface names.
    #[must_use]
    pub fn attachments(&self, container: &str) -> Vec<Attached> {
        let lease = self.containers.get(container);
        let mut all: Vec<Attached> =
            lease.into_iter().flat_map(|lease| lease.attachments.values().cloned()).collect();
        all.sort_by(|one, other| {
            (one.ifname.len(), &one.ifname).cmp(&(other.ifname.len(), &other.ifname))
        });
        all
    }

    /// Every attachment on this node.
    pub fn ports(&self) -> impl Iterator<Item = &Attached> {
        self.containers.values().flat_map(|container| container.attachments.values())
    }

    /// Which names lead to which addresses on one network.
    #[must_use]
    pub fn names(&self, network: &str) -> BTreeMap<String, BTreeSet<Ipv4Addr>> {
        let mut names: BTreeMap<String, BTreeSet<Ipv4Addr>> = BTreeMap::new();
        for member in self.members(network) {
            for alias in &member.aliases {
                names.entry(alias.clone()).or_default().insert(member.address.addr());
            }
        }
        names
    }

    fn members(&self, network: &str) -> impl Iterator<Item = &Attached> {
        self.ports().filter(move |port| port.network == network)
    }

    fn name_of(&self, network: &str) -> String {
        self.networks.get(network).map_or_else(|| network.to_owned(), |lease| label(&lease.config))
    }
}

impl ContainerLease {
    fn free_ifname(&self) -> String {
        let taken: BTreeSet<&str> =
            self.attachments.values().map(|attached| attached.ifname.as_str()).collect();
        // One more candidate than names are taken, so one is free.
        (0..=taken.len())
            .map(|number| format!("eth{number}"))
            .find(|name| !taken.contains(name.as_str()))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
