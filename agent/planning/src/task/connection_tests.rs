//! A task whose networks change while it lives.

use shoal_types::task_state::DesiredState;

use super::tests::{at, boot, preparation, task};
use super::*;

fn running() -> Machine {
    let mut machine = Machine::new(&task(DesiredState::Running), &boot(1), at(0));
    for (step, fact) in [
        (Step::Accept, Fact::Accepted),
        (Step::Prepare, Fact::Prepared(preparation())),
        (Step::Start, Fact::Started { pid: 42, ports: Vec::new() }),
    ] {
        assert_eq!(machine.next(at(0)), step);
        machine.begin(step, at(0));
        machine.learn(fact, at(0));
    }
    machine
}

fn err(machine: &Machine) -> &str {
    machine.status().map_or("", |status| &status.err)
}

#[test]
fn its_networks_are_written_down_before_it_is_connected() {
    let mut machine = running();
    assert!(machine.is_connected());
    machine.joins_others();
    assert!(!machine.is_connected() && machine.is_running() && machine.is_accepted());
    assert_eq!(machine.next(at(1)), Step::Accept);
    machine.begin(Step::Accept, at(1));
    assert_eq!(machine.status().map(|status| status.state), Some(TaskState::Running));
    // They change once more meanwhile.
    machine.joins_others();
    machine.learn(Fact::Accepted, at(2));
    assert_eq!((machine.next(at(2)), machine.is_connected()), (Step::Accept, false));
    machine.begin(Step::Accept, at(2));
    machine.learn(Fact::Accepted, at(3));
    assert_eq!((machine.next(at(3)), machine.is_connected()), (Step::Nothing, true));
}

#[test]
fn what_cannot_be_written_down_is_tried_again_and_keeps_nothing_from_stopping() {
    let mut machine = running();
    machine.joins_others();
    machine.begin(Step::Accept, at(1));
    machine.learn(Fact::AcceptFailed { err: "disk full".to_owned() }, at(1));
    assert!(!machine.is_connected());
    let Step::Wait(until) = machine.next(at(1)) else { panic!("{:?}", machine.next(at(1))) };
    assert_eq!(machine.next(until), Step::Accept);
    machine.want(DesiredState::Shutdown);
    assert_eq!(machine.next(at(1)), Step::Withdraw);
    assert_eq!(machine.next(until), Step::Withdraw, "its end is written down with them");
}

#[test]
fn what_of_it_cannot_be_given_back_is_tried_again_with_patience() {
    let mut machine = Machine::new(&task(DesiredState::Running), &boot(1), at(0));
    for (step, fact) in
        [(Step::Accept, Fact::Accepted), (Step::Prepare, Fact::Prepared(preparation()))]
    {
        machine.begin(step, at(0));
        machine.learn(fact, at(0));
    }
    machine.want(DesiredState::Shutdown);
    // It is disconnected while it stops.
    machine.joins_others();
    let cleanup = Step::Cleanup { keep_log: false };
    assert_eq!(machine.next(at(1)), cleanup);
    machine.begin(cleanup, at(1));
    machine.learn(Fact::CleanupFailed { err: "in use".to_owned(), recorded: false }, at(1));
    let Step::Wait(until) = machine.next(at(1)) else { panic!("{:?}", machine.next(at(1))) };
    assert_eq!(machine.next(until), cleanup);
}

#[test]
fn a_task_in_preparation_is_written_down_before_it_is_started() {
    let mut machine = Machine::new(&task(DesiredState::Running), &boot(1), at(0));
    machine.begin(Step::Accept, at(0));
    machine.learn(Fact::Accepted, at(0));
    machine.begin(Step::Prepare, at(0));
    machine.joins_others();
    assert_eq!(machine.next(at(1)), Step::Nothing);
    machine.learn(Fact::Prepared(preparation()), at(2));
    assert_eq!(machine.next(at(2)), Step::Accept);
    machine.begin(Step::Accept, at(2));
    machine.learn(Fact::Accepted, at(3));
    assert_eq!((machine.next(at(3)), machine.is_connected()), (Step::Start, true));
}

#[test]
fn it_says_why_its_networks_are_not_as_they_should_be() {
    let mut machine = running();
    machine.learn(Fact::Unconnected(Some("network back: in use".to_owned())), at(1));
    assert!(
        err(&machine).ends_with("which is tried again: network back: in use"),
        "{}",
        err(&machine)
    );
    machine.learn(Fact::Unheard(Some("too old".to_owned())), at(2));
    assert!(err(&machine).contains("too old") && err(&machine).contains("in use"));
    machine.learn(Fact::Unheard(None), at(3));
    machine.learn(Fact::Unconnected(None), at(3));
    assert_eq!(err(&machine), "");
}
