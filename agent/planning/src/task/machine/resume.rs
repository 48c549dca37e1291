//! Putting a machine together again from the ledger and what was found on the host.

use shoal_types::task_state::TaskState;

use super::super::report::Outcome;
use super::super::{Boot, ExitStatus, Found, Moment, TaskRecord};
use super::{Container, Machine};

impl Machine {
    /// For a task of the ledger, after the agent was restarted.
    ///
    /// What was begun is never believed to be done: a half-made container is cleaned away and made
    /// again, what had ended is cleaned up again, and a container whose start was begun and of which
    /// nothing is left has failed, because a task is never started twice in one boot of its host. What
    /// the host's stop interrupted goes on, in a container made anew.
    #[must_use]
    pub fn resume(record: &TaskRecord, found: Found, boot: &Boot, now: impl Into<Moment>) -> Self {
        let now = now.into();
        let mut machine = Self::new(&record.task, boot, now);
        machine.accepted = true;
        machine.started = record.started.is_some();
        machine.status = record.status.clone();
        machine.stop = record.stop_policy();
        machine.preparation.clone_from(&record.preparation);
        let status = &record.status;
        if status.state.is_terminal() {
            machine.container = Container::Ended;
            machine.cleanup_tried = true;
            machine.outcome = Some(Outcome {
                state: status.state,
                at: status.timestamp,
                message: "",
                err: status.err.clone(),
                exit: None,
            });
            return machine;
        }
        if machine.comes_back(record, &found) {
            machine.come_back(record);
            machine.refresh(now.wall);
            return machine;
        }
        let told = record.task.desired_state.is_stop();
        if status.state == TaskState::Draining && !told {
            let why = match status.err.as_str() {
                "" => "it was being stopped".to_owned(),
                why => why.to_owned(),
            };
            let is_left = Machine::was_left(&why);
            *if is_left { &mut machine.left } else { &mut machine.doom } = Some(why);
        }
        match found {
            Found::Running { pid } => {
                machine.started = true;
                machine.container = Container::Running;
                // The host did not stop after all, and its stopping had begun: its ports may be closed,
                // it may have been told to end. It goes on as it was to, in a container made anew.
                machine.interrupted = record.interrupted && machine.goes_on;
                let waits = machine.preparation.as_ref().is_some_and(|p| p.healthcheck.is_some());
                machine.waits_for_health = waits && !status.state.has_run();
                machine.note_container(pid);
            }
            Found::Exited(exit) if machine.started => {
                machine.stopped_at = told.then_some(now.steady);
                machine.exited(exit, now);
            }
            Found::Absent | Found::Broken { .. } if machine.started => {
                let reason = match found {
                    Found::Broken { reason } => format!("its container was lost: {reason}"),
                    _ if machine.is_of_other_boot(record) => "the host was restarted".to_owned(),
                    _ => "nothing is left of its container".to_owned(),
                };
                machine.stopped_at = told.then_some(now.steady);
                let message = Some(reason);
                machine.exited(ExitStatus { message, ..ExitStatus::default() }, now);
            }
            // A start that was written down before it was begun.
            Found::Prepared if machine.started => machine.container = Container::Prepared,
            Found::Prepared if record.preparation.is_some() => {
                machine.container = Container::Prepared;
            }
            // Anything may be left of a preparation, also where no container is.
            _ => machine.container = Container::Leftover,
        }
        machine.refresh(now.wall);
        machine
    }
}
