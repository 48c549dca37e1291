//! Cleaning up: what stays, and from when on the end of a task may be told.

use shoal_types::assignment::AssignedTask;

use super::{Fact, Machine, Moment, TaskRecord};

/// One cleaning up of one task.
#[derive(Debug, Clone)]
pub struct Cleaning {
    /// Whether its log stays.
    pub keeps_log: bool,
    /// Whether the volumes stay that were made for it alone: it is made again, and is to find what it
    /// wrote.
    pub keeps_volumes: bool,
    /// Whether its container was known to have ended, or never to have run. Otherwise this is what ends it.
    ended: bool,
    /// Its end, to be written down once it is one.
    end: Option<TaskRecord>,
}

impl Cleaning {
    /// The end that is to be written down after everything has been given back as far as it could be. It
    /// is one if the container had ended before, or is `gone` now; also where something else of the task
    /// is left, since an end that is reported must not be forgotten.
    #[must_use]
    pub fn end(&self, gone: bool) -> Option<&TaskRecord> {
        self.end.as_ref().filter(|_| self.ended || gone)
    }

    /// What it has come to: with these errors, and with the end `saved` if there was one to save.
    #[must_use]
    pub fn fact(&self, gone: bool, saved: bool, errors: &[String]) -> Fact {
        if errors.is_empty() {
            return Fact::Cleaned;
        }
        let is_over = self.ended || gone;
        let recorded = is_over && (saved || self.end.is_none());
        Fact::CleanupFailed { err: errors.join("; "), recorded }
    }
}

impl Machine {
    /// The cleaning up that is due now.
    #[must_use]
    pub fn cleaning(
        &self,
        keeps_log: bool,
        task: &AssignedTask,
        now: impl Into<Moment>,
    ) -> Cleaning {
        Cleaning {
            keeps_log,
            keeps_volumes: self.is_made_again(),
            ended: self.has_ended(),
            end: self.last_record(task, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_types::object::TaskStatus;
    use shoal_types::spec::ContainerSpec;
    use shoal_types::task_state::TaskState;
    use shoal_types::time::Timestamp;

    use super::*;
    use crate::testing::task;

    #[test]
    fn an_end_is_told_when_it_is_certain_and_written_down() {
        let record = || TaskRecord {
            task: task(ContainerSpec::default()),
            status: TaskStatus::new(TaskState::Shutdown, Timestamp::from_secs(1), "shutdown"),
            started: None,
            interrupted: false,
            preparation: None,
        };
        // ended before, has an end, gone now, saved: to be written down, may be told
        let table = [
            (false, true, false, false, false, false),
            (false, true, true, true, true, true),
            (false, true, true, false, true, false),
            (true, true, false, true, true, true),
            (true, true, false, false, true, false),
            // What is made again has no end.
            (false, false, false, false, false, false),
            (true, false, false, false, false, true),
            (false, false, true, false, false, true),
        ];
        for (ended, has_end, gone, saved, written, recorded) in table {
            let end = has_end.then(record);
            let cleaning = Cleaning { keeps_log: true, keeps_volumes: false, ended, end };
            let what = format!("{ended} {has_end} {gone} {saved}");
            assert_eq!(cleaning.end(gone).is_some(), written, "{what}");
            assert_eq!(cleaning.fact(gone, saved, &[]), Fact::Cleaned, "{what}");
            let errors = ["a".to_owned(), "b".to_owned()];
            let failed = Fact::CleanupFailed { err: "a; b".to_owned(), recorded };
            assert_eq!(cleaning.fact(gone, saved, &errors), failed, "{what}");
        }
    }
}
