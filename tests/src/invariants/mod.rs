//! Judges: what must always hold. They know the objects of the cluster and what really runs on its
//! nodes, and nothing of the code that decides.

pub mod beside_its_partner;
pub mod convergence;
pub mod explanation;
pub mod host_in_order;
pub mod no_address_twice;
pub mod no_task_above_its_node;
pub mod node_in_order;
pub mod nothing_is_forgotten;
pub mod nothing_overdrawn;
pub mod nothing_passes_unseen;
pub mod one_running_task_per_slot;
pub mod planning_comes_to_rest;
pub mod retries_are_paced;
pub mod rolled_out;
pub mod terms_never_go_back;
pub mod told_as_it_is;

use std::collections::{BTreeMap, BTreeSet};

use shoal_manager_state::ClusterState;
use shoal_types::id::{NodeId, ServiceId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::Slot;
use shoal_types::time::Timestamp;

/// A container that really runs, seen by looking at the hosts themselves.
#[derive(Debug, Clone)]
pub struct Running {
    /// Of which task.
    pub task: TaskId,
    /// Of which service.
    pub service: ServiceId,
    /// In which slot.
    pub slot: Slot,
    /// Where.
    pub node: NodeId,
    /// When the node was first told to hold the task.
    pub held_since: Timestamp,
}

/// What is so, whatever the managers know of it.
#[derive(Debug)]
pub struct Reality {
    /// Everything that really runs.
    pub running: Vec<Running>,
    /// Every task that some node still holds anything of, running or not.
    pub held: BTreeSet<(NodeId, TaskId)>,
    /// What the program of each node can do.
    pub levels: BTreeMap<NodeId, Level>,
}

impl Reality {
    /// This, and what the managers have at the same time.
    #[must_use]
    pub fn beside<'a>(&'a self, state: &'a ClusterState, now: Timestamp) -> Moment<'a> {
        let Self { running, held, levels } = self;
        Moment { state, now, running, held, levels }
    }
}

/// What the judges see of one moment.
#[derive(Debug)]
pub struct Moment<'a> {
    /// The objects, as the managers have them.
    pub state: &'a ClusterState,
    /// When.
    pub now: Timestamp,
    /// Everything that really runs.
    pub running: &'a [Running],
    /// Every task that some node still holds anything of, running or not.
    pub held: &'a BTreeSet<(NodeId, TaskId)>,
    /// What the program of each node can do.
    pub levels: &'a BTreeMap<NodeId, Level>,
}
