//! The book as others have it: kept, and read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::settings::label;
use super::{ContainerLease, Leases, NetworkLease};
use crate::network::{Attached, NetworkConfig, NetworkState, Place};

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

    /// Every network with a bridge.
    pub fn networks(&self) -> impl Iterator<Item = &NetworkState> {
        self.networks.values().map(|lease| &lease.state).filter(|state| state.wire.is_none())
    }

    /// The interfaces that networks on wires are on.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.networks.values().filter_map(|lease| lease.state.wire.as_ref())
    }

    /// The ids of all networks, of bridges and of wires.
    pub fn network_ids(&self) -> impl Iterator<Item = &str> {
        self.networks.keys().map(String::as_str)
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

    /// Every attachment of this node to a bridge.
    pub fn ports(&self) -> impl Iterator<Item = &Attached> {
        self.attached().filter(|attached| attached.wire.is_none())
    }

    /// Every attachment on this node.
    pub fn attached(&self) -> impl Iterator<Item = &Attached> {
        self.containers.values().flat_map(|container| container.attachments.values())
    }

    /// Attachments that containers may not have as they are written here: container and network. To attach again
    /// is what finishes them.
    pub fn unfinished(&self) -> impl Iterator<Item = (String, String)> {
        let of = |(id, lease): (&String, &ContainerLease)| {
            let pair = |network: &String| (id.clone(), network.clone());
            lease.unfinished.iter().map(pair).collect::<Vec<_>>()
        };
        self.containers.iter().flat_map(of)
    }

    /// Which names lead to which addresses on one network.
    #[must_use]
    pub fn names(&self, network: &str) -> BTreeMap<String, BTreeSet<IpAddr>> {
        let mut names: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for member in self.members(network) {
            for alias in &member.aliases {
                let addresses = member.ends().map(|end| end.address.addr());
                names.entry(alias.clone()).or_default().extend(addresses);
            }
        }
        names
    }

    pub(super) fn members(&self, network: &str) -> impl Iterator<Item = &Attached> {
        self.attached().filter(move |port| port.network == network)
    }

    /// What messages call a network.
    #[must_use]
    pub fn label_of(&self, network: &str) -> String {
        self.networks.get(network).map_or_else(|| network.to_owned(), |lease| label(&lease.config))
    }
}
