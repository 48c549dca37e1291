//! What is remembered of a task across a crash of the agent.

use shoal_types::assignment::{AssignedTask, IngressPort};
use shoal_types::object::{TaskNetwork, TaskStatus};
use shoal_types::spec::{ContainerSpec, Healthcheck};
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

use super::{Boot, ExitStatus, StopPolicy};

/// What the ledger holds of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRecord {
    /// What was assigned, with the state wanted when it was last written.
    pub task: AssignedTask,
    /// The last status.
    pub status: TaskStatus,
    /// In which boot of the host its start was begun, if it was: in that boot it is never prepared
    /// again.
    pub started: Option<Boot>,
    /// Whether it was about to be stopped because the host stops, and is to go on after that.
    pub interrupted: bool,
    /// What its preparation found, once it did.
    pub preparation: Option<Preparation>,
}

impl TaskRecord {
    /// Of a task whose record cannot be read. It may have run, so it is not run again, in no boot.
    #[must_use]
    pub fn lost(task: AssignedTask, now: Timestamp) -> Self {
        let mut status = TaskStatus::new(TaskState::Failed, now, "accepted");
        status.err =
            "its record on this node is damaged, so nobody knows how far it was".to_owned();
        let started = Some(Boot::unknown());
        Self { task, status, started, interrupted: false, preparation: None }
    }

    /// Whether other nodes may lead somebody to it while it is being stopped. When the host itself stops,
    /// managers hear of that only when it has, so there is nothing to wait for.
    #[must_use]
    pub fn is_led_to(&self) -> bool {
        let spans = self.task.networks.iter().any(TaskNetwork::spans_nodes);
        (spans || !IngressPort::of(&self.task.ports).is_empty()) && !self.interrupted
    }

    /// How its container is asked to stop.
    #[must_use]
    pub fn stop_policy(&self) -> StopPolicy {
        stop_policy(&self.task, self.preparation.as_ref())
    }
}

/// See [`TaskRecord::stop_policy`].
pub(super) fn stop_policy(task: &AssignedTask, found: Option<&Preparation>) -> StopPolicy {
    let container = task.spec.container();
    let grace = container.and_then(|c| c.stop_grace_period);
    let drain = container.and_then(|c| c.drain_timeout).unwrap_or_default();
    StopPolicy {
        drain: drain.min(ContainerSpec::DRAIN_TIMEOUT_MAX),
        signal: found.map_or(SIGTERM, |p| p.stop_signal),
        grace: grace.unwrap_or(ContainerSpec::DEFAULT_STOP_GRACE),
    }
}

const SIGTERM: i32 = 15;

/// What the preparation of a task found, and the rest of its life needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preparation {
    /// Digest of the image's configuration.
    pub image: String,
    /// Number of the signal that stops it.
    pub stop_signal: i32,
    /// How its health is checked: the service's wishes over the image's.
    pub healthcheck: Option<Healthcheck>,
    /// Something people should know, such as that the registry could not be asked.
    pub note: String,
}

/// The container of a task as it was found when the agent started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// None.
    Absent,
    /// Half made, or of no use.
    Broken {
        /// What is known.
        reason: String,
    },
    /// Made and not started.
    Prepared,
    /// Running.
    Running {
        /// Its first process on the host.
        pid: u32,
    },
    /// Ended.
    Exited(ExitStatus),
}
