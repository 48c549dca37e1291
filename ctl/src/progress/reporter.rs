//! Progress as it is shown: bars on a terminal, lines elsewhere, records for programs.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::model::News;
use crate::error::CommandError;
use crate::render::record::{self, Record};
use crate::render::{Format, clean, line};

/// How one service fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) running: u64,
    pub(super) desired: u64,
    pub(super) state: &'static str,
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
        Self { mode, last: BTreeMap::new() }
    }

    /// Something that happened to a task, or what it is doing.
    pub(super) fn news(&mut self, news: &News) -> Result<(), CommandError> {
        match self.mode {
            Mode::Json => record::write(&Record::News {
                kind: news.kind,
                service: Some(&news.service),
                service_id: Some(news.service_id.to_string()),
                task: Some(&news.task),
                task_id: Some(news.task_id.to_string()),
                node: Some(news.node.as_str()).filter(|n| !n.is_empty()),
                node_id: news.node_id.map(|id| id.to_string()),
                state: Some(news.state.as_str()),
                since: Some(news.since),
                next_try: news.next_try.map(|(at, _)| at),
                message: &news.message,
            }),
            _ => self.say(&news.words()),
        }
    }

    /// Something about the following itself.
    pub(super) fn notice(&mut self, kind: &'static str, text: &str) -> Result<(), CommandError> {
        match self.mode {
            Mode::Json => record::write(&Record::notice(kind, text)),
            _ => self.say(text),
        }
    }

    fn say(&self, text: &str) -> Result<(), CommandError> {
        let text = clean::one_line(text);
        match &self.mode {
            Mode::Quiet | Mode::Json => Ok(()),
            Mode::Lines => line(&format!("  {text}")),
            Mode::Bars { all, .. } => Ok(all.println(format!("  {text}"))?),
        }
    }

    /// How a service fares; true if that is new.
    pub(super) fn service(&mut self, now: &Line) -> Result<bool, CommandError> {
        if self.last.get(&now.id) == Some(now) {
            return Ok(false);
        }
        self.last.insert(now.id.clone(), now.clone());
        let Line { name, id, running, desired, state } = now;
        let words = state.replace('-', " ");
        match &mut self.mode {
            Mode::Quiet => {}
            Mode::Lines => line(&format!("{name}: {running}/{desired} {words}"))?,
            Mode::Json => {
                let (running, desired) = (*running, *desired);
                let (service, service_id) = (name, id);
                record::write(&Record::Progress { service, service_id, running, desired, state })?;
            }
            Mode::Bars { all, bars } => {
                let bar = bars.entry(id.clone()).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new(*desired).with_style(style()));
                    bar.set_prefix(clean::one_line(name).into_owned());
                    bar
                });
                bar.set_length(*desired);
                bar.set_position(*running);
                bar.set_message(words);
            }
        }
        Ok(true)
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
