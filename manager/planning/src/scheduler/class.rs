//! Nodes in the eyes of equal tasks: in which order they are taken, and why others are not.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::{ClusterState, NodeUsage};
use shoal_types::id::NodeId;
use shoal_types::object::{Node, Task};
use shoal_types::time::Timestamp;

use super::filter::{Need, Refusal, first_refusal};
use super::node_info::{Load, NodeInfo};
use super::order::{Order, Place};

/// What is looked at to say what a node is good for: a view, and what has been placed on it since.
pub(super) struct Look<'a> {
    pub(super) view: &'a ClusterState,
    pub(super) now: Timestamp,
    /// The nodes of the view, without what has been placed since.
    pub(super) order: Order,
    /// Nodes on which something was placed by the present plan.
    taken: BTreeMap<NodeId, Taken<'a>>,
    /// Those of which nobody else has been told.
    placed: Vec<NodeId>,
}

/// A node on which something was placed.
struct Taken<'a> {
    node: &'a Node,
    /// What it holds now.
    usage: NodeUsage,
    /// Whether it is among those of which nobody else has been told.
    news: bool,
}

impl<'a> Look<'a> {
    /// A look in which nothing has been placed.
    pub(super) const fn new(view: &'a ClusterState, now: Timestamp, order: Order) -> Self {
        Self { view, now, order, taken: BTreeMap::new(), placed: Vec::new() }
    }

    pub(super) fn node(&self, id: NodeId) -> Option<NodeInfo<'_>> {
        if let Some(Taken { node, usage, .. }) = self.taken.get(&id) {
            return Some(NodeInfo { node, usage });
        }
        Some(NodeInfo { node: self.view.node(id)?, usage: self.view.node_usage(id) })
    }

    /// Counts a task as one of the node's.
    pub(super) fn take(&mut self, id: NodeId, task: &Task) {
        let view = self.view;
        let taken = match self.taken.entry(id) {
            Entry::Occupied(taken) => taken.into_mut(),
            Entry::Vacant(free) => {
                let Some(node) = view.node(id) else { return };
                let usage = view.node_usage(id).clone();
                free.insert(Taken { node, usage, news: false })
            }
        };
        taken.usage.add(task);
        if !std::mem::replace(&mut taken.news, true) {
            self.placed.push(id);
        }
    }

    /// The nodes on which something was placed since this was last called.
    pub(super) fn news(&mut self) -> Vec<NodeId> {
        let placed = std::mem::take(&mut self.placed);
        for node in &placed {
            self.taken.entry(*node).and_modify(|taken| taken.news = false);
        }
        placed
    }

    /// The nodes on which something was placed, and the order of nodes in the view.
    pub(super) fn end(self) -> (impl Iterator<Item = NodeId>, Order) {
        (self.taken.into_keys(), self.order)
    }
}

/// What a node is for tasks of one service and spec version.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// And until when it counts as one that keeps failing them, if it does.
    Fits(Load, Option<Timestamp>),
    Refuses(Refusal),
}

/// Nodes, by what they are for tasks of one service and spec version.
///
/// It looks at nodes in the order of what they do for everybody, and only at as many as it takes to
/// know the best: whatever is behind in that order cannot be better than its place there says.
///
/// It remembers nothing that does not follow from the view: whoever uses it says first which nodes
/// have changed since it was used last.
#[derive(Debug, Clone, Default)]
pub(super) struct Class {
    /// Of the nodes that it has looked at.
    verdicts: BTreeMap<NodeId, Verdict>,
    /// It has looked at all nodes up to this place, and at others that have been there.
    reached: Option<Place>,
    fitting: BTreeSet<(Load, NodeId)>,
    refusals: BTreeMap<Refusal, usize>,
    /// When nodes cease to count as such that keep failing.
    failing: BTreeSet<(Timestamp, NodeId)>,
}

impl Class {
    /// How many nodes it knows.
    pub(super) fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Looks again at nodes that have changed, and at those that have changed by the time that has
    /// passed.
    pub(super) fn catch_up(
        &mut self,
        need: &Need<'_>,
        look: &Look<'_>,
        changed: impl Iterator<Item = NodeId>,
    ) {
        for node in changed {
            // The others' turn comes when their place is reached.
            let passed = || look.order.place(node).is_some_and(|at| Some(at) <= self.reached);
            if self.verdicts.contains_key(&node) || passed() {
                self.update(need, look, node);
            }
        }
        while let Some((_, node)) = self.failing.first().copied().filter(|(at, _)| *at <= look.now)
        {
            self.failing.pop_first();
            self.update(need, look, node);
        }
    }

    /// Looks again at one node.
    pub(super) fn update(&mut self, need: &Need<'_>, look: &Look<'_>, id: NodeId) {
        let verdict = look.node(id).map(|info| judge(need, look, &info));
        let old = match (self.verdicts.entry(id), &verdict) {
            (Entry::Occupied(known), Some(new)) if known.get() == new => return,
            (Entry::Occupied(mut known), Some(new)) => Some(known.insert(new.clone())),
            (Entry::Occupied(known), None) => Some(known.remove()),
            (Entry::Vacant(free), Some(new)) => {
                free.insert(new.clone());
                None
            }
            (Entry::Vacant(_), None) => return,
        };
        match old {
            Some(Verdict::Fits(load, until)) => {
                self.fitting.remove(&(load, id));
                if let Some(at) = until {
                    self.failing.remove(&(at, id));
                }
            }
            Some(Verdict::Refuses(refusal)) => uncount(&mut self.refusals, &refusal),
            None => {}
        }
        match verdict {
            Some(Verdict::Fits(load, until)) => {
                self.fitting.insert((load, id));
                self.failing.extend(until.map(|at| (at, id)));
            }
            Some(Verdict::Refuses(refusal)) => count(&mut self.refusals, &refusal),
            None => {}
        }
    }

    /// The node that is to have the next task. Looks at as many more as it takes to know it: at all,
    /// if none fits.
    pub(super) fn best(&mut self, need: &Need<'_>, look: &Look<'_>) -> Option<NodeId> {
        while self.verdicts.len() < look.order.len()
            && let Some(next) = look.order.after(self.reached)
        {
            let (wanted, node) = next;
            let least = ((false, 0, wanted), node);
            if self.fitting.first().is_some_and(|best| *best < least) {
                break;
            }
            self.reached = Some(next);
            if !self.verdicts.contains_key(&node) {
                self.update(need, look, node);
            }
        }
        self.fitting.first().map(|(_, node)| *node)
    }

    /// How many of the nodes that it has looked at do not fit, by why.
    pub(super) const fn refusals(&self) -> &BTreeMap<Refusal, usize> {
        &self.refusals
    }
}

fn judge(need: &Need<'_>, look: &Look<'_>, info: &NodeInfo<'_>) -> Verdict {
    if let Some(refusal) = first_refusal(need, info) {
        return Verdict::Refuses(refusal);
    }
    let (load, until) = info.load(look.view, need.service, look.now);
    Verdict::Fits(load, until)
}

fn count(refusals: &mut BTreeMap<Refusal, usize>, refusal: &Refusal) {
    if let Some(count) = refusals.get_mut(refusal) {
        *count += 1;
    } else {
        refusals.insert(refusal.clone(), 1);
    }
}

fn uncount(refusals: &mut BTreeMap<Refusal, usize>, refusal: &Refusal) {
    if let Some(count) = refusals.get_mut(refusal) {
        *count -= 1;
        if *count == 0 {
            refusals.remove(refusal);
        }
    }
}
