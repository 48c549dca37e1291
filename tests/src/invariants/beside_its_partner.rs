//! A task that shares the network of another one, its partner, runs on the same node, not before that one, and not for
//! long after its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_types::id::TaskId;
use shoal_types::time::Timestamp;

use super::Moment;

/// Within this time who is left alone is stopped where its node can be reached: with its agent away for as long as
/// nobody takes it for lost, its partner's stop and its own.
const PATIENCE: Duration = Duration::from_secs(90);

/// Remembers who has run, and who is left alone.
#[derive(Debug, Default)]
pub struct Judge {
    seen: BTreeSet<TaskId>,
    alone: BTreeMap<TaskId, Timestamp>,
}

impl Judge {
    /// Looks at one moment; says what is wrong with it.
    pub fn look(&mut self, moment: &Moment<'_>) -> Vec<String> {
        let places: BTreeMap<TaskId, _> = moment.running.iter().map(|r| (r.task, r.node)).collect();
        self.seen.extend(places.keys());
        self.alone.retain(|task, _| places.contains_key(task));
        let mut wrong = Vec::new();
        for running in moment.running {
            let task = moment.state.task(running.task);
            let Some(partner) = task.and_then(|task| task.partner) else { continue };
            match places.get(&partner) {
                Some(node) if *node == running.node => {
                    self.alone.remove(&running.task);
                    continue;
                }
                Some(node) => {
                    let text = format!("task {} runs on node {}", running.task, running.node);
                    wrong.push(format!("{text}, and its partner {partner} on {node}"));
                }
                None if !self.seen.contains(&partner) => {
                    let task = running.task;
                    wrong.push(format!("task {task} runs before its partner {partner}"));
                }
                None => {}
            }
            // Nobody can stop what a node does that cannot be reached.
            let since = self.alone.entry(running.task).or_insert(moment.now);
            if moment.state.is_lost(running.node) {
                *since = moment.now;
            }
            let alone = moment.now.since(*since);
            if alone > PATIENCE {
                let task = running.task;
                wrong.push(format!("task {task} runs {alone:?} after its partner {partner}"));
            }
        }
        wrong
    }
}
