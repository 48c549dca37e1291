//! Tasks that share the network of others: they wait for that, and end with it.

use shoal_types::task_state::DesiredState;

use super::tests::{at, boot, clean, exit, preparation, started, state, task};
use super::*;

fn accepted() -> Machine {
    let mut m = Machine::new(&task(DesiredState::Running), &boot(1), at(0));
    m.begin(Step::Accept, at(0));
    m.learn(Fact::Accepted, at(0));
    m
}

fn take(m: &mut Machine, step: Step, fact: Fact) {
    assert_eq!(m.next(at(1)), step);
    m.begin(step, at(1));
    m.learn(fact, at(1));
}

fn message(m: &Machine) -> String {
    m.status().map(|status| status.message.clone()).unwrap_or_default()
}

/// What the one does is told to the other.
fn tell(sharer: &mut Machine, partner: &Machine) {
    sharer.set_partner(partner.as_partner("db.3"), at(1));
}

/// Both run.
fn two() -> (Machine, Machine) {
    let (mut db, mut side) = (accepted(), accepted());
    tell(&mut side, &db);
    assert_eq!(side.next(at(1)), Step::Nothing, "there is no network yet");
    let waits = "waits for the task whose network it shares, db.3: it is not prepared yet";
    assert_eq!((state(&side), message(&side).as_str()), (TaskState::Accepted, waits));
    take(&mut db, Step::Prepare, Fact::Prepared(preparation()));
    tell(&mut side, &db);
    take(&mut side, Step::Prepare, Fact::Prepared(preparation()));
    assert_eq!(side.next(at(1)), Step::Nothing, "it starts after that one");
    assert!(message(&side).starts_with("prepared; waits for the start of"), "{}", message(&side));
    take(&mut db, Step::Start, started());
    tell(&mut side, &db);
    take(&mut side, Step::Start, started());
    assert_eq!((state(&side), side.next(at(1))), (TaskState::Running, Step::Nothing));
    (db, side)
}

#[test]
fn it_is_stopped_with_its_partner_and_that_is_no_failure() {
    let stop = Step::Stop { signal: 15 };
    let (mut db, mut side) = two();
    db.learn(Fact::Exited(exit(1)), at(2));
    tell(&mut side, &db);
    assert!(is_still_shared([&side]), "it is to have the network until it has ended");
    take(&mut side, Step::Withdraw, Fact::Withdrawn);
    take(&mut side, stop, Fact::Stopped);
    side.learn(Fact::Exited(exit(143)), at(3));
    assert!(!is_still_shared([&side]));
    clean(&mut side, true);
    let status = side.status().unwrap();
    assert_eq!(status.state, TaskState::Shutdown);
    assert_eq!(status.err, "the task whose network it shares, db.3, has ended");

    // Told to stop, that one may serve what is open for long: only its signal is the end.
    let (mut db, mut side) = two();
    db.want(DesiredState::Shutdown);
    tell(&mut side, &db);
    assert_eq!(side.next(at(1)), Step::Nothing);
    take(&mut db, Step::Withdraw, Fact::Withdrawn);
    tell(&mut side, &db);
    assert_eq!(side.next(at(1)), Step::Nothing);
    take(&mut db, stop, Fact::Stopped);
    tell(&mut side, &db);
    assert_eq!(side.next(at(1)), Step::Withdraw);
    // What it does to itself then is its partner's doing, too.
    side.learn(Fact::Exited(exit(1)), at(2));
    clean(&mut side, true);
    assert_eq!(state(&side), TaskState::Shutdown);

    // But before, it is its own.
    let (_, mut side) = two();
    side.learn(Fact::Exited(exit(1)), at(2));
    clean(&mut side, true);
    assert_eq!(state(&side), TaskState::Failed);
}

#[test]
fn nothing_is_begun_beside_a_partner_that_has_ended() {
    let (mut db, _) = two();
    db.learn(Fact::Exited(exit(0)), at(2));
    let mut side = accepted();
    tell(&mut side, &db);
    assert_eq!(side.next(at(2)), Step::Nothing, "managers replace it");
    assert_eq!(message(&side), "the task whose network it shares, db.3, has ended");
    side.want(DesiredState::Shutdown);
    take(&mut side, Step::Cleanup { keep_log: false }, Fact::Cleaned);
    assert_eq!(state(&side), TaskState::Shutdown);
}

/// The supervisor of a partner that was prepared has died, and with it the network.
#[test]
fn what_was_prepared_in_a_network_that_is_gone_is_made_again() {
    for seen in [true, false] {
        let (mut db, mut side) = (accepted(), accepted());
        take(&mut db, Step::Prepare, Fact::Prepared(preparation()));
        tell(&mut side, &db);
        take(&mut side, Step::Prepare, Fact::Prepared(preparation()));
        db.learn(Fact::Exited(exit(1)), at(2));
        if seen {
            tell(&mut side, &db);
            assert_eq!(side.next(at(2)), Step::Cleanup { keep_log: false });
        }
        clean(&mut db, false);
        take(&mut db, Step::Prepare, Fact::Prepared(preparation()));
        tell(&mut side, &db);
        take(&mut side, Step::Cleanup { keep_log: false }, Fact::Cleaned);
        take(&mut side, Step::Prepare, Fact::Prepared(preparation()));
        take(&mut db, Step::Start, started());
        tell(&mut side, &db);
        take(&mut side, Step::Start, started());
    }
}

/// The same, while an image is pulled.
#[test]
fn what_is_prepared_in_a_network_that_is_gone_is_made_again() {
    let (mut db, mut side) = (accepted(), accepted());
    take(&mut db, Step::Prepare, Fact::Prepared(preparation()));
    tell(&mut side, &db);
    side.begin(Step::Prepare, at(1));
    db.learn(Fact::Exited(exit(1)), at(2));
    clean(&mut db, false);
    take(&mut db, Step::Prepare, Fact::Prepared(preparation()));
    take(&mut db, Step::Start, started());
    tell(&mut side, &db);
    side.learn(Fact::Prepared(preparation()), at(3));
    tell(&mut side, &db);
    take(&mut side, Step::Cleanup { keep_log: false }, Fact::Cleaned);
    take(&mut side, Step::Prepare, Fact::Prepared(preparation()));
    take(&mut side, Step::Start, started());
}

/// The agent may be killed anywhere.
#[test]
fn a_restarted_agent_goes_on_where_it_was() {
    let wanted = task(DesiredState::Running);
    let resumed = |m: &Machine| {
        Machine::resume(&m.record(&wanted), Found::Running { pid: 42 }, &boot(1), at(3))
    };
    let (db, side) = two();
    let (mut db, mut side) = (resumed(&db), resumed(&side));
    tell(&mut side, &db);
    assert_eq!(side.next(at(3)), Step::Nothing, "both run");
    db.learn(Fact::Exited(exit(1)), at(4));
    tell(&mut side, &db);
    take(&mut side, Step::Withdraw, Fact::Withdrawn);
    let mut side = resumed(&side);
    tell(&mut side, &db);
    side.learn(Fact::Exited(exit(1)), at(5));
    clean(&mut side, true);
    assert_eq!(state(&side), TaskState::Shutdown, "it was being stopped with its partner");
}

#[test]
fn when_the_host_stops_both_are_interrupted_and_come_back() {
    let (mut db, mut side) = two();
    for m in [&mut db, &mut side] {
        m.host_stops();
        take(m, Step::Withdraw, Fact::Withdrawn);
        take(m, Step::Stop { signal: 15 }, Fact::Stopped);
    }
    tell(&mut side, &db);
    for m in [&mut db, &mut side] {
        m.learn(Fact::Exited(exit(143)), at(2));
    }
    tell(&mut side, &db);
    assert_eq!(state(&side), TaskState::Running, "an attempt does not end by that");
    let wanted = task(DesiredState::Running);
    let back = |m: &Machine| Machine::resume(&m.record(&wanted), Found::Absent, &boot(2), at(3));
    let (mut db, mut side) = (back(&db), back(&side));
    tell(&mut side, &db);
    for m in [&mut db, &mut side] {
        clean(m, true);
    }
    tell(&mut side, &db);
    assert_eq!(side.next(at(3)), Step::Nothing);
    take(&mut db, Step::Prepare, Fact::Prepared(preparation()));
    tell(&mut side, &db);
    take(&mut side, Step::Prepare, Fact::Prepared(preparation()));
    take(&mut db, Step::Start, started());
    tell(&mut side, &db);
    take(&mut side, Step::Start, started());
    assert_eq!(state(&side), TaskState::Running);
}
