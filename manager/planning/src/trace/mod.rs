//! Where a packet goes from one place to another, as it is planned, and whether the nodes on its way say that it is
//! so.
//!
//! The way follows from the state alone ([`plan`]). Each of its nodes is asked whether its networks are as they should
//! be and whether it reaches the next one ([`Way::asked`], as for [`crate::verify`]); what it says of the addresses
//! of a step is the verdict on that step ([`Way::judged`]).

mod judge;
mod plan;
mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use shoal_manager_state::Unresolved;
use shoal_types::id::NodeId;
use shoal_types::object::AssignmentProgress;
use shoal_types::question::{NodeNetworks, Silent};

pub use plan::plan;

/// Backends whose ways are told; of further ones there is a word.
const BACKENDS_MAX: usize = 8;

/// Why no way can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untraceable {
    /// Who sends is not known.
    #[error("the source is neither a task nor a node: {0}")]
    Source(Unresolved),
    /// The text is no destination.
    #[error(
        "destination {text:?} is not understood: expected a task, a service, an alias, an address or NODE:PORT, \
         with :PORT and /tcp, /udp or /sctp behind it"
    )]
    Destination {
        /// What was given.
        text: String,
    },
    /// The task has no node.
    #[error("task {task} is on no node yet: it is {state}")]
    Unplaced {
        /// Its name.
        task: String,
        /// What it is doing.
        state: String,
    },
}

/// The way of a packet, as it is planned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Way {
    steps: Vec<Step>,
}

/// One step of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    node: Option<NodeId>,
    what: String,
    /// It cannot be, by what managers know.
    stops: Option<String>,
    about: About,
}

/// What a node has to say of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
enum About {
    /// Nothing.
    Nothing,
    /// These words: addresses, ids of tasks, ports.
    Words(Vec<String>),
    /// The way from it to another node.
    Peer(NodeId),
}

/// What nodes have said.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Of their networks.
    pub answers: BTreeMap<NodeId, NodeNetworks>,
    /// Nothing, and why.
    pub silent: Vec<Silent>,
    /// How far each is with its assignment.
    pub progress: BTreeMap<NodeId, AssignmentProgress>,
}

impl Way {
    fn step(&mut self, node: Option<NodeId>, what: String, about: About) {
        self.steps.push(Step { node, what, stops: None, about });
    }

    fn stop(&mut self, node: Option<NodeId>, what: String, why: String) {
        self.steps.push(Step { node, what, stops: Some(why), about: About::Nothing });
    }
}
