//! What leads packets to other hosts, to backends of services, and to those of ports that answer on every node.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use shoal_agent_planning::network::ingress::{self, Ingress, Port, Slot};
use shoal_agent_planning::network::ruleset::{Vips, balance};
use shoal_agent_planning::node::look::Look;
use tokio::task::spawn_blocking;

use super::{BridgeNetworks, Inner};
use crate::{Contested, NetworkError, Protocol, PublishedPort, conntrack, ways};

/// What leads somewhere else from now on, so that flows have to be forgotten.
#[derive(Default)]
struct Turned {
    /// Addresses of services, with backends that are withdrawn.
    backends: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    /// Published ports, with those who are not behind them any more.
    slots: BTreeSet<(u16, Ipv4Addr)>,
    /// Ports that the host leads now and did not lead before.
    taken: Vec<PublishedPort>,
}

impl BridgeNetworks {
    pub(super) async fn do_lead(
        &self,
        remote: BTreeSet<Ipv4Addr>,
        vips: Vips,
        ingress: Ingress,
    ) -> Result<Contested, NetworkError> {
        let _structure = self.structure.lock().await;
        let (look, turned, contested, news) = {
            let mut inner = self.lock();
            let before = inner.wishes.clone();
            let backends = balance::withdrawn(&inner.wishes.vips, &vips);
            if *inner.wishes.remote != remote {
                inner.wishes.remote = Arc::new(remote);
            }
            if *inner.wishes.vips != vips {
                inner.wishes.vips = Arc::new(vips);
            }
            let (turned, contested) = inner.lead_ports(ingress);
            let look = if inner.led.is_some() { Look::default() } else { Look::remote() };
            let news = (inner.wishes != before).then(|| inner.wishes.clone());
            (look, Turned { backends, ..turned }, contested, news)
        };
        let repaired = self.reconcile(&look).await;
        self.forget_turned(turned).await;
        if let Some(wishes) = news {
            let dir = self.run_dir.clone();
            // Fails only when the agent ends.
            let _ = spawn_blocking(move || ways::remember(&dir, &wishes)).await;
        }
        repaired.map(|_| contested)
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
    pub(super) async fn forget_shared(&self, withdrawn: BTreeSet<(u16, Ipv4Addr)>) {
        self.forget_turned(Turned { slots: withdrawn, ..Turned::default() }).await;
    }
}

impl Inner {
    /// What packets for ports of every node are led to now; ports that somebody else has are not.
    fn lead_ports(&mut self, ingress: Ingress) -> (Turned, Contested) {
        let before = self.slots();
        let was_led = self.led_ports();
        if *self.wishes.ingress != ingress {
            let peers = ingress.peers.keys().copied();
            let numbers = ingress::numbers(&self.wishes.numbers, peers);
            if *self.wishes.numbers != numbers {
                self.wishes.numbers = Arc::new(numbers);
            }
            self.wishes.ingress = Arc::new(ingress);
        }
        let Self { held, leases, wishes, .. } = self;
        let contested = held.hold_shared(wishes.ingress.ports.keys(), leases);
        wishes.contested = contested.keys().copied().collect();
        let gone = ingress::withdrawn(&before, &self.slots());
        let udp = |(protocol, _): &Port| *protocol == Protocol::Udp;
        let slots = gone.into_iter().filter(|(port, _)| udp(port));
        let led = self.led_ports();
        let taken = led.difference(&was_led).filter(|port| udp(port)).map(|(protocol, port)| {
            let (host_ip, host_port) = (Ipv4Addr::UNSPECIFIED, *port);
            PublishedPort { host_ip, host_port, protocol: *protocol, target_port: 0 }
        });
        let taken = taken.collect();
        let slots = slots.map(|((_, port), address)| (port, address)).collect();
        (Turned { slots, taken, ..Turned::default() }, contested)
    }

    fn slots(&self) -> std::collections::BTreeMap<Port, Vec<Slot>> {
        ingress::slots(&self.leases, &self.wishes.ingress, &self.wishes.numbers)
    }

    fn led_ports(&self) -> BTreeSet<Port> {
        let led = self.slots().into_iter().filter(|(_, slots)| !slots.is_empty());
        let ports: BTreeSet<Port> = led.map(|(port, _)| port).collect();
        ports.difference(&self.wishes.contested).copied().collect()
    }

    /// UDP ports of every node that lead to a container, with its address.
    pub(super) fn shared_with(&self, container: &str) -> BTreeSet<(u16, Ipv4Addr)> {
        let own = self
            .leases
            .shared()
            .filter(|(id, port, _)| *id == container && port.protocol == Protocol::Udp);
        own.filter_map(|(_, port, target)| Some((port.port, target?))).collect()
    }
}
