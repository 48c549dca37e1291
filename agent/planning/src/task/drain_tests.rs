//! What is open is served before the stop.

use std::sync::Arc;

use shoal_types::spec::TaskRuntime;
use shoal_types::task_state::DesiredState;

use super::tests::{at, boot, clean, exit, preparation, started, state, task};
use super::*;

/// A running task that serves what is open for this long, told to stop and led to by nobody since 10.
fn draining(secs: u64) -> Machine {
    let mut task = task(DesiredState::Running);
    let TaskRuntime::Container(container) = &mut Arc::make_mut(&mut task.spec).runtime else {
        panic!("no container");
    };
    container.drain_timeout = Some(Duration::from_secs(secs));
    let mut m = Machine::new(&task, &boot(1), at(0));
    for (step, fact) in [
        (Step::Accept, Fact::Accepted),
        (Step::Prepare, Fact::Prepared(preparation())),
        (Step::Start, started()),
    ] {
        m.begin(step, at(1));
        m.learn(fact, at(2));
    }
    m.want(DesiredState::Shutdown);
    assert_eq!(m.next(at(9)), Step::Withdraw);
    m.begin(Step::Withdraw, at(9));
    m.learn(Fact::Withdrawn, at(10));
    m
}

#[test]
fn what_is_open_is_served_before_the_stop_signal() {
    let stop = Step::Stop { signal: 15 };
    let mut m = draining(30);
    assert_eq!(m.next(at(10)), Step::Wait(at(40)));
    assert_eq!(state(&m), TaskState::Draining);
    assert_eq!(m.next(at(39)), Step::Wait(at(40)));
    assert_eq!(m.next(at(40)), stop);
    m.begin(stop, at(40));
    m.learn(Fact::Stopped, at(40));
    assert_eq!(m.next(at(41)), Step::Wait(at(50)), "and then has its time to end");
    // At most an hour, whoever says what; and not at all where nothing is said.
    assert_eq!(draining(1 << 20).next(at(10)), Step::Wait(at(3610)));
    assert_eq!(draining(0).next(at(10)), stop);

    let mut ended = draining(30);
    ended.learn(Fact::Exited(exit(0)), at(12));
    clean(&mut ended, true);
    assert_eq!(state(&ended), TaskState::Complete, "nobody has told it to");
}

#[test]
fn a_second_stop_waits_for_nothing_that_is_open() {
    type Hurry = fn(&mut Machine);
    let hurries: [Hurry; 3] =
        [|m| m.want(DesiredState::Remove), Machine::drop_it, Machine::host_stops];
    for (n, hurry) in hurries.into_iter().enumerate() {
        let mut m = draining(30);
        m.want(DesiredState::Shutdown);
        assert_eq!(m.next(at(11)), Step::Wait(at(40)), "the same again changes nothing");
        hurry(&mut m);
        assert_eq!(m.next(at(11)), Step::Stop { signal: 15 }, "hurry {n}");
    }
}
