//! What is done for the host: networks, repairing, collecting.

use std::collections::BTreeSet;

use shoal_agent_planning::network::leases::InUse;
use shoal_agent_planning::network::names;
use shoal_agent_planning::node::look::Look;

use super::BridgeNetworks;
use crate::settings::without_v6;
use crate::{NetworkConfig, NetworkError, NetworkState, PublishedPort, Repaired};

impl BridgeNetworks {
    pub(super) async fn do_ensure(
        &self,
        config: NetworkConfig,
    ) -> Result<NetworkState, NetworkError> {
        if config.ipv6 && without_v6() {
            return Err(NetworkError::WithoutV6 { network: config.name });
        }
        let place = match &config.wire {
            Some(wire) => Some(self.place(wire, &config).await?),
            None => None,
        };
        let _structure = self.structure.lock().await;
        let known = {
            let inner = self.lock();
            inner.leases.find_network(&config).cloned()
        };
        let state = match known {
            Some(known) => known,
            None => {
                let in_use = self.links.in_use(self.prefix(), config.ipv6).await?;
                let in_use: Vec<InUse> = in_use.into_iter().map(InUse::from).collect();
                let (_, state) = self.change(|inner| {
                    inner.unsaved = true;
                    inner.leases.ensure_network(&config, &self.rules, &in_use)
                });
                state?
            }
        };
        if let Some(place) = place {
            return self.make_wire(&state, &place).await;
        }
        self.save_networks().await?;
        // Addresses are told of once they were looked at.
        let addresses = !self.lock().looked_around;
        let gates = true;
        let look =
            Look { addresses, settings: true, rules: true, gates, ..Look::link(&state.bridge) };
        self.reconcile(&look).await?;
        Ok(state)
    }

    pub(super) async fn do_remove_network(&self, network: String) -> Result<(), NetworkError> {
        let _structure = self.structure.lock().await;
        let (_, removed) = self.change(|inner| {
            inner.unsaved = true;
            inner.leases.remove_network(&network)
        });
        let link = removed?.map_or_else(
            || names::bridge(self.prefix(), &network),
            |state| state.wire.map_or(state.bridge, |place| place.link),
        );
        let look = Look { settings: true, rules: true, gates: true, ..Look::link(link) };
        let settled = self.reconcile(&look).await;
        self.save_networks().await?;
        settled.map(drop)
    }

    /// Releases all containers and removes all networks that are not named, then does what
    /// [`do_repair`](Self::do_repair) does. Networks of named containers stay.
    pub(super) async fn do_collect(
        &self,
        containers: BTreeSet<String>,
        networks: BTreeSet<String>,
    ) -> Result<Repaired, NetworkError> {
        let structure = self.structure.lock().await;
        let doomed: Vec<String> = self
            .lock()
            .leases
            .ports()
            .filter(|port| !containers.contains(&port.container))
            .map(|port| port.host_ifname.clone())
            .collect();
        self.reaper.remove(&self.links, doomed).await?;
        let (_, withdrawn) = self.change(|inner| {
            let ports = inner.leases.published();
            let gone = ports.filter(|(container, _)| !containers.contains(*container));
            let withdrawn: Vec<PublishedPort> = gone.map(|(_, port)| *port).collect();
            inner.leases.retain(&containers, &networks);
            inner.unsaved = true;
            withdrawn
        });
        let left = self.lock().leases.container_ids().map(str::to_owned).collect();
        self.book.keep_containers(&left)?;
        self.save_networks().await?;
        drop(structure);
        let repaired = self.do_repair().await;
        self.forget_flows(&withdrawn).await;
        repaired
    }

    pub(super) async fn do_repair(&self) -> Result<Repaired, NetworkError> {
        let _structure = self.structure.lock().await;
        let contested_ports = {
            let mut inner = self.lock();
            let leases = inner.leases.clone();
            inner.held.reconcile(&leases)
        };
        let repaired = self.reconcile(&Look::everything()).await?;
        Ok(Repaired { contested_ports, ..repaired })
    }

    pub(super) async fn do_cleanup(&self) -> Result<(), NetworkError> {
        self.do_collect(BTreeSet::new(), BTreeSet::new()).await.map(drop)
    }
}
