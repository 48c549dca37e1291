//! What others ask of a machine: whether its container can be entered, checked, led to, connected.

use super::super::Operation;
use super::{Container, Machine};

impl Machine {
    /// Whether its container runs as far as anybody knows, so that it can be entered and checked.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.container == Container::Running && self.busy != Some(Operation::Start)
    }

    /// Whether something is done for it right now.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Whether its container is there and is to stay, so that its connections have to be: those that are in the
    /// ledger.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.container, Container::Prepared | Container::Running)
            && !self.unwritten
            && self.outcome.is_none()
            && !self.stopping()
    }

    /// Whether its health matters: not once it is being stopped, for whatever reason.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.is_running() && !self.stops()
    }

    /// Whether others are to be led to it: it runs, is ready, and is to go on.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.is_watched() && !self.waits_for_health
    }

    /// Whether its container is as it should be, as far as anybody knows.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.is_running() && !self.waits_for_health
    }

    /// Whether it holds resources of the node: anything but its log.
    #[must_use]
    pub const fn holds_resources(&self) -> bool {
        !self.released
    }
}
