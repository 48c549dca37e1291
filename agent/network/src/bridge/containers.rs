//! What is done for one container: attach, publish and the way back.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_agent_planning::network::links::{self, Desired};
use shoal_agent_planning::node::look::Look;
use tokio::task::spawn_blocking;

use super::{BridgeNetworks, Inner};
use crate::conntrack::Astray;
use crate::netlink::Links;
use crate::{
    AttachRequest, Attached, Lost, Netns, NetworkError, Protocol, PublishedPort, SharedPort, netns,
    ports,
};

impl BridgeNetworks {
    pub(super) async fn do_attach(
        &self,
        request: AttachRequest,
        netns: Netns,
    ) -> Result<Attached, NetworkError> {
        self.book.check_id(&request.container)?;
        let file = netns::open(&netns)?;
        let request = self.on_wire_now(request).await?;
        let key = (request.container.clone(), request.network.clone());
        let (generation, attached) = self.change(|inner| {
            let attached = inner.leases.attach(&request, &self.rules)?;
            let bridge = inner.leases.network(&request.network).map(|state| state.bridge.clone());
            inner.under_way.insert(key.clone());
            Ok::<_, NetworkError>((attached, bridge.unwrap_or_default()))
        });
        let (attached, bridge) = attached?;
        let _under_way = UnderWay { inner: &self.inner, key };
        // The address is ours in writing before anybody sees it.
        self.save_container(&attached.container)?;
        let inside = netns::links_in(&netns, &file, self.with_v6(&attached.container)).await?;
        if let Some(wire) = &attached.wire {
            self.connect_to_wire(&attached, wire, &file, &inside).await?;
            self.found(&attached)?;
            return Ok(attached);
        }
        let (connected, filtered) = tokio::join!(
            self.connect(&attached, &bridge, &file, &inside),
            self.filter(generation),
        );
        connected.and(filtered.map(drop))?;
        self.found(&attached)?;
        Ok(attached)
    }

    /// The interfaces of a container that have IPv6.
    pub(super) fn with_v6(&self, container: &str) -> BTreeSet<String> {
        let all = self.lock().leases.attachments(container).into_iter();
        all.filter(|attached| attached.v6.is_some()).map(|attached| attached.ifname).collect()
    }

    /// The container has all of it, so it is not lost any more, if it was.
    fn found(&self, attached: &Attached) -> Result<(), NetworkError> {
        let Attached { container, network, .. } = attached;
        let is_news = self.lock().leases.finish(container, network);
        if is_news {
            self.save_container(container)?;
        }
        self.lock().lost.remove(&(container.clone(), network.clone()));
        self.tell_lost();
        Ok(())
    }

    /// Says which attachments are to be attached again: what is lost, and what is written down and was never finished.
    pub(super) fn tell_lost(&self) {
        let inner = self.lock();
        let unfinished = inner.leases.unfinished().filter(|key| !inner.under_way.contains(key));
        let now: Lost = inner.lost.iter().cloned().chain(unfinished).collect();
        self.lost.send_if_modified(|lost| std::mem::replace(lost, now) != *lost);
    }

    /// Makes the pair of links, or finds the one that is there; anything between is made anew.
    async fn connect(
        &self,
        attached: &Attached,
        bridge: &str,
        netns: &File,
        inside: &Links,
    ) -> Result<(), NetworkError> {
        if !self.links.create_port(attached, bridge, netns.as_fd()).await? {
            let port = self.links.observe_one(&attached.host_ifname).await?;
            if !port.is_empty() && inside.configure(attached).await? {
                let desired = Desired::of(&self.lock().leases).only_port(&attached.host_ifname);
                for action in links::plan(&desired, &port, &self.rules.prefix).actions {
                    self.links.perform(&action).await?;
                }
                return inside.set_up_loopback().await;
            }
            // Left behind half made, or the port of a namespace that is gone.
            self.links.remove(&attached.host_ifname).await?;
            inside.remove(&attached.ifname).await?;
            if !self.links.create_port(attached, bridge, netns.as_fd()).await? {
                return Err(NetworkError::NameTaken { ifname: attached.ifname.clone() });
            }
        }
        let (end, hairpin) = tokio::join!(
            configure_end(attached, netns, inside),
            self.links.set_hairpin(&attached.host_ifname),
        );
        hairpin.and(end)
    }

    /// As [`do_release`](Self::do_release), of one network; what is on a wire is in the container's namespace.
    pub(super) async fn do_detach(
        &self,
        container: String,
        network: String,
        netns: Option<Netns>,
    ) -> Result<(), NetworkError> {
        let attachments = self.lock().leases.attachments(&container);
        let gone = attachments.iter().find(|one| one.network == network && one.wire.is_some());
        if let (Some(gone), Some(netns)) = (gone, netns) {
            self.take_off_wire(gone, &netns).await?;
        }
        self.do_release(container, Some(network)).await
    }

    /// Deletes the links first: an address is free only when nobody answers to it.
    pub(super) async fn do_release(
        &self,
        container: String,
        network: Option<String>,
    ) -> Result<(), NetworkError> {
        let attachments = self.lock().leases.attachments(&container);
        let is_gone = |attached: &&Attached| {
            network.as_ref().is_none_or(|network| *network == attached.network)
        };
        let gone = attachments.iter().filter(is_gone);
        let addresses =
            gone.clone().flat_map(Attached::ends).map(|end| end.address.addr()).collect();
        let bridged = gone.filter(|attached| attached.wire.is_none());
        let links = bridged.map(|attached| attached.host_ifname.clone());
        self.reaper.remove(&self.links, links).await?;
        let (withdrawn, shared) = {
            let inner = self.lock();
            (inner.leases.granted(&container).to_vec(), inner.shared_with(&container))
        };
        let (generation, ()) = self.change(|inner| match &network {
            Some(network) => drop(inner.leases.detach(&container, network)),
            None => drop(inner.leases.release(&container)),
        });
        self.settle(generation, &container, network.is_none()).await?;
        self.tell_lost();
        self.forget_flows(&withdrawn).await;
        self.forget_astray(Astray { slots: shared, gone: addresses, ..Astray::default() }).await;
        Ok(())
    }

    /// Brings table and book up to date; then, and not before, lets go of host ports.
    async fn settle(
        &self,
        generation: u64,
        container: &str,
        let_go: bool,
    ) -> Result<(), NetworkError> {
        let saved = self.save_container(container);
        self.filter(generation).await?;
        if let_go {
            self.lock().held.drop_all_of(container);
        }
        saved
    }

    /// Lets clients that keep sending find the new holder of a port, or nobody. They would find out
    /// by themselves once they pause, so a failure is told and no more.
    pub(super) async fn forget_flows(&self, ports: &[PublishedPort]) {
        if ports.iter().all(|port| port.protocol != Protocol::Udp) {
            return;
        }
        let (ports, tracked) = (ports.to_vec(), Arc::clone(&self.tracked));
        let forgotten = match self.links.own_addresses().await {
            Ok(own) => spawn_blocking(move || tracked.forget(&ports, &own))
                .await
                .map_err(io::Error::other)
                .flatten(),
            Err(error) => Err(io::Error::other(error)),
        };
        if let Err(error) = forgotten {
            tracing::warn!(%error, "cannot forget flows to UDP ports that changed hands");
        }
    }

    pub(super) async fn do_publish(
        &self,
        container: String,
        wanted: Vec<PublishedPort>,
    ) -> Result<Vec<PublishedPort>, NetworkError> {
        let named =
            |port: &PublishedPort| !port.host_ip.is_unspecified() && !port.host_ip.is_loopback();
        if wanted.iter().any(named) {
            let look = Look { addresses: true, ..Look::default() };
            self.put_right(&look).await?;
        }
        let mut changed = self.lock().leases.granted(&container).to_vec();
        let (generation, granted) = self.change(|inner| {
            if inner.leases.granted_for(&container, &wanted).is_none() {
                inner.held.drop_all_of(&container);
            }
            let mut held = Vec::new();
            let v6 = inner.leases.has_v6_ports(&container);
            let hold = |port: &PublishedPort| {
                held.push((*port, ports::hold(port, v6)?));
                Ok(())
            };
            let granted = inner.leases.publish(&container, &wanted, &self.rules, hold)?;
            inner.held.keep(&container, held);
            Ok::<_, NetworkError>(granted)
        });
        // Also where it was refused: the ports it had before are withdrawn.
        self.settle(generation, &container, false).await?;
        if granted.as_ref().is_ok_and(|granted| *granted != changed) {
            changed.extend(granted.iter().flatten());
            self.forget_flows(&changed).await;
        }
        granted
    }

    pub(super) async fn do_share(
        &self,
        container: String,
        ports: Vec<SharedPort>,
    ) -> Result<(), NetworkError> {
        let before = self.lock().shared_with(&container);
        let (generation, shared) = self.change(|inner| inner.leases.share(&container, &ports));
        // Also where it was refused: those it had before are withdrawn.
        self.settle(generation, &container, false).await?;
        let now = self.lock().shared_with(&container);
        self.forget_shared(before.difference(&now).copied().collect()).await;
        Ok(shared?)
    }

    pub(super) async fn do_unpublish(&self, container: String) -> Result<(), NetworkError> {
        let (generation, (withdrawn, shared)) = self.change(|inner| {
            let shared = inner.shared_with(&container);
            (inner.leases.unpublish(&container), shared)
        });
        self.settle(generation, &container, true).await?;
        self.forget_flows(&withdrawn).await;
        self.forget_shared(shared).await;
        Ok(())
    }
}

/// Gives a new link in a container's namespace all that makes it the end of an attachment.
pub(super) async fn configure_end(
    attached: &Attached,
    netns: &File,
    inside: &Links,
) -> Result<(), NetworkError> {
    if attached.v6.is_some() {
        netns::switch_v6_on(netns, attached.ifname.clone()).await?;
    }
    let (configured, loopback) = tokio::join!(inside.configure(attached), inside.set_up_loopback());
    loopback?;
    if configured? {
        Ok(())
    } else {
        Err(NetworkError::NameTaken { ifname: attached.ifname.clone() })
    }
}

/// Remembers that an attachment is being made, until it is made or given up.
struct UnderWay<'a> {
    inner: &'a Mutex<Inner>,
    key: (String, String),
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.under_way.remove(&self.key);
    }
}
