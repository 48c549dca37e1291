//! When the keys of the tunnels between nodes change.
//!
//! In each epoch every node has another key, and its links of that epoch beside those of the one before. An epoch begins
//! when its time has come, or somebody wants it to; the one before ends when nobody uses its links any more. How a
//! node gets from one to the other is its own affair: it uses the links of the present epoch as soon as packets pass
//! them, so nothing is lost while two epochs are there, however long that takes.

use std::time::Duration;

use shoal_manager_state::{ClusterState, Command, Event, ObjectRef};
use shoal_types::level::Level;
use shoal_types::object::{Cluster, Node};
use shoal_types::time::Timestamp;

use crate::Plan;

/// How long the links of the former epoch stay for nodes that managers hear nothing of. Who is away for longer may be
/// reached by others until then, and is in the present epoch as soon as it is back.
pub const AWAY_MAX: Duration = Duration::from_secs(600);

/// Remembers whether there is anything to look at.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Nodes or settings are others than they were.
    changed: bool,
    /// It has looked since it was time.
    looked_late: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self { changed: true, looked_late: false }
    }
}

impl Memory {
    /// Notes what an event has changed.
    pub fn hear(&mut self, event: &Event) {
        self.changed |= matches!(event.object, ObjectRef::Node(_) | ObjectRef::Cluster(_));
    }

    /// Looks again: some events were missed.
    pub fn forget(&mut self) {
        self.changed = true;
    }
}

/// Plans the next step, if it is time for one.
#[must_use]
pub fn plan(view: &ClusterState, memory: &mut Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(cluster) = view.cluster().filter(|_| view.level() >= Level::KEYS) else { return plan };
    let keys = cluster.tunnel_keys;
    let (at, forced) = match keys.epochs.former {
        None => (due(cluster, now), cluster.spec.tunnel_keys.force_rotate),
        Some(_) => (Some(keys.since + AWAY_MAX), keys.forced),
    };
    if let Some(later) = at.filter(|at| *at > now) {
        plan.wake(later);
    }
    let is_time = at.is_some_and(|at| at <= now);
    if !(memory.changed || is_time && !memory.looked_late) {
        return plan;
    }
    let to = match keys.epochs.former {
        None if is_time && hinders(view).is_none() => keys.epochs.begun(),
        Some(_) if waits_for(view, now).next().is_none() => keys.epochs.ended(),
        None | Some(_) => None,
    };
    // What is planned is looked at again, whatever becomes of it.
    (memory.changed, memory.looked_late) = (to.is_some(), is_time && to.is_none());
    plan.commands.extend(to.map(|to| Command::SetTunnelEpochs { from: keys.epochs, to, forced }));
    plan
}

/// When the next epoch is to begin; never if absent.
fn due(cluster: &Cluster, now: Timestamp) -> Option<Timestamp> {
    let spec = cluster.spec.tunnel_keys;
    if spec.force_rotate != cluster.tunnel_keys.forced {
        return Some(now);
    }
    let began = cluster.tunnel_keys.since.max(cluster.meta.created_at);
    spec.period().map(|period| began + period)
}

/// A node that is there and has one key for ever: an epoch would cut it off.
#[must_use]
pub fn hinders(view: &ClusterState) -> Option<&Node> {
    let one_key =
        |node: &&Node| node.description.tunnel.is_some_and(|tunnel| tunnel.keys.is_none());
    view.nodes().map(|node| &**node).filter(|node| node.is_reachable()).find(one_key)
}

/// Nodes that still need the links of the former epoch, as far as they say, or are not asked in vain for too long.
pub fn waits_for(view: &ClusterState, now: Timestamp) -> impl Iterator<Item = &Node> {
    let keys = view.cluster().map(|cluster| cluster.tunnel_keys).unwrap_or_default();
    let is_late = now >= keys.since + AWAY_MAX;
    let given_up = move |node: &Node| is_late && !node.is_reachable();
    // Who says that he knows no key of others may only not have heard of them yet: of how many that is so is known here.
    let keyless = view.nodes().filter(|node| {
        let tunnel = node.description.tunnel;
        given_up(node) && tunnel.is_some_and(|tunnel| !tunnel.has_key_of(keys.epochs.present))
    });
    let keyless = u32::try_from(keyless.count()).unwrap_or(u32::MAX);
    view.nodes().map(|node| &**node).filter(move |node| {
        let tunnel = node.description.tunnel.filter(|_| !given_up(node));
        tunnel.is_some_and(|tunnel| !tunnel.has_followed(keys.epochs, keyless))
    })
}

#[cfg(test)]
mod tests;
