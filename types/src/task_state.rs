//! The ladder that a task climbs.

use std::fmt;

/// States of a task, in the only order in which they may follow each other. A state may be
/// skipped, never returned to, so a status that arrives late or twice does no harm.
///
/// Nobody else compares two: a range says nothing of a state that comes to stand in it later, so what is
/// asked of states has a name here.
///
/// Numbers follow SwarmKit's, which leave room between them; `Draining` is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum TaskState {
    /// Made by the orchestrator, nothing allocated yet.
    New = 0,
    /// Everything allocated; waits for a node.
    Pending = 64,
    /// Has a node. The last state that managers write.
    Assigned = 192,
    /// The agent has written it to its ledger.
    Accepted = 256,
    /// The image is fetched and unpacked, volumes and networks are made.
    Preparing = 320,
    /// All is there; starts when the desired state says so.
    Ready = 384,
    /// The container is being started, or has started and is not healthy yet.
    Starting = 448,
    /// The container runs, and is healthy if it has a health check.
    Running = 512,
    /// The endpoint is withdrawn; the stop signal comes when its users have said so.
    Draining = 544,
    /// Ended by itself with exit code 0.
    Complete = 576,
    /// Stopped because it was to stop.
    Shutdown = 640,
    /// Ended by itself in any other way, or never started.
    Failed = 704,
    /// The agent could not even prepare it.
    Rejected = 768,
    /// Desired only: stop it, then forget it.
    Remove = 800,
    /// Its node has been gone for so long that nobody knows.
    Orphaned = 832,
}

impl TaskState {
    /// All states, in ladder order.
    pub const ALL: [Self; 15] = [
        Self::New,
        Self::Pending,
        Self::Assigned,
        Self::Accepted,
        Self::Preparing,
        Self::Ready,
        Self::Starting,
        Self::Running,
        Self::Draining,
        Self::Complete,
        Self::Shutdown,
        Self::Failed,
        Self::Rejected,
        Self::Remove,
        Self::Orphaned,
    ];

    /// Its place on the ladder.
    const fn rung(self) -> u16 {
        self as u16
    }

    /// Whether an observed state may follow this one.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        next.rung() > self.rung() && !matches!(next, Self::Remove)
    }

    /// Whether it is this state or a later one, for two that are only known when the program runs.
    /// Questions about a certain rung have names of their own.
    #[must_use]
    pub fn has_reached(self, other: Self) -> bool {
        self.rung() >= other.rung()
    }

    /// Whether the agent of its node has it in its ledger, or had before it ended.
    #[must_use]
    pub fn is_accepted(self) -> bool {
        self.rung() >= Self::Accepted.rung()
    }

    /// Whether a container of it is being started, runs, or is being stopped.
    #[must_use]
    pub fn has_container(self) -> bool {
        self.has_begun() && !self.is_terminal()
    }

    /// Whether it has a node and is on its way to run there.
    #[must_use]
    pub fn is_on_its_way(self) -> bool {
        self.is_placed() && !self.has_run()
    }

    /// Whether it counts on its node: what it asks for there is taken.
    #[must_use]
    pub fn holds_its_node(self) -> bool {
        self.is_placed() && !self.is_terminal()
    }

    /// Whether a node has been found for the task, now or before it ended.
    #[must_use]
    pub fn is_placed(self) -> bool {
        self.rung() >= Self::Assigned.rung()
    }

    /// Whether agents, and not managers, write this state.
    #[must_use]
    pub fn is_agents(self) -> bool {
        (Self::Assigned.rung()..=Self::Rejected.rung()).contains(&self.rung())
    }

    /// Whether the container has been made, or is being made, unless it had to end before that.
    #[must_use]
    pub fn has_begun(self) -> bool {
        self.rung() >= Self::Starting.rung()
    }

    /// Whether it is one of those in which a task has ended by itself and badly.
    #[must_use]
    pub const fn ended_badly(self) -> bool {
        matches!(self, Self::Failed | Self::Rejected)
    }

    /// Whether nothing of the task runs any more, as far as the observer knows.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        self.rung() >= Self::Complete.rung()
    }

    /// Whether it ran, and was healthy if it has a health check, now or before it ended.
    #[must_use]
    pub fn has_run(self) -> bool {
        self.rung() >= Self::Running.rung()
    }

    /// Whether it is being stopped, or has ended.
    #[must_use]
    pub fn is_ending(self) -> bool {
        self.rung() >= Self::Draining.rung()
    }

    /// The name in lower case, as people and Docker's API see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Remove => "remove",
            Self::Orphaned => "orphaned",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for TaskState {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

/// What a manager wants of a task. Only climbs, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DesiredState {
    /// Prepare, and wait.
    Ready,
    /// Run.
    Running,
    /// Stop.
    Shutdown,
    /// Stop, then forget.
    Remove,
}

impl DesiredState {
    /// Whether a later wish may follow this one: it only climbs.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        next.as_task_state().rung() > self.as_task_state().rung()
    }

    /// Whether nothing of the task is to run any more.
    #[must_use]
    pub fn is_stop(self) -> bool {
        matches!(self, Self::Shutdown | Self::Remove)
    }

    /// Whether the task is to be remembered, also when it has ended.
    #[must_use]
    pub fn is_kept(self) -> bool {
        self != Self::Remove
    }

    /// The same as a rung of the ladder.
    #[must_use]
    pub const fn as_task_state(self) -> TaskState {
        match self {
            Self::Ready => TaskState::Ready,
            Self::Running => TaskState::Running,
            Self::Shutdown => TaskState::Shutdown,
            Self::Remove => TaskState::Remove,
        }
    }
}

impl fmt::Display for DesiredState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_task_state().fmt(f)
    }
}

impl serde::Serialize for DesiredState {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.as_task_state().serialize(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_only_climbs() {
        for (i, a) in TaskState::ALL.iter().enumerate() {
            for (j, b) in TaskState::ALL.iter().enumerate() {
                assert_eq!(a.may_become(*b), j > i && *b != TaskState::Remove, "{a} -> {b}");
            }
        }
    }
}
