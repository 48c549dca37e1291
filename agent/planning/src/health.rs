//! When to check a container's health, and what the answers mean. Docker's rules.

use std::time::Duration;

use shoal_types::spec::Healthcheck;
use shoal_types::time::Timestamp;

/// Docker's time from one check to the next, and after which a check has failed.
const INTERVAL: Duration = Duration::from_secs(30);
/// Docker's time from one check to the next during the start period.
const START_INTERVAL: Duration = Duration::from_secs(5);
/// Docker's number of failures in a row that make a container unhealthy.
const RETRIES: u64 = 3;
/// Least time between checks that an image may ask for: whoever built it does not pay for them, and a
/// check costs more than the processes that it starts in the container.
pub const IMAGE_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Least time between checks, whoever asks: less is taken, as by Docker, and checked so often.
pub const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Most of a check's output that is kept, in bytes; Docker's limit.
pub const OUTPUT_MAX: usize = 4096;

/// A health check with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthConfig {
    /// What is executed in the container.
    pub argv: Vec<String>,
    /// From the end of one check to the next.
    pub interval: Duration,
    /// After which a check has failed.
    pub timeout: Duration,
    /// After the start, while failures do not count.
    pub start_period: Duration,
    /// In place of `interval` during the start period.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u64,
}

/// Why a health check makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("healthcheck test {test:?} must begin with NONE, CMD or CMD-SHELL and name a command")]
pub struct InvalidHealthcheck {
    /// As it was written.
    pub test: Vec<String>,
}

/// The service's wishes over those of the image: what the service leaves open, the image says, but for
/// checks more often than every [`IMAGE_INTERVAL_MIN`].
#[must_use]
pub fn merge(service: Option<&Healthcheck>, image: Option<&Healthcheck>) -> Option<Healthcheck> {
    // Zero is Docker's default, which is longer.
    let slow =
        |d: Option<Duration>| d.map(|d| if d.is_zero() { d } else { d.max(IMAGE_INTERVAL_MIN) });
    let image = image.map(|image| Healthcheck {
        interval: slow(image.interval),
        start_interval: slow(image.start_interval),
        ..image.clone()
    });
    let Some(service) = service else { return image };
    let mut merged = service.clone();
    if let Some(image) = image {
        if merged.test.is_empty() {
            merged.test.clone_from(&image.test);
        }
        merged.interval = merged.interval.or(image.interval);
        merged.timeout = merged.timeout.or(image.timeout);
        merged.start_period = merged.start_period.or(image.start_period);
        merged.start_interval = merged.start_interval.or(image.start_interval);
        if merged.retries == 0 {
            merged.retries = image.retries;
        }
    }
    Some(merged)
}

impl HealthConfig {
    /// Fills in the defaults; `None` when nothing is to be checked.
    ///
    /// # Errors
    /// The test is none of the forms that Docker knows.
    pub fn of(check: &Healthcheck) -> Result<Option<Self>, InvalidHealthcheck> {
        let argv = match check.test.split_first() {
            None => return Ok(None),
            Some((kind, [])) if kind == "NONE" => return Ok(None),
            Some((kind, argv)) if kind == "CMD" && !argv.is_empty() => argv.to_vec(),
            Some((kind, [command])) if kind == "CMD-SHELL" => {
                vec!["/bin/sh".to_owned(), "-c".to_owned(), command.clone()]
            }
            Some(_) => return Err(InvalidHealthcheck { test: check.test.clone() }),
        };
        let or =
            |given: Option<Duration>, default| given.filter(|d| !d.is_zero()).unwrap_or(default);
        Ok(Some(Self {
            argv,
            interval: or(check.interval, INTERVAL).max(INTERVAL_MIN),
            timeout: or(check.timeout, INTERVAL),
            start_period: check.start_period.unwrap_or_default(),
            start_interval: or(check.start_interval, START_INTERVAL).max(INTERVAL_MIN),
            retries: if check.retries == 0 { RETRIES } else { check.retries },
        }))
    }
}

/// What to do about a container's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStep {
    /// Run the check now.
    Check,
    /// Not before this time.
    Wait(Timestamp),
    /// A check is under way, or the verdict is final.
    Nothing,
}

/// How one check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Whether it ended with exit code 0 in time.
    pub passed: bool,
    /// What it said, or why it could not be run.
    pub output: String,
}

/// What a check changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is healthy, for the first time or again.
    Healthy,
    /// It failed too often.
    Unhealthy {
        /// What the last check said, at most [`OUTPUT_MAX`] bytes.
        output: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Healthy,
    Unhealthy,
}

/// The health of one running container.
#[derive(Debug, Clone)]
pub struct Health {
    config: HealthConfig,
    started: Timestamp,
    state: State,
    failures: u64,
    due: Timestamp,
    checking: bool,
}

impl Health {
    /// For a container that started, or was found running, at `started`; `healthy` if it is known to
    /// have been healthy before.
    #[must_use]
    pub fn new(config: HealthConfig, started: Timestamp, healthy: bool) -> Self {
        let state = if healthy { State::Healthy } else { State::Starting };
        let mut health =
            Self { config, started, state, failures: 0, due: started, checking: false };
        health.due = started + health.pause(started);
        health
    }

    /// The check itself.
    #[must_use]
    pub const fn config(&self) -> &HealthConfig {
        &self.config
    }

    fn in_start_period(&self, now: Timestamp) -> bool {
        self.state == State::Starting && now < self.started + self.config.start_period
    }

    fn pause(&self, now: Timestamp) -> Duration {
        if self.in_start_period(now) { self.config.start_interval } else { self.config.interval }
    }

    /// The next step. Asking twice gives the same answer.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> HealthStep {
        match (self.checking, self.state) {
            (true, _) | (_, State::Unhealthy) => HealthStep::Nothing,
            _ if now < self.due => HealthStep::Wait(self.due),
            _ => HealthStep::Check,
        }
    }

    /// A check is being run.
    pub fn begin(&mut self) {
        self.checking = true;
    }

    /// A check ended. Failures during the start period do not count until the first success, which
    /// ends it.
    pub fn learn(&mut self, probe: Probe, now: Timestamp) -> Option<Verdict> {
        self.checking = false;
        let forgiven = !probe.passed && self.in_start_period(now);
        let verdict = match (probe.passed, self.state) {
            (_, State::Unhealthy) => None,
            (true, state) => {
                self.failures = 0;
                self.state = State::Healthy;
                (state == State::Starting).then_some(Verdict::Healthy)
            }
            (false, _) if forgiven => None,
            (false, _) => {
                self.failures += 1;
                (self.failures >= self.config.retries).then(|| {
                    self.state = State::Unhealthy;
                    Verdict::Unhealthy { output: bounded(probe.output) }
                })
            }
        };
        self.due = now + self.pause(now);
        verdict
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > OUTPUT_MAX {
        let mut end = OUTPUT_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
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
        let config = HealthConfig {
            argv: vec!["true".to_owned()],
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(3),
            start_period: Duration::from_secs(start_period),
            start_interval: Duration::from_secs(2),
            retries: 2,
        };
        Health::new(config, at(0), false)
    }

    fn probe(passed: bool) -> Probe {
        Probe { passed, output: "said".to_owned() }
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
        h.learn(Probe { passed: false, output: output.clone() }, at(1));
        let Some(Verdict::Unhealthy { output }) = h.learn(Probe { passed: false, output }, at(2))
        else {
            panic!("unhealthy after two failures");
        };
        assert!(output.len() <= OUTPUT_MAX);
    }
}
