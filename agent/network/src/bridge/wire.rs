//! What is done for networks on the wire of an interface of the host.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use rtnetlink::packet_route::link::{InfoKind, LinkFlags, LinkMessage};
use rustix::io::Errno;
use shoal_agent_planning::network::{NetworkState, OnWire, Place, Vlan, names};
use shoal_types::spec::Wire;
use tokio::time::sleep;

use super::BridgeNetworks;
use super::containers::configure_end;
use super::reconcile::look_at;
use crate::netlink::{Links, mtu_of};
use crate::wire::is_end_of;
use crate::{AttachRequest, Attached, Netns, NetworkConfig, NetworkError, netns};

/// How often is tried what somebody on the same interface still has, and how long after each other.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_millis(100);

impl BridgeNetworks {
    /// The interface that a network is to be on.
    pub(super) async fn place(
        &self,
        wire: &Wire,
        config: &NetworkConfig,
    ) -> Result<Place, NetworkError> {
        let (parent, network, node) = (wire.parent.as_str(), || config.name.clone(), &self.node);
        if self.fit(parent, config).await?.is_some() {
            return Ok(Place { link: parent.to_owned(), made: None });
        }
        let none = || {
            let (parent, node) = (parent.to_owned(), node.clone());
            NetworkError::NoParent { network: network(), parent, node }
        };
        let (base, number) = wire.parent.vlan().ok_or_else(none)?;
        let below = self.fit(base, config).await?.ok_or_else(none)?;
        if let Some(link) = self.links.vlan_of(below.header.index, number, self.prefix()).await? {
            return Ok(Place { link, made: None });
        }
        if !self.links.knows(InfoKind::Vlan).await? {
            let (network, node) = (network(), node.clone());
            return Err(NetworkError::NoDriver { network, what: "VLANs (8021q)", node });
        }
        let link = names::vlan(self.prefix(), base, number);
        Ok(Place { link, made: Some(Vlan { base: base.to_owned(), number }) })
    }

    /// An interface of the host that a network can be on, if there is one of this name.
    async fn fit(
        &self,
        parent: &str,
        config: &NetworkConfig,
    ) -> Result<Option<LinkMessage>, NetworkError> {
        let Some(link) = self.links.get(parent).await? else { return Ok(None) };
        let what = if link.header.flags.contains(LinkFlags::Loopback) {
            "is a loopback interface"
        } else if names::is_of_agent(self.prefix(), parent) {
            // What is on them is judged by where it comes from, and that would not be true any more.
            "is the agent's own"
        } else {
            return Ok(Some(link));
        };
        let (network, parent, node) = (config.name.clone(), parent.to_owned(), self.node.clone());
        Err(NetworkError::UnfitParent { network, parent, what, node })
    }

    /// Makes what a network on a wire is on, as far as that is the agent's. Call it under `structure`.
    pub(super) async fn make_wire(
        &self,
        state: &NetworkState,
        place: &Place,
    ) -> Result<NetworkState, NetworkError> {
        let state = self.put_on_wire(state, place);
        self.save_networks().await?;
        self.reconcile(&look_at(place)).await?;
        Ok(state)
    }

    /// The request with the number of the interface that it is on now, if it is one for a wire.
    pub(super) async fn on_wire_now(
        &self,
        request: AttachRequest,
    ) -> Result<AttachRequest, NetworkError> {
        let Some((network, place)) = self.place_of(&request.network) else { return Ok(request) };
        let Some(link) = self.links.get(&place.link).await? else {
            let (parent, node) = (place.to_string(), self.node.clone());
            return Err(NetworkError::NoParent { network, parent, node });
        };
        Ok(AttachRequest { link_index: Some(link.header.index), ..request })
    }

    /// Makes the end of a container on a wire, or finds the one that is there; anything between is made anew.
    pub(super) async fn connect_to_wire(
        &self,
        attached: &Attached,
        wire: &OnWire,
        netns: &File,
        inside: &Links,
    ) -> Result<(), NetworkError> {
        let present = inside.get(&attached.ifname).await?;
        if !present.as_ref().is_some_and(|link| is_end_of(link, attached)) {
            if present.is_some() {
                inside.remove(&attached.ifname).await?;
            }
            self.check_size(attached, wire).await?;
            patiently(|| self.links.create_on_wire(attached, wire, netns.as_fd()))
                .await
                .map_err(|error| self.without_driver(error, attached))?;
        }
        patiently(|| configure_end(attached, netns, inside)).await
    }

    /// Refuses packets that are larger than those of the interface. Of such the kernel says but that something is
    /// invalid, or it makes an end whose packets it drops.
    async fn check_size(&self, attached: &Attached, wire: &OnWire) -> Result<(), NetworkError> {
        let link = self.links.get(&wire.link).await?;
        let (mtu, node) = (attached.mtu, self.node.clone());
        match (link.as_ref().and_then(mtu_of), self.place_of(&attached.network)) {
            (Some(most), Some((network, place))) if mtu > most => {
                let parent = place.to_string();
                Err(NetworkError::ParentMtu { network, parent, mtu, most, node })
            }
            _ => Ok(()),
        }
    }

    /// Says it by name where the kernel does not know the kind.
    fn without_driver(&self, error: NetworkError, attached: &Attached) -> NetworkError {
        let unknown =
            |source: &io::Error| source.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error());
        match (error, &attached.wire) {
            (NetworkError::Link { source, .. }, Some(wire)) if unknown(&source) => {
                let what = wire.mode.kind().as_str();
                let network = self.place_of(&attached.network).map(|(name, _)| name);
                let network = network.unwrap_or_else(|| attached.network.clone());
                NetworkError::NoDriver { network, what, node: self.node.clone() }
            }
            (error, _) => error,
        }
    }

    /// Deletes the end of a container, if it is there. A namespace that is gone has taken it along.
    pub(super) async fn take_off_wire(
        &self,
        attached: &Attached,
        netns: &Netns,
    ) -> Result<(), NetworkError> {
        let file = match netns::open(netns) {
            Ok(file) => file,
            Err(NetworkError::OpenNetns { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let inside = netns::links_in(netns, &file, self.with_v6(&attached.container)).await?;
        match inside.get(&attached.ifname).await? {
            Some(link) if is_end_of(&link, attached) => inside.remove(&attached.ifname).await,
            _ => Ok(()),
        }
    }

    /// What a network is called, and the interface that it is on; `None` if it is on no wire.
    fn place_of(&self, network: &str) -> Option<(String, Place)> {
        let inner = self.lock();
        let place = inner.leases.network(network)?.wire.clone()?;
        Some((inner.leases.label_of(network), place))
    }

    /// Enters which interface a network is on.
    fn put_on_wire(&self, state: &NetworkState, place: &Place) -> NetworkState {
        let (_, ()) =
            self.change(|inner| inner.unsaved |= inner.leases.put_on_wire(&state.id, place));
        NetworkState { wire: Some(place.clone()), ..state.clone() }
    }
}

/// Does what fails as long as somebody else has the address, or the interface, until it does not. Who had it before may
/// be ending still: the kernel takes down a namespace after it has said that its processes are gone.
async fn patiently<F: Future<Output = Result<(), NetworkError>>>(
    act: impl Fn() -> F,
) -> Result<(), NetworkError> {
    for _ in 0..TRIES {
        match act().await {
            Err(error) if is_in_use(&error) => sleep(PAUSE).await,
            done => return done,
        }
    }
    act().await
}

fn is_in_use(error: &NetworkError) -> bool {
    let NetworkError::Link { source, .. } = error else { return false };
    let taken = [Errno::ADDRINUSE, Errno::BUSY, Errno::INVAL].map(Errno::raw_os_error);
    source.raw_os_error().is_some_and(|errno| taken.contains(&errno))
}
