//! Docker's rules, and what people are told meanwhile.

use super::*;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1000 + secs)
}

fn check(test: &[&str]) -> Healthcheck {
    Healthcheck { test: test.iter().map(ToString::to_string).collect(), ..Default::default() }
}

fn secs(n: u64) -> Option<Duration> {
    Some(Duration::from_secs(n))
}

fn health(start_period: u64) -> Health {
    checked(&["true"], start_period)
}

fn health_of(argv: &[&str]) -> Health {
    checked(argv, 0)
}

fn checked(argv: &[&str], start_period: u64) -> Health {
    let config = HealthConfig {
        argv: argv.iter().map(ToString::to_string).collect(),
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(3),
        start_period: Duration::from_secs(start_period),
        start_interval: Duration::from_secs(2),
        retries: 2,
    };
    Health::new(config, at(0), false)
}

fn probe(passed: bool) -> Probe {
    Probe::new(passed, "said")
}

#[test]
fn forms_of_a_test() {
    let argv = |test: &[&str]| HealthConfig::of(&check(test)).map(|c| c.map(|c| c.argv));
    let some = |argv: &[&str]| Ok(Some(argv.iter().map(ToString::to_string).collect()));
    assert_eq!(argv(&[]), Ok(None));
    assert_eq!(argv(&["NONE"]), Ok(None));
    assert_eq!(argv(&["CMD", "a", "b"]), some(&["a", "b"]));
    assert_eq!(argv(&["CMD-SHELL", "a | b"]), some(&["/bin/sh", "-c", "a | b"]));
    for bad in [&["CMD"][..], &["CMD-SHELL", "a", "b"], &["a"], &["NONE", "x"]] {
        assert!(argv(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn defaults_are_dockers_and_zero_means_default() {
    let mut c = check(&["CMD", "x"]);
    c.interval = secs(0);
    let config = HealthConfig::of(&c).unwrap().unwrap();
    assert_eq!((config.interval, config.timeout), (INTERVAL, INTERVAL));
    assert_eq!((config.start_interval, config.retries), (START_INTERVAL, 3));
    assert_eq!(config.start_period, Duration::ZERO);
}

#[test]
fn the_service_wins_field_by_field() {
    let image =
        Healthcheck { retries: 7, interval: secs(9), timeout: secs(4), ..check(&["CMD", "i"]) };
    assert_eq!(merge(None, None), None);
    assert_eq!(merge(None, Some(&image)), Some(image.clone()));
    let service = Healthcheck { interval: secs(1), ..check(&[]) };
    let merged = merge(Some(&service), Some(&image)).unwrap();
    assert_eq!((merged.test, merged.interval), (image.test.clone(), secs(1)));
    assert_eq!((merged.timeout, merged.retries), (secs(4), 7));
    let none = merge(Some(&check(&["NONE"])), Some(&image)).unwrap();
    assert_eq!(HealthConfig::of(&none), Ok(None));
}

#[test]
fn how_often_a_check_runs_is_bounded() {
    let often = Healthcheck {
        interval: Some(Duration::from_nanos(1)),
        start_interval: Some(Duration::from_millis(1)),
        ..check(&["CMD", "x"])
    };
    let of = |check: Option<Healthcheck>| HealthConfig::of(&check.unwrap()).unwrap().unwrap();
    let pauses = |config: HealthConfig| (config.interval, config.start_interval);
    let second = Duration::from_secs(1);
    assert_eq!(pauses(of(merge(None, Some(&often)))), (second, second), "an image's");
    let inherits = merge(Some(&check(&[])), Some(&often));
    assert_eq!(pauses(of(inherits)), (second, second), "an image's, through a service");
    let tenth = Duration::from_millis(100);
    let (given, image) = (Some(&often), Some(&often));
    assert_eq!(pauses(of(merge(given, image))), (tenth, tenth), "a service's own");
    let zero = Healthcheck { interval: secs(0), ..often };
    assert_eq!(of(merge(None, Some(&zero))).interval, INTERVAL, "zero is the default");
}

#[test]
fn a_life_without_start_period() {
    let mut h = health(0);
    assert_eq!(h.next(at(0)), HealthStep::Wait(at(10)));
    assert_eq!(h.next(at(10)), HealthStep::Check);
    h.begin();
    assert_eq!(h.next(at(10)), HealthStep::Nothing);
    assert_eq!(h.learn(probe(true), at(11)), Some(Verdict::Healthy));
    assert_eq!(h.next(at(11)), HealthStep::Wait(at(21)));
    assert_eq!(h.learn(probe(true), at(21)), None);
    assert_eq!(h.learn(probe(false), at(31)), None, "one failure is forgiven");
    assert_eq!(h.learn(probe(true), at(41)), None);
    assert_eq!(h.learn(probe(false), at(51)), None, "a success in between resets the count");
    let unhealthy = Verdict::Unhealthy { output: "said".to_owned() };
    assert_eq!(h.learn(probe(false), at(61)), Some(unhealthy));
    assert_eq!(h.next(at(99)), HealthStep::Nothing);
    assert_eq!(h.learn(probe(true), at(99)), None, "the verdict is final");
}

#[test]
fn failures_in_the_start_period_do_not_count() {
    let mut h = health(5);
    assert_eq!(h.next(at(0)), HealthStep::Wait(at(2)));
    for t in [2, 4] {
        assert_eq!(h.learn(probe(false), at(t)), None);
        assert_eq!(h.next(at(t)), HealthStep::Wait(at(t + 2)));
    }
    assert_eq!(h.learn(probe(false), at(6)), None, "the first that counts");
    assert_eq!(h.next(at(6)), HealthStep::Wait(at(16)));
    assert!(matches!(h.learn(probe(false), at(16)), Some(Verdict::Unhealthy { .. })));
}

#[test]
fn a_success_ends_the_start_period() {
    let mut h = health(100);
    assert_eq!(h.learn(probe(true), at(2)), Some(Verdict::Healthy));
    assert_eq!(h.next(at(2)), HealthStep::Wait(at(12)));
    assert_eq!(h.learn(probe(false), at(12)), None);
    assert!(matches!(h.learn(probe(false), at(22)), Some(Verdict::Unhealthy { .. })));
}

#[test]
fn output_is_bounded() {
    let mut h = health(0);
    let output = "ä".repeat(OUTPUT_MAX);
    h.learn(Probe::new(false, output.clone()), at(1));
    let Some(Verdict::Unhealthy { output }) = h.learn(Probe::new(false, output), at(2)) else {
        panic!("unhealthy after two failures");
    };
    assert!(output.len() <= OUTPUT_MAX);
}

#[test]
fn what_is_waited_for_is_the_check_and_what_it_said() {
    let mut health = health(5);
    let told = |health: &Health| health.doing().unwrap().text();
    assert_eq!(told(&health), "waiting for the health check \"true\" to pass");
    let fails = |said: &str| Probe::new(false, said);
    health.learn(fails("connection\nrefused\n"), at(2));
    let expected = "the health check \"true\" has not passed yet; 1 failed, none of them counts yet; last: connection refused";
    assert_eq!(told(&health), expected);
    health.learn(fails(""), at(6));
    let expected = "the health check \"true\" has not passed yet; 2 failed, 1 of 2 in a row that make it unhealthy; without a word";
    assert_eq!(told(&health), expected);
    health.learn(fails(&"x".repeat(100_000)), at(6));
    assert!(health.doing().is_none_or(|d| d.text().len() < 700));
    let mut passes = health_of(&["/bin/sh", "-c", "curl -f http://localhost/"]);
    assert!(told(&passes).contains("\"curl -f http://localhost/\""), "{}", told(&passes));
    passes.learn(probe(true), at(2));
    assert_eq!(passes.doing(), None);
}

/// An agent that cannot run the checks of an older container must not have it ended for that.
#[test]
fn checks_that_cannot_be_run_make_nothing_unhealthy_and_are_told() {
    for healthy in [true, false] {
        let mut h = Health::new(health(0).config, at(0), healthy);
        for n in 0..20 {
            let verdict = h.learn(Probe::impossible("of another version"), at(100 + n));
            assert_eq!(verdict, None, "check {n}");
        }
        assert_eq!(h.doing().is_some(), !healthy);
        if let Some(doing) = h.doing() {
            assert!(format!("{doing:?}").contains("of another version"), "{doing:?}");
        }
        // Those that can be run count as ever.
        let verdicts: Vec<_> = (0..20).filter_map(|n| h.learn(probe(false), at(200 + n))).collect();
        assert!(matches!(verdicts[..], [Verdict::Unhealthy { .. }]), "{verdicts:?}");
    }
}
