//! A node has what its tasks have, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use shoal_agent_planning::node::holdings::{Assigned, Observed};

/// Looks at a node to which nothing happens any more; says what is wrong with it.
#[must_use]
pub fn judge(node: &str, assigned: &Assigned, observed: &Observed) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut say = |what: String| wrong.push(format!("node {node} {what}"));
    let holders = &assigned.holders;
    let strays = |of: &mut dyn Iterator<Item = &String>| -> BTreeSet<String> {
        of.filter(|id| !holders.contains_key(*id)).cloned().collect()
    };
    for id in strays(&mut observed.leases.keys()) {
        say(format!("has leases of {id}, which holds nothing"));
    }
    for id in strays(&mut observed.answered.iter().flat_map(BTreeMap::keys)) {
        say(format!("answers names to {id}, which holds nothing"));
    }
    for id in strays(&mut observed.files.iter()) {
        say(format!("has files of {id}, which holds nothing"));
    }
    for network in &observed.networks {
        if !holders.values().any(|holds| holds.networks.contains(network)) {
            say(format!("has network {network}, which no task has"));
        }
    }
    for (name, volume) in &observed.volumes {
        for user in strays(&mut volume.users.iter()) {
            say(format!("has volume {name} in use by {user}, which holds nothing"));
        }
        if let Some(owner) = volume.owner.as_ref().filter(|owner| !assigned.known.contains(*owner))
        {
            say(format!("has volume {name}, made for {owner}, which is gone"));
        }
    }
    for (id, holds) in holders.iter().filter(|(_, holds)| holds.connected && !holds.busy) {
        let leases = observed.leases.get(id).cloned().unwrap_or_default();
        for network in holds.networks.difference(&leases) {
            say(format!("does not connect {id} to {network}"));
        }
        for (_, network) in observed.lost.iter().filter(|(of, _)| of == id) {
            say(format!("has lost the link of {id} to {network}"));
        }
        let answered =
            observed.answered.as_ref().is_none_or(|all| all.get(id) == holds.asks.as_ref());
        if holds.asks.is_some() && !answered {
            say(format!("does not answer names to {id}"));
        }
        if !observed.files.contains(id) {
            say(format!("has no files of {id}"));
        }
        let uses = observed.volumes.values().filter(|volume| volume.users.contains(id)).count();
        if uses != 2 {
            say(format!("has {uses} volumes of the 2 of {id}"));
        }
    }
    wrong
}
