//! What the leading manager remembers while it leads. All of it is lost when it restarts.

use std::collections::{BTreeMap, VecDeque};

use shoal_manager_planning::assignment::{Held, News};
use shoal_manager_planning::liveness::LastHeard;
use shoal_manager_state::Command;
use shoal_types::assignment::NodeAssignment;
use shoal_types::id::NodeId;
use shoal_types::time::Timestamp;

use super::mind::Memory;

/// A leader loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loop {
    Orchestrator,
    Scheduler,
    Liveness,
    TunnelKeys,
}

impl Loop {
    pub(crate) const ALL: [Self; 4] =
        [Self::Orchestrator, Self::Scheduler, Self::Liveness, Self::TunnelKeys];
}

/// One loop: it waits, plans on a view, proposes the plan in batches, and starts again.
#[derive(Debug, Default)]
pub(crate) struct LoopState {
    /// When it plans next, if it waits.
    pub(crate) planned_at: Option<Timestamp>,
    /// What it has still to propose.
    pub(crate) rest: VecDeque<Command>,
    /// Log index of the view that it planned on last.
    pub(crate) seen: u64,
    /// Whether it is between planning and the end of proposing.
    pub(crate) busy: bool,
}

/// What a node was sent since everything was sent to it.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) held: Held,
    /// What may have changed since.
    pub(crate) news: News,
    /// What all of it comes to.
    pub(crate) sum: NodeAssignment,
}

impl Sent {
    /// Before the first message.
    pub(crate) fn nothing(node: NodeId) -> Self {
        Self { held: Held::new(node), news: News::whole(), sum: NodeAssignment::default() }
    }
}

/// One agent's connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    /// What the node has been sent, if anything.
    pub(crate) sent: Option<Sent>,
    /// Number of the last assignment message.
    pub(crate) sequence: u64,
}

/// One period of leading.
#[derive(Debug)]
pub(crate) struct Leader {
    /// Counts periods: what an earlier one had still to do is void.
    pub(crate) period: u64,
    pub(crate) memory: Memory,
    pub(crate) heard: LastHeard,
    pub(crate) sessions: BTreeMap<NodeId, Session>,
    pub(crate) loops: BTreeMap<Loop, LoopState>,
    /// Whether the dispatcher is about to look for changes.
    pub(crate) dispatching: bool,
}

impl Leader {
    pub(crate) fn new(period: u64, since: Timestamp) -> Self {
        Self {
            period,
            memory: Memory::begin(since),
            heard: LastHeard::new(),
            sessions: BTreeMap::new(),
            loops: Loop::ALL.into_iter().map(|l| (l, LoopState::default())).collect(),
            dispatching: false,
        }
    }

    /// Gives a node a session in place of any before.
    pub(crate) fn open(&mut self, node: NodeId, id: u64) {
        self.sessions.insert(node, Session { id, sent: None, sequence: 0 });
    }

    pub(crate) fn is_idle(&self) -> bool {
        !self.dispatching && self.loops.values().all(|l| !l.busy)
    }
}
