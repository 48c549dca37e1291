use shoal_types::object::TaskStatus;
use shoal_types::spec::{ContainerSpec, Healthcheck};
use shoal_types::task_state::DesiredState;

use super::*;
use shoal_types::assignment::AssignedTask;

pub(super) fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1000 + secs)
}

pub(super) fn task(desired: DesiredState) -> AssignedTask {
    let container = ContainerSpec { image: "i".to_owned(), ..ContainerSpec::default() };
    AssignedTask { desired_state: desired, ..crate::testing::task(container) }
}

pub(super) fn preparation() -> Preparation {
    Preparation { image: "sha256:1".to_owned(), stop_signal: 15, ..Preparation::default() }
}

/// The n-th boot of the host.
pub(super) fn boot(n: u32) -> Boot {
    Boot::new(n.to_string())
}

pub(super) fn exit(code: i32) -> ExitStatus {
    ExitStatus { code: Some(code), ..ExitStatus::default() }
}

pub(super) fn started() -> Fact {
    Fact::Started { pid: 42, ports: Vec::new() }
}

/// A machine that took these steps, each answered by its fact.
fn after(desired: DesiredState, story: &[(Step, Fact)]) -> Machine {
    let mut m = Machine::new(&task(desired), &boot(1), at(0));
    for (step, fact) in story {
        assert_eq!(m.next(at(0)), *step, "before {fact:?}");
        m.begin(*step, at(0));
        assert!(matches!(m.next(at(0)), Step::Nothing | Step::Abort), "one operation at a time");
        m.learn(fact.clone(), at(0));
    }
    m
}

fn prepared(desired: DesiredState) -> Machine {
    let story = [(Step::Accept, Fact::Accepted), (Step::Prepare, Fact::Prepared(preparation()))];
    after(desired, &story)
}

fn running() -> Machine {
    let mut m = prepared(DesiredState::Running);
    m.begin(Step::Start, at(1));
    assert_eq!(state(&m), TaskState::Starting);
    m.learn(started(), at(2));
    m
}

pub(super) fn state(m: &Machine) -> TaskState {
    m.status().map_or(TaskState::Assigned, |s| s.state)
}

fn status(m: &Machine) -> &TaskStatus {
    m.status().expect("accepted")
}

pub(super) fn clean(m: &mut Machine, keep_log: bool) {
    assert_eq!(m.next(at(50)), Step::Cleanup { keep_log });
    m.begin(Step::Cleanup { keep_log }, at(50));
    m.learn(Fact::Cleaned, at(51));
}

#[test]
fn nothing_but_trouble_is_reported_before_it_is_in_the_ledger() {
    let mut m = Machine::new(&task(DesiredState::Running), &boot(1), at(0));
    assert_eq!(m.status(), None);
    m.begin(Step::Accept, at(0));
    m.learn(Fact::AcceptFailed { err: "disk full".to_owned() }, at(0));
    let told = status(&m);
    assert_eq!((told.state, told.err.as_str()), (TaskState::Assigned, "disk full"));
    assert_eq!(told.message, "cannot be accepted");
    assert_eq!(m.next(at(0)), Step::Wait(at(1)));
    assert_eq!(m.next(at(1)), Step::Accept);
    m.begin(Step::Accept, at(1));
    m.learn(Fact::Accepted, at(1));
    assert_eq!((state(&m), status(&m).err.as_str()), (TaskState::Accepted, ""));
}

#[test]
fn every_change_of_a_status_is_news() {
    let mut m = after(DesiredState::Running, &[(Step::Accept, Fact::Accepted)]);
    m.begin(Step::Prepare, at(1));
    let mut last = status(&m).clone();
    for (secs, progress) in [(2, "pulling 10 %"), (3, "pulling 20 %")] {
        m.learn(Fact::Progress(progress.to_owned()), at(secs));
        let told = status(&m).clone();
        assert_eq!((told.state, told.message.as_str()), (TaskState::Preparing, progress));
        assert!(told.timestamp > last.timestamp, "managers take nothing else");
        last = told;
    }
    m.learn(Fact::Progress("pulling 20 %".to_owned()), at(4));
    assert_eq!(*status(&m), last, "nothing new");
}

#[test]
fn a_life_that_completes() {
    let mut m = running();
    assert_eq!(state(&m), TaskState::Running);
    assert_eq!(status(&m).timestamp, at(2));
    assert_eq!(status(&m).container_status.as_ref().map(|c| c.pid), Some(42));
    assert_eq!(m.next(at(3)), Step::Nothing);
    m.learn(Fact::Exited(ExitStatus { at: Some(at(9)), ..exit(0) }), at(10));
    assert_eq!(state(&m), TaskState::Running, "not over before its ports are free again");
    clean(&mut m, true);
    assert_eq!((state(&m), status(&m).timestamp), (TaskState::Complete, at(9)));
    assert_eq!(status(&m).container_status.as_ref().and_then(|c| c.exit_code), Some(0));
    assert_eq!(m.next(at(99)), Step::Nothing, "its log stays");
    m.drop_it();
    assert_eq!(m.next(at(99)), Step::Forget);
}

#[test]
fn ends_are_reported_as_what_they_were() {
    let starved = || Some("processes in it were killed for want of memory: 1".to_owned());
    let unknown =
        || ExitStatus { message: Some("its supervisor died".to_owned()), ..ExitStatus::default() };
    let cases = [
        (exit(0), TaskState::Complete, "", Some(0)),
        (exit(3), TaskState::Failed, "exit code 3", Some(3)),
        (
            ExitStatus { signal: Some(11), ..ExitStatus::default() },
            TaskState::Failed,
            "killed by signal 11 (SIGSEGV)",
            Some(139),
        ),
        (
            ExitStatus { signal: Some(9), oom_killed: true, ..ExitStatus::default() },
            TaskState::Failed,
            "out of memory: the kernel killed it at its memory limit",
            Some(137),
        ),
        // Something in it was killed, and it lived on.
        (ExitStatus { message: starved(), ..exit(0) }, TaskState::Complete, "", Some(0)),
        (
            ExitStatus { message: starved(), ..exit(3) },
            TaskState::Failed,
            "exit code 3: processes in it were killed for want of memory: 1",
            Some(3),
        ),
        (unknown(), TaskState::Failed, "its supervisor died", None),
    ];
    for (exit, expected, err, code) in cases {
        let mut m = running();
        m.learn(Fact::Exited(exit.clone()), at(10));
        clean(&mut m, true);
        assert_eq!((state(&m), status(&m).err.as_str()), (expected, err), "{exit:?}");
        let container = status(&m).container_status.clone().expect("it ran");
        assert_eq!(container.exit_code, code, "{exit:?}");
        assert_eq!(container.oom_killed, exit.oom_killed);
    }
}

#[test]
fn a_start_that_hangs_is_given_up_when_the_task_is_to_stop() {
    let begun = || {
        let mut m = prepared(DesiredState::Running);
        m.begin(Step::Start, at(1));
        assert_eq!(m.next(at(999)), Step::Nothing, "it may take its time");
        m.want(DesiredState::Shutdown);
        assert_eq!(m.next(at(2)), Step::Wait(at(11)), "a start is often about to be over");
        m
    };
    let mut m = begun();
    m.learn(started(), at(3));
    assert_eq!(m.next(at(3)), Step::Withdraw, "it is stopped as it should be");

    let given_up = || {
        let mut m = begun();
        assert_eq!(m.next(at(11)), Step::Abort);
        m.begin(Step::Abort, at(11));
        assert_eq!(m.next(at(99)), Step::Nothing);
        m
    };
    let mut m = given_up();
    m.learn(Fact::StartAborted, at(12));
    clean(&mut m, true);
    assert_eq!((state(&m), status(&m).err.as_str()), (TaskState::Shutdown, ""));
    // It had come far enough to be killed by the cleaning up.
    let mut m = given_up();
    m.learn(Fact::StartAborted, at(12));
    m.begin(Step::Cleanup { keep_log: true }, at(12));
    m.learn(Fact::Exited(ExitStatus { signal: Some(9), ..ExitStatus::default() }), at(13));
    m.learn(Fact::Cleaned, at(13));
    assert_eq!((state(&m), status(&m).err.as_str()), (TaskState::Shutdown, ""));
    assert_eq!(status(&m).container_status.as_ref().and_then(|c| c.exit_code), Some(137));
    // Or had ended by then.
    let mut m = given_up();
    m.learn(Fact::Exited(exit(3)), at(12));
    m.learn(Fact::StartAborted, at(12));
    clean(&mut m, true);
    assert_eq!(state(&m), TaskState::Shutdown);
    assert_eq!(status(&m).container_status.as_ref().and_then(|c| c.exit_code), Some(3));
}

#[test]
fn an_exit_may_overtake_the_answer_to_the_start() {
    let mut m = prepared(DesiredState::Running);
    m.begin(Step::Start, at(1));
    m.learn(Fact::Exited(exit(5)), at(1));
    assert_eq!(m.next(at(1)), Step::Nothing, "the start is still under way");
    m.learn(Fact::Started { pid: 0, ports: Vec::new() }, at(2));
    clean(&mut m, true);
    assert_eq!((state(&m), status(&m).err.as_str()), (TaskState::Failed, "exit code 5"));
}

#[test]
fn a_ready_task_waits_for_its_turn() {
    let mut m = prepared(DesiredState::Ready);
    assert_eq!((state(&m), m.next(at(9))), (TaskState::Ready, Step::Nothing));
    m.want(DesiredState::Running);
    assert_eq!(m.next(at(9)), Step::Start);
    m.want(DesiredState::Ready);
    assert_eq!(m.next(at(9)), Step::Start, "what is wanted only climbs");
}

#[test]
fn told_to_stop_before_it_ever_started() {
    for desired in [DesiredState::Shutdown, DesiredState::Remove] {
        let mut new = after(desired, &[(Step::Accept, Fact::Accepted)]);
        clean(&mut new, false);
        assert_eq!(state(&new), TaskState::Shutdown);
        let mut ready = prepared(DesiredState::Ready);
        ready.want(desired);
        clean(&mut ready, false);
        assert_eq!((state(&ready), ready.next(at(99))), (TaskState::Shutdown, Step::Nothing));
        assert_eq!(status(&ready).container_status, None);
    }
}

#[test]
fn a_preparation_is_given_up_when_nobody_wants_it() {
    let mut m = after(DesiredState::Running, &[(Step::Accept, Fact::Accepted)]);
    m.begin(Step::Prepare, at(1));
    m.learn(Fact::Progress("pulling x 1.0 of 2.0 MB".to_owned()), at(2));
    assert_eq!(status(&m).message, "pulling x 1.0 of 2.0 MB");
    assert_eq!(status(&m).state, TaskState::Preparing);
    m.want(DesiredState::Shutdown);
    assert_eq!(m.next(at(3)), Step::Abort);
    m.begin(Step::Abort, at(3));
    assert_eq!(m.next(at(3)), Step::Nothing);
    m.learn(Fact::PrepareAborted, at(4));
    clean(&mut m, false);
    assert_eq!(state(&m), TaskState::Shutdown);
}

#[test]
fn what_cannot_be_prepared_is_rejected_with_its_cause() {
    let err = "image docker.io/library/nix:latest does not exist in its registry".to_owned();
    let story =
        [(Step::Accept, Fact::Accepted), (Step::Prepare, Fact::PrepareFailed { err: err.clone() })];
    let mut m = after(DesiredState::Running, &story);
    assert_eq!(state(&m), TaskState::Preparing);
    clean(&mut m, false);
    assert_eq!((state(&m), &status(&m).err), (TaskState::Rejected, &err));
}

#[test]
fn what_cannot_be_started() {
    let cases = [(TaskState::Rejected, None), (TaskState::Failed, Some(127))];
    for (end, code) in cases {
        let mut m = prepared(DesiredState::Running);
        m.begin(Step::Start, at(1));
        m.learn(Fact::StartFailed { state: end, err: "no".to_owned(), code }, at(2));
        clean(&mut m, true);
        assert_eq!((state(&m), status(&m).err.as_str()), (end, "no"));
        assert_eq!(status(&m).container_status.as_ref().and_then(|c| c.exit_code), code);
    }
}

#[test]
fn withdraw_then_stop_then_kill_then_force() {
    let mut m = running();
    m.want(DesiredState::Shutdown);
    for (step, fact, now) in [
        (Step::Withdraw, Fact::Withdrawn, 10),
        (Step::Stop { signal: 15 }, Fact::Stopped, 10),
        (Step::Wait(at(20)), Fact::Healthy, 10),
        (Step::Kill, Fact::Killed, 20),
        (Step::Wait(at(30)), Fact::Healthy, 20),
    ] {
        assert_eq!(m.next(at(now)), step);
        if step.operation().is_some() {
            m.begin(step, at(now));
            assert_eq!(state(&m), TaskState::Draining, "{step:?}");
        }
        m.learn(fact, at(now));
    }
    assert_eq!(m.next(at(30)), Step::Cleanup { keep_log: true });
    clean(&mut m, true);
    assert_eq!(state(&m), TaskState::Shutdown);
}

#[test]
fn what_ends_when_it_is_told_to_is_shut_down_whatever_its_code() {
    let mut m = running();
    m.want(DesiredState::Shutdown);
    m.begin(Step::Withdraw, at(10));
    m.learn(Fact::Withdrawn, at(10));
    m.begin(Step::Stop { signal: 15 }, at(10));
    m.learn(Fact::Stopped, at(10));
    m.learn(Fact::Exited(exit(143)), at(11));
    clean(&mut m, true);
    assert_eq!((state(&m), status(&m).err.as_str()), (TaskState::Shutdown, ""));
    assert_eq!(status(&m).container_status.as_ref().and_then(|c| c.exit_code), Some(143));
}

#[test]
fn health_is_of_no_matter_to_what_is_being_stopped() {
    let mut m = running();
    assert!(m.is_watched());
    m.want(DesiredState::Shutdown);
    assert!(!m.is_watched());
    // What it was asked before.
    m.learn(Fact::Unhealthy { output: "gone".to_owned() }, at(10));
    m.begin(Step::Withdraw, at(10));
    m.learn(Fact::Withdrawn, at(10));
    m.begin(Step::Stop { signal: 15 }, at(10));
    m.learn(Fact::Stopped, at(10));
    m.learn(Fact::Unhealthy { output: "gone".to_owned() }, at(11));
    m.learn(Fact::Exited(exit(0)), at(12));
    clean(&mut m, true);
    assert_eq!((state(&m), status(&m).err.as_str()), (TaskState::Shutdown, ""));
}

#[test]
fn a_clock_that_is_set_changes_no_deadline() {
    let mut m = running();
    m.want(DesiredState::Shutdown);
    let by = |wall: u64, steady: u64| Moment { wall: at(wall), steady: at(steady) };
    m.begin(Step::Withdraw, by(10, 10));
    m.learn(Fact::Withdrawn, by(10, 10));
    m.begin(Step::Stop { signal: 15 }, by(10, 10));
    // An hour ahead, then back.
    m.learn(Fact::Stopped, by(3610, 10));
    assert_eq!(m.next(at(11)), Step::Wait(at(20)));
    assert_eq!(m.next(at(20)), Step::Kill);
    m.begin(Step::Kill, by(20, 20));
    m.learn(Fact::Killed, by(20, 20));
    m.learn(Fact::Exited(ExitStatus { signal: Some(9), ..ExitStatus::default() }), by(3621, 21));
    m.begin(Step::Cleanup { keep_log: true }, by(3621, 21));
    m.learn(Fact::CleanupFailed { err: "busy".to_owned(), recorded: true }, by(5, 22));
    assert_eq!(m.next(at(22)), Step::Wait(at(23)));
    assert_eq!((state(&m), status(&m).timestamp), (TaskState::Shutdown, at(3621)));
}

#[test]
fn what_is_being_stopped_is_stopped_though_somebody_wants_it_again() {
    let mut m = running();
    m.drop_it();
    m.begin(Step::Withdraw, at(10));
    m.learn(Fact::Withdrawn, at(10));
    m.want(DesiredState::Running);
    assert_eq!(m.next(at(10)), Step::Stop { signal: 15 });
}

#[test]
fn the_exit_may_overtake_the_answer_to_the_stop() {
    let mut m = running();
    m.want(DesiredState::Shutdown);
    m.begin(Step::Withdraw, at(10));
    m.learn(Fact::Withdrawn, at(10));
    m.begin(Step::Stop { signal: 15 }, at(10));
    m.learn(Fact::Exited(exit(0)), at(10));
    m.learn(Fact::Stopped, at(10));
    clean(&mut m, true);
    assert_eq!(state(&m), TaskState::Shutdown);
}

#[test]
fn what_ends_by_itself_before_the_signal_ended_by_itself() {
    let mut m = running();
    m.want(DesiredState::Shutdown);
    m.begin(Step::Withdraw, at(10));
    m.learn(Fact::Exited(exit(1)), at(10));
    m.learn(Fact::Withdrawn, at(10));
    clean(&mut m, true);
    assert_eq!(state(&m), TaskState::Failed);
}

#[test]
fn health_gates_running_and_its_loss_ends_the_task() {
    let healthcheck = Some(Healthcheck { test: vec!["CMD".to_owned()], ..Healthcheck::default() });
    let checked = Preparation { healthcheck, ..preparation() };
    let story = [(Step::Accept, Fact::Accepted), (Step::Prepare, Fact::Prepared(checked))];
    let mut m = after(DesiredState::Running, &story);
    m.begin(Step::Start, at(1));
    m.learn(started(), at(1));
    assert_eq!((state(&m), m.is_running()), (TaskState::Starting, true));
    m.learn(Fact::Healthy, at(2));
    assert_eq!(state(&m), TaskState::Running);
    m.learn(Fact::Unhealthy { output: "refused".to_owned() }, at(3));
    assert_eq!(m.next(at(3)), Step::Withdraw);
    m.begin(Step::Withdraw, at(3));
    // A restarted agent goes on with it.
    let record = m.record(&task(DesiredState::Running));
    let again = Machine::resume(&record, Found::Running { pid: 42 }, &boot(1), at(4));
    assert_eq!(again.next(at(4)), Step::Withdraw);
    m.learn(Fact::Withdrawn, at(3));
    m.begin(Step::Stop { signal: 15 }, at(3));
    m.learn(Fact::Stopped, at(3));
    m.learn(Fact::Exited(exit(0)), at(4));
    clean(&mut m, true);
    assert_eq!((state(&m), status(&m).err.as_str()), (TaskState::Failed, "unhealthy: refused"));
}

#[test]
fn cleaning_up_is_repeated_and_its_failure_does_not_hide_the_end() {
    let mut m = running();
    m.learn(Fact::Exited(exit(2)), at(5));
    m.begin(Step::Cleanup { keep_log: true }, at(5));
    let mut unrecorded = m.clone();
    unrecorded.learn(Fact::CleanupFailed { err: "disk full".to_owned(), recorded: false }, at(6));
    assert_eq!(state(&unrecorded), TaskState::Running);
    m.learn(Fact::CleanupFailed { err: "busy".to_owned(), recorded: true }, at(6));
    assert_eq!(status(&m).err, "exit code 2; cleaning up: busy");
    assert_eq!(m.next(at(6)), Step::Wait(at(7)));
    m.begin(Step::Cleanup { keep_log: true }, at(7));
    m.learn(Fact::CleanupFailed { err: "busy".to_owned(), recorded: true }, at(7));
    assert_eq!(m.next(at(7)), Step::Wait(at(9)), "with growing patience");
    clean(&mut m, true);
    assert_eq!(status(&m).err, "exit code 2");
}

#[test]
fn a_dropped_task_is_stopped_and_forgotten() {
    let mut m = running();
    m.drop_it();
    assert_eq!(m.next(at(9)), Step::Withdraw);
    m.learn(Fact::Exited(exit(0)), at(9));
    clean(&mut m, true);
    assert_eq!(m.next(at(60)), Step::Forget);
    m.begin(Step::Forget, at(60));
    m.learn(Fact::ForgetFailed { err: "busy".to_owned() }, at(60));
    assert_eq!(m.next(at(61)), Step::Forget);
    let mut unknown = Machine::new(&task(DesiredState::Running), &boot(1), at(0));
    unknown.drop_it();
    assert_eq!(unknown.next(at(0)), Step::Forget);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn after_a_restart_of_the_agent() {
    let record = |state, begun: bool, desired| TaskRecord {
        task: task(desired),
        status: TaskStatus::new(state, at(1), "was"),
        started: begun.then(|| boot(1)),
        interrupted: false,
        preparation: begun.then(preparation),
    };
    let run = DesiredState::Running;
    let lost = Found::Broken { reason: "socket gone".to_owned() };
    let host_restarted =
        ExitStatus { message: Some("restarted".to_owned()), ..ExitStatus::default() };
    let cleanup = |keep_log| Step::Cleanup { keep_log };
    let cases = [
        // Half-made: cleaned and made again.
        (record(TaskState::Accepted, false, run), Found::Absent, cleanup(false), None),
        (record(TaskState::Preparing, false, run), Found::Prepared, cleanup(false), None),
        (record(TaskState::Preparing, false, run), lost.clone(), cleanup(false), None),
        (
            record(TaskState::Preparing, false, run),
            Found::Exited(host_restarted.clone()),
            cleanup(false),
            None,
        ),
        // The start was begun.
        (record(TaskState::Starting, true, run), Found::Prepared, Step::Start, None),
        (record(TaskState::Starting, true, run), Found::Running { pid: 4 }, Step::Nothing, None),
        (record(TaskState::Running, true, run), Found::Running { pid: 4 }, Step::Nothing, None),
        (
            record(TaskState::Running, true, run),
            Found::Exited(exit(4)),
            cleanup(true),
            Some((TaskState::Failed, "exit code 4")),
        ),
        (
            record(TaskState::Running, true, run),
            Found::Exited(exit(0)),
            cleanup(true),
            Some((TaskState::Complete, "")),
        ),
        (
            record(TaskState::Draining, true, DesiredState::Shutdown),
            Found::Exited(exit(143)),
            cleanup(true),
            Some((TaskState::Shutdown, "")),
        ),
        (
            record(TaskState::Running, true, run),
            Found::Absent,
            cleanup(true),
            Some((TaskState::Failed, "nothing is left of its container")),
        ),
        (
            record(TaskState::Running, true, run),
            lost,
            cleanup(true),
            Some((TaskState::Failed, "its container was lost: socket gone")),
        ),
        // Ended and reported: cleaned once more, the end stays.
        (
            record(TaskState::Rejected, false, run),
            Found::Absent,
            cleanup(false),
            Some((TaskState::Rejected, "")),
        ),
        (
            record(TaskState::Complete, true, run),
            Found::Exited(exit(0)),
            cleanup(true),
            Some((TaskState::Complete, "")),
        ),
    ];
    for (record, found, step, end) in cases {
        let mut m = Machine::resume(&record, found.clone(), &boot(1), at(9));
        assert_eq!(m.next(at(9)), step, "{:?} {found:?}", record.status.state);
        if let Some((state_then, err)) = end {
            clean(&mut m, record.started.is_some());
            assert_eq!((state(&m), status(&m).err.as_str()), (state_then, err), "{found:?}");
        } else if step == cleanup(false) {
            clean(&mut m, false);
            assert_eq!(m.next(at(60)), Step::Prepare, "made again");
        }
    }
}

#[test]
fn the_end_is_known_before_it_is_reported() {
    let mut m = running();
    m.learn(Fact::Exited(exit(7)), at(5));
    m.begin(Step::Cleanup { keep_log: true }, at(5));
    let last = m.last_record(&task(DesiredState::Running), at(6)).expect("it has ended");
    assert_eq!((last.status.state, last.status.err.as_str()), (TaskState::Failed, "exit code 7"));
    let redo = Machine::resume(
        &TaskRecord {
            task: task(DesiredState::Running),
            status: TaskStatus::new(TaskState::Preparing, at(1), ""),
            started: None,
            interrupted: false,
            preparation: None,
        },
        Found::Absent,
        &boot(1),
        at(2),
    );
    assert_eq!(redo.last_record(&task(DesiredState::Running), at(6)), None);
}
