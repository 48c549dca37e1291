//! A host without a kernel: the real book, nothing behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use shoal_agent_planning::network::Family;
use shoal_agent_planning::network::ingress::{Ingress, Port};
use shoal_agent_planning::network::leases::{Leases, Refusal};
use shoal_agent_planning::network::ruleset::Vips;
use shoal_agent_planning::overlay::{OverlayView, Remote};
use shoal_agent_planning::verify::Compared;

use tokio::sync::watch;

use super::{
    AttachRequest, Attached, Contested, Lost, Netns, NetworkConfig, NetworkDriver, NetworkError,
    NetworkState, PublishedPort, Repaired, Rules, SharedPort, held,
};

/// Grants and refuses exactly as the real driver does for want of addresses and ports, touches
/// nothing, and can be told to fail.
#[derive(Debug, Default)]
pub struct FakeNetworks {
    rules: Rules,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    leases: Leases,
    lost: watch::Sender<Lost>,
    /// Which attachments containers have their default routes by, of IPv4 and IPv6: as they were told last.
    leads_out: BTreeMap<(String, String), [bool; 2]>,
    overlay: watch::Sender<Arc<OverlayView>>,
    followed: watch::Sender<u64>,
    /// Whether what it is told is done when somebody says so.
    is_followed: bool,
    led: watch::Sender<(Remote, Vips, Ingress)>,
    narrow: watch::Sender<BTreeMap<IpAddr, u32>>,
    second: watch::Sender<Remote>,
    host_ports: BTreeSet<u16>,
    broken: bool,
    panicking: bool,
    attempts: u64,
    compared: Compared,
}

impl FakeNetworks {
    /// A host with nothing on it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a process of the host bind a port on every address.
    pub fn bind_host_port(&self, port: u16) {
        self.lock().host_ports.insert(port);
    }

    /// Something is other than it should be.
    pub fn differs(&self, compared: Compared) {
        self.lock().compared = compared;
    }

    /// Lets it go of it.
    pub fn free_host_port(&self, port: u16) {
        self.lock().host_ports.remove(&port);
    }

    /// While set, every call that would reach the kernel fails.
    pub fn set_broken(&self, broken: bool) {
        self.lock().broken = broken;
    }

    /// While set, the code of every such call panics.
    pub fn set_panicking(&self, panicking: bool) {
        self.lock().panicking = panicking;
    }

    /// What is held now.
    #[must_use]
    pub fn leases(&self) -> Leases {
        self.lock().leases.clone()
    }

    /// What it was told of overlay networks, whenever that changes.
    #[must_use]
    pub fn overlay(&self) -> watch::Receiver<Arc<OverlayView>> {
        self.lock().overlay.subscribe()
    }

    /// From now on what it is told is done when somebody says so, and not at once.
    pub fn be_followed(&self) {
        self.lock().is_followed = true;
    }

    /// What is led into the tunnel and to backends, whenever that changes.
    #[must_use]
    pub fn led(&self) -> watch::Receiver<(Remote, Vips, Ingress)> {
        self.lock().led.subscribe()
    }

    /// What goes by the tunnel's second interface.
    pub fn second(&self) -> watch::Receiver<Remote> {
        self.lock().second.subscribe()
    }

    /// What packets may not be larger than, whenever that changes.
    #[must_use]
    pub fn narrow(&self) -> watch::Receiver<BTreeMap<IpAddr, u32>> {
        self.lock().narrow.subscribe()
    }

    /// How often something was asked of it that would reach the kernel.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.lock().attempts
    }

    /// Which networks containers have their default routes by, of IPv4 and IPv6, as they were told last.
    #[must_use]
    pub fn leads_out(&self) -> BTreeMap<(String, String), [bool; 2]> {
        self.lock().leads_out.clone()
    }

    /// Lets somebody delete the links of an attachment.
    pub fn lose(&self, container: &str, network: &str) {
        let key = (container.to_owned(), network.to_owned());
        self.lock().lost.send_if_modified(|lost| lost.insert(key));
    }

    /// As [`Self::lock`], for what others ask. The real one may be saying what is lost at that moment, with its lock
    /// held: who asks while he looks at that waits for ever. Here he always does.
    fn asked(&self) -> MutexGuard<'_, Inner> {
        let inner = self.lock();
        inner.lost.send_if_modified(|_| false);
        inner
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Inner, &Rules) -> Result<T, NetworkError>,
    ) -> BoxFuture<'_, Result<T, NetworkError>> {
        let mut inner = self.lock();
        inner.attempts += 1;
        if inner.panicking {
            std::panic::resume_unwind(Box::new("asked to"));
        }
        let result =
            if inner.broken { Err(NetworkError::HelperGone) } else { act(&mut inner, &self.rules) };
        ready(result).boxed()
    }
}

impl NetworkDriver for FakeNetworks {
    fn ensure_network(
        &self,
        config: NetworkConfig,
    ) -> BoxFuture<'_, Result<NetworkState, NetworkError>> {
        self.answer(|inner, rules| Ok(inner.leases.ensure_network(&config, rules, &[])?))
    }

    fn remove_network(&self, network: String) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.answer(|inner, _| {
            inner.leases.remove_network(&network)?;
            Ok(())
        })
    }

    fn attach(
        &self,
        request: AttachRequest,
        _netns: Netns,
    ) -> BoxFuture<'_, Result<Attached, NetworkError>> {
        self.answer(|inner, rules| {
            let attached = inner.leases.attach(&request, rules)?;
            let key = (request.container, request.network);
            let leads_out = Family::ALL.map(|family| attached.is_way_out(family));
            inner.leads_out.insert(key.clone(), leads_out);
            inner.leases.finish(&key.0, &key.1);
            inner.lost.send_if_modified(|lost| lost.remove(&key));
            Ok(attached)
        })
    }

    fn set_up_loopback(&self, _netns: Netns) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.answer(|_, _| Ok(()))
    }

    fn detach(
        &self,
        container: String,
        network: String,
        _netns: Option<Netns>,
    ) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.answer(|inner, _| {
            inner.leases.detach(&container, &network);
            inner.leads_out.remove(&(container, network));
            let unfinished: Lost = inner.leases.unfinished().collect();
            inner.lost.send_if_modified(|lost| {
                let before = lost.len();
                lost.extend(unfinished);
                lost.len() != before
            });
            Ok(())
        })
    }

    fn publish(
        &self,
        container: String,
        ports: Vec<PublishedPort>,
    ) -> BoxFuture<'_, Result<Vec<PublishedPort>, NetworkError>> {
        self.answer(|inner, rules| {
            let busy = inner.host_ports.clone();
            let hold = |port: &PublishedPort| {
                if !busy.contains(&port.host_port) {
                    return Ok(());
                }
                let holder = "a process of the host".to_owned();
                Err(Refusal::Taken(NetworkError::PortInUse { port: *port, holder }))
            };
            Ok(inner.leases.publish(&container, &ports, rules, hold)?)
        })
    }

    fn share(
        &self,
        container: String,
        ports: Vec<SharedPort>,
    ) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.answer(|inner, _| Ok(inner.leases.share(&container, &ports)?))
    }

    fn unpublish(&self, container: String) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.answer(|inner, _| {
            inner.leases.unpublish(&container);
            Ok(())
        })
    }

    fn release(&self, container: String) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.answer(|inner, _| {
            inner.leases.release(&container);
            inner.leads_out.retain(|(of, _), _| *of != container);
            Ok(())
        })
    }

    fn repair(&self) -> BoxFuture<'_, Result<Repaired, NetworkError>> {
        self.answer(|_, _| Ok(Repaired::default()))
    }

    fn compare(&self) -> BoxFuture<'_, Compared> {
        ready(self.lock().compared.clone()).boxed()
    }

    fn cleanup_all(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.answer(|inner, _| {
            inner.leases = Leases::default();
            Ok(())
        })
    }

    fn attachments(&self, container: &str) -> Vec<Attached> {
        self.asked().leases.attachments(container)
    }

    fn lost(&self) -> watch::Receiver<Lost> {
        self.lock().lost.subscribe()
    }

    fn held(&self) -> BTreeMap<String, BTreeSet<String>> {
        held(&self.asked().leases)
    }

    fn networks(&self) -> BTreeSet<String> {
        self.asked().leases.network_ids().map(str::to_owned).collect()
    }

    fn lead(
        &self,
        remote: Remote,
        vips: Vips,
        ingress: Ingress,
    ) -> BoxFuture<'_, Result<Contested, NetworkError>> {
        self.answer(|inner, _| {
            let holder = |port: &Port| {
                let busy = inner.host_ports.contains(&port.1);
                busy.then(|| (*port, "a process of the host".to_owned()))
            };
            let contested = ingress.ports.keys().filter_map(holder).collect();
            inner.led.send_replace((remote, vips, ingress));
            Ok(contested)
        })
    }

    fn fit(
        &self,
        widest: u32,
        narrow: BTreeMap<IpAddr, u32>,
    ) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.answer(|inner, _| {
            inner.leases.widen(widest);
            let unfinished: Lost = inner.leases.unfinished().collect();
            if !unfinished.is_empty() {
                inner.lost.send_modify(|lost| lost.extend(unfinished));
            }
            inner.narrow.send_replace(narrow);
            Ok(())
        })
    }

    fn part(&self, second: Remote) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.answer(|inner, _| {
            inner.second.send_replace(second);
            Ok(())
        })
    }

    fn tell(&self, view: Arc<OverlayView>) {
        let inner = self.lock();
        if !inner.is_followed {
            inner.followed.send_replace(view.revision);
        }
        inner.overlay.send_replace(view);
    }

    fn has_followed(&self, revision: u64) {
        self.lock().followed.send_replace(revision);
    }

    fn followed(&self) -> watch::Receiver<u64> {
        self.lock().followed.subscribe()
    }

    fn names(&self, network: &str) -> BTreeMap<String, BTreeSet<IpAddr>> {
        self.lock().leases.names(network)
    }
}
