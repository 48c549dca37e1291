//! When to check a container's health, and what the answers mean. Docker's rules.

use std::time::Duration;

use shoal_types::spec::Healthcheck;
use shoal_types::text::cut;
use shoal_types::time::Timestamp;

use crate::task::Doing;

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
/// Most of a check's command that people are told while it is waited for, in bytes.
const COMMAND_TOLD_MAX: usize = 120;
/// Most of what a check said that people are told while it is waited for, in bytes.
const OUTPUT_TOLD_MAX: usize = 300;

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
    /// Whether it says anything of the program. A check that cannot be run because another version of
    /// shoal has made the container does not.
    pub counts: bool,
}

impl Probe {
    /// One that says how the program does.
    #[must_use]
    pub fn new(passed: bool, output: impl Into<String>) -> Self {
        Self { passed, output: output.into(), counts: true }
    }

    /// One that could not be run, through no fault of the program.
    #[must_use]
    pub fn impossible(why: impl Into<String>) -> Self {
        Self { passed: false, output: why.into(), counts: false }
    }
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
    /// Failures since the start, forgiven ones too, and what the last of them said.
    failed: u64,
    said: String,
    due: Timestamp,
    checking: bool,
}

impl Health {
    /// For a container that started, or was found running, at `started`; `healthy` if it is known to
    /// have been healthy before.
    #[must_use]
    pub fn new(config: HealthConfig, started: Timestamp, healthy: bool) -> Self {
        let state = if healthy { State::Healthy } else { State::Starting };
        let mut health = Self {
            config,
            started,
            state,
            failures: 0,
            failed: 0,
            said: String::new(),
            due: started,
            checking: false,
        };
        health.due = started + health.pause(started);
        health
    }

    /// The check itself.
    #[must_use]
    pub const fn config(&self) -> &HealthConfig {
        &self.config
    }

    /// What is waited for until the first check has passed.
    #[must_use]
    pub fn doing(&self) -> Option<Doing> {
        if self.state != State::Starting {
            return None;
        }
        let command = match self.config.argv.as_slice() {
            [shell, flag, command] if shell == "/bin/sh" && flag == "-c" => command.clone(),
            argv => argv.join(" "),
        };
        let command = one_line(&command, COMMAND_TOLD_MAX);
        let check = format!("the health check {command:?}");
        Some(match self.failed {
            0 => Doing::new(format!("waiting for {check} to pass"), ""),
            failed => {
                let said = match self.said.as_str() {
                    "" => "without a word".to_owned(),
                    said => format!("last: {said}"),
                };
                let counts = match self.failures {
                    0 => "none of them counts yet".to_owned(),
                    n => format!("{n} of {} in a row that make it unhealthy", self.config.retries),
                };
                let how_far = format!("{failed} failed, {counts}; {said}");
                Doing::new(format!("{check} has not passed yet"), how_far)
            }
        })
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
    /// ends it; those of checks that could not be run never do.
    pub fn learn(&mut self, probe: Probe, now: Timestamp) -> Option<Verdict> {
        self.checking = false;
        let forgiven = !probe.passed && (!probe.counts || self.in_start_period(now));
        if !probe.passed {
            self.failed += 1;
            self.said = one_line(&probe.output, OUTPUT_TOLD_MAX);
        }
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

/// Text without line breaks, and without blanks around, cut at a bound in bytes.
fn one_line(text: &str, bytes: usize) -> String {
    cut(&text.split_whitespace().collect::<Vec<_>>().join(" "), bytes).into_owned()
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
mod tests;
