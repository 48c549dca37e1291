//! Free addresses of networks that span nodes: no task is planned that would get none. Its slot waits until an
//! address is free there, and the deployment says so.

use std::collections::BTreeMap;

use shoal_manager_state::Command;
use shoal_types::id::NetworkId;
use shoal_types::object::{AddressCount, Deployment, DeploymentState, Network, Slot, Task};

use super::{Pass, SlotTasks};
use crate::Plan;

/// How many tasks of one plan get an address on each network.
pub(super) type Promised = BTreeMap<NetworkId, u64>;

impl<'a> Pass<'a> {
    /// Networks of the service's new tasks whose addresses managers choose, with how many are free.
    fn spanning(&self) -> impl Iterator<Item = (&'a Network, AddressCount)> + use<'a> {
        let (view, networks) = (self.view, &self.service.networks);
        let found = networks.iter().filter_map(|joined| view.network(joined.network_id));
        found.filter_map(|network| Some((&**network, view.addresses(network)?)))
    }

    /// Gives up what lost nodes may still run with an address that the service keeps for its task: a replacement does
    /// not wait for them, and two tasks never have it.
    pub(super) fn give_up_lost(&self, tasks: &SlotTasks<'_>, plan: &mut Plan) {
        if self.view.waits_for_address(self.service).is_none() {
            return;
        }
        let lost = |task: &&&Task| {
            task.is_live() && task.node_id.is_some_and(|node| self.view.is_lost(node))
        };
        let given_up = tasks.0.iter().filter(lost).map(|task| Command::OrphanTask { id: task.id });
        given_up.for_each(|command| plan.push(command));
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
        if let Some(network) = self.view.waits_for_address(self.service) {
            self.known.starved.insert(slot, network);
            return false;
        }
        for (network, _) in self.spanning() {
            *self.promised.entry(network.id).or_default() += 1;
        }
        true
    }

    /// What has been said that slots wait for, if they still do.
    pub(super) fn starves(&self, said_so: &str) -> bool {
        let waits = self.view.waits_for_address(self.service);
        self.spanning().any(|(network, count)| {
            let full = count.free == 0 && said(network, count) == said_so;
            full || (waits == Some(network.id) && awaited(network) == said_so)
        })
    }

    /// What slots wait for that get no task; `None` if there are no such.
    fn starvation(&self) -> Option<String> {
        let full = *self.known.starved.first_key_value()?.1;
        let mut spanning = self.spanning();
        spanning.find(|(network, _)| network.id == full).map(|(network, count)| {
            match self.view.waits_for_address(self.service) {
                Some(id) if id == network.id => awaited(network),
                _ => said(network, count),
            }
        })
    }

    /// Says at a deployment that is under way what its slots wait for, and no more once they do not.
    pub(super) fn explain_starvation(&self, deployment: &Deployment, plan: &mut Plan) {
        let ours = |message: &str| {
            let mut all = self.spanning();
            all.any(|(n, count)| said(n, count) == message || awaited(n) == message)
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
