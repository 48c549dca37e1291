//! Where a packet goes, and where it would stop.

use clap::Args;
use shoal_types::question::{TraceStep, Verdict};

use super::verify::patiently;
use crate::commands::{Result, Shell};
use crate::error::{CommandError, Kind};
use crate::render::table::{Column, bends, draw, whole};
use crate::render::{block, json, line, terminal_width};

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// Who sends: a task by its id or name (web.1), or a node
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where to: a task, a service, an alias, an address, or NODE:PORT for a published port. With :PORT and /tcp,
    /// /udp or /sctp behind it
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// The columns of a way.
pub(crate) const STEPS: [Column; 5] =
    [whole("STEP"), whole("NODE"), bends("WHAT").rank(0), whole("VERDICT"), bends("WHY").rank(0)];

pub(super) async fn run(shell: &Shell, args: Trace) -> Result {
    let client = shell.manager().await?;
    let steps = patiently(client.trace_network(&args.source, &args.destination)).await?;
    if shell.is_json() {
        json::document(&steps)?;
    } else {
        let row = |(number, step): (usize, &TraceStep)| {
            vec![
                number.to_string(),
                step.node.clone().unwrap_or_default(),
                step.what.clone(),
                step.verdict.as_str().to_owned(),
                step.why.clone().unwrap_or_default(),
            ]
        };
        let rows: Vec<Vec<String>> = (1..).zip(&steps).map(row).collect();
        block(&draw(&STEPS, rows, terminal_width()))?;
        line("")?;
        line(&summary(&steps))?;
    }
    if steps.iter().all(|step| step.verdict == Verdict::Passes) {
        return Ok(());
    }
    Err(CommandError::new(Kind::Found, "a packet may not arrive"))
}

fn summary(steps: &[TraceStep]) -> String {
    let first = |verdict: Verdict| steps.iter().position(|step| step.verdict == verdict);
    match (first(Verdict::Stops), first(Verdict::Doubtful)) {
        (Some(at), _) => {
            let step = &steps[at];
            let on = step.node.as_ref().map_or_else(String::new, |node| format!(" on {node}"));
            format!("a packet stops at step {}{on}", at + 1)
        }
        (None, Some(at)) => format!("a packet may stop at step {}", at + 1),
        (None, None) => "a packet arrives, as far as the nodes can see".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_that_stops_it_counts() {
        let step = |verdict| TraceStep {
            node: Some("h1".to_owned()),
            what: "x".to_owned(),
            verdict,
            why: None,
        };
        let of = |verdicts: &[Verdict]| {
            summary(&verdicts.iter().map(|verdict| step(*verdict)).collect::<Vec<_>>())
        };
        use Verdict::{Doubtful, Passes, Stops};
        assert_eq!(of(&[Passes, Doubtful, Stops, Stops]), "a packet stops at step 3 on h1");
        assert_eq!(of(&[Passes, Doubtful]), "a packet may stop at step 2");
        assert!(of(&[Passes]).starts_with("a packet arrives"));
    }
}
