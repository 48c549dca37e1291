//! The machine itself: what is to be done next, and what follows from what happened.

mod beside;
mod interruption;
mod questions;
mod resume;
mod status;

use std::time::Duration;

use shoal_types::assignment::AssignedTask;
use shoal_types::object::TaskStatus;
use shoal_types::spec::PortConfig;
use shoal_types::task_state::{DesiredState, TaskState};
use shoal_types::time::Timestamp;

pub use beside::{Partner, is_still_shared};
use interruption::goes_on;

use super::record::stop_policy;
use super::report::Outcome;
use super::{Boot, ExitStatus, Fact, Moment, Operation, Preparation, Step, StopPolicy, TaskRecord};

/// How long a start of what is to stop may take, from its beginning, before it is given up.
pub const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long a killed container may take to end before it is removed by force.
pub const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait between two tries of what failed.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What there is of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    /// Nothing.
    Absent,
    /// Something may be there, of no use: to be cleaned away first.
    Leftover,
    /// Everything short of running.
    Prepared,
    /// It runs, or a start was begun and its exit has not been heard of.
    Running,
    /// It ran.
    Ended,
}

/// One task on its node.
#[derive(Debug, Clone)]
pub struct Machine {
    desired: DesiredState,
    dropped: bool,
    accepted: bool,
    /// Its networks are others than those in the ledger.
    unwritten: bool,
    container: Container,
    /// The boot of the host that this is.
    boot: Boot,
    /// Whether its start was begun since it was made, or since it was made again.
    started: bool,
    /// The boot in which it was started before the host stopped, if it goes on after that.
    before: Option<Boot>,
    /// Whether it is made again after its host stopped: its restart policy.
    goes_on: bool,
    /// Whether it is being stopped because the host stops, and goes on after that.
    interrupted: bool,
    /// Why it is being stopped, if not because it was told to.
    doom: Option<String>,
    /// What it waits for, if this node has not got all that it is given.
    lacks: Option<String>,
    /// What the task whose network it shares is doing.
    partner: Partner,
    /// Which of that one's networks it is in, or is to be: how often that had been made.
    joined: Option<u32>,
    /// Why it is being stopped, if that is because its partner is.
    left: Option<String>,
    /// How often its container has been prepared.
    made: u32,
    /// Why its supervisor cannot be talked to, if so.
    unheard: Option<String>,
    /// Why its container does not have the networks that it should have, if so.
    unconnected: Option<String>,
    /// An exit that was heard of before the start had been answered.
    early_exit: Option<ExitStatus>,
    outcome: Option<Outcome>,
    withdrawn: bool,
    /// Until when what is open is served, once nobody is led to it any more.
    drains_until: Option<Timestamp>,
    stopped_at: Option<Timestamp>,
    killed_at: Option<Timestamp>,
    given_up: bool,
    released: bool,
    cleanup_tried: bool,
    busy: Option<Operation>,
    /// When what it is busy with was begun. This and the other times of things to come are of the
    /// steady clock.
    busy_since: Timestamp,
    aborting: bool,
    waits_for_health: bool,
    /// The host stops: nothing is started any more.
    halted: bool,
    tries: u32,
    retry_at: Option<Timestamp>,
    stop: StopPolicy,
    preparation: Option<Preparation>,
    progress: String,
    trouble: String,
    /// The container is named after the task.
    container_id: String,
    status: TaskStatus,
}

impl Machine {
    /// For a task that this node has just been told of.
    #[must_use]
    pub fn new(task: &AssignedTask, boot: &Boot, now: impl Into<Moment>) -> Self {
        let now = now.into();
        Self {
            desired: task.desired_state,
            dropped: false,
            accepted: false,
            unwritten: false,
            container: Container::Absent,
            boot: boot.clone(),
            started: false,
            before: None,
            goes_on: goes_on(task),
            interrupted: false,
            doom: None,
            lacks: None,
            partner: Partner::None,
            joined: None,
            left: None,
            made: 0,
            unheard: None,
            unconnected: None,
            early_exit: None,
            outcome: None,
            withdrawn: false,
            drains_until: None,
            stopped_at: None,
            killed_at: None,
            given_up: false,
            released: false,
            cleanup_tried: false,
            busy: None,
            busy_since: now.steady,
            aborting: false,
            waits_for_health: false,
            halted: false,
            tries: 0,
            retry_at: None,
            stop: stop_policy(task, None),
            preparation: None,
            progress: String::new(),
            trouble: String::new(),
            container_id: task.id.to_string(),
            status: TaskStatus::new(TaskState::Assigned, now.wall, "assigned"),
        }
    }

    /// For a task that this node does not take, for this reason. That is written down before it is
    /// reported, and nothing else is ever done for it.
    #[must_use]
    pub fn rejected(task: &AssignedTask, why: String, boot: &Boot, now: impl Into<Moment>) -> Self {
        let now = now.into();
        let mut machine = Self::new(task, boot, now);
        let (state, message) = (TaskState::Rejected, "rejected");
        machine.outcome = Some(Outcome { state, at: now.wall, message, err: why, exit: None });
        machine.cleanup_tried = true;
        machine.refresh(now.wall);
        machine
    }

    /// What managers want; only climbs.
    pub fn want(&mut self, desired: DesiredState) {
        if self.desired.may_become(desired) {
            if self.desired.is_stop() {
                // Who says so a second time does not want to wait.
                self.drains_until = None;
            }
            self.desired = desired;
        }
        self.dropped = false;
    }

    /// Its networks are others from now on: that is written down before anything is done about it.
    pub const fn joins_others(&mut self) {
        self.unwritten = true;
    }

    /// What it waits for, if this node has not got all that it is given.
    pub fn set_lacking(&mut self, lacks: Option<String>, now: impl Into<Moment>) {
        if self.lacks != lacks {
            self.lacks = lacks;
            self.refresh(now.into().wall);
        }
    }

    /// Whether it is in the ledger, and not being taken out of it.
    #[must_use]
    pub const fn is_accepted(&self) -> bool {
        self.accepted && !matches!(self.busy, Some(Operation::Forget))
    }

    /// Whether nothing of it runs or is being started.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.container != Container::Running && self.busy != Some(Operation::Start)
    }

    /// Managers no longer speak of it.
    pub fn drop_it(&mut self) {
        self.dropped = true;
    }

    /// What managers want.
    #[must_use]
    pub const fn desired(&self) -> DesiredState {
        self.desired
    }

    /// Whether managers no longer speak of it.
    #[must_use]
    pub const fn is_dropped(&self) -> bool {
        self.dropped
    }

    /// Why its supervisor cannot be talked to, as far as it was told.
    #[must_use]
    pub fn unheard(&self) -> Option<&str> {
        self.unheard.as_deref()
    }

    /// What its preparation found.
    #[must_use]
    pub const fn preparation(&self) -> Option<&Preparation> {
        self.preparation.as_ref()
    }

    /// What to report: once it is in the ledger, or that it cannot be written there.
    #[must_use]
    pub fn status(&self) -> Option<&TaskStatus> {
        let told = if self.accepted { TaskState::Accepted } else { TaskState::Assigned };
        let news = self.accepted || !self.trouble.is_empty();
        (news && self.status.state.has_reached(told)).then_some(&self.status)
    }

    /// What is to be remembered of it now.
    #[must_use]
    pub fn record(&self, task: &AssignedTask) -> TaskRecord {
        TaskRecord {
            task: AssignedTask { desired_state: self.desired, ..task.clone() },
            status: self.status.clone(),
            started: self.started_in(),
            interrupted: self.interrupted,
            preparation: self.preparation.clone(),
        }
    }

    /// Whether its container is known to have ended, or never to have run. Otherwise cleaning up is what
    /// ends it, and only if that succeeds.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.outcome.is_some()
    }

    /// What is to be remembered of it once the cleaning up that is under way is done, if it has ended
    /// then.
    #[must_use]
    pub fn last_record(&self, task: &AssignedTask, now: impl Into<Moment>) -> Option<TaskRecord> {
        let mut clean = self.clone();
        clean.learn(Fact::Cleaned, now);
        let record = clean.record(task);
        record.status.state.is_terminal().then_some(record)
    }

    /// Whether managers want it to stop.
    fn is_unwanted(&self) -> bool {
        self.dropped || self.desired.is_stop()
    }

    /// Also where somebody has changed their mind: what is being stopped is stopped.
    fn stopping(&self) -> bool {
        self.is_unwanted() || self.withdrawn
    }

    /// Whether it is not to go on, for whatever reason.
    fn stops(&self) -> bool {
        self.stopping() || self.doom.is_some() || self.interrupted || self.left.is_some()
    }

    /// Whether there may be a log of it.
    fn has_log(&self) -> bool {
        self.started || self.before.is_some()
    }

    /// The next step, by the steady clock. Asking twice gives the same answer.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Step {
        if let Some(operation) = self.busy {
            return self.give_up(operation, now);
        }
        // What is to stop does not wait until it is written down how it was connected.
        let rejoins = self.accepted && self.unwritten && self.outcome.is_none();
        let waits = !(rejoins && self.stopping());
        if let Some(at) = self.retry_at.filter(|at| *at > now && waits) {
            return Step::Wait(at);
        }
        if !self.accepted {
            return if self.dropped { Step::Forget } else { Step::Accept };
        }
        if rejoins && waits {
            return Step::Accept;
        }
        let cleanup = Step::Cleanup { keep_log: self.has_log() };
        if self.outcome.is_some() {
            return match (self.released, self.dropped) {
                (false, _) => cleanup,
                (true, true) => Step::Forget,
                (true, false) => Step::Nothing,
            };
        }
        match self.container {
            Container::Leftover | Container::Ended => cleanup,
            Container::Absent | Container::Prepared if self.stopping() => cleanup,
            Container::Absent | Container::Prepared if self.halted => Step::Nothing,
            Container::Absent | Container::Prepared if self.awaits_partner().is_some() => {
                Step::Nothing
            }
            Container::Absent if self.lacks.is_some() => Step::Nothing,
            Container::Absent => Step::Prepare,
            Container::Prepared if self.desired == DesiredState::Ready => Step::Nothing,
            Container::Prepared => Step::Start,
            Container::Running if self.stops() => self.stop_it(now),
            Container::Running => Step::Nothing,
        }
    }

    /// Gives up what makes no sense any more. A start gets a little time, so that what starts is
    /// stopped as it should be; one that hangs must not keep the task for ever.
    fn give_up(&self, operation: Operation, now: Timestamp) -> Step {
        if self.aborting || !(self.stopping() || self.halted || self.left.is_some()) {
            return Step::Nothing;
        }
        match operation {
            Operation::Start if now < self.busy_since + START_PATIENCE => {
                Step::Wait(self.busy_since + START_PATIENCE)
            }
            Operation::Prepare | Operation::Start => Step::Abort,
            _ => Step::Nothing,
        }
    }

    fn stop_it(&self, now: Timestamp) -> Step {
        if !self.withdrawn {
            return Step::Withdraw;
        }
        let Some(stopped) = self.stopped_at else {
            // What is unhealthy or ends with its host or its partner serves nobody.
            let alone = self.doom.is_some() || self.left.is_some() || self.dropped;
            let drains = !alone && !self.interrupted && !self.halted;
            return match self.drains_until.filter(|until| drains && now < *until) {
                Some(until) => Step::Wait(until),
                None => Step::Stop { signal: self.stop.signal },
            };
        };
        let (deadline, then) = match self.killed_at {
            None => (stopped + self.stop.grace, Step::Kill),
            Some(killed) => (killed + KILL_PATIENCE, Step::Cleanup { keep_log: true }),
        };
        if now < deadline { Step::Wait(deadline) } else { then }
    }

    /// The step is being carried out.
    pub fn begin(&mut self, step: Step, now: impl Into<Moment>) {
        let now = now.into();
        self.retry_at = None;
        // Nothing will be connected or disconnected: whatever fails from here on waits for its next try.
        self.unwritten &= !self.stopping();
        match step {
            Step::Abort => self.aborting = true,
            Step::Accept => self.unwritten = false,
            Step::Prepare => {
                self.progress.clear();
                self.join_partner();
            }
            Step::Start => {
                self.started = true;
                self.progress.clear();
            }
            Step::Cleanup { .. } if self.killed_at.is_some() => self.given_up = true,
            _ => {}
        }
        if let Some(operation) = step.operation() {
            self.busy = Some(operation);
            self.busy_since = now.steady;
        }
        self.refresh(now.wall);
    }

    /// Something happened.
    pub fn learn(&mut self, fact: Fact, now: impl Into<Moment>) {
        let now = now.into();
        if !matches!(
            fact,
            Fact::Progress(_)
                | Fact::Exited(_)
                | Fact::Unheard(_)
                | Fact::Unconnected(_)
                | Fact::Healthy
                | Fact::Unhealthy { .. }
        ) {
            self.busy = None;
            self.aborting = false;
        }
        match fact {
            Fact::Accepted => {
                self.accepted = true;
                self.tries = 0;
                self.trouble.clear();
            }
            Fact::AcceptFailed { err } => {
                self.unwritten |= self.accepted;
                self.again(err, now);
            }
            Fact::ForgetFailed { err } => self.again(err, now),
            Fact::Progress(text) => self.progress = text,
            Fact::Prepared(preparation) => self.prepared(preparation),
            Fact::PrepareFailed { err } => {
                let (state, err) = self.refusal(TaskState::Rejected, err);
                let message = "preparing";
                self.outcome = Some(Outcome { state, at: now.wall, message, err, exit: None });
            }
            Fact::PrepareAborted => self.container = Container::Leftover,
            Fact::StartAborted => self.start_aborted(now),
            Fact::Started { pid, ports } => self.run(pid, ports, now),
            Fact::StartFailed { state, err, code } => {
                self.early_exit = None;
                let exit =
                    code.map(|code| ExitStatus { code: Some(code), ..ExitStatus::default() });
                self.note_end(exit.as_ref());
                let (state, err) = self.refusal(state, err);
                let message = "starting";
                self.outcome = Some(Outcome { state, at: now.wall, message, err, exit });
            }
            Fact::Withdrawn => {
                self.withdrawn = true;
                self.drains_until = Some(now.steady + self.stop.drain);
                self.status.port_status.clear();
            }
            Fact::Stopped => self.stopped_at = Some(now.steady),
            Fact::Killed => self.killed_at = Some(now.steady),
            Fact::Cleaned => self.cleaned(now),
            Fact::CleanupFailed { err, recorded } => {
                self.cleanup_tried |= recorded;
                self.again(err, now);
            }
            Fact::Exited(exit) => self.exited(exit, now),
            Fact::Unheard(why) => self.unheard = why,
            Fact::Unconnected(why) => self.unconnected = why,
            Fact::Healthy => self.waits_for_health = false,
            // Ending within its grace period is no failure.
            Fact::Unhealthy { .. } if !self.is_watched() => {}
            Fact::Unhealthy { output } => {
                let text = match output.trim() {
                    "" => "unhealthy: the health check failed without a word".to_owned(),
                    output => format!("unhealthy: {output}"),
                };
                self.doom.get_or_insert(text);
            }
        }
        self.refresh(now.wall);
    }

    fn prepared(&mut self, preparation: Preparation) {
        self.stop.signal = preparation.stop_signal;
        self.preparation = Some(preparation);
        self.container =
            if self.is_out_of_date() { Container::Leftover } else { Container::Prepared };
        self.made = self.made.saturating_add(1);
    }

    fn run(&mut self, pid: u32, ports: Vec<PortConfig>, now: Moment) {
        self.container = Container::Running;
        self.waits_for_health = self.preparation.as_ref().is_some_and(|p| p.healthcheck.is_some());
        self.status.port_status = ports;
        self.note_container(pid);
        if let Some(exit) = self.early_exit.take() {
            self.exited(exit, now);
        }
    }

    /// It may run or not: cleaning up ends it, as managers want.
    fn start_aborted(&mut self, now: Moment) {
        if self.is_interrupted() {
            return self.rest();
        }
        self.stopped_at = Some(now.steady);
        self.container = Container::Ended;
        if let Some(exit) = self.early_exit.take() {
            self.exited(exit, now);
        }
    }

    fn exited(&mut self, exit: ExitStatus, now: Moment) {
        if self.busy == Some(Operation::Start) {
            self.early_exit = Some(exit);
            return;
        }
        if self.outcome.is_some() {
            return;
        }
        if !self.started {
            // What was to become its first process died before it could: make it again.
            if self.container == Container::Prepared {
                self.container = Container::Leftover;
            }
            return;
        }
        if self.is_interrupted() && self.was_told() {
            return self.rest();
        }
        self.container = Container::Ended;
        self.note_end(Some(&exit));
        let at = exit.at.unwrap_or(now.wall);
        self.outcome = Some(match self.doom.take() {
            Some(doom) => Outcome::failed(at, doom, Some(exit)),
            None if self.was_told() || self.left.is_some() => {
                Outcome::stopped(at, self.left.take(), Some(exit))
            }
            None => Outcome::by_itself(at, exit),
        });
    }

    /// Whether a stop signal was sent, or may have been: the exit that it caused can be heard of
    /// before the answer to sending it.
    fn was_told(&self) -> bool {
        self.stopped_at.is_some() || self.busy == Some(Operation::Stop)
    }

    fn cleaned(&mut self, now: Moment) {
        self.tries = 0;
        self.trouble.clear();
        self.cleanup_tried = true;
        let leftover = self.container == Container::Leftover && !self.stopping();
        if self.outcome.is_none() && (leftover || self.is_interrupted()) {
            self.rest();
            self.container = Container::Absent;
            self.cleanup_tried = false;
            return;
        }
        if self.outcome.is_none() {
            let forced = self.given_up.then(|| ExitStatus {
                signal: Some(SIGKILL),
                message: Some("it did not end within its time and was removed".to_owned()),
                ..ExitStatus::default()
            });
            self.outcome = Some(match self.doom.take() {
                Some(doom) => Outcome::failed(now.wall, doom, forced),
                None => Outcome::stopped(now.wall, self.left.take(), forced),
            });
        }
        self.container = match self.container {
            Container::Running => Container::Ended,
            other => other,
        };
        self.released = true;
    }

    /// Tries again later, with growing patience.
    fn again(&mut self, err: String, now: Moment) {
        let wait = Duration::from_secs(1 << self.tries.min(5)).min(RETRY_MAX);
        self.tries = self.tries.saturating_add(1);
        self.retry_at = Some(now.steady + wait);
        self.trouble = err;
    }
}

const SIGKILL: i32 = 9;
