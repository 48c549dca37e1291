//! What leads packets to other hosts, to backends of services, and to those of ports that answer on every node.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet, ordset};
use shoal_agent_planning::network::Family;
use shoal_agent_planning::network::ingress::{self, Backend, Ingress, Port, Slot, Ways};
use shoal_agent_planning::network::ruleset::{Vips, balance};
use shoal_agent_planning::node::host::Wishes;
use shoal_agent_planning::node::look::{Look, LookAtLinks};
use tokio::task::spawn_blocking;

use super::{BridgeNetworks, Inner};
use crate::conntrack::Astray;
use crate::settings::without_v6;
use crate::{Contested, NetworkError, Protocol, PublishedPort, ports, ways};

/// What leads somewhere else from now on, so that flows have to be forgotten.
#[derive(Default)]
struct Turned {
    /// Flows of services and ports.
    astray: Astray,
    /// Ports that the host leads now and did not lead before.
    taken: Vec<PublishedPort>,
}

/// Ports that somebody else on the host has, with who it is, where that is known.
type Unled = BTreeMap<Port, Option<String>>;

impl BridgeNetworks {
    pub(super) async fn do_lead(
        &self,
        remote: OrdSet<IpAddr>,
        vips: Vips,
        ingress: Ingress,
    ) -> Result<Contested, NetworkError> {
        let structure = self.structure.lock().await;
        let (look, turned, unled, is_news) = {
            let mut inner = self.lock();
            let before = inner.wishes.clone();
            let backends = balance::withdrawn(&inner.wishes.vips, &vips);
            let gone =
                inner.wishes.remote.diff(&remote).filter_map(|difference| match difference {
                    ordset::DiffItem::Remove(address) => Some(*address),
                    ordset::DiffItem::Add(_) => None,
                });
            let gone: BTreeSet<IpAddr> = gone.collect();
            (inner.wishes.remote, inner.wishes.vips) = (remote, vips);
            let (mut turned, unled) = inner.lead_ports(ingress);
            turned.astray = Astray { backends, gone, ..turned.astray };
            let look = if inner.led.is_some() { Look::default() } else { Look::remote() };
            let is_news = inner.wishes != before;
            (look, turned, unled, is_news)
        };
        let repaired = self.reconcile(&look).await;
        self.forget_turned(turned).await;
        drop(structure);
        if is_news {
            self.remember_ways().await;
        }
        let contested = self.name_holders(unled).await;
        repaired.map(|_| contested)
    }

    pub(super) async fn do_fit(
        &self,
        widest: u32,
        narrow: BTreeMap<IpAddr, u32>,
    ) -> Result<(), NetworkError> {
        let structure = self.structure.lock().await;
        let (widened, written) = self.widen(widest).await;
        let (mut look, is_news) = {
            let mut inner = self.lock();
            let is_news = *inner.wishes.narrow != narrow;
            if is_news {
                inner.wishes.narrow = Arc::new(narrow);
            }
            let look = if inner.led.is_some() { Look::default() } else { Look::remote() };
            (look, is_news)
        };
        if widened {
            look.links = LookAtLinks::All;
        }
        // Also what is no news: it may have failed before.
        let repaired = self.reconcile(&look).await;
        drop(structure);
        if is_news {
            self.remember_ways().await;
        }
        repaired.map(|_| ()).and(written)
    }

    /// Lets networks have packets up to this size in the book. Says whether anything is other than it was, and whether
    /// it is written down. Call it under `structure`.
    async fn widen(&self, widest: u32) -> (bool, Result<(), NetworkError>) {
        if !self.lock().leases.would_widen(widest) {
            return (false, Ok(()));
        }
        let (_, containers) = self.change(|inner| {
            inner.unsaved = true;
            inner.leases.widen(widest)
        });
        let mut written = self.save_networks().await;
        for container in containers {
            written = written.and(self.save_container(&container));
        }
        (true, written)
    }

    pub(super) async fn do_part(&self, second: OrdSet<IpAddr>) -> Result<(), NetworkError> {
        let structure = self.structure.lock().await;
        let is_news = {
            let mut inner = self.lock();
            let is_news = inner.wishes.second != second;
            inner.wishes.second = second;
            is_news
        };
        // One of the interfaces may just have come, of which nobody has told yet.
        let repaired = self.reconcile(&Look::remote()).await;
        drop(structure);
        if is_news {
            self.remember_ways().await;
        }
        repaired.map(|_| ())
    }

    async fn remember_ways(&self) {
        // Who comes last writes what is newest.
        let mut pen = self.pen.lock().await;
        let (dir, now) = (self.run_dir.clone(), self.lock().wishes.clone());
        // Not known any more until it is written.
        let before = pen.take();
        let write = move || ways::remember(&dir, before.as_ref(), &now).then_some(now);
        // Fails only when the agent ends.
        *pen = spawn_blocking(write).await.unwrap_or_default();
    }

    /// Finds out who has the ports of which that is not known yet.
    async fn name_holders(&self, unled: Unled) -> Contested {
        let nameless = unled.iter().filter(|(_, holder)| holder.is_none()).map(|(port, _)| *port);
        let nameless: Vec<Port> = nameless.collect();
        let known = unled.into_iter().filter_map(|(port, holder)| Some((port, holder?)));
        let mut contested: Contested = known.collect();
        if !nameless.is_empty() {
            let name = |port: Port| (port, ports::holder_of(&ports::everywhere(port)));
            let named = spawn_blocking(move || nameless.into_iter().map(name).collect());
            // Fails only when the agent ends.
            let named: Contested = named.await.unwrap_or_default();
            self.lock().held.name(named.clone());
            contested.extend(named);
        }
        contested
    }

    async fn forget_turned(&self, Turned { astray, taken }: Turned) {
        self.forget_flows(&taken).await;
        self.forget_astray(astray).await;
    }

    /// Lets who keeps sending find somebody else, or hear that there is nobody.
    pub(super) async fn forget_astray(&self, astray: Astray) {
        let tracked = Arc::clone(&self.tracked);
        let forget = move || tracked.forget_astray(&astray);
        if let Err(error) = spawn_blocking(forget).await.map_err(io::Error::other).flatten() {
            tracing::warn!(%error, "cannot forget flows to backends that are withdrawn");
        }
    }

    /// Lets clients that keep sending to a port of every node find another one behind it than this container.
    pub(super) async fn forget_shared(&self, slots: BTreeSet<(u16, IpAddr)>) {
        self.forget_astray(Astray { slots, ..Astray::default() }).await;
    }
}

impl Inner {
    /// What packets for ports of every node are led to now; ports that somebody else has are not.
    fn lead_ports(&mut self, ingress: Ingress) -> (Turned, Unled) {
        let before = Leading::of(self);
        if *self.wishes.ingress != ingress {
            let peers = ingress.peers.keys().copied();
            let numbers = ingress::numbers(&self.wishes.numbers, peers);
            let without = ingress::without_number(&ingress, &numbers);
            let Wishes { ingress: told, numbers: had, .. } = &self.wishes;
            if without > 0 && without != ingress::without_number(told, had) {
                tracing::error!(
                    nodes = without,
                    max = ingress::NUMBERS,
                    "a node leads published ports to so many others at most, and to these it does not"
                );
            }
            if **had != numbers {
                self.wishes.numbers = Arc::new(numbers);
            }
            self.wishes.ingress = Arc::new(ingress);
        }
        let v6 = self.may_have_v6() && !without_v6();
        let Self { held, leases, wishes, .. } = self;
        let unled = held.hold_shared(wishes.ingress.ports.keys(), leases, v6);
        wishes.contested = unled.keys().copied().collect();
        (before.turned(&Leading::of(self)), unled)
    }

    /// Which ports the host leads somewhere, for who asks by one family or another.
    pub(super) fn all_led_ports(&self) -> BTreeSet<Port> {
        let leading = Leading::of(self);
        leading.ports.keys().copied().filter(|port| leading.leads(*port)).collect()
    }

    /// UDP ports of every node that lead to a container, with its address.
    pub(super) fn shared_with(&self, container: &str) -> BTreeSet<(u16, IpAddr)> {
        let own = Family::ALL
            .into_iter()
            .flat_map(|family| self.leases.shared(family))
            .filter(|(id, port, _)| *id == container && port.protocol == Protocol::Udp);
        own.filter_map(|(_, port, target)| Some((port.port, target?))).collect()
    }
}

/// What decides where ports of every node lead.
struct Leading {
    ways: Ways,
    ports: OrdMap<Port, Arc<[Backend]>>,
    contested: BTreeSet<Port>,
}

impl Leading {
    fn of(inner: &Inner) -> Self {
        let Inner { leases, wishes, .. } = inner;
        Self {
            ways: Ways::of(leases, &wishes.numbers),
            ports: wishes.ingress.ports.clone(),
            contested: wishes.contested.clone(),
        }
    }

    fn slots(&self, port: Port, family: Family) -> Vec<Slot> {
        let backends = self.ports.get(&port);
        backends.map_or_else(Vec::new, |backends| self.ways.slots(port, backends, family))
    }

    /// Whether a port leads somewhere, for who asks by one family or another.
    fn leads(&self, port: Port) -> bool {
        let somewhere = |family| !self.slots(port, family).is_empty();
        !self.contested.contains(&port) && Family::ALL.into_iter().any(somewhere)
    }

    /// What leads somewhere else `now`.
    fn turned(&self, now: &Self) -> Turned {
        let of_all = self.ways != now.ways || self.contested != now.contested;
        let changed: BTreeSet<Port> = if of_all {
            self.ports.keys().chain(now.ports.keys()).copied().collect()
        } else {
            let port = |difference: DiffItem<'_, '_, Port, _>| match difference {
                DiffItem::Add(port, _)
                | DiffItem::Remove(port, _)
                | DiffItem::Update { new: (port, _), .. } => *port,
            };
            self.ports.diff(&now.ports).map(port).collect()
        };
        let mut turned = Turned::default();
        for port in changed.into_iter().filter(|(protocol, _)| *protocol == Protocol::Udp) {
            for family in Family::ALL {
                let gone = ingress::withdrawn(&self.slots(port, family), &now.slots(port, family));
                turned.astray.slots.extend(gone.into_iter().map(|address| (port.1, address)));
            }
            if now.leads(port) && !self.leads(port) {
                turned.taken.push(ports::everywhere(port));
            }
        }
        turned
    }
}
