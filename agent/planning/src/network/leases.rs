//! Who holds which subnet, address and host port on this node.
//!
//! The one book behind every driver: the real one writes it down before the kernel is told, the
//! fake one only keeps it. The kernel's table and links are derived from it whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use shoal_types::spec::{MTU_MAX, MTU_MIN, MTU_MIN_V6, Wire};

use super::pool::{self, AddressPool};
use super::publish::Publication;
use super::{
    AttachRequest, Attached, AttachedV4, AttachedV6, Family, Mac, NetworkConfig, NetworkState,
    Place, SharedPort, names,
};

mod error;
mod in_use;
mod reading;
mod settings;
mod wide;
mod wire;

pub use self::error::LeaseError;
pub use self::in_use::InUse;
use self::settings::{choose_subnets, label, same_settings};
pub use super::publish::{PublishError, Refusal};

/// What a node gives out and under which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// First letters of every interface of this agent ([`names::is_valid_prefix`]).
    pub prefix: String,
    /// Where subnets come from when the user names none.
    pub pools: Vec<AddressPool>,
    /// The node's own prefix of IPv6 (RFC 4193), of which networks get subnets when the user names none.
    pub ula: Ipv6Net,
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
            ula: pool::ula([0; 5]),
            default_mtu: 1500,
            ports: 32_768..=60_999,
        }
    }
}

/// The book.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leases {
    pub(super) networks: BTreeMap<String, NetworkLease>,
    pub(super) containers: BTreeMap<String, ContainerLease>,
    /// The address given last on each network, by whether it is of IPv6; the search for the next starts
    /// behind it.
    last_addresses: BTreeMap<(String, bool), IpAddr>,
    /// Where the search for the next free host port starts.
    pub(super) next_port: u16,
    /// The largest packet that the tunnel to other hosts takes, as was said last.
    widest: u32,
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
    /// Networks of which the container may not have yet what is written here: its links, or its default route.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) unfinished: BTreeSet<String>,
}

impl NetworkLease {
    /// Whether the network has IPv6.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        self.state.has_v6()
    }
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
        // A wire says it by itself.
        let usual = if config.wire.is_some() { 0 } else { rules.default_mtu };
        let mtu = config.mtu.unwrap_or(usual).max(wide::size(config, self.widest));
        if mtu != 0 && !(MTU_MIN..=MTU_MAX).contains(&mtu) {
            return Err(LeaseError::MtuInvalid { network: label(config), mtu });
        }
        if config.ipv6 && mtu != 0 && mtu < MTU_MIN_V6 {
            return Err(LeaseError::MtuV6 { network: label(config), mtu });
        }
        let bridge = names::bridge(&rules.prefix, &config.id);
        let others = || self.networks.values().filter(|lease| lease.config.id != config.id);
        if let Some(other) = others().find(|lease| lease.state.bridge == bridge) {
            let (id, other) = (config.id.clone(), other.config.id.clone());
            return Err(LeaseError::NameCollision { ifname: bridge, id, other });
        }
        let used: Vec<InUse> = others()
            .flat_map(|lease| {
                let by = format!("network `{}`", label(&lease.config));
                let subnets = lease.state.subnets.iter();
                subnets.map(move |one| InUse { subnet: one.subnet, by: by.clone() })
            })
            .chain(in_use.iter().cloned())
            // What is on a wire has the addresses of that, and the host most often has one of them.
            .filter(|_| config.wire.is_none())
            .collect();
        let subnets = choose_subnets(config, rules, &used)?;
        let (id, internal, routed) = (config.id.clone(), config.internal, config.routed);
        // Where it is, the driver finds out.
        let place = |wire: &Wire| Place { link: wire.parent.to_string(), made: None };
        let wire = config.wire.as_ref().map(place);
        Ok(NetworkState { id, bridge, subnets, mtu, internal, routed, wire })
    }

    /// Strikes a network out; `None` when it is not in the book.
    ///
    /// # Errors
    /// Containers are still connected.
    pub fn remove_network(&mut self, network: &str) -> Result<Option<NetworkState>, LeaseError> {
        let containers = self.members(network).count();
        if containers > 0 {
            let network = self.label_of(network);
            return Err(LeaseError::NetworkInUse { network, containers });
        }
        self.last_addresses.retain(|(id, _), _| id != network);
        Ok(self.networks.remove(network).map(|lease| lease.state))
    }

    /// Gives a container an address on a network, or finds the one it has.
    ///
    /// The first attachment to a network that leads out becomes the container's default route. It counts as unfinished
    /// until the container has it ([`finish`](Self::finish)).
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
        if let Some(other) = self.attached().find(|other| other.host_ifname == host_ifname) {
            let (id, other) = (request.container.clone(), other.container.clone());
            return Err(LeaseError::NameCollision { ifname: host_ifname, id, other });
        }
        let wire = self.on_wire(request, lease)?;
        let (v4, v6) = self.choose_both(request, lease)?;
        let first = v4.map(IpAddr::V4).or(v6.map(IpAddr::V6));
        let first = first.ok_or_else(|| LeaseError::NoFamily { network: label(&lease.config) })?;
        let mut attached = Attached {
            container: request.container.clone(),
            network: request.network.clone(),
            mac: Mac::of_address(first),
            ifname: String::new(),
            host_ifname,
            mtu: state.mtu,
            v4: v4.map(|address| v4_on(&state, address)),
            v6: v6.map(|address| v6_on(&state, address)),
            aliases: request.aliases.clone(),
            wire,
        };
        let leads_out = |family: &Family| {
            let address = attached.address_of(*family);
            address.is_some_and(|address| wire::leads_out(lease, address))
        };
        let out: Vec<Family> = Family::ALL.into_iter().filter(leads_out).collect();
        for address in v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)) {
            let last = (request.network.clone(), address.is_ipv6());
            self.last_addresses.insert(last, address);
        }
        let container = self.containers.entry(request.container.clone()).or_default();
        attached.ifname = container.free_ifname();
        for family in out {
            if container.attachments.values().all(|other| !other.is_way_out(family)) {
                attached.become_way_out(family);
            }
        }
        container.attachments.insert(request.network.clone(), attached.clone());
        container.unfinished.insert(request.network.clone());
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
        for wanted in Family::ALL.into_iter().filter_map(|family| request.address_of(family)) {
            let has = attached.address_of(Family::of(wanted));
            if has != Some(wanted) {
                let (container, network) = (request.container.clone(), request.network.clone());
                let first = attached.ends().next().map(|end| end.address.addr());
                let address = has.or(first).unwrap_or(wanted);
                return Err(LeaseError::AlreadyAttached { container, network, address });
            }
        }
        attached.aliases.clone_from(&request.aliases);
        if let (Some(wire), Some(index)) = (&mut attached.wire, request.link_index) {
            wire.index = index;
        }
        Ok(Some(attached.clone()))
    }

    /// One address of each family that the network has.
    fn choose_both(
        &self,
        request: &AttachRequest,
        lease: &NetworkLease,
    ) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), LeaseError> {
        let choose = |family| {
            let wanted = request.address_of(family);
            match (lease.state.of_family(family).next(), wanted) {
                (None, None) => Ok(None),
                (None, Some(address)) => {
                    let network = label(&lease.config);
                    Err(LeaseError::FamilyMissing { network, address, family })
                }
                (Some(_), _) => self.choose_address(request, lease, wanted, family).map(Some),
            }
        };
        let v4 = match choose(Family::V4)? {
            Some(IpAddr::V4(address)) => Some(address),
            Some(IpAddr::V6(_)) | None => None,
        };
        let v6 = match choose(Family::V6)? {
            Some(IpAddr::V6(address)) => Some(address),
            Some(IpAddr::V4(_)) | None => None,
        };
        Ok((v4, v6))
    }

    fn choose_address(
        &self,
        request: &AttachRequest,
        lease: &NetworkLease,
        wanted: Option<IpAddr>,
        family: Family,
    ) -> Result<IpAddr, LeaseError> {
        let network = || label(&lease.config);
        let NetworkLease { config, state } = lease;
        let of_family = || state.of_family(family);
        let gateways = || state.subnets.iter().map(|one| one.gateway);
        let reserved = || config.subnets.iter().flat_map(|one| &one.reserved).copied();
        let holders: BTreeMap<IpAddr, &str> = self
            .members(&request.network)
            .flat_map(|member| member.ends().map(|end| (end.address.addr(), &*member.container)))
            .collect();
        if (state.routed || state.wire.is_some()) && wanted.is_none() {
            return Err(LeaseError::AddressMissing { network: network() });
        }
        if let Some(address) = wanted {
            if !of_family().any(|one| pool::is_usable(&one.subnet, address)) {
                let subnets = listed(of_family().map(|one| one.subnet));
                return Err(LeaseError::AddressUnusable { address, network: network(), subnets });
            }
            let holder = match holders.get(&address) {
                Some(container) => format!("container `{container}`"),
                None if gateways().any(|gateway| gateway == address) => "the gateway".to_owned(),
                None if reserved().any(|one| one == address) => "a reservation".to_owned(),
                None => return Ok(address),
            };
            return Err(LeaseError::AddressTaken { address, network: network(), holder });
        }
        let range = |subnet: IpNet| {
            let config = config.subnets.iter().find(|one| one.subnet == subnet);
            (subnet, config.and_then(|one| one.ip_range).unwrap_or(subnet))
        };
        let ranges: Vec<(IpNet, IpNet)> = of_family().map(|one| range(one.subnet)).collect();
        let taken = holders.keys().copied().chain(gateways()).chain(reserved()).collect();
        let last = (request.network.clone(), family == Family::V6);
        let last = self.last_addresses.get(&last).copied();
        pool::choose_address(&ranges, &taken, last).ok_or_else(|| {
            let ranges = listed(ranges.iter().map(|(_, range)| *range));
            LeaseError::NoFreeAddress { network: network(), ranges }
        })
    }

    /// A container has all of an attachment. Says whether that is news.
    pub fn finish(&mut self, container: &str, network: &str) -> bool {
        self.containers.get_mut(container).is_some_and(|lease| lease.unfinished.remove(network))
    }

    /// Takes a container off one network; `None` when it is not on it. Where its default route was there, of either
    /// family, the first of its other attachments that leads out has it from now on, and is unfinished until the
    /// container knows.
    pub fn detach(&mut self, container: &str, network: &str) -> Option<Attached> {
        let lease = self.containers.get_mut(container)?;
        let ContainerLease { attachments, unfinished, .. } = lease;
        let gone = attachments.remove(network);
        unfinished.remove(network);
        let networks = &self.networks;
        let leads_out = |network: &str, address: IpAddr| {
            networks.get(network).is_some_and(|lease| wire::leads_out(lease, address))
        };
        let mut others: Vec<_> = attachments.values_mut().collect();
        others.sort_by_key(|one| (one.ifname.len(), one.ifname.clone()));
        for family in Family::ALL {
            let next = others.iter_mut().find(|one| {
                let address = one.address_of(family);
                address.is_some_and(|address| leads_out(&one.network, address))
            });
            if gone.as_ref().is_some_and(|gone| gone.is_way_out(family))
                && let Some(next) = next
            {
                next.become_way_out(family);
                unfinished.insert(next.network.clone());
            }
        }
        self.forget_if_empty(container);
        gone
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
        let used: BTreeSet<String> = self.attached().map(|one| one.network.clone()).collect();
        self.networks.retain(|id, _| networks.contains(id) || used.contains(id));
        self.last_addresses.retain(|(id, _), _| self.networks.contains_key(id));
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

fn v4(net: &IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    }
}

fn v6(net: &IpNet) -> Option<Ipv6Net> {
    match net {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some(*net),
    }
}

/// On a network that spans hosts everybody of it is behind the gateway.
fn behind_gateway<T>(state: &NetworkState, of_family: impl Fn(&IpNet) -> Option<T>) -> Vec<T> {
    let subnets = state.subnets.iter().filter_map(|one| of_family(&one.subnet));
    if state.routed { subnets.collect() } else { Vec::new() }
}

/// An address with its prefix, and the gateway of its subnet.
fn v4_on(state: &NetworkState, address: Ipv4Addr) -> AttachedV4 {
    let subnet = state.subnet_of(address.into());
    let length = subnet.filter(|_| !state.routed).map_or(32, |one| one.subnet.prefix_len());
    let gateway = match subnet.map(|one| one.gateway) {
        Some(IpAddr::V4(gateway)) => gateway,
        _ => address,
    };
    AttachedV4 {
        address: Ipv4Net::new(address, length).unwrap_or(address.into()),
        gateway,
        default_route: false,
        behind_gateway: behind_gateway(state, v4),
    }
}

fn v6_on(state: &NetworkState, address: Ipv6Addr) -> AttachedV6 {
    let subnet = state.subnet_of(address.into());
    let length = subnet.filter(|_| !state.routed).map_or(128, |one| one.subnet.prefix_len());
    let gateway = match subnet.map(|one| one.gateway) {
        Some(IpAddr::V6(gateway)) => gateway,
        _ => address,
    };
    AttachedV6 {
        address: Ipv6Net::new(address, length).unwrap_or(address.into()),
        gateway,
        default_route: false,
        behind_gateway: behind_gateway(state, v6),
    }
}

fn listed(nets: impl Iterator<Item = IpNet>) -> String {
    nets.map(|net| net.to_string()).collect::<Vec<_>>().join(", ")
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
