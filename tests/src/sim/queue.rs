//! What is going to happen, in order of virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use shoal_agent_planning::node::holdings::{Action, Observed};
use shoal_agent_planning::node::host;
use shoal_agent_planning::node::look::Look;
use shoal_types::id::{NodeId, TaskId};
use shoal_types::time::Timestamp;

use super::leader::Loop;
use super::wire::{Down, Up};

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A leader loop takes a view and plans, if that is still what it waits for.
    Plan(Loop, Timestamp),
    /// A leader loop proposes the next part of its plan.
    Propose(Loop, u64),
    /// The dispatcher tells nodes what has changed for them.
    Dispatch,
    /// A message reaches the leader.
    ToLeader(NodeId, Up),
    /// A message reaches a node.
    ToNode(NodeId, Down),
    /// A node notices that its assignment stream broke.
    StreamBroke(NodeId),
    /// The agent process does what it does every heartbeat period.
    Beat(NodeId, u64),
    /// The agent process reports what has not been acknowledged.
    Flush(NodeId, u64),
    /// The agent process looks what is next for a task.
    Work(NodeId, TaskId, u64),
    /// What an agent process does with a task gets to its next stage.
    Stage(NodeId, TaskId, u64, u64),
    /// The agent process looks at everything that the node has.
    Round(NodeId, u64),
    /// It thinks about what it saw.
    Seen(NodeId, u64, Box<Observed>),
    /// It puts that in order: what is still to do, and what is done.
    Order(NodeId, u64, VecDeque<Action>, Vec<Action>),
    /// The agent process hears that somebody has changed the host, or wants to look at it.
    HostHeard(NodeId, u64, Look),
    /// It does the next of what it has planned for the host's networks; something before has failed.
    HostKept(NodeId, u64, VecDeque<host::Action>, bool),
    /// It looks at settings, of which nobody tells.
    Glance(NodeId, u64),
    /// A manager that leads no more notices it.
    StepDown(u64),
    /// A container ends by itself.
    ContainerEnds(NodeId, u64),
    /// A container ends because it was asked to, or killed.
    ContainerStops(NodeId, u64, bool),
    /// A host that was shut down in good order is switched off.
    SwitchOff(NodeId, u64),
    /// Something breaks.
    Fault,
    /// What broke on a node is mended.
    Mend(NodeId, Mend),
    /// The user does something.
    User,
}

/// What is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mend {
    /// The agent process runs again.
    Process,
    /// The network reaches the node again.
    Link,
    /// The host runs again.
    Power,
}

/// Events to come. Those of one instant happen in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    events: BTreeMap<(Timestamp, u64), Event>,
    added: u64,
    /// The present time.
    pub(crate) now: Timestamp,
}

impl Queue {
    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(crate) fn at(&mut self, at: Timestamp, event: Event) {
        self.added += 1;
        self.events.insert((at.max(self.now), self.added), event);
    }

    /// The next event; the present becomes its time.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }
}
