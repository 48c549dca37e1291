//! What networks mean for the whole host: its settings, the fence of routing rules, the table; in an
//! order in which it is open for nothing but containers at every moment.

use shoal_agent_planning::network::fence::{self, Routing};

use super::BridgeNetworks;
use crate::NetworkError;

impl BridgeNetworks {
    /// Brings the host in line with the book. Call it under `structure`, with the bridges made.
    pub(super) async fn settle_host(&self) -> Result<(), NetworkError> {
        self.begin_host().await?;
        let generation = self.lock().generation;
        self.filter(generation).await?;
        self.finish_host().await.map(drop)
    }

    /// What has to come before the table: the memory of settings, or their return; the fence.
    /// Returns the routing rules that were changed, one line each.
    pub(super) async fn begin_host(&self) -> Result<Vec<String>, NetworkError> {
        if self.forwards() {
            self.settings.remember()?;
        } else {
            self.settings.restore()?;
        }
        let forwards_for_us = self.settings.forwards_for_us();
        {
            let mut inner = self.lock();
            if inner.facts.forwards_for_us != forwards_for_us {
                inner.facts.forwards_for_us = forwards_for_us;
                inner.generation += 1;
            }
        }
        if self.has_networks() { self.fence().await } else { Ok(Vec::new()) }
    }

    /// What has to come after the table: the way through, or the end of the fence.
    pub(super) async fn finish_host(&self) -> Result<Vec<String>, NetworkError> {
        if self.forwards() {
            self.settings.switch_on()?;
        }
        if self.has_networks() { Ok(Vec::new()) } else { self.fence().await }
    }

    fn has_networks(&self) -> bool {
        self.lock().leases.networks().next().is_some()
    }

    fn forwards(&self) -> bool {
        self.lock().leases.networks().any(|network| !network.internal)
    }

    async fn fence(&self) -> Result<Vec<String>, NetworkError> {
        let wanted = |has_domains| {
            let inner = self.lock();
            let forwards_for_us = inner.facts.forwards_for_us;
            fence::rules(&inner.leases, Routing { forwards_for_us, has_domains })
        };
        self.links.fence(wanted).await
    }

    /// Looks which addresses of the host are on no wire.
    pub(super) async fn learn_addresses(&self) -> Result<(), NetworkError> {
        let on_no_wire = self.links.addresses_on_no_wire().await?;
        let mut inner = self.lock();
        if inner.facts.on_no_wire != on_no_wire {
            inner.facts.on_no_wire = on_no_wire;
            inner.generation += 1;
        }
        Ok(())
    }
}
