//! Where a change of an object is seen by others than those it is about: what nodes are told of others depends on
//! it, and whoever tells them looks at nothing else.

use std::collections::BTreeSet;

use shoal_types::assignment::{Peer, ServiceVips, TaskEndpoint};
use shoal_types::id::NetworkId;
use shoal_types::object::{Node, Service, Task};

use crate::index::Indexes;

/// Where a change is seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// On these overlay networks.
    pub networks: Vec<NetworkId>,
    /// Wherever published ports are led to tasks: a task's change on every node; a node's, too, if it has such tasks,
    /// or else on itself and on those that have.
    pub ports: bool,
}

/// Of objects by which nothing is reached.
pub(crate) const fn nowhere<T>(_: &Indexes, _: Option<&T>, _: Option<&T>) -> Reach {
    Reach { networks: Vec::new(), ports: false }
}

/// A task is reached at its addresses and ports, from when it is placed to its end.
pub(crate) fn task(indexes: &Indexes, old: Option<&Task>, new: Option<&Task>) -> Reach {
    if let (Some(old), Some(new)) = (old, new)
        && TaskEndpoint::is_unchanged(old, new)
    {
        return Reach::default();
    }
    let both = || [old, new].into_iter().flatten();
    let reached = both().filter(|task| TaskEndpoint::has_one(task));
    let networks = reached.flat_map(|task| task.networks.iter()).map(|n| n.network_id);
    Reach { networks: overlays(indexes, networks), ports: both().any(TaskEndpoint::has_ports) }
}

/// A service is reached at its virtual addresses.
pub(crate) fn service(indexes: &Indexes, old: Option<&Service>, new: Option<&Service>) -> Reach {
    if let (Some(old), Some(new)) = (old, new)
        && ServiceVips::is_unchanged(old, new)
    {
        return Reach::default();
    }
    let vips = [old, new].into_iter().flatten().flat_map(|s| &s.endpoint.virtual_ips);
    Reach { networks: overlays(indexes, vips.map(|vip| vip.network_id)), ports: false }
}

/// A node is a peer of those with which it shares a network, and of those to which it leads ports; and what it can be told depends on its level.
pub(crate) fn node(indexes: &Indexes, old: Option<&Node>, new: Option<&Node>) -> Reach {
    let seen = |node: &Node| (Peer::of(node), node.description.level);
    if old.map(seen) == new.map(seen) {
        return Reach::default();
    }
    let usage = old.or(new).and_then(|node| indexes.usage.get(&node.id));
    let networks = usage.into_iter().flat_map(|usage| &usage.networks).map(|(id, _)| *id);
    Reach { networks: overlays(indexes, networks), ports: true }
}

fn overlays(indexes: &Indexes, networks: impl Iterator<Item = NetworkId>) -> Vec<NetworkId> {
    let found: BTreeSet<_> = networks.filter(|id| indexes.overlays.contains(id)).collect();
    found.into_iter().collect()
}
