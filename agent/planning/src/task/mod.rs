//! The life of one task on its node: (wanted, what happened so far, now) -> the one next step, and
//! the status to report.
//!
//! The worker owns one [`Machine`] per task, asks it for its [`Step`], carries that out, and tells it
//! every [`Fact`]. Nothing else decides. What the machine must remember across a crash of the agent is
//! a [`TaskRecord`]; [`Machine::resume`] puts record and observed container together again.

#[cfg(test)]
mod beside_tests;
mod boot;
mod cleaning;
#[cfg(test)]
mod connection_tests;
#[cfg(test)]
mod drain_tests;
mod exit;
mod machine;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod reboot_tests;
mod record;
mod refusal;
mod report;
mod telling;
#[cfg(test)]
mod tests;

use std::time::Duration;

use shoal_types::spec::PortConfig;
use shoal_types::task_state::TaskState;
use shoal_types::time::Timestamp;

pub use boot::Boot;
pub use cleaning::Cleaning;
pub use exit::ExitStatus;
pub use machine::{KILL_PATIENCE, Machine, Partner, START_PATIENCE, is_still_shared};
pub use record::{Found, Preparation, TaskRecord};
pub use refusal::{refusal, stand_in};
pub use telling::{Doing, TELL_INTERVAL, Tell, Telling};

/// One moment by two clocks. What is waited for goes by the steady one; what people are told goes by
/// the wall, which somebody may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The time of day.
    pub wall: Timestamp,
    /// Time since any beginning that stays the same while the agent lives.
    pub steady: Timestamp,
}

impl From<Timestamp> for Moment {
    /// By a clock that nobody sets.
    fn from(now: Timestamp) -> Self {
        Self { wall: now, steady: now }
    }
}

/// What to do next for a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Write it to the ledger.
    Accept,
    /// Make everything short of running it.
    Prepare,
    /// Give up the preparation or the start under way.
    Abort,
    /// Publish its ports and start the container.
    Start,
    /// Withdraw its endpoint, so that nobody new comes.
    Withdraw,
    /// Ask it to stop.
    Stop {
        /// Number of the signal.
        signal: i32,
    },
    /// End it.
    Kill,
    /// Give back everything it holds.
    Cleanup {
        /// Whether its log stays.
        keep_log: bool,
    },
    /// Remove what is left, its log and the record of it.
    Forget,
    /// Nothing before this time of the steady clock.
    Wait(Timestamp),
    /// Nothing until something happens.
    Nothing,
}

/// An operation under way; the same names as the [`Step`]s that begin one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the steps")]
pub enum Operation {
    Accept,
    Prepare,
    Start,
    Withdraw,
    Stop,
    Kill,
    Cleanup,
    Forget,
}

impl Step {
    /// The operation that this step begins, if it begins one.
    #[must_use]
    pub const fn operation(self) -> Option<Operation> {
        Some(match self {
            Self::Accept => Operation::Accept,
            Self::Prepare => Operation::Prepare,
            Self::Start => Operation::Start,
            Self::Withdraw => Operation::Withdraw,
            Self::Stop { .. } => Operation::Stop,
            Self::Kill => Operation::Kill,
            Self::Cleanup { .. } => Operation::Cleanup,
            Self::Forget => Operation::Forget,
            Self::Abort | Self::Wait(_) | Self::Nothing => return None,
        })
    }
}

/// Something that happened. Each operation ends with exactly one of its facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The task is in the ledger.
    Accepted,
    /// The ledger could not be written.
    AcceptFailed {
        /// Why, for people.
        err: String,
    },
    /// How far the preparation is, or what a started container waits for, for people.
    Progress(String),
    /// Everything is there.
    Prepared(Preparation),
    /// It cannot be made.
    PrepareFailed {
        /// Why, for people.
        err: String,
    },
    /// The preparation was given up.
    PrepareAborted,
    /// The container runs, or has run.
    Started {
        /// Its first process on the host; zero if it has ended already.
        pid: u32,
        /// Ports in force.
        ports: Vec<PortConfig>,
    },
    /// It could not be started.
    StartFailed {
        /// [`TaskState::Rejected`] when the node refuses, [`TaskState::Failed`] when the program does.
        state: TaskState,
        /// Why, for people.
        err: String,
        /// The code that a shell gives for it.
        code: Option<i32>,
    },
    /// The start was given up; nobody knows how far it came.
    StartAborted,
    /// Nobody new comes. Also when that failed: stopping never waits for it.
    Withdrawn,
    /// The stop signal was sent, or there was nobody to receive it.
    Stopped,
    /// The kill was sent, or there was nobody to receive it.
    Killed,
    /// All is given back.
    Cleaned,
    /// Something could not be given back; to be repeated.
    CleanupFailed {
        /// What, for people.
        err: String,
        /// Whether the end of the task is in the ledger: only then may it be reported.
        recorded: bool,
    },
    /// Something could not be removed; to be repeated.
    ForgetFailed {
        /// What, for people.
        err: String,
    },
    /// The container ended. May come at any time after the start began.
    Exited(ExitStatus),
    /// Whether its supervisor can be talked to has changed: why it cannot, or nothing if it can.
    Unheard(Option<String>),
    /// Whether its container has the networks that it should have: why not, or nothing if it has.
    Unconnected(Option<String>),
    /// The health check passed for the first time.
    Healthy,
    /// The health check failed too often.
    Unhealthy {
        /// What the last check said, for people.
        output: String,
    },
}

/// How a container is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopPolicy {
    /// How long what is open is served when nobody is led to it any more, before the signal.
    pub drain: Duration,
    /// Number of the signal.
    pub signal: i32,
    /// Time until it is killed.
    pub grace: Duration,
}
