//! Decisions of the leading manager. Pure: (view, now, ids) -> commands.
//!
//! Every function here looks at a [`ClusterState`](shoal_manager_state::ClusterState) and says what should be proposed next.
//! What decides lies in the objects, so a new leader goes on where the old one stopped; planners
//! remember only what they have looked at, so that a look costs as much as has changed and not as much
//! as there is. They are told what has changed by events. ([`liveness`] and [`pace`] remember who was
//! heard of when, too.) On a converged view each of them returns no commands.
//!
//! - [`orchestrator`]: services -> tasks: slots, restarts, rollouts, forgetting the past
//! - [`scheduler`]: tasks -> nodes, or an explanation why not
//! - [`assignment`]: what one node must hold
//! - [`credential`]: with what one node may pull an image
//! - [`exec`], [`logs`]: which tasks a request means, and whom to ask
//! - [`departure`]: what a node that is drained waits for
//! - [`forward`]: which manager answers a call
//! - [`liveness`]: which nodes count as lost
//! - [`managers`]: who takes part in Raft, who may go, and how managers fare
//! - [`pace`]: how fast one node may report
//! - [`reached`]: of which managers others are told
//! - [`level`]: what a node must be able to do to run a task
//! - [`tunnel_keys`]: when the keys of the tunnels between nodes change
//! - [`volume`], [`usage`]: what nodes have answered of themselves, put together
//! - [`words`]: what of an agent's words is kept

pub mod assignment;
pub mod credential;
pub mod departure;
pub mod exec;
pub mod forward;
pub mod level;
pub mod liveness;
pub mod logs;
pub mod managers;
#[cfg(test)]
mod memory_tests;
pub mod orchestrator;
pub mod pace;
pub mod reached;
pub mod scheduler;
#[cfg(test)]
mod stage;
pub mod trace;
pub mod tunnel_keys;
pub mod usage;
pub mod verify;
pub mod volume;
pub mod words;

use shoal_manager_state::Command;
use shoal_types::time::Timestamp;

/// Commands proposed at a time, so that one plan does not hold up everybody else's writes.
pub const BATCH_MAX: usize = 512;

/// What a planning function wants.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// To be proposed, in this order. Each is checked again when it is applied.
    pub commands: Vec<Command>,
    /// When to plan again even if nothing has changed by then.
    pub wake_at: Option<Timestamp>,
    /// What a look at everything found that had been missed. There should never be any.
    pub missed: Vec<String>,
}

impl Plan {
    fn push(&mut self, command: Command) {
        self.commands.push(command);
    }

    /// Asks to plan again at `at`, or earlier if that was asked for already.
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }
}
