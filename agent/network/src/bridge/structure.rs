//! What is done for the host: networks, repairing, collecting.

use std::collections::BTreeSet;

use shoal_agent_planning::network::links::{self, Desired};
use shoal_agent_planning::network::names;

use super::BridgeNetworks;
use crate::{
    FirewallError, NetworkConfig, NetworkError, NetworkState, PublishedPort, Repaired, sysctl,
};

impl BridgeNetworks {
    pub(super) async fn do_ensure(
        &self,
        config: NetworkConfig,
    ) -> Result<NetworkState, NetworkError> {
        let _structure = self.structure.lock().await;
        let known = {
            let inner = self.lock();
            inner.leases.find_network(&config).cloned()
        };
        let state = match known {
            Some(known) => known,
            None => {
                let in_use = self.links.in_use(&self.rules.prefix).await?;
                let (_, state) = self.change(|inner| {
                    inner.unsaved = true;
                    inner.leases.ensure_network(&config, &self.rules, &in_use)
                });
                state?
            }
        };
        self.save_networks().await?;
        let desired = Desired::of(&self.lock().leases).only_bridge(&state.bridge);
        let observed = self.links.observe_one(&state.bridge).await?;
        for action in links::plan(&desired, &observed, &self.rules.prefix).actions {
            self.links.perform(&action).await?;
        }
        sysctl::prepare_bridge(&state.bridge)?;
        self.settle_host().await?;
        Ok(state)
    }

    pub(super) async fn do_remove_network(&self, network: String) -> Result<(), NetworkError> {
        let _structure = self.structure.lock().await;
        let (_, removed) = self.change(|inner| {
            inner.unsaved = true;
            inner.leases.remove_network(&network)
        });
        let bridge = removed?
            .map_or_else(|| names::bridge(&self.rules.prefix, &network), |state| state.bridge);
        let removed = self.links.remove(&bridge).await;
        let settled = self.settle_host().await;
        self.save_networks().await?;
        removed.and(settled)
    }

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
            let gone = ports.filter(|(container, _, _)| !containers.contains(*container));
            let withdrawn: Vec<PublishedPort> = gone.map(|(_, port, _)| *port).collect();
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
        let mut repaired = Repaired::default();
        let mut errors = Vec::new();
        let mut under_way = self.lock().under_way.clone();
        let observed = self.links.observe().await?;
        let (desired, leases) = {
            let mut inner = self.lock();
            under_way.extend(inner.under_way.iter().cloned());
            let leases = inner.leases.clone();
            repaired.contested_ports = inner.held.reconcile(&leases);
            (Desired::of(&leases), leases)
        };
        let plan = links::plan(&desired, &observed, &self.rules.prefix);
        for action in &plan.actions {
            repaired.links.push(action.to_string());
            errors.push(self.links.perform(action).await);
        }
        for state in leases.networks() {
            errors.push(sysctl::prepare_bridge(&state.bridge));
        }
        repaired.lost_attachments = leases
            .ports()
            .filter(|port| plan.missing_ports.contains(&port.host_ifname))
            .map(|port| (port.container.clone(), port.network.clone()))
            .filter(|key| !under_way.contains(key))
            .collect();
        errors.push(self.learn_addresses().await);
        match self.begin_host().await {
            Ok(rules) => repaired.rules = rules,
            Err(error) => errors.push(Err(error)),
        }
        match self.table.repair(|| self.desired_table()).await {
            Ok(replaced) => repaired.table_replaced = replaced,
            // A host without nftables needs none as long as it has no networks.
            Err(FirewallError::Missing) if leases.networks().next().is_none() => {}
            Err(error) => errors.push(Err(error.into())),
        }
        match self.finish_host().await {
            Ok(rules) => repaired.rules.extend(rules),
            Err(error) => errors.push(Err(error)),
        }
        first_error(errors)?;
        Ok(repaired)
    }

    pub(super) async fn do_cleanup(&self) -> Result<(), NetworkError> {
        self.do_collect(BTreeSet::new(), BTreeSet::new()).await.map(drop)
    }
}

fn first_error(
    results: impl IntoIterator<Item = Result<(), NetworkError>>,
) -> Result<(), NetworkError> {
    results.into_iter().collect()
}
