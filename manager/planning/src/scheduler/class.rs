//! All nodes in the eyes of equal tasks: in which order they are taken, and why others are not.

use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::{ClusterState, NodeUsage};
use shoal_types::id::NodeId;
use shoal_types::time::Timestamp;

use super::filter::{Need, Refusal, first_refusal};
use super::node_info::{Load, NodeInfo};

/// What is looked at to say what a node is good for: a view, and what has been placed on it since.
pub(super) struct Look<'a> {
    pub(super) view: &'a ClusterState,
    pub(super) now: Timestamp,
    /// Usage of the nodes on which something was placed by the present plan.
    pub(super) taken: BTreeMap<NodeId, NodeUsage>,
}

impl Look<'_> {
    pub(super) fn node(&self, id: NodeId) -> Option<NodeInfo<'_>> {
        let node = self.view.node(id)?;
        let usage = self.taken.get(&id).unwrap_or_else(|| self.view.node_usage(id));
        Some(NodeInfo { node, usage })
    }
}

/// What a node is for tasks of one service and spec version.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// And until when it counts as one that keeps failing them, if it does.
    Fits(Load, Option<Timestamp>),
    Refuses(Refusal),
}

/// All nodes, by what they are for tasks of one service and spec version.
///
/// It remembers nothing that does not follow from the view: whoever uses it says first which nodes
/// have changed since it was used last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Class {
    verdicts: BTreeMap<NodeId, Verdict>,
    fitting: BTreeSet<(Load, NodeId)>,
    refusals: BTreeMap<Refusal, usize>,
    /// When nodes cease to count as such that keep failing.
    failing: BTreeSet<(Timestamp, NodeId)>,
}

impl Class {
    /// Looks at all nodes.
    pub(super) fn new(need: &Need<'_>, look: &Look<'_>) -> Self {
        let mut class = Self::default();
        let mut fitting = Vec::new();
        let verdicts = look.view.nodes_with_usage().map(|(node, usage)| {
            let usage = look.taken.get(&node.id).unwrap_or(usage);
            let info = NodeInfo { node, usage };
            let verdict = judge(need, look, &info);
            match &verdict {
                Verdict::Fits(load, until) => {
                    fitting.push((*load, node.id));
                    class.failing.extend(until.map(|at| (at, node.id)));
                }
                Verdict::Refuses(refusal) => count(&mut class.refusals, refusal),
            }
            (node.id, verdict)
        });
        class.verdicts = verdicts.collect();
        class.fitting = fitting.into_iter().collect();
        class
    }

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
        changed.for_each(|node| self.update(need, look, node));
        while let Some((_, node)) = self.failing.first().copied().filter(|(at, _)| *at <= look.now)
        {
            self.failing.pop_first();
            self.update(need, look, node);
        }
    }

    /// Looks again at one node.
    pub(super) fn update(&mut self, need: &Need<'_>, look: &Look<'_>, id: NodeId) {
        let verdict = look.node(id).map(|info| judge(need, look, &info));
        if self.verdicts.get(&id) == verdict.as_ref() {
            return;
        }
        let old = match &verdict {
            Some(new) => self.verdicts.insert(id, new.clone()),
            None => self.verdicts.remove(&id),
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

    /// The node that is to have the next task.
    pub(super) fn best(&self) -> Option<NodeId> {
        self.fitting.first().map(|(_, node)| *node)
    }

    /// How many nodes do not fit, by why.
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
