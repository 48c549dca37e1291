//! Any order of events: never two containers, never a container after the end was reported, states
//! only climb, and once it is dropped nothing is left.

use proptest::prelude::*;
use shoal_types::task_state::DesiredState;

use super::tests::{at, boot, preparation, task};
use super::*;

/// What chance does at one point.
#[derive(Debug, Clone, Copy)]
enum Chance {
    /// The operation under way succeeds.
    Succeed,
    /// The operation under way fails.
    Fail,
    /// The container ends.
    Exit(i32),
    /// Managers change their mind.
    Want(DesiredState),
    /// Managers forget it.
    Drop,
    /// The health check fails for good.
    Unhealthy,
    /// The agent dies and comes back.
    Crash,
    /// The host dies and comes back.
    Reboot,
    /// The host stops in good order.
    HostStops,
    /// Time passes.
    Pass(u64),
}

fn chance() -> impl Strategy<Value = Chance> {
    prop_oneof![
        8 => Just(Chance::Succeed),
        2 => Just(Chance::Fail),
        1 => (0..3).prop_map(Chance::Exit),
        1 => Just(Chance::Want(DesiredState::Running)),
        1 => Just(Chance::Want(DesiredState::Shutdown)),
        1 => Just(Chance::Drop),
        1 => Just(Chance::Unhealthy),
        1 => Just(Chance::Crash),
        1 => Just(Chance::Reboot),
        1 => Just(Chance::HostStops),
        3 => (1..40u64).prop_map(Chance::Pass),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Real {
    Absent,
    Prepared,
    Running,
    Ended(ExitStatus),
}

/// A host with one task, and an agent that may die.
struct World {
    machine: Machine,
    ledger: Option<TaskRecord>,
    container: Real,
    boot: u32,
    /// In this boot, of which only what the host's stop interrupted begins another.
    starts: u32,
    step: Option<Step>,
    aborted: bool,
    now: u64,
    reported: TaskState,
    forgotten: bool,
    dropped: bool,
}

impl World {
    fn new(desired: DesiredState) -> Self {
        Self {
            machine: Machine::new(&task(desired), &boot(1), at(0)),
            ledger: None,
            container: Real::Absent,
            boot: 1,
            starts: 0,
            step: None,
            aborted: false,
            now: 0,
            reported: TaskState::New,
            forgotten: false,
            dropped: false,
        }
    }

    fn now(&self) -> Timestamp {
        at(self.now)
    }

    fn plan(&mut self) {
        if self.step.is_none() && !self.forgotten {
            let step = self.machine.next(self.now());
            assert_eq!(step, self.machine.next(self.now()), "asking twice changes nothing");
            match step {
                Step::Nothing | Step::Abort => {}
                Step::Wait(until) => assert!(until > self.now(), "{step:?}"),
                step => {
                    self.machine.begin(step, self.now());
                    if matches!(step, Step::Start | Step::Withdraw) {
                        self.ledger = Some(self.machine.record(&task(DesiredState::Ready)));
                    }
                    self.step = Some(step);
                }
            }
        }
        if self.machine.next(self.now()) == Step::Abort {
            self.machine.begin(Step::Abort, self.now());
            self.aborted = true;
        }
        if let Some(status) = self.machine.status() {
            assert!(
                status.state.has_reached(self.reported),
                "{} after {}",
                status.state,
                self.reported
            );
            self.reported = status.state;
        }
    }

    fn answer(&mut self, works: bool) {
        let Some(step) = self.step.take() else { return };
        let err = "no".to_owned();
        let aborted = std::mem::take(&mut self.aborted);
        let fact = match (step, works) {
            // It comes too late, or in time.
            (Step::Start, works) if aborted => {
                if works {
                    self.container = Real::Running;
                    self.starts += 1;
                }
                Fact::StartAborted
            }
            (Step::Accept, true) => {
                self.ledger = Some(self.machine.record(&task(DesiredState::Ready)));
                Fact::Accepted
            }
            (Step::Accept, false) => Fact::AcceptFailed { err },
            (Step::Prepare, true) => {
                assert_eq!(self.container, Real::Absent, "one container per task");
                self.container = Real::Prepared;
                Fact::Prepared(preparation())
            }
            (Step::Prepare, false) => Fact::PrepareFailed { err },
            (Step::Start, true) => {
                assert_eq!(self.container, Real::Prepared, "only what is prepared is started");
                self.container = Real::Running;
                self.starts += 1;
                Fact::Started { pid: 1, ports: Vec::new() }
            }
            (Step::Start, false) => Fact::StartFailed { state: TaskState::Failed, err, code: None },
            (Step::Withdraw, _) => Fact::Withdrawn,
            (Step::Stop { .. }, works) => {
                let exit = works.then(|| self.end(143)).flatten();
                self.machine.learn(Fact::Stopped, self.now());
                if let Some(exit) = exit {
                    self.machine.learn(Fact::Exited(exit), self.now());
                }
                return;
            }
            (Step::Kill, works) => {
                let exit = works.then(|| self.end(137)).flatten();
                self.machine.learn(Fact::Killed, self.now());
                if let Some(exit) = exit {
                    self.machine.learn(Fact::Exited(exit), self.now());
                }
                return;
            }
            (Step::Cleanup { .. }, works) => {
                let recorded = works || self.machine.has_ended();
                if recorded {
                    let last = self.machine.last_record(&task(DesiredState::Ready), self.now());
                    self.ledger = last.or(self.ledger.take());
                }
                if works {
                    self.container = Real::Absent;
                    Fact::Cleaned
                } else {
                    Fact::CleanupFailed { err, recorded }
                }
            }
            (Step::Forget, true) => {
                self.ledger = None;
                self.forgotten = true;
                return;
            }
            (Step::Forget, false) => Fact::ForgetFailed { err },
            (Step::Abort | Step::Wait(_) | Step::Nothing, _) => return,
        };
        self.machine.learn(fact, self.now());
    }

    fn end(&mut self, code: i32) -> Option<ExitStatus> {
        if self.container != Real::Running {
            return None;
        }
        let exit = ExitStatus { code: Some(code), ..ExitStatus::default() };
        self.container = Real::Ended(exit.clone());
        Some(exit)
    }

    fn restart(&mut self) {
        self.step = None;
        self.aborted = false;
        // What managers were told of a life may be told again; an end is never taken back.
        if !self.reported.is_terminal() {
            self.reported = TaskState::New;
        }
        let found = match &self.container {
            Real::Absent => Found::Absent,
            Real::Prepared => Found::Prepared,
            Real::Running => Found::Running { pid: 1 },
            Real::Ended(exit) => Found::Exited(exit.clone()),
        };
        if self.forgotten {
            return;
        }
        match &self.ledger {
            Some(record) => {
                if record.interrupted {
                    self.starts = 0;
                }
                self.machine = Machine::resume(record, found, &boot(self.boot), self.now());
            }
            None => {
                self.container = Real::Absent;
                let task = task(DesiredState::Running);
                self.machine = Machine::new(&task, &boot(self.boot), self.now());
            }
        }
        if self.dropped {
            self.machine.drop_it();
        }
    }

    fn happen(&mut self, chance: Chance) {
        match chance {
            Chance::Succeed => self.answer(true),
            Chance::Fail => self.answer(false),
            Chance::Exit(code) => {
                if let Some(exit) = self.end(code) {
                    self.machine.learn(Fact::Exited(exit), self.now());
                }
            }
            Chance::Want(desired) if !self.dropped => self.machine.want(desired),
            Chance::Drop => {
                self.dropped = true;
                self.machine.drop_it();
            }
            Chance::Unhealthy if self.machine.is_running() => {
                self.machine.learn(Fact::Unhealthy { output: "x".to_owned() }, self.now());
            }
            Chance::Want(_) | Chance::Unhealthy => {}
            Chance::Crash => self.restart(),
            Chance::Reboot => {
                self.container = Real::Absent;
                self.boot += 1;
                self.starts = 0;
                self.restart();
            }
            Chance::HostStops => self.machine.host_stops(),
            Chance::Pass(secs) => self.now += secs,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_story_ends_clean(
        ready in any::<bool>(),
        story in prop::collection::vec(chance(), 0..60),
    ) {
        let desired = if ready { DesiredState::Ready } else { DesiredState::Running };
        let mut world = World::new(desired);
        for chance in story {
            world.plan();
            world.happen(chance);
            prop_assert!(world.starts <= 1, "a task is started once");
            let ended = world.reported.is_terminal();
            prop_assert!(!ended || world.container != Real::Running, "it runs after its end");
        }
        world.happen(Chance::Drop);
        for _ in 0..200 {
            world.plan();
            world.answer(true);
            world.now += 1;
        }
        prop_assert!(world.forgotten, "{:?}", world.machine);
        prop_assert_eq!(world.container, Real::Absent);
        prop_assert_eq!(world.ledger, None);
    }
}
