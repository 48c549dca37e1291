//! Networks of this host: bridges, containers connected to them, published ports.
//!
//! What is given to whom is decided by `shoal_agent_planning::network`; here it is done. The
//! worker talks to a [`NetworkDriver`]: [`BridgeNetworks`] is the real one, `FakeNetworks` the
//! one for tests of everything above.
//!
//! A container on the host's network needs nothing from here: its supervisor makes no network
//! namespace, and what it listens on is published by itself.

mod book;
mod bridge;
mod conntrack;
mod error;
#[cfg(any(test, feature = "fake"))]
mod fake;
mod kept;
mod mesh;
mod netlink;
mod netns;
mod nft;
mod ours;
mod ports;
mod reaper;
mod routes;
mod rules;
mod settings;
mod sysctl;
mod table;
mod watching;
mod ways;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use shoal_agent_planning::network::advertise::HostAddress;
use shoal_agent_planning::network::ingress::{Ingress, Port};
use shoal_agent_planning::network::leases::Leases;
pub use shoal_agent_planning::network::leases::{LeaseError, Rules};
use shoal_agent_planning::network::ruleset::Vips;
pub use shoal_agent_planning::network::{
    AttachRequest, Attached, NetworkConfig, NetworkState, Place, Protocol, PublishedPort,
    SharedPort, Subnet, SubnetConfig, files,
};
use shoal_agent_planning::overlay::{OverlayView, Remote};
use shoal_agent_planning::verify::Compared;
use tokio::sync::watch;

pub use self::bridge::{BridgeConfig, BridgeNetworks};
pub use self::error::{FirewallError, NetworkError};
#[cfg(any(test, feature = "fake"))]
pub use self::fake::FakeNetworks;
use self::netlink::Links;
pub use self::netlink::host_subnets;
pub use self::nft::{Firewall, NftProgram};
pub use self::watching::keep;
pub use self::wire::wire_drivers;

/// The addresses of this host that others could reach it by.
///
/// # Errors
/// The kernel cannot be asked.
pub async fn host_addresses() -> Result<Vec<HostAddress>, NetworkError> {
    let what = "list addresses".to_owned();
    let links = Links::open().map_err(|source| NetworkError::Link { what, source })?;
    links.host_addresses(&Rules::default().prefix).await
}

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Netns {
    /// That of a running process, by its id: the supervisor of the container.
    OfProcess(u32),
    /// A file that stands for it: `/proc/<pid>/ns/net` or a bind mount of one.
    AtPath(PathBuf),
}

impl Netns {
    /// The file to open.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::OfProcess(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            Self::AtPath(path) => path.clone(),
        }
    }
}

/// What a repair found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Links that were put right, created or removed: one line each, for the log.
    pub links: Vec<String>,
    /// Settings of the kernel that were changed, likewise.
    pub settings: Vec<String>,
    /// Routing rules that were added or removed likewise.
    pub rules: Vec<String>,
    /// The nftables table was not as it should be and has been replaced.
    pub table_replaced: bool,
    /// Attachments that somebody has taken away, of those whose links were looked at: container and network. Only
    /// [`NetworkDriver::attach`] with its namespace brings one back.
    pub lost_attachments: BTreeSet<(String, String)>,
    /// Published ports that somebody else on the host has bound meanwhile, with who it is. They
    /// still lead to their container.
    pub contested_ports: Vec<String>,
}

impl Repaired {
    /// Nothing had drifted.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// Attachments whose links are gone, or that were never finished: container and network.
pub type Lost = BTreeSet<(String, String)>;

/// Ports that somebody else on the host has, with who it is.
pub type Contested = BTreeMap<Port, String>;

/// Who has leases of which networks.
fn held(leases: &Leases) -> BTreeMap<String, BTreeSet<String>> {
    let networks = |container: &str| {
        leases.attachments(container).into_iter().map(|attached| attached.network).collect()
    };
    leases.container_ids().map(|id| (id.to_owned(), networks(id))).collect()
}

/// The networks of one host, as the worker sees them.
///
/// Every call may be repeated, also after a crash in the middle or a restart of the agent, and
/// then finishes or finds again what was begun. Calls may run concurrently; those about the same
/// container must come from one task at a time.
pub trait NetworkDriver: Send + Sync {
    /// Makes a network exist: its bridge, or the VLAN that it is on. Its subnet stays the same for its lifetime.
    ///
    /// # Errors
    /// A contradictory configuration, a subnet that is in use, changed settings of a network that
    /// connects containers; the kernel's refusals.
    fn ensure_network(
        &self,
        config: NetworkConfig,
    ) -> BoxFuture<'_, Result<NetworkState, NetworkError>>;

    /// Removes a network and its bridge. One that is not there is removed already.
    ///
    /// # Errors
    /// Containers are still connected; the kernel's refusals.
    fn remove_network(&self, network: String) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Connects the namespace of a container to a network that
    /// [`ensure_network`](Self::ensure_network) made; the loopback interface is set up along the
    /// way. Attach the networks of a container in the order its interfaces should have.
    ///
    /// # Errors
    /// An unknown network, an address that is taken or unusable; a namespace that is gone; the
    /// kernel's refusals.
    fn attach(
        &self,
        request: AttachRequest,
        netns: Netns,
    ) -> BoxFuture<'_, Result<Attached, NetworkError>>;

    /// Sets up the loopback interface of a namespace: all that a container without network has.
    ///
    /// # Errors
    /// The namespace is gone; the kernel's refusals.
    fn set_up_loopback(&self, netns: Netns) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Disconnects a container from one network. Its published ports lead nowhere if they led
    /// there. Where its default route was there and another network has it now, that attachment counts as
    /// [`lost`](Self::lost) until it is attached again. What it has on a wire is in its namespace: without that it is
    /// taken for gone.
    ///
    /// # Errors
    /// The kernel's refusals.
    fn detach(
        &self,
        container: String,
        network: String,
        netns: Option<Netns>,
    ) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Publishes the ports of an attached container, all or none, in the place of those it had.
    /// A host port of 0 is chosen. The answer has the order of the request; the same request gets
    /// the same answer.
    ///
    /// # Errors
    /// A port is in use by a container or a process of the host, a host address is not the
    /// host's, no network of the container leads out.
    fn publish(
        &self,
        container: String,
        ports: Vec<PublishedPort>,
    ) -> BoxFuture<'_, Result<Vec<PublishedPort>, NetworkError>>;

    /// Lets ports that answer on every node lead to an attached container, in the place of those that did. Other
    /// containers of the host may have the same. They are led there once managers say that it serves
    /// ([`lead`](Self::lead)).
    ///
    /// # Errors
    /// No network of the container leads out; the kernel's refusals.
    fn share(
        &self,
        container: String,
        ports: Vec<SharedPort>,
    ) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Withdraws the ports of a container.
    ///
    /// # Errors
    /// The kernel's refusals.
    fn unpublish(&self, container: String) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Gives back everything a container has: ports, attachments, addresses.
    ///
    /// # Errors
    /// The kernel's refusals; everything is tried before the first is returned.
    fn release(&self, container: String) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Compares the kernel with what should be and puts it right. Links of this agent that nobody
    /// knows are removed.
    ///
    /// # Errors
    /// The kernel's refusals; everything is tried before the first is returned.
    fn repair(&self) -> BoxFuture<'_, Result<Repaired, NetworkError>>;

    /// Compares the kernel with what should be, and changes nothing.
    fn compare(&self) -> BoxFuture<'_, Compared>;

    /// Forgets everything and leaves nothing in the kernel.
    ///
    /// # Errors
    /// The kernel's refusals; everything is tried before the first is returned.
    fn cleanup_all(&self) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Every attachment of a container, in the order of its interface names.
    fn attachments(&self, container: &str) -> Vec<Attached>;

    /// Which attachments have lost their links or do not have all yet that they should, whenever that changes.
    fn lost(&self) -> watch::Receiver<Lost>;

    /// Which containers have leases, and of which networks.
    fn held(&self) -> BTreeMap<String, BTreeSet<String>>;

    /// The networks that there are, by id.
    fn networks(&self) -> BTreeSet<String>;

    /// Takes over what is known of overlay networks, in place of what was: at once, and without waiting for
    /// anything. What follows from it is done afterwards. Not called before managers have said everything, or had done
    /// so before the host was restarted.
    fn tell(&self, view: Arc<OverlayView>);

    /// Notes that all that follows from what it was told up to this revision is done.
    fn has_followed(&self, revision: u64);

    /// Up to which revision that is so, whenever it changes.
    fn followed(&self) -> watch::Receiver<u64>;

    /// Has these addresses led into the tunnel, and no others, packets for these addresses of services to
    /// their backends, and those for ports that answer on every node to theirs. What is in no network of this
    /// host waits until one comes. Returns such ports as somebody else on the host has; they are not led, and
    /// asking again finds out whether that is over.
    ///
    /// # Errors
    /// The kernel's refusals; everything is tried before the first is returned.
    fn lead(
        &self,
        remote: Remote,
        vips: Vips,
        ingress: Ingress,
    ) -> BoxFuture<'_, Result<Contested, NetworkError>>;

    /// Has networks that span hosts, with their containers, have packets of up to so many bytes, as far as they had not
    /// larger ones before and nobody has asked for smaller ones; and packets for these addresses, and for no others, be no
    /// larger than so many bytes where they are led into the tunnel. Those of IPv6 are of 1280 bytes at least (RFC 8200,
    /// 5). Containers that are there are to be attached again for it ([`lost`](Self::lost)).
    ///
    /// # Errors
    /// The kernel's refusals; everything is tried before the first is returned.
    fn fit(
        &self,
        widest: u32,
        narrow: BTreeMap<IpAddr, u32>,
    ) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Has packets for these of the addresses that are led into the tunnel go by its second interface, and those for all
    /// others by the first. None is lost by that.
    ///
    /// # Errors
    /// The kernel's refusals; everything is tried before the first is returned.
    fn part(&self, second: Remote) -> BoxFuture<'_, Result<(), NetworkError>>;

    /// Which aliases lead to which addresses on a network.
    fn names(&self, network: &str) -> BTreeMap<String, BTreeSet<IpAddr>>;
}

#[cfg(test)]
mod contract;
#[cfg(test)]
mod root_tests;
