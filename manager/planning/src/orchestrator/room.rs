//! Free addresses of networks that span nodes: no task is planned that would get none. Its slot waits until an
//! address is free there, and the deployment says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_manager_state::Command;
use shoal_types::id::NetworkId;
use shoal_types::object::{AddressCount, Deployment, DeploymentState, Network, Slot, Task};

use super::Pass;
use crate::Plan;

/// How many tasks of one plan get an address on each network.
pub(super) type Promised = BTreeMap<NetworkId, u64>;

impl<'a> Pass<'a> {
    /// Networks of which the service's new tasks get an address that is free then, with how many there are.
    fn spanning(&self) -> impl Iterator<Item = (&'a Network, AddressCount)> + use<'a> {
        let (view, service) = (self.view, self.service);
        let found = service.networks.iter().filter_map(|joined| view.network(joined.network_id));
        found.filter_map(|network| Some((&**network, view.addresses_for(service, network)?)))
    }

    /// The network on which a task still has an address that the service keeps for the next one.
    fn awaits(&self) -> Option<&'a Network> {
        let (view, service) = (self.view, self.service);
        view.waits_for_address(service).and_then(|id| view.network(id)).map(AsRef::as_ref)
    }

    /// Gives up what lost nodes may still run with an address that the service keeps for its task, whatever slot it is
    /// of: a replacement does not wait for them, and two tasks never have it.
    pub(super) fn give_up_lost(&self, plan: &mut Plan) {
        if self.awaits().is_none() {
            return;
        }
        let kept = || self.service.networks.iter().flat_map(|joined| &joined.addresses);
        let has = |address| {
            move |task: &Arc<Task>| task.networks.iter().any(|n| n.addresses.contains(address))
        };
        let lost = |task: &&Arc<Task>| {
            task.is_live()
                && task.node_id.is_some_and(|node| self.view.is_lost(node))
                && kept().any(|address| has(address)(task))
        };
        let given_up = self.view.tasks_of_service(self.service.id).filter(lost);
        given_up.for_each(|task| plan.push(Command::OrphanTask { id: task.id }));
    }

    /// Whether a new task of a slot gets an address on each of its networks. If so they are counted as taken,
    /// else the slot waits for one.
    pub(super) fn has_addresses(&mut self, slot: Slot) -> bool {
        let left = |network: &Network, count: AddressCount| {
            let promised = self.promised.get(&network.id).copied().unwrap_or_default();
            count.free.saturating_sub(promised)
        };
        if let Some((full, _)) = self.spanning().find(|(network, count)| left(network, *count) == 0)
        {
            self.known.starved.insert(slot, full.id);
            return false;
        }
        if let Some(network) = self.awaits() {
            self.known.starved.insert(slot, network.id);
            return false;
        }
        for (network, _) in self.spanning() {
            *self.promised.entry(network.id).or_default() += 1;
        }
        true
    }

    /// What has been said that slots wait for, if they still do.
    pub(super) fn starves(&self, said_so: &str) -> bool {
        let waits = self.awaits().is_some_and(|network| awaited(network) == said_so);
        waits || self.spanning().any(|(n, count)| count.free == 0 && said(n, count) == said_so)
    }

    /// What slots wait for that get no task; `None` if there are no such.
    fn starvation(&self) -> Option<String> {
        let full = *self.known.starved.first_key_value()?.1;
        if let Some(network) = self.awaits().filter(|network| network.id == full) {
            return Some(awaited(network));
        }
        let mut spanning = self.spanning();
        spanning
            .find(|(network, _)| network.id == full)
            .map(|(network, count)| said(network, count))
    }

    /// Says at a deployment that is under way what its slots wait for, and no more once they do not.
    pub(super) fn explain_starvation(&self, deployment: &Deployment, plan: &mut Plan) {
        let ours = |message: &str| {
            let mut full = self.spanning();
            let mut joined =
                self.service.networks.iter().filter_map(|n| self.view.network(n.network_id));
            full.any(|(n, count)| said(n, count) == message)
                || joined.any(|n| awaited(n) == message)
        };
        match self.starvation() {
            Some(why) if deployment.message != why => {
                self.note(deployment, DeploymentState::Updating, why, plan);
            }
            None if ours(&deployment.message) => {
                self.note(deployment, DeploymentState::Updating, String::new(), plan);
            }
            _ => {}
        }
    }
}

fn said(network: &Network, AddressCount { used, free }: AddressCount) -> String {
    let (name, count) = (&network.spec.name, used.saturating_add(free));
    format!("tasks wait for an address: network {name:?} has no free one, all {count} are in use")
}

fn awaited(network: &Network) -> String {
    let name = &network.spec.name;
    format!("the task waits for its address on network {name:?}: the one before it has not ended")
}
