//! What a leader assigns is never obeyed after what a later leader assigned.

use std::collections::BTreeMap;

use shoal_types::id::NodeId;

/// Knows whom every node has obeyed last, also where the node has forgotten it.
#[derive(Debug, Default)]
pub struct Judge {
    newest: BTreeMap<NodeId, u64>,
}

impl Judge {
    /// A node carries out what a leader of this term assigns; says what is wrong with that.
    pub fn look(&mut self, node: NodeId, term: u64) -> Option<String> {
        let newest = self.newest.entry(node).or_default();
        let before = *newest;
        *newest = before.max(term);
        (term < before)
            .then(|| format!("node {node} obeys the leader of term {term} after that of {before}"))
    }
}
