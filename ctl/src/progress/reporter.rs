//! Progress as it is shown: bars on a terminal, lines elsewhere, records for programs.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::error::CommandError;
use crate::render::{Format, clean, json, line};

/// How one service fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) running: u64,
    pub(super) desired: u64,
    pub(super) state: &'static str,
}

#[derive(Serialize)]
#[serde(tag = "Event", rename_all = "lowercase", rename_all_fields = "PascalCase")]
enum Record<'a> {
    Progress { service: &'a str, running: u64, desired: u64, state: &'a str },
    News { message: &'a str },
    Outcome { outcome: &'a str },
}

#[derive(Debug)]
enum Mode {
    Quiet,
    Lines,
    Json,
    Bars { all: MultiProgress, bars: BTreeMap<String, ProgressBar> },
}

/// Shows progress; says nothing twice.
#[derive(Debug)]
pub(super) struct Reporter {
    mode: Mode,
    /// Whether programs read it.
    json: bool,
    last: BTreeMap<String, Line>,
}

impl Reporter {
    pub(super) fn new(format: Format, quiet: bool) -> Self {
        let mode = match format {
            _ if quiet => Mode::Quiet,
            Format::Json => Mode::Json,
            Format::Table if io::stdout().is_terminal() => Mode::Bars {
                all: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()),
                bars: BTreeMap::new(),
            },
            Format::Table => Mode::Lines,
        };
        Self { mode, json: format == Format::Json, last: BTreeMap::new() }
    }

    /// Something that happened.
    pub(super) fn news(&mut self, text: &str) -> Result<(), CommandError> {
        let text = clean::one_line(text);
        match &self.mode {
            Mode::Quiet => Ok(()),
            Mode::Lines => line(&format!("  {text}")),
            Mode::Json => json::record(&Record::News { message: &text }),
            Mode::Bars { all, .. } => Ok(all.println(format!("  {text}"))?),
        }
    }

    pub(super) fn service(&mut self, now: &Line) -> Result<(), CommandError> {
        if self.last.get(&now.name) == Some(now) {
            return Ok(());
        }
        self.last.insert(now.name.clone(), now.clone());
        let Line { name, running, desired, state } = now;
        match &mut self.mode {
            Mode::Quiet => Ok(()),
            Mode::Lines => line(&format!("{name}: {running}/{desired} {state}")),
            Mode::Json => {
                let (running, desired) = (*running, *desired);
                json::record(&Record::Progress { service: name, running, desired, state })
            }
            Mode::Bars { all, bars } => {
                let bar = bars.entry(name.clone()).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new(*desired).with_style(style()));
                    bar.set_prefix(clean::one_line(name).into_owned());
                    bar
                });
                bar.set_length(*desired);
                bar.set_position(*running);
                bar.set_message(*state);
                Ok(())
            }
        }
    }

    /// How it ended; for programs alone, people see it from the rest.
    pub(super) fn outcome(&self, outcome: &str) -> Result<(), CommandError> {
        match self.json {
            true => json::record(&Record::Outcome { outcome }),
            false => Ok(()),
        }
    }

    /// Leaves the bars as they are and stops drawing.
    pub(super) fn finish(&mut self) {
        if let Mode::Bars { bars, .. } = &mut self.mode {
            for bar in bars.values() {
                bar.abandon();
            }
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:24!} [{bar:20}] {pos:>3}/{len:3} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
