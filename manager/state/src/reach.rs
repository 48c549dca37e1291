//! On which overlay networks a change of an object is seen by others than those it is about: what nodes are
//! told of others depends on it, and whoever tells them looks at nothing else.

use std::collections::BTreeSet;

use shoal_types::assignment::{Peer, ServiceVips, TaskEndpoint};
use shoal_types::id::NetworkId;
use shoal_types::object::{Node, Service, Task};

use crate::index::Indexes;

/// Of objects by which nothing is reached.
pub(crate) const fn nowhere<T>(_: &Indexes, _: Option<&T>, _: Option<&T>) -> Vec<NetworkId> {
    Vec::new()
}

/// A task is reached at its addresses, from when it is placed to its end.
pub(crate) fn task(indexes: &Indexes, old: Option<&Task>, new: Option<&Task>) -> Vec<NetworkId> {
    if let (Some(old), Some(new)) = (old, new)
        && TaskEndpoint::is_unchanged(old, new)
    {
        return Vec::new();
    }
    let reached = [old, new].into_iter().flatten().filter(|task| TaskEndpoint::has_one(task));
    overlays(indexes, reached.flat_map(|task| task.networks.iter()).map(|n| n.network_id))
}

/// A service is reached at its virtual addresses.
pub(crate) fn service(
    indexes: &Indexes,
    old: Option<&Service>,
    new: Option<&Service>,
) -> Vec<NetworkId> {
    if let (Some(old), Some(new)) = (old, new)
        && ServiceVips::is_unchanged(old, new)
    {
        return Vec::new();
    }
    let vips = [old, new].into_iter().flatten().flat_map(|s| &s.endpoint.virtual_ips);
    overlays(indexes, vips.map(|vip| vip.network_id))
}

/// A node is a peer of those with which it shares a network; and what it can be told depends on its level.
pub(crate) fn node(indexes: &Indexes, old: Option<&Node>, new: Option<&Node>) -> Vec<NetworkId> {
    let seen = |node: &Node| (Peer::of(node), node.description.level);
    if old.map(seen) == new.map(seen) {
        return Vec::new();
    }
    let usage = old.or(new).and_then(|node| indexes.usage.get(&node.id));
    overlays(indexes, usage.into_iter().flat_map(|usage| &usage.networks).map(|(id, _)| *id))
}

fn overlays(indexes: &Indexes, networks: impl Iterator<Item = NetworkId>) -> Vec<NetworkId> {
    let found: BTreeSet<_> = networks.filter(|id| indexes.overlays.contains(id)).collect();
    found.into_iter().collect()
}
