//! The pages of the book about host ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::leases::{ContainerLease, LeaseError, Leases, Rules};
use super::{Family, PublishedPort, SharedPort};

/// What a container asked to publish and what it got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Publication {
    requested: Vec<PublishedPort>,
    pub(super) granted: Vec<PublishedPort>,
}

/// What taking hold of a port on the host may answer when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal<E> {
    /// Somebody else has this port; another one may do.
    Taken(E),
    /// No port would do: the address is not the host's, or the transport is unknown to it.
    Hopeless(E),
}

/// Why ports are not published.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PublishError<E> {
    /// The book says no.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The host says no.
    #[error("publish {port}")]
    Host {
        /// Which port.
        port: PublishedPort,
        /// What taking hold of it answered.
        refusal: E,
    },
}

impl Leases {
    /// Enters the ports of a container, all or none, in the place of those it had.
    ///
    /// `hold` takes hold of one port on the host. It is called for each port in order, and for
    /// more than one candidate where the request leaves the port open. Asking again for the same
    /// gives the same ports, and takes hold of nothing.
    ///
    /// # Errors
    /// A port is taken, repeated or without target, none is free, or the container has no network
    /// that leads out, or none with the family of the address that a port is at.
    pub fn publish<E>(
        &mut self,
        container: &str,
        requested: &[PublishedPort],
        rules: &Rules,
        hold: impl FnMut(&PublishedPort) -> Result<(), Refusal<E>>,
    ) -> Result<Vec<PublishedPort>, PublishError<E>> {
        if let Some(granted) = self.granted_for(container, requested) {
            return Ok(granted.to_vec());
        }
        if let Some(lease) = self.containers.get_mut(container) {
            lease.publication = None;
        }
        self.forget_if_empty(container);
        if requested.is_empty() {
            return Ok(Vec::new());
        }
        if !self.has_way_in(container) {
            return Err(LeaseError::NoWayIn { container: container.to_owned() }.into());
        }
        for port in requested.iter().filter(|port| !port.is_everywhere()) {
            let (port, family) = (*port, Family::of(port.host_ip));
            if !self.leads_to(container, family) {
                let container = container.to_owned();
                return Err(LeaseError::NoWayInBy { port, container, family }.into());
            }
        }
        let granted = self.grant(container, requested, rules, hold)?;
        let publication = Publication { requested: requested.to_vec(), granted: granted.clone() };
        self.containers.entry(container.to_owned()).or_default().publication = Some(publication);
        Ok(granted)
    }

    fn grant<E>(
        &mut self,
        container: &str,
        requested: &[PublishedPort],
        rules: &Rules,
        mut hold: impl FnMut(&PublishedPort) -> Result<(), Refusal<E>>,
    ) -> Result<Vec<PublishedPort>, PublishError<E>> {
        let mut granted: Vec<PublishedPort> = Vec::with_capacity(requested.len());
        // Ports named by the user first, so that a chosen one never takes their place.
        let mut order: Vec<usize> = (0..requested.len()).collect();
        order.sort_by_key(|&at| requested[at].host_port == 0);
        for &at in &order {
            let port = requested[at];
            if port.target_port == 0 {
                let container = container.to_owned();
                return Err(LeaseError::TargetMissing { port, container }.into());
            }
            if port.host_port == 0 {
                granted.push(self.choose_port(port, &granted, rules, &mut hold)?);
                continue;
            }
            if granted.iter().any(|other| other.collides(&port)) {
                let container = container.to_owned();
                return Err(LeaseError::PortRepeated { port, container }.into());
            }
            if let Some(holder) = self.holder(&port) {
                return Err(LeaseError::PortTaken { port, holder: holder.to_owned() }.into());
            }
            match hold(&port) {
                Ok(()) => granted.push(port),
                Err(Refusal::Taken(refusal) | Refusal::Hopeless(refusal)) => {
                    return Err(PublishError::Host { port, refusal });
                }
            }
        }
        // Back into the order of the request.
        let mut placed: Vec<(usize, PublishedPort)> = order.into_iter().zip(granted).collect();
        placed.sort_by_key(|(at, _)| *at);
        Ok(placed.into_iter().map(|(_, port)| port).collect())
    }

    fn choose_port<E>(
        &mut self,
        wanted: PublishedPort,
        granted: &[PublishedPort],
        rules: &Rules,
        hold: &mut impl FnMut(&PublishedPort) -> Result<(), Refusal<E>>,
    ) -> Result<PublishedPort, PublishError<E>> {
        let (low, high) = (*rules.ports.start(), *rules.ports.end());
        let start = self.next_port.clamp(low, high);
        for host_port in (start..=high).chain(low..start) {
            let port = PublishedPort { host_port, ..wanted };
            if granted.iter().any(|other| other.collides(&port)) || self.holder(&port).is_some() {
                continue;
            }
            match hold(&port) {
                Ok(()) => {
                    self.next_port = if host_port == high { low } else { host_port + 1 };
                    return Ok(port);
                }
                Err(Refusal::Taken(_)) => {}
                Err(Refusal::Hopeless(refusal)) => {
                    return Err(PublishError::Host { port: wanted, refusal });
                }
            }
        }
        Err(LeaseError::NoFreePort { protocol: wanted.protocol, low, high }.into())
    }

    /// Enters the ports of a container that answer on every node, in the place of those it had. Nothing of
    /// the host is taken for them: its other containers may have the same.
    ///
    /// # Errors
    /// The container has no network that leads out, or a port has no number.
    pub fn share(&mut self, container: &str, ports: &[SharedPort]) -> Result<(), LeaseError> {
        let shared: BTreeSet<SharedPort> = ports.iter().copied().collect();
        if self.containers.get(container).is_some_and(|lease| lease.shared == shared) {
            return Ok(());
        }
        if let Some(lease) = self.containers.get_mut(container) {
            lease.shared.clear();
        }
        if let Some(port) = shared.iter().find(|port| port.port == 0 || port.target_port == 0) {
            return Err(LeaseError::PortWithoutNumber {
                port: *port,
                container: container.to_owned(),
            });
        }
        if !shared.is_empty() && !self.has_way_in(container) {
            return Err(LeaseError::NoWayIn { container: container.to_owned() });
        }
        if let Some(lease) = self.containers.get_mut(container) {
            lease.shared = shared;
        }
        self.forget_if_empty(container);
        Ok(())
    }

    /// Withdraws the ports of a container and says which they were, but for those that answer on every node.
    pub fn unpublish(&mut self, container: &str) -> Vec<PublishedPort> {
        let lease = self.containers.get_mut(container);
        let publication = lease.and_then(|lease| {
            lease.shared.clear();
            lease.publication.take()
        });
        self.forget_if_empty(container);
        publication.map(|publication| publication.granted).unwrap_or_default()
    }

    /// What the container holds, if it asked for exactly this before.
    #[must_use]
    pub fn granted_for(
        &self,
        container: &str,
        requested: &[PublishedPort],
    ) -> Option<&[PublishedPort]> {
        let publication = self.containers.get(container)?.publication.as_ref()?;
        (publication.requested == requested).then_some(&publication.granted)
    }

    /// The ports a container holds.
    #[must_use]
    pub fn granted(&self, container: &str) -> &[PublishedPort] {
        self.containers.get(container).map_or(&[], ContainerLease::granted)
    }

    /// Every published port with the container that holds it.
    pub fn published(&self) -> impl Iterator<Item = (&str, &PublishedPort)> {
        self.containers
            .iter()
            .flat_map(|(id, lease)| lease.granted().iter().map(move |port| (id.as_str(), port)))
    }

    /// The same with the address of one family that each leads to, if there is one.
    pub fn published_to(
        &self,
        family: Family,
    ) -> impl Iterator<Item = (&str, &PublishedPort, Option<IpAddr>)> {
        self.containers.iter().flat_map(move |(id, lease)| {
            let target = lease.address_of(family);
            lease.granted().iter().map(move |port| (id.as_str(), port, target))
        })
    }

    /// Every port that answers on every node, with the container that has it and the address of one family that it
    /// leads to.
    pub fn shared(
        &self,
        family: Family,
    ) -> impl Iterator<Item = (&str, &SharedPort, Option<IpAddr>)> {
        self.containers.iter().flat_map(move |(id, lease)| {
            let target = lease.address_of(family);
            lease.shared.iter().map(move |port| (id.as_str(), port, target))
        })
    }

    /// Whether published ports of a container lead there by IPv6.
    #[must_use]
    pub fn has_v6_ports(&self, container: &str) -> bool {
        self.leads_to(container, Family::V6)
    }

    fn leads_to(&self, container: &str, family: Family) -> bool {
        let lease = self.containers.get(container);
        lease.and_then(|lease| lease.address_of(family)).is_some()
    }

    /// Whether a published port of the container would lead somewhere.
    fn has_way_in(&self, container: &str) -> bool {
        Family::ALL.into_iter().any(|family| self.leads_to(container, family))
    }

    /// Who has published a port that stands in the way of this one.
    #[must_use]
    pub fn holder(&self, port: &PublishedPort) -> Option<&str> {
        self.published().find(|(_, other)| other.collides(port)).map(|(container, _)| container)
    }
}

impl ContainerLease {
    /// The address of one family that published ports lead to: replies leave by the default route, so packets must
    /// come in there.
    fn address_of(&self, family: Family) -> Option<IpAddr> {
        let mut bridged = self.attachments.values().filter(|attached| attached.wire.is_none());
        bridged.find(|attached| attached.is_way_out(family))?.address_of(family)
    }

    fn granted(&self) -> &[PublishedPort] {
        self.publication.as_ref().map_or(&[], |publication| &publication.granted)
    }
}
