//! Tasks that share the network of others: who has to hear of whom.

use std::collections::{BTreeMap, BTreeSet};

use shoal_agent_planning::lower::is_partner;
use shoal_agent_planning::task::{Partner, is_still_shared};
use shoal_types::assignment::AssignedTask;
use shoal_types::id::TaskId;

use super::state::{Entry, State};

/// Which tasks share the network of a task.
#[derive(Debug, Default)]
pub(super) struct Sharers(BTreeMap<TaskId, BTreeSet<TaskId>>);

impl Sharers {
    pub(super) fn of(entries: &BTreeMap<TaskId, Entry>) -> Self {
        let mut all = Self::default();
        entries.values().for_each(|entry| all.add(&entry.task));
        all
    }

    /// Notes a task that is known now.
    pub(super) fn add(&mut self, task: &AssignedTask) {
        if let Some(partner) = task.partner {
            self.0.entry(partner).or_default().insert(task.id);
        }
    }

    /// Notes that a task is not known any more.
    pub(super) fn remove(&mut self, task: &AssignedTask) {
        let Some(partner) = task.partner else { return };
        if let Some(sharers) = self.0.get_mut(&partner) {
            sharers.remove(&task.id);
            if sharers.is_empty() {
                self.0.remove(&partner);
            }
        }
    }

    fn get(&self, partner: TaskId) -> impl Iterator<Item = TaskId> {
        self.0.get(&partner).into_iter().flatten().copied()
    }
}

impl State {
    /// Tasks that have something to be planned, with their partners and those that share their networks; what those
    /// do is told to these.
    pub(super) fn with_partners(&mut self, dirty: &BTreeSet<TaskId>) -> BTreeSet<TaskId> {
        let mut all = dirty.clone();
        for id in dirty {
            all.extend(self.sharers.get(*id));
            all.extend(self.entries.get(id).and_then(|entry| entry.task.partner));
        }
        let now = self.now();
        for id in &all {
            let Some(task) = self.entries.get(id).map(|entry| &entry.task) else { continue };
            let Some(partner) = task.partner else { continue };
            let found = self.entries.get(&partner).filter(|one| is_partner(task, &one.task));
            let does = match found {
                Some(found) => found.machine.as_partner(&found.task.name()),
                None => {
                    let why = "the task whose network it shares, which this node does not have";
                    Partner::Absent(format!("waits for {why}: {partner}"))
                }
            };
            if let Some(entry) = self.entries.get_mut(id) {
                entry.machine.set_partner(does, now);
            }
        }
        all
    }

    /// Whether others are still in the network of a task.
    pub(super) fn is_shared(&self, id: TaskId) -> bool {
        let sharers = self.sharers.get(id).filter_map(|id| self.entries.get(&id));
        is_still_shared(sharers.map(|entry| &entry.machine))
    }
}
