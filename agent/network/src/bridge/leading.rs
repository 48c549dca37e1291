//! What leads packets to other hosts, to backends of services, and to those of ports that answer on every node.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use shoal_agent_planning::network::Family;
use shoal_agent_planning::network::ingress::{self, Ingress, Port, Slot};
use shoal_agent_planning::network::ruleset::{Vips, balance};
use shoal_agent_planning::node::host::Wishes;
use shoal_agent_planning::node::look::Look;
use tokio::task::spawn_blocking;

use super::{BridgeNetworks, Inner};
use crate::settings::without_v6;
use crate::{Contested, NetworkError, Protocol, PublishedPort, conntrack, ports, ways};

/// What leads somewhere else from now on, so that flows have to be forgotten.
#[derive(Default)]
struct Turned {
    /// Addresses of services, with backends that are withdrawn.
    backends: BTreeSet<(IpAddr, IpAddr)>,
    /// Published ports, with those who are not behind them any more.
    slots: BTreeSet<(u16, IpAddr)>,
    /// Ports that the host leads now and did not lead before.
    taken: Vec<PublishedPort>,
}

/// Ports that somebody else on the host has, with who it is, where that is known.
type Unled = BTreeMap<Port, Option<String>>;

impl BridgeNetworks {
    pub(super) async fn do_lead(
        &self,
        remote: BTreeSet<IpAddr>,
        vips: Vips,
        ingress: Ingress,
    ) -> Result<Contested, NetworkError> {
        let structure = self.structure.lock().await;
        let (look, turned, unled, is_news) = {
            let mut inner = self.lock();
            let before = inner.wishes.clone();
            let backends = balance::withdrawn(&inner.wishes.vips, &vips);
            if *inner.wishes.remote != remote {
                inner.wishes.remote = Arc::new(remote);
            }
            if *inner.wishes.vips != vips {
                inner.wishes.vips = Arc::new(vips);
            }
            let (turned, unled) = inner.lead_ports(ingress);
            let look = if inner.led.is_some() { Look::default() } else { Look::remote() };
            let is_news = inner.wishes != before;
            (look, Turned { backends, ..turned }, unled, is_news)
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

    pub(super) async fn do_fit(&self, narrow: BTreeMap<IpAddr, u32>) -> Result<(), NetworkError> {
        let structure = self.structure.lock().await;
        {
            let mut inner = self.lock();
            if *inner.wishes.narrow == narrow {
                return Ok(());
            }
            inner.wishes.narrow = Arc::new(narrow);
        }
        let look = if self.lock().led.is_some() { Look::default() } else { Look::remote() };
        let repaired = self.reconcile(&look).await;
        drop(structure);
        self.remember_ways().await;
        repaired.map(|_| ())
    }

    async fn remember_ways(&self) {
        // Who comes last writes what is newest.
        let _pen = self.pen.lock().await;
        let (dir, wishes) = (self.run_dir.clone(), self.lock().wishes.clone());
        // Fails only when the agent ends.
        let _ = spawn_blocking(move || ways::remember(&dir, &wishes)).await;
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

    async fn forget_turned(&self, Turned { backends, slots, taken }: Turned) {
        self.forget_flows(&taken).await;
        let forget =
            move || conntrack::forget_backends(&backends).and(conntrack::forget_slots(&slots));
        if let Err(error) = spawn_blocking(forget).await.map_err(io::Error::other).flatten() {
            tracing::warn!(%error, "cannot forget UDP flows to backends that are withdrawn");
        }
    }

    /// Lets clients that keep sending to a port of every node find another one behind it than this container.
    pub(super) async fn forget_shared(&self, withdrawn: BTreeSet<(u16, IpAddr)>) {
        self.forget_turned(Turned { slots: withdrawn, ..Turned::default() }).await;
    }
}

impl Inner {
    /// What packets for ports of every node are led to now; ports that somebody else has are not.
    fn lead_ports(&mut self, ingress: Ingress) -> (Turned, Unled) {
        let before = Family::ALL.map(|family| self.slots(family));
        let was_led = self.all_led_ports();
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
        let now = Family::ALL.map(|family| self.slots(family));
        let udp = |(protocol, _): &Port| *protocol == Protocol::Udp;
        let gone =
            before.iter().zip(&now).flat_map(|(before, now)| ingress::withdrawn(before, now));
        let gone = gone.filter(|(port, _)| udp(port));
        let slots = gone.map(|((_, port), address)| (port, address)).collect();
        let led = self.all_led_ports();
        let taken = led.difference(&was_led).filter(|port| udp(port)).copied();
        let taken = taken.map(ports::everywhere).collect();
        (Turned { slots, taken, ..Turned::default() }, unled)
    }

    fn slots(&self, family: Family) -> BTreeMap<Port, Vec<Slot>> {
        ingress::slots(&self.leases, &self.wishes.ingress, &self.wishes.numbers, family)
    }

    /// Which ports the host leads somewhere, for who asks by one family or another.
    pub(super) fn all_led_ports(&self) -> BTreeSet<Port> {
        let slots = Family::ALL.into_iter().flat_map(|family| self.slots(family));
        let led = slots.filter(|(_, slots)| !slots.is_empty()).map(|(port, _)| port);
        led.filter(|port| !self.wishes.contested.contains(port)).collect()
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
