//! The planners under test, behind a seam where a test can plant a bug.

use std::collections::BTreeMap;

use shoal_agent_planning::network::leases::Leases;
use shoal_agent_planning::node::holdings::{self, Action, Assigned, Observed};
use shoal_agent_planning::node::{fencing, host};
use shoal_agent_planning::task::{Boot, Found, Machine, Moment, TaskRecord};
use shoal_manager_planning::assignment::{self, News};
use shoal_manager_planning::liveness::{LastHeard, Watch};
use shoal_manager_planning::{Plan, orchestrator, scheduler, tunnel_keys};
use shoal_manager_state::{ClusterState, Command, Event, Rejected};
use shoal_types::id::{NodeId, SeededIds};
use shoal_types::object::{Node, Task};
use shoal_types::time::Timestamp;

/// What planners remember for as long as their manager leads.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Of services and their slots.
    pub orchestrator: orchestrator::Memory,
    /// Of tasks and nodes.
    pub scheduler: scheduler::Memory,
    /// Of who is heard of.
    pub watch: Watch,
    /// Of epochs of keys.
    pub tunnel_keys: tunnel_keys::Memory,
}

impl Memory {
    /// What is remembered when one begins to lead.
    #[must_use]
    pub fn begin(now: Timestamp) -> Self {
        let (orchestrator, scheduler, tunnel_keys) = Default::default();
        Self { orchestrator, scheduler, watch: Watch::begin(now), tunnel_keys }
    }

    /// Notes what an event has changed.
    pub fn hear(&mut self, event: &Event) {
        self.orchestrator.hear(event);
        self.scheduler.hear(event);
        self.watch.hear(event);
        self.tunnel_keys.hear(event);
    }

    /// Begins anew: the state is another one.
    pub fn forget(&mut self) {
        self.orchestrator.forget();
        self.scheduler.forget();
        self.watch.forget();
        self.tunnel_keys.forget();
    }
}

/// What the leader thinks with. The default methods are the real planners.
pub trait Mind {
    /// Notes what an event has changed.
    fn hear(&mut self, memory: &mut Memory, event: &Event) {
        memory.hear(event);
    }

    /// Services -> tasks.
    fn orchestrate(
        &mut self,
        memory: &mut Memory,
        view: &ClusterState,
        now: Timestamp,
        ids: &mut SeededIds,
    ) -> Plan {
        orchestrator::plan(view, &mut memory.orchestrator, now, ids)
    }

    /// Tasks -> nodes.
    fn schedule(&mut self, memory: &mut Memory, view: &ClusterState, now: Timestamp) -> Plan {
        scheduler::plan(view, &mut memory.scheduler, now)
    }

    /// What nodes may have to be told after this was written.
    fn news(&mut self, events: &[Event], view: &ClusterState) -> BTreeMap<NodeId, News> {
        assignment::news(events, view)
    }

    /// Which nodes are lost.
    fn watch_nodes(
        &mut self,
        memory: &mut Memory,
        view: &ClusterState,
        heard: &LastHeard,
        now: Timestamp,
    ) -> Plan {
        memory.watch.plan(view, |node| heard.get(&node).copied(), now, now)
    }

    /// When keys of tunnels change.
    fn change_keys(&mut self, memory: &mut Memory, view: &ClusterState, now: Timestamp) -> Plan {
        tunnel_keys::plan(view, &mut memory.tunnel_keys, now)
    }

    /// What an agent makes of a task of its ledger when it starts.
    fn resume(&mut self, record: &TaskRecord, found: Found, boot: &Boot, now: Moment) -> Machine {
        Machine::resume(record, found, boot, now)
    }

    /// Whether agents tell those who share the network of a task what that does.
    fn tells_sharers(&mut self) -> bool {
        true
    }

    /// What an agent does about what is on its node.
    fn order(&mut self, assigned: &Assigned, observed: &Observed) -> Vec<Action> {
        holdings::plan(assigned, observed)
    }

    /// What an agent does about the networks of its host.
    fn keep_host(
        &mut self,
        book: &Leases,
        wishes: &host::Wishes,
        observed: &host::Observed,
    ) -> host::Plan {
        host::plan(book, wishes, observed)
    }

    /// Whether an agent that has obeyed a leader of one term listens to one of another.
    fn listens(&mut self, obeyed: u64, term: u64) -> bool {
        fencing::listens(obeyed, term)
    }

    /// What the leader proposes in place of what it has planned.
    fn propose(&mut self, _state: &ClusterState, planned: Command) -> Command {
        planned
    }

    /// Called with every command that was carried out; what is returned takes the place of the task of
    /// its id, as a bug in applying would have it.
    fn applied(&mut self, _state: &ClusterState, _command: &Command) -> Option<Task> {
        None
    }

    /// What is written in place of a node that a command has made or changed, past all checks.
    fn admitted(&mut self, _state: &ClusterState, _command: &Command) -> Option<Node> {
        None
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
