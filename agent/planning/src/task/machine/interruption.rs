//! What happens to a task when its host stops, in good order or not, and comes back: an attempt is
//! interrupted by that and does not end by it (docs/adr/0006-after-a-reboot.md).

use shoal_types::assignment::AssignedTask;
use shoal_types::spec::RestartCondition;
use shoal_types::task_state::TaskState;

use super::super::{Boot, Found, TaskRecord};
use super::{Container, Machine};

/// Whether its service would have it done again anyway. A task that is to be done once at most is not
/// begun a second time.
pub(super) fn goes_on(task: &AssignedTask) -> bool {
    let condition = task.spec.restart_policy.as_ref().map(|policy| policy.condition);
    match condition.unwrap_or_default() {
        RestartCondition::Any | RestartCondition::OnFailure => true,
        RestartCondition::None => false,
    }
}

impl Machine {
    /// The host stops: what runs is stopped in good order, which is no doing of its own, and nothing is
    /// started any more. What goes on after that does not end by it.
    pub fn host_stops(&mut self) {
        self.halted = true;
        if self.is_at_rest() || self.stopping() || self.doom.is_some() {
            return;
        }
        if self.goes_on {
            self.interrupted = true;
        } else {
            self.doom = Some("the host was shut down".to_owned());
        }
    }

    /// Whether what it has made stays for when it is made again: it neither ended nor is to.
    #[must_use]
    pub fn is_made_again(&self) -> bool {
        let again = self.before.is_some() && self.container == Container::Leftover;
        self.outcome.is_none() && !self.stopping() && again || self.is_interrupted()
    }

    /// Whether the host's stop is all that it is stopped for.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted && !self.is_unwanted() && self.outcome.is_none()
    }

    /// In which boot of the host its start was begun last.
    pub(super) fn started_in(&self) -> Option<Boot> {
        if self.started { Some(self.boot.clone()) } else { self.before.clone() }
    }

    /// Nothing of it runs; what is left of its container is cleaned away, and it can be made again.
    pub(super) fn rest(&mut self) {
        self.before = self.started_in();
        // While the host stops it stays what this record says, for the next agent.
        self.interrupted &= self.halted;
        self.started = false;
        self.container = Container::Leftover;
        self.withdrawn = false;
        self.stopped_at = None;
        self.killed_at = None;
        self.given_up = false;
        self.early_exit = None;
        self.unheard = None;
        self.waits_for_health = false;
        self.note_absence();
    }

    pub(super) fn is_of_other_boot(&self, record: &TaskRecord) -> bool {
        record.started.as_ref().is_some_and(|boot| boot.is_other_than(&self.boot))
    }

    /// Whether what was found is all that the stop of the host has left of a task that is to run. An
    /// end of its own, of which there is a record, stays an end.
    pub(super) fn comes_back(&self, record: &TaskRecord, found: &Found) -> bool {
        let stays = self.desired.is_stop() || record.status.state.is_ending() || !self.goes_on;
        if stays || record.started.is_none() {
            return false;
        }
        let gone = match found {
            Found::Running { .. } => return false,
            Found::Exited(exit) => exit.is_unknown(),
            Found::Absent | Found::Broken { .. } | Found::Prepared => true,
        };
        record.interrupted || gone && self.is_of_other_boot(record)
    }

    pub(super) fn come_back(&mut self, record: &TaskRecord) {
        self.rest();
        self.before.clone_from(&record.started);
    }

    /// What it is, once it could not be made or started: one that had run before its host was restarted
    /// has failed.
    pub(super) fn refusal(&self, state: TaskState, err: String) -> (TaskState, String) {
        if self.before.is_none() {
            return (state, err);
        }
        (TaskState::Failed, format!("bringing it back after a restart of its host: {err}"))
    }
}
