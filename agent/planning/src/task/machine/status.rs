//! The status of a machine: what people and managers are told.

use shoal_types::object::ContainerStatus;
use shoal_types::task_state::TaskState;
use shoal_types::text::cut_to;
use shoal_types::time::Timestamp;

use super::super::report::{climb, note_exit};
use super::super::{ExitStatus, Operation};
use super::{Container, Machine};

/// Longest text about an error that is reported, in bytes.
const ERR_MAX: usize = 4096;

impl Machine {
    fn container_status(&mut self) -> &mut ContainerStatus {
        let container_id = &self.container_id;
        self.status.container_status.get_or_insert_with(|| ContainerStatus {
            container_id: container_id.clone(),
            ..ContainerStatus::default()
        })
    }

    pub(super) fn note_container(&mut self, pid: u32) {
        let container = self.container_status();
        if pid != 0 {
            container.pid = pid;
        }
    }

    /// Of a container that is no more, and will be made again.
    pub(super) fn note_absence(&mut self) {
        if let Some(container) = &mut self.status.container_status {
            container.pid = 0;
        }
        self.status.port_status.clear();
    }

    pub(super) fn note_end(&mut self, exit: Option<&ExitStatus>) {
        if let Some(exit) = exit {
            note_exit(self.container_status(), exit);
        }
    }

    /// Brings the status up to date. An end is reported when everything has been given back, so that
    /// a successor finds its ports free, or when that was tried and failed.
    pub(super) fn refresh(&mut self, now: Timestamp) {
        let done = self.released || self.cleanup_tried;
        let (state, at, message, err) = match &self.outcome {
            Some(outcome) if done => {
                let err = match self.trouble.as_str() {
                    "" => outcome.err.clone(),
                    trouble if outcome.err.is_empty() => format!("cleaning up: {trouble}"),
                    trouble => format!("{}; cleaning up: {trouble}", outcome.err),
                };
                let message = match outcome.message {
                    "" => self.status.message.clone(),
                    message => message.to_owned(),
                };
                (outcome.state, outcome.at, message, err)
            }
            _ => {
                let (state, message) = self.lifted(self.living());
                let err = match &self.doom {
                    Some(doom) => doom.clone(),
                    None if self.left.is_some() => self.left.clone().unwrap_or_default(),
                    None if !self.accepted => self.trouble.clone(),
                    None => self.limits(),
                };
                (state, now, message, err)
            }
        };
        if state.is_terminal() {
            self.status.port_status.clear();
        }
        climb(&mut self.status, state, at, message, shortened(err));
    }

    /// What cannot be done with what runs, so that people do not learn it only from what fails.
    fn limits(&self) -> String {
        if self.container != Container::Running {
            return String::new();
        }
        let unheard = self.unheard.as_ref().map(|why| {
            format!(
                "its supervisor does not help this agent ({why}): it goes on, its log can be read, it can \
                 be stopped; what else can be done shows when it is asked for"
            )
        });
        let unconnected = self.unconnected.as_ref().map(|why| {
            format!("its networks are not as they should be, which is tried again: {why}")
        });
        let all: Vec<String> = unheard.into_iter().chain(unconnected).collect();
        all.join("; ")
    }

    /// What comes back after its host was restarted stays on its rung, and says how far it is.
    fn lifted(&self, (state, message): (TaskState, String)) -> (TaskState, String) {
        if self.before.is_none() || state.has_reached(self.status.state) {
            return (state, message);
        }
        (self.status.state, format!("coming back after a restart of its host: {message}"))
    }

    fn living(&self) -> (TaskState, String) {
        if !self.accepted {
            let tried = if self.trouble.is_empty() { "assigned" } else { "cannot be accepted" };
            return (TaskState::Assigned, tried.to_owned());
        }
        let noted = |text: &str| match self.preparation.as_ref().map(|p| p.note.as_str()) {
            None | Some("") => text.to_owned(),
            Some(note) => format!("{text}; {note}"),
        };
        if self.is_interrupted() {
            let now = if self.is_at_rest() { "stopped" } else { "stopping" };
            return (self.status.state, format!("{now}: the host is shut down"));
        }
        match (self.container, self.busy) {
            (_, Some(Operation::Start)) => (TaskState::Starting, noted("starting")),
            (Container::Running, Some(Operation::Withdraw)) => {
                (TaskState::Draining, "stopping".to_owned())
            }
            (Container::Running | Container::Ended, _) if self.withdrawn => {
                (TaskState::Draining, "stopping".to_owned())
            }
            (Container::Running, _) if self.waits_for_health => {
                let waits = match self.progress.as_str() {
                    "" => "started, not healthy yet".to_owned(),
                    why => format!("started, not healthy yet: {why}"),
                };
                (TaskState::Starting, noted(&waits))
            }
            (Container::Running, _) => (TaskState::Running, noted("started")),
            (Container::Ended, _) => (self.status.state, self.status.message.clone()),
            (Container::Prepared, _) => {
                let waits = self.awaits_partner();
                let text =
                    waits.map_or_else(|| "prepared".to_owned(), |why| format!("prepared; {why}"));
                (TaskState::Ready, noted(&text))
            }
            (_, Some(Operation::Prepare)) if self.progress.is_empty() => {
                (TaskState::Preparing, "preparing".to_owned())
            }
            (_, Some(Operation::Prepare)) => (TaskState::Preparing, self.progress.clone()),
            (Container::Absent | Container::Leftover, _) => {
                let waits = self.awaits_partner().or(self.lacks.as_deref());
                let waits = waits.unwrap_or("accepted");
                (TaskState::Accepted, waits.to_owned())
            }
        }
    }
}

fn shortened(mut text: String) -> String {
    cut_to(&mut text, ERR_MAX);
    text
}
