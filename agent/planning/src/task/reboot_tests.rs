//! The host stops and comes back.

use std::sync::Arc;

use shoal_types::assignment::AssignedTask;
use shoal_types::object::TaskStatus;
use shoal_types::spec::{RestartCondition, RestartPolicy, TaskSpec};
use shoal_types::task_state::DesiredState;

use super::tests::{at, boot, preparation, task};
use super::*;

const RUN: DesiredState = DesiredState::Running;

fn with(condition: RestartCondition, desired: DesiredState) -> AssignedTask {
    let mut task = task(desired);
    let restart_policy = Some(RestartPolicy { condition, ..RestartPolicy::default() });
    task.spec = Arc::new(TaskSpec { restart_policy, ..TaskSpec::clone(&task.spec) });
    task
}

/// Of a task that was started in the first boot.
fn record(state: TaskState, task: &AssignedTask) -> TaskRecord {
    TaskRecord {
        task: task.clone(),
        status: TaskStatus::new(state, at(1), "started"),
        started: Some(boot(1)),
        interrupted: false,
        preparation: Some(preparation()),
    }
}

fn begin(m: &mut Machine, step: Step, fact: Option<Fact>) {
    assert_eq!(m.next(at(20)), step, "before {fact:?}: {m:?}");
    m.begin(step, at(20));
    if let Some(fact) = fact {
        m.learn(fact, at(20));
    }
}

fn status(m: &Machine) -> (TaskState, &str, &str) {
    let status = m.status().expect("accepted");
    (status.state, &status.message, &status.err)
}

fn running(task: &AssignedTask) -> Machine {
    let mut m = Machine::new(task, &boot(1), at(0));
    begin(&mut m, Step::Accept, Some(Fact::Accepted));
    begin(&mut m, Step::Prepare, Some(Fact::Prepared(preparation())));
    begin(&mut m, Step::Start, Some(Fact::Started { pid: 42, ports: Vec::new() }));
    m
}

fn lost() -> Found {
    Found::Exited(ExitStatus {
        message: Some("the host was restarted".to_owned()),
        ..ExitStatus::default()
    })
}

const CLEANUP: Step = Step::Cleanup { keep_log: true };

#[test]
fn what_ran_is_made_anew_and_stays_on_its_rung() {
    for found in [Found::Absent, lost(), Found::Prepared, Found::Broken { reason: "x".to_owned() }]
    {
        let task = task(RUN);
        let mut record = record(TaskState::Running, &task);
        record.status.container_status =
            Some(shoal_types::object::ContainerStatus { pid: 7, ..Default::default() });
        let mut m = Machine::resume(&record, found, &boot(2), at(9));
        let coming = "coming back after a restart of its host: accepted";
        assert_eq!(status(&m), (TaskState::Running, coming, ""));
        assert_eq!(m.status().unwrap().container_status.as_ref().unwrap().pid, 0, "not that one");
        assert!(m.is_made_again(), "its own volumes stay");
        begin(&mut m, CLEANUP, Some(Fact::Cleaned));
        assert!(!m.is_running() && m.holds_resources());
        begin(&mut m, Step::Prepare, None);
        // A crash of the agent before it is started: from the beginning.
        let halfway = m.record(&task);
        assert_eq!(halfway.started, Some(boot(1)));
        let again = Machine::resume(&halfway, Found::Prepared, &boot(2), at(10));
        assert_eq!(again.next(at(10)), CLEANUP);
        m.learn(Fact::Prepared(preparation()), at(20));
        begin(&mut m, Step::Start, None);
        assert_eq!(m.record(&task).started, Some(boot(2)), "the second boot has its start");
        m.learn(Fact::Started { pid: 8, ports: Vec::new() }, at(20));
        assert_eq!(status(&m), (TaskState::Running, "started", ""));
        assert_eq!(m.status().unwrap().container_status.as_ref().unwrap().pid, 8);
        let twice = Machine::resume(&m.record(&task), Found::Absent, &boot(2), at(21));
        assert!(twice.has_ended(), "once in a boot");
        m.learn(Fact::Exited(ExitStatus { code: Some(3), ..ExitStatus::default() }), at(21));
        begin(&mut m, CLEANUP, Some(Fact::Cleaned));
        assert_eq!(status(&m), (TaskState::Failed, "started", "exit code 3"));
    }
}

#[test]
fn what_does_not_come_back() {
    use RestartCondition::{Any, None as Never, OnFailure};
    let ended = |code| Found::Exited(ExitStatus { code: Some(code), ..ExitStatus::default() });
    let unknown = |record| TaskRecord { started: Some(Boot::unknown()), ..record };
    let cases = [
        // What is to be done once at most is not begun again.
        (
            record(TaskState::Running, &with(Never, RUN)),
            Found::Absent,
            Some((TaskState::Failed, "the host was restarted")),
        ),
        (record(TaskState::Running, &with(OnFailure, RUN)), Found::Absent, None),
        (record(TaskState::Starting, &with(Any, RUN)), lost(), None),
        // An end of its own stays one.
        (record(TaskState::Running, &task(RUN)), ended(0), Some((TaskState::Complete, ""))),
        (
            record(TaskState::Running, &task(RUN)),
            ended(5),
            Some((TaskState::Failed, "exit code 5")),
        ),
        // So does what managers wanted, and what was wrong with it.
        (
            record(TaskState::Draining, &task(DesiredState::Shutdown)),
            Found::Absent,
            Some((TaskState::Shutdown, "")),
        ),
        (
            record(TaskState::Running, &task(DesiredState::Shutdown)),
            lost(),
            Some((TaskState::Shutdown, "")),
        ),
        (
            {
                let mut record = record(TaskState::Draining, &task(RUN));
                record.status.err = "unhealthy: no".to_owned();
                record
            },
            Found::Absent,
            Some((TaskState::Failed, "unhealthy: no")),
        ),
        // It may have run in this boot.
        (
            unknown(record(TaskState::Running, &task(RUN))),
            Found::Absent,
            Some((TaskState::Failed, "nothing is left of its container")),
        ),
    ];
    for (record, found, end) in cases {
        let mut m = Machine::resume(&record, found.clone(), &boot(2), at(9));
        begin(&mut m, CLEANUP, Some(Fact::Cleaned));
        match end {
            Some((state, err)) => {
                assert_eq!((status(&m).0, status(&m).2), (state, err), "{record:?} {found:?}");
            }
            None => assert_eq!(m.next(at(20)), Step::Prepare, "{record:?} {found:?}"),
        }
    }
}

#[test]
fn managers_have_the_last_word_while_it_comes_back() {
    let resume =
        || Machine::resume(&record(TaskState::Running, &task(RUN)), Found::Absent, &boot(2), at(9));
    let mut m = resume();
    begin(&mut m, CLEANUP, Some(Fact::Cleaned));
    begin(&mut m, Step::Prepare, None);
    m.want(DesiredState::Shutdown);
    begin(&mut m, Step::Abort, Some(Fact::PrepareAborted));
    assert!(!m.is_made_again());
    begin(&mut m, CLEANUP, Some(Fact::Cleaned));
    assert_eq!(status(&m).0, TaskState::Shutdown);

    let mut m = resume();
    m.drop_it();
    begin(&mut m, CLEANUP, Some(Fact::Cleaned));
    assert_eq!(m.next(at(20)), Step::Forget);
}

#[test]
fn what_cannot_be_brought_back_has_failed() {
    for step in [Step::Prepare, Step::Start] {
        let record = record(TaskState::Running, &task(RUN));
        let mut m = Machine::resume(&record, Found::Absent, &boot(2), at(9));
        begin(&mut m, CLEANUP, Some(Fact::Cleaned));
        let err = "no such image".to_owned();
        if step == Step::Start {
            begin(&mut m, Step::Prepare, Some(Fact::Prepared(preparation())));
            let fact = Fact::StartFailed { state: TaskState::Rejected, err, code: None };
            begin(&mut m, step, Some(fact));
        } else {
            begin(&mut m, step, Some(Fact::PrepareFailed { err }));
        }
        begin(&mut m, CLEANUP, Some(Fact::Cleaned));
        let said = "bringing it back after a restart of its host: no such image";
        assert_eq!((status(&m).0, status(&m).2), (TaskState::Failed, said));
    }
}

#[test]
fn health_begins_anew() {
    let mut record = record(TaskState::Running, &task(RUN));
    let found = Preparation { healthcheck: Some(Default::default()), ..preparation() };
    record.preparation = Some(found.clone());
    let mut m = Machine::resume(&record, lost(), &boot(2), at(9));
    begin(&mut m, CLEANUP, Some(Fact::Cleaned));
    begin(&mut m, Step::Prepare, Some(Fact::Prepared(found)));
    begin(&mut m, Step::Start, Some(Fact::Started { pid: 8, ports: Vec::new() }));
    assert!(m.is_watched() && !m.is_healthy());
    assert!(status(&m).1.ends_with("started, not healthy yet"), "{:?}", status(&m));
    m.learn(Fact::Healthy, at(30));
    assert!(m.is_healthy());
    assert_eq!(status(&m).1, "started");
}

/// Withdrawn and told to stop.
fn stopped(m: &mut Machine) {
    begin(m, Step::Withdraw, Some(Fact::Withdrawn));
    begin(m, Step::Stop { signal: 15 }, Some(Fact::Stopped));
}

#[test]
fn what_a_host_stops_in_good_order_comes_back_whatever_its_exit_code() {
    let task = task(RUN);
    for code in [0, 143] {
        let mut m = running(&task);
        m.host_stops();
        m.host_stops();
        assert!(!m.is_at_rest() && !m.is_watched());
        begin(&mut m, Step::Withdraw, None);
        let written = m.record(&task);
        assert!(written.interrupted);
        m.learn(Fact::Withdrawn, at(20));
        assert_eq!(status(&m), (TaskState::Running, "stopping: the host is shut down", ""));
        begin(&mut m, Step::Stop { signal: 15 }, Some(Fact::Stopped));
        let exit = ExitStatus { code: Some(code), ..ExitStatus::default() };
        m.learn(Fact::Exited(exit.clone()), at(21));
        assert!(m.is_at_rest() && m.is_made_again());
        begin(&mut m, CLEANUP, Some(Fact::Cleaned));
        assert_eq!(m.next(at(99)), Step::Nothing, "not on this host, which stops");
        assert_eq!(status(&m), (TaskState::Running, "stopped: the host is shut down", ""));
        // Also where the host did not stop after all, and only the agent was started again.
        for now in [boot(1), boot(2)] {
            let mut m = Machine::resume(&written, Found::Exited(exit.clone()), &now, at(30));
            begin(&mut m, CLEANUP, Some(Fact::Cleaned));
            assert_eq!(m.next(at(30)), Step::Prepare);
        }
        // Its ports may be closed already: whatever was begun is brought to its end, and it comes back.
        let mut alive = Machine::resume(&written, Found::Running { pid: 42 }, &boot(1), at(30));
        assert!(!alive.is_watched());
        stopped(&mut alive);
        alive.learn(Fact::Exited(exit.clone()), at(31));
        begin(&mut alive, CLEANUP, Some(Fact::Cleaned));
        begin(&mut alive, Step::Prepare, Some(Fact::Prepared(preparation())));
        begin(&mut alive, Step::Start, Some(Fact::Started { pid: 8, ports: Vec::new() }));
        assert_eq!(alive.next(at(99)), Step::Nothing, "once");
        assert!(!alive.record(&task).interrupted);
    }
}

#[test]
fn a_host_that_stops_changes_no_other_end() {
    // Once at most.
    let mut m = running(&with(RestartCondition::None, RUN));
    m.host_stops();
    stopped(&mut m);
    m.learn(Fact::Exited(ExitStatus { code: Some(0), ..ExitStatus::default() }), at(21));
    begin(&mut m, CLEANUP, Some(Fact::Cleaned));
    assert_eq!((status(&m).0, status(&m).2), (TaskState::Failed, "the host was shut down"));

    // By itself, before it was told to.
    let mut m = running(&task(RUN));
    m.host_stops();
    m.learn(Fact::Exited(ExitStatus { code: Some(0), ..ExitStatus::default() }), at(21));
    begin(&mut m, CLEANUP, Some(Fact::Cleaned));
    assert_eq!(status(&m).0, TaskState::Complete);

    // What managers wanted to end anyway ends as they wanted it, before and after.
    for before in [true, false] {
        let mut m = running(&task(RUN));
        if before {
            m.want(DesiredState::Shutdown);
        }
        m.host_stops();
        m.want(DesiredState::Shutdown);
        stopped(&mut m);
        m.learn(Fact::Exited(ExitStatus { code: Some(0), ..ExitStatus::default() }), at(21));
        begin(&mut m, CLEANUP, Some(Fact::Cleaned));
        assert_eq!(status(&m).0, TaskState::Shutdown);
    }

    // What was never started is made when the host is back.
    let mut m = Machine::new(&task(RUN), &boot(1), at(0));
    begin(&mut m, Step::Accept, Some(Fact::Accepted));
    begin(&mut m, Step::Prepare, Some(Fact::Prepared(preparation())));
    m.host_stops();
    assert!(m.is_at_rest());
    assert_eq!((m.next(at(20)), status(&m).2), (Step::Nothing, ""));
}

#[test]
fn what_does_not_stop_with_its_host_is_removed_by_force_and_comes_back() {
    let task = task(RUN);
    let mut m = running(&task);
    m.host_stops();
    stopped(&mut m);
    let mut now = 20;
    for step in [Step::Kill, CLEANUP] {
        while let Step::Wait(until) = m.next(at(now)) {
            assert!(until > at(now));
            now += 1;
        }
        assert_eq!(m.next(at(now)), step);
        m.begin(step, at(now));
        m.learn(if step == CLEANUP { Fact::Cleaned } else { Fact::Killed }, at(now));
    }
    assert_eq!(m.next(at(now)), Step::Nothing);
    assert_eq!(status(&m).0, TaskState::Running);
    let mut m = Machine::resume(&m.record(&task), Found::Absent, &boot(2), at(now));
    begin(&mut m, CLEANUP, Some(Fact::Cleaned));
    assert_eq!(m.next(at(now)), Step::Prepare);
}

#[test]
fn what_is_being_forgotten_is_not_in_the_ledger() {
    let mut m = running(&task(RUN));
    m.learn(Fact::Exited(ExitStatus { code: Some(0), ..ExitStatus::default() }), at(21));
    begin(&mut m, CLEANUP, Some(Fact::Cleaned));
    m.drop_it();
    assert!(m.is_accepted());
    begin(&mut m, Step::Forget, None);
    // Also where it is assigned again meanwhile: its file goes, and is not written anew before that.
    m.want(RUN);
    assert!(!m.is_accepted());
    m.learn(Fact::ForgetFailed { err: "disk".to_owned() }, at(22));
    assert!(m.is_accepted());
}
