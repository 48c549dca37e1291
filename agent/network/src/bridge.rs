//! The real driver: bridges, veth pairs, one nftables table.

mod comparing;
mod containers;
mod leading;
mod reconcile;
mod structure;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use imbl::OrdSet;
use shoal_agent_planning::network::guests::Guest;
use shoal_agent_planning::network::ingress::Ingress;
use shoal_agent_planning::network::leases::Leases;
use shoal_agent_planning::network::names;
use shoal_agent_planning::network::ruleset::{HostFacts, Ruleset, Vips};
use shoal_agent_planning::node::host::{self, Memo, Observed, ObservedMesh, Plan, Remotes, Wishes};
use shoal_agent_planning::overlay::OverlayView;
use shoal_agent_planning::tunnel::Side;
use shoal_agent_planning::verify::{Compared, Known};
use tokio::sync::watch;

use super::book::Book;
use super::conntrack::Tracked;
use super::netlink::Links;
use super::ports::HeldPorts;
use super::reaper::Reaper;
use super::settings::{HostSettings, without_v6};
use super::table::Table;
use super::{
    AttachRequest, Attached, Contested, Firewall, Lost, Netns, NetworkConfig, NetworkDriver,
    NetworkError, NetworkState, NftProgram, PublishedPort, Repaired, Rules, SharedPort, held,
    netns, ways,
};

/// How the driver is set up.
#[derive(Debug, Clone)]
pub struct BridgeConfig {
    /// Where networks are written down: what must be the same after a reboot.
    pub state_dir: PathBuf,
    /// Where containers are written down: what the kernel forgets with a reboot, too. Best on a
    /// tmpfs.
    pub run_dir: PathBuf,
    /// Name of the nftables table; every agent that shares a network namespace has its own.
    pub table: String,
    /// What is given out, and the prefix of interface names, which is the agent's own likewise.
    pub rules: Rules,
    /// The host forwards packets for others than containers, whether or not it did so before.
    pub forwards_for_others: bool,
    /// What people call this node, for messages.
    pub node: String,
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl BridgeConfig {
    /// The usual names and pools.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            run_dir: run_dir.into(),
            table: "shoal".to_owned(),
            rules: Rules::default(),
            forwards_for_others: false,
            node: host_name(),
        }
    }
}

/// Bridge networks of the network namespace in which it was opened.
pub struct BridgeNetworks {
    rules: Rules,
    node: String,
    links: Links,
    reaper: Reaper,
    table: Table,
    book: Book,
    settings: HostSettings,
    tracked: Arc<Tracked>,
    /// Where is written down what leads where.
    run_dir: PathBuf,
    inner: Mutex<Inner>,
    /// Which attachments have lost their links, or were never finished: container and network.
    lost: watch::Sender<Lost>,
    /// What is known of overlay networks.
    overlay: watch::Sender<Arc<OverlayView>>,
    /// Up to which revision of that everything is done.
    followed: watch::Sender<u64>,
    /// Held by what changes or judges links other than those of one container.
    structure: tokio::sync::Mutex<()>,
    /// Held by who writes down what leads where: what was written last, where that is known.
    pen: tokio::sync::Mutex<Option<Wishes>>,
}

#[derive(Default)]
struct Inner {
    leases: Leases,
    wishes: Wishes,
    /// Addresses that are led into the tunnel, and how large packets for them may be, as far as we know; `None` when we
    /// do not, or there is none.
    led: Option<Remotes>,
    /// Interfaces of the tunnel that are there, as they were seen last.
    tunnels: BTreeSet<Side>,
    /// The mesh's device, as it was seen last.
    mesh: Option<ObservedMesh>,
    /// Moves with every change of the leases.
    edition: u64,
    /// Moves with every change of what the tables follow from.
    generation: u64,
    /// What plans and tables have in common with those before.
    memo: Memo,
    /// Networks have changed since they were written down.
    unsaved: bool,
    /// What the table has to know of the host.
    facts: HostFacts,
    /// Bridges of others, as they were seen last.
    guests: BTreeSet<Guest>,
    /// The addresses of the host were looked at.
    looked_around: bool,
    #[cfg(test)]
    looks: u64,
    #[cfg(test)]
    deeds: u64,
    /// Attachments that somebody has taken away, as far as that was seen.
    lost: Lost,
    held: HeldPorts,
    /// Since when is known what is not as it should be.
    known: Known,
    /// Attachments that are being made now, and so are not lost.
    under_way: BTreeSet<(String, String)>,
}

impl BridgeNetworks {
    /// Opens the driver for the network namespace of the calling thread, with what the book of an
    /// earlier agent says. Touches nothing: whoever knows which containers live has the others'
    /// taken down ([`NetworkDriver::release`]). Call it inside the runtime.
    ///
    /// # Errors
    /// The configuration is invalid, the book cannot be read, there is no netlink.
    pub fn open(config: BridgeConfig) -> Result<Self, NetworkError> {
        Self::with_firewall(config, Box::new(NftProgram::default()))
    }

    /// The same with another packet filter.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_firewall(
        config: BridgeConfig,
        firewall: Box<dyn Firewall>,
    ) -> Result<Self, NetworkError> {
        let BridgeConfig { state_dir, run_dir, table, mut rules, forwards_for_others, node } =
            config;
        if !names::is_valid_prefix(&rules.prefix) {
            return Err(NetworkError::Prefix { prefix: rules.prefix, max: names::PREFIX_MAX });
        }
        let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if table.is_empty() || table.len() > 32 || !table.bytes().all(valid) {
            return Err(NetworkError::Table { table });
        }
        let (book, leases, ula) = Book::open(&state_dir, &run_dir)?;
        rules.ula = ula;
        let settings = HostSettings::open(&state_dir)?;
        let prefix = rules.prefix.clone();
        let wishes = Wishes { prefix, forwards_for_others, ..Wishes::default() };
        let mut wishes = ways::restore(&run_dir, wishes);
        let has_v6 = leases.networks().any(NetworkState::has_v6);
        let by_mesh = wishes.ingress.spans() && wishes.ingress.has_v6();
        let v6 = (has_v6 || by_mesh) && !without_v6();
        let mut held = HeldPorts::default();
        let contested = held.hold_shared(wishes.ingress.ports.keys(), &leases, v6);
        wishes.contested = contested.into_keys().collect();
        // As far as it can be known without a look.
        let facts = HostFacts {
            v6,
            prefix: rules.prefix.clone(),
            vips: wishes.vips.clone(),
            ingress: Arc::clone(&wishes.ingress),
            numbers: Arc::clone(&wishes.numbers),
            contested: wishes.contested.clone(),
            mesh: wishes.ingress.spans(),
            ..HostFacts::default()
        };
        let links = Links::open().map_err(|source| NetworkError::Netlink { source })?;
        Ok(Self {
            rules,
            node,
            links,
            reaper: Reaper::default(),
            table: Table::open(table, firewall, run_dir.clone()),
            book,
            settings,
            tracked: Arc::default(),
            run_dir,
            lost: watch::Sender::new(leases.unfinished().collect()),
            inner: Mutex::new(Inner { leases, wishes, facts, held, ..Inner::default() }),
            overlay: watch::Sender::default(),
            followed: watch::Sender::default(),
            structure: tokio::sync::Mutex::default(),
            pen: tokio::sync::Mutex::default(),
        })
    }

    /// What it was told of overlay networks, whenever that changes.
    #[must_use]
    pub fn overlay(&self) -> watch::Receiver<Arc<OverlayView>> {
        self.overlay.subscribe()
    }

    /// As [`do_collect`](Self::do_collect).
    #[cfg(test)]
    pub(super) async fn collect(
        &self,
        containers: BTreeSet<String>,
        networks: BTreeSet<String>,
    ) -> Result<Repaired, NetworkError> {
        self.do_collect(containers, networks).await
    }

    /// How often parts of the host were looked at.
    #[cfg(test)]
    pub(super) fn looks(&self) -> u64 {
        self.lock().looks
    }

    /// How often something was done to the host because of them.
    #[cfg(test)]
    pub(super) fn deeds(&self) -> u64 {
        self.lock().deeds
    }

    /// Prefix of the names of its links.
    pub(super) fn prefix(&self) -> &str {
        &self.rules.prefix
    }

    /// Name of its tables in the packet filter.
    pub(super) fn table_name(&self) -> &str {
        self.table.name()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the leases and says which generation that made.
    fn change<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> (u64, T) {
        let mut inner = self.lock();
        inner.generation += 1;
        inner.edition += 1;
        let result = act(&mut inner);
        (inner.generation, result)
    }

    /// Writes the pages of all networks, if one has changed. Call it under `structure`.
    async fn save_networks(&self) -> Result<(), NetworkError> {
        let networks = {
            let inner = self.lock();
            if !inner.unsaved {
                return Ok(());
            }
            inner.leases.network_pages().clone()
        };
        self.book.save_networks(networks, self.rules.ula).await?;
        self.lock().unsaved = false;
        Ok(())
    }

    /// Writes the page of one container. Calls about the same container come one at a time.
    fn save_container(&self, container: &str) -> Result<(), NetworkError> {
        let page = self.lock().leases.container_page(container).cloned();
        self.book.save_container(container, page.as_ref())
    }

    /// Brings the tables up to date: whether they were not as an earlier agent should have left them.
    async fn filter(&self, generation: u64) -> Result<bool, NetworkError> {
        Ok(self.table.sync(generation, || self.desired_table()).await?)
    }

    fn desired_table(&self) -> (u64, Ruleset) {
        let mut inner = self.lock();
        let Inner { leases, facts, edition, generation, memo, .. } = &mut *inner;
        (*generation, memo.ruleset(*edition, leases, facts))
    }
}

impl Inner {
    /// Plans the way to what the book says.
    fn plan(&mut self, observed: &Observed) -> Plan {
        let Self { leases, wishes, edition, memo, .. } = self;
        host::plan_again(memo, *edition, leases, wishes, observed)
    }
}

impl NetworkDriver for BridgeNetworks {
    fn ensure_network(
        &self,
        config: NetworkConfig,
    ) -> BoxFuture<'_, Result<NetworkState, NetworkError>> {
        self.do_ensure(config).boxed()
    }

    fn remove_network(&self, network: String) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.do_remove_network(network).boxed()
    }

    fn attach(
        &self,
        request: AttachRequest,
        netns: Netns,
    ) -> BoxFuture<'_, Result<Attached, NetworkError>> {
        self.do_attach(request, netns).boxed()
    }

    fn tell(&self, view: Arc<OverlayView>) {
        self.overlay.send_replace(view);
    }

    fn has_followed(&self, revision: u64) {
        self.followed.send_replace(revision);
    }

    fn followed(&self) -> watch::Receiver<u64> {
        self.followed.subscribe()
    }

    fn lead(
        &self,
        remote: OrdSet<IpAddr>,
        vips: Vips,
        ingress: Ingress,
    ) -> BoxFuture<'_, Result<Contested, NetworkError>> {
        self.do_lead(remote, vips, ingress).boxed()
    }

    fn fit(
        &self,
        widest: u32,
        narrow: BTreeMap<IpAddr, u32>,
    ) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.do_fit(widest, narrow).boxed()
    }

    fn part(&self, second: OrdSet<IpAddr>) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.do_part(second).boxed()
    }

    fn set_up_loopback(&self, netns: Netns) -> BoxFuture<'_, Result<(), NetworkError>> {
        async move {
            let file = netns::open(&netns)?;
            let inside = netns::links_in(&netns, &file, BTreeSet::new()).await?;
            inside.set_up_loopback().await
        }
        .boxed()
    }

    fn detach(
        &self,
        container: String,
        network: String,
        netns: Option<Netns>,
    ) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.do_detach(container, network, netns).boxed()
    }

    fn publish(
        &self,
        container: String,
        ports: Vec<PublishedPort>,
    ) -> BoxFuture<'_, Result<Vec<PublishedPort>, NetworkError>> {
        self.do_publish(container, ports).boxed()
    }

    fn share(
        &self,
        container: String,
        ports: Vec<SharedPort>,
    ) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.do_share(container, ports).boxed()
    }

    fn unpublish(&self, container: String) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.do_unpublish(container).boxed()
    }

    fn release(&self, container: String) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.do_release(container, None).boxed()
    }

    fn repair(&self) -> BoxFuture<'_, Result<Repaired, NetworkError>> {
        self.do_repair().boxed()
    }

    fn compare(&self) -> BoxFuture<'_, Compared> {
        self.do_compare().boxed()
    }

    fn cleanup_all(&self) -> BoxFuture<'_, Result<(), NetworkError>> {
        self.do_cleanup().boxed()
    }

    fn attachments(&self, container: &str) -> Vec<Attached> {
        self.lock().leases.attachments(container)
    }

    fn lost(&self) -> watch::Receiver<Lost> {
        self.lost.subscribe()
    }

    fn held(&self) -> BTreeMap<String, BTreeSet<String>> {
        held(&self.lock().leases)
    }

    fn networks(&self) -> BTreeSet<String> {
        self.lock().leases.network_ids().map(str::to_owned).collect()
    }

    fn names(&self, network: &str) -> BTreeMap<String, BTreeSet<IpAddr>> {
        self.lock().leases.names(network)
    }
}
