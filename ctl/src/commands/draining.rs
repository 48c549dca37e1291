//! Waiting until a node that is drained is empty, and others run what it ran.

use std::time::Duration;

use tokio::time::Instant;

use super::{Result, Shell};
use crate::error::{CommandError, Kind};
use crate::interrupt::asked_to_stop;
use crate::progress::Away;
use crate::render::line;
use crate::render::record::{self, Record};

/// How often the tasks of the node are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Tasks that are named, where they are.
const NAMED_MAX: usize = 5;
/// After this long without a change it is told what is waited for.
const SILENCE: Duration = Duration::from_secs(3);

/// What is still to come.
#[derive(Debug, Default)]
pub(super) struct Remaining {
    /// Tasks of the node that have not ended.
    pub(super) left: usize,
    /// Tasks that are to run elsewhere instead, and do not yet.
    pub(super) awaited: usize,
    /// Some of both, with their states.
    pub(super) names: Vec<String>,
}

impl Remaining {
    /// Some of them by name, and how many more there are.
    pub(super) fn named(&self) -> String {
        let mut names: Vec<String> = self.names.iter().take(NAMED_MAX).cloned().collect();
        let more = (self.left + self.awaited).saturating_sub(names.len());
        if more > 0 {
            names.push(format!("{more} more"));
        }
        names.join(", ")
    }
}

/// Who is waited for, and how long.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    pub(super) shell: &'a Shell,
    /// The node's name.
    pub(super) node: &'a str,
    pub(super) node_id: &'a str,
    /// Zero: for ever.
    pub(super) timeout: Duration,
    /// What it means to give up here, and what can be done.
    pub(super) hint: String,
}

impl Wait<'_> {
    /// Waits until nothing is left and nothing awaited. A manager may be away for a while.
    ///
    /// # Errors
    /// [`Kind::TimedOut`], [`Kind::Interrupted`], or that of `look`.
    pub(super) async fn until_empty(&self, look: impl AsyncFnMut() -> Result<Remaining>) -> Result {
        tokio::select! {
            biased;
            empty = self.empty(look) => empty,
            kind = asked_to_stop() => {
                Err(CommandError::new(kind, kind.outcome()).hint(self.hint.clone()))
            }
        }
    }

    async fn empty(&self, mut look: impl AsyncFnMut() -> Result<Remaining>) -> Result {
        let mut away = Away::default();
        let mut seen = None;
        let mut told = String::new();
        let mut since = Instant::now();
        let deadline = (!self.timeout.is_zero()).then(|| since + self.timeout);
        loop {
            let remaining = match look().await {
                Ok(remaining) => remaining,
                Err(error) => {
                    let text = format!("the manager is away, trying again: {}", error.reason());
                    if away.bear(error, Instant::now())? {
                        self.notice("manager-away", &text)?;
                    }
                    tokio::time::sleep(TICK).await;
                    continue;
                }
            };
            away.is_back();
            let now = (remaining.left, remaining.awaited);
            if seen != Some(now) {
                (seen, since) = (Some(now), Instant::now());
                self.progress(now)?;
            }
            if now == (0, 0) {
                return Ok(());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let time = self.timeout.as_secs();
                let what = if remaining.left > 0 { "not empty" } else { "not replaced" };
                let text = format!("{what} after {time} s: {}", remaining.named());
                return Err(CommandError::new(Kind::TimedOut, text).hint(self.hint.clone()));
            }
            if since.elapsed() >= SILENCE && told != remaining.named() {
                told = remaining.named();
                self.news(&format!("waiting for {told}"))?;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Tells something about the waiting.
    pub(super) fn news(&self, text: &str) -> Result {
        self.notice("waiting", text)
    }

    fn notice(&self, kind: &'static str, text: &str) -> Result {
        if self.shell.is_json() {
            return record::write(&Record::notice(kind, text));
        }
        line(&format!("  {text}"))
    }

    fn progress(&self, (left, awaited): (usize, usize)) -> Result {
        let node = self.node;
        if self.shell.is_json() {
            let node_id = self.node_id.to_owned();
            return record::write(&Record::Draining { node, node_id, tasks: left, awaited });
        }
        let left = match left {
            0 => "empty".to_owned(),
            1 => "1 task left".to_owned(),
            left => format!("{left} tasks left"),
        };
        match awaited {
            0 => line(&format!("{node}: {left}")),
            1 => line(&format!("{node}: {left}, 1 task does not run elsewhere yet")),
            n => line(&format!("{node}: {left}, {n} tasks do not run elsewhere yet")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tonic::Status;

    use super::super::Ended;
    use super::*;

    #[tokio::test]
    async fn a_manager_that_is_away_for_a_while_is_waited_for_and_a_refusal_is_not() {
        let cli = crate::cli::Cli::try_parse_from(["shoalctl", "info"]).unwrap();
        let ended = Ended { outcome: "done", services: Vec::new() }.into();
        let shell = Shell { global: cli.global, ended };
        let (timeout, hint) = (Duration::from_secs(60), String::new());
        let wait = Wait { shell: &shell, node: "h1", node_id: "1", timeout, hint };
        let away = || Err(Status::unavailable("no route").into());
        let left = |left| Ok(Remaining { left, ..Remaining::default() });

        let mut answers = vec![left(1), away(), away(), left(0)].into_iter();
        wait.until_empty(async || answers.next().unwrap()).await.unwrap();
        assert!(answers.next().is_none());

        let refused = Err(Status::permission_denied("not for you").into());
        let mut answers = vec![left(1), away(), refused, left(0)].into_iter();
        let ended = wait.until_empty(async || answers.next().unwrap()).await;
        assert_eq!(ended.unwrap_err().reason(), "not for you");
    }

    #[test]
    fn some_are_named_and_the_rest_is_counted() {
        let names: Vec<String> = (1..=7).map(|n| format!("web.{n} (running)")).collect();
        let few = Remaining { left: 1, awaited: 1, names: names[..2].to_vec() };
        assert_eq!(few.named(), "web.1 (running), web.2 (running)");
        let many = Remaining { left: 300, awaited: 7, names };
        assert!(many.named().ends_with("web.5 (running), 302 more"), "{}", many.named());
    }
}
