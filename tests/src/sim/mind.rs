//! The planners under test, behind a seam where a test can plant a bug.

use shoal_manager_planning::liveness::{LastHeard, Watch};
use shoal_manager_planning::{Plan, orchestrator, scheduler};
use shoal_manager_state::{ClusterState, Command, Rejected};
use shoal_types::id::SeededIds;
use shoal_types::time::Timestamp;

/// What the leader thinks with. The default methods are the real planners.
pub trait Mind {
    /// Services -> tasks.
    fn orchestrate(&mut self, view: &ClusterState, now: Timestamp, ids: &mut SeededIds) -> Plan {
        orchestrator::plan(view, now, ids)
    }

    /// Tasks -> nodes.
    fn schedule(&mut self, view: &ClusterState, now: Timestamp) -> Plan {
        scheduler::plan(view, now)
    }

    /// Which nodes are lost.
    fn watch_nodes(
        &mut self,
        watch: &mut Watch,
        view: &ClusterState,
        heard: &LastHeard,
        now: Timestamp,
    ) -> Plan {
        watch.plan(view, heard, now, now)
    }

    /// What the leader proposes in place of what it has planned.
    fn propose(&mut self, _state: &ClusterState, planned: Command) -> Command {
        planned
    }

    /// Called with every command that was refused; what is returned becomes the state.
    fn refused(
        &mut self,
        _state: &ClusterState,
        _command: &Command,
        _why: &Rejected,
    ) -> Option<ClusterState> {
        None
    }
}

/// The real planners, without a planted bug.
#[derive(Debug, Clone, Copy, Default)]
pub struct Real;

impl Mind for Real {}
