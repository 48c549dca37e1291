//! All nodes, those on which the fewest tasks are to run first.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use shoal_manager_state::ClusterState;
use shoal_types::id::NodeId;

/// Where a node stands: how many tasks are to run there, and its id.
pub(super) type Place = (u64, NodeId);

/// All nodes in the order of their places. It serves tasks of every kind: what a node does for a
/// service is never less than what its place says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Order {
    wanted: BTreeMap<NodeId, u64>,
    places: BTreeSet<Place>,
}

impl Order {
    /// Looks at all nodes.
    pub(super) fn new(view: &ClusterState) -> Self {
        let wanted = view.nodes_with_usage().map(|(node, usage)| (node.id, usage.wanted));
        let wanted: BTreeMap<NodeId, u64> = wanted.collect();
        let places = wanted.iter().map(|(node, wanted)| (*wanted, *node)).collect();
        Self { wanted, places }
    }

    /// Looks again at a node that has changed.
    pub(super) fn update(&mut self, view: &ClusterState, id: NodeId) {
        let new = view.node(id).map(|_| view.node_usage(id).wanted);
        let old = match new {
            Some(wanted) => self.wanted.insert(id, wanted),
            None => self.wanted.remove(&id),
        };
        if old == new {
            return;
        }
        if let Some(wanted) = old {
            self.places.remove(&(wanted, id));
        }
        self.places.extend(new.map(|wanted| (wanted, id)));
    }

    /// How many nodes there are.
    pub(super) fn len(&self) -> usize {
        self.wanted.len()
    }

    /// Where a node stands, if there is such a node.
    pub(super) fn place(&self, id: NodeId) -> Option<Place> {
        self.wanted.get(&id).map(|wanted| (*wanted, id))
    }

    /// The first place behind another one; the first of all behind none.
    pub(super) fn after(&self, place: Option<Place>) -> Option<Place> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.places.range((from, Bound::Unbounded)).next().copied()
    }
}
