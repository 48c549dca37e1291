//! What the orchestrator knows of a service: one line for each slot, and their sums.

use std::collections::{BTreeMap, BTreeSet};

use shoal_types::id::NetworkId;
use shoal_types::object::Slot;
use shoal_types::time::Timestamp;

/// How far one slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Its task is of an older spec.
    Outdated,
    /// No new task of it runs, and none can for as long as its node is paused or down. Nothing
    /// waits for it: it is replaced when the node is back.
    Held,
    /// Its new task is on its way.
    InFlight,
    /// Its new task has failed and is tried again, or finds no place, and the others are not to wait
    /// for it.
    Failing,
    /// Its new task runs since [`Facts::started`], and its predecessor is gone.
    Running,
    /// The same, and the pause before the next slot is not over yet.
    Settling,
    /// Its new task has ended, and the policy leaves it at that.
    Finished,
}

/// What follows from the tasks of one slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whether it has a task that is not on its way out for good.
    pub(super) used: bool,
    /// Whether it is to have its first task.
    pub(super) missing: bool,
    /// Whether a task of the present deployment has failed by itself.
    pub(super) failed: bool,
    /// Whether its task is wanted, does not run, and could.
    pub(super) waiting: bool,
    /// Since when its wanted task runs.
    pub(super) started: Option<Timestamp>,
    /// How far it is, if it is used.
    pub(super) progress: Option<Progress>,
}

/// The latest of some times, of which some are taken away again.
#[derive(Debug, Clone, Copy, Default)]
struct Latest {
    at: Option<Timestamp>,
    /// Whether the one that was taken away last may have been the latest.
    unsure: bool,
}

impl Latest {
    fn add(&mut self, at: Option<Timestamp>) {
        self.at = self.at.max(at);
    }

    fn take(&mut self, at: Option<Timestamp>) {
        self.unsure |= at.is_some() && at == self.at;
    }
}

/// What is known of a service. The sums are those of the slots at any time.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    slots: BTreeMap<Slot, Facts>,
    used: usize,
    failed: usize,
    waiting: usize,
    in_flight: usize,
    settling: usize,
    failing: usize,
    outdated: BTreeSet<Slot>,
    missing: BTreeSet<Slot>,
    /// Of all that run, whatever their spec.
    started: Latest,
    /// Of those that run as they should.
    running: Latest,
    /// All replicas up to this number are used.
    full: u64,
    /// When the service is to be looked at though nothing has changed.
    pub(super) wake: Option<Timestamp>,
    /// Slots that get no task because a network has no free address for it, with the network. Of slots
    /// without any task only the first one that is missing.
    pub(super) starved: BTreeMap<Slot, NetworkId>,
}

/// Two that know the same are equal, however they came to it.
impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        let counts = |k: &Self| (k.used, k.failed, k.waiting, k.in_flight, k.settling, k.failing);
        self.slots == other.slots
            && self.starved == other.starved
            && counts(self) == counts(other)
            && (&self.outdated, &self.missing) == (&other.outdated, &other.missing)
    }
}

impl Known {
    /// Forgets all slots.
    pub(super) fn clear(&mut self) {
        *self = Self { wake: self.wake, ..Self::default() };
    }

    /// Replaces what is known of a slot.
    pub(super) fn set(&mut self, slot: Slot, facts: Facts) {
        let old = if facts == Facts::default() {
            self.slots.remove(&slot)
        } else {
            self.slots.insert(slot, facts)
        };
        let old = old.unwrap_or_default();
        if old == facts {
            return;
        }
        for (count, was, is) in [
            (&mut self.used, old.used, facts.used),
            (&mut self.failed, old.failed, facts.failed),
            (&mut self.waiting, old.waiting, facts.waiting),
            (&mut self.in_flight, old.is(Progress::InFlight), facts.is(Progress::InFlight)),
            (&mut self.settling, old.is(Progress::Settling), facts.is(Progress::Settling)),
            (&mut self.failing, old.is(Progress::Failing), facts.is(Progress::Failing)),
        ] {
            *count = *count + usize::from(is) - usize::from(was);
        }
        for (set, was, is) in [
            (&mut self.outdated, old.is(Progress::Outdated), facts.is(Progress::Outdated)),
            (&mut self.missing, old.missing, facts.missing),
        ] {
            if was && !is {
                set.remove(&slot);
            } else if is && !was {
                set.insert(slot);
            }
        }
        self.started.take(old.started);
        self.started.add(facts.started);
        self.running.take(old.runs_since());
        self.running.add(facts.runs_since());
        if let (Slot::Replica(number), false) = (slot, facts.used) {
            self.full = self.full.min(number.saturating_sub(1));
        }
    }

    /// Forgets what was noted of slots that have no tasks: it is looked at each time which of them are
    /// missing.
    pub(super) fn forget_unused(&mut self) {
        let slots = &self.slots;
        self.starved.retain(|slot, _| slots.get(slot).is_some_and(|facts| facts.used));
    }

    pub(super) fn get(&self, slot: Slot) -> Facts {
        self.slots.get(&slot).copied().unwrap_or_default()
    }

    /// All slots of which anything is known.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.slots.keys().copied()
    }

    /// The same, from one to another.
    pub(super) fn between(&self, from: Slot, to: Slot) -> impl Iterator<Item = Slot> {
        self.slots.range(from..=to).map(|(slot, _)| *slot)
    }

    pub(super) const fn used(&self) -> usize {
        self.used
    }

    pub(super) const fn failed(&self) -> usize {
        self.failed
    }

    pub(super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Slots that a rollout waits for.
    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight + self.settling
    }

    /// Whether every slot is as far as it will come.
    pub(super) fn has_arrived(&self) -> bool {
        self.outdated.is_empty() && self.in_flight == 0 && self.failing == 0
    }

    pub(super) const fn outdated(&self) -> &BTreeSet<Slot> {
        &self.outdated
    }

    pub(super) const fn missing(&self) -> &BTreeSet<Slot> {
        &self.missing
    }

    pub(super) fn last_failed(&self) -> Option<Slot> {
        self.slots.iter().rev().find(|(_, facts)| facts.failed).map(|(slot, _)| *slot)
    }

    pub(super) fn first_waiting(&self) -> Option<Slot> {
        self.slots.iter().find(|(_, facts)| facts.waiting).map(|(slot, _)| *slot)
    }

    /// When the last of all that run has started.
    pub(super) fn last_started(&mut self) -> Option<Timestamp> {
        if self.started.unsure {
            let at = self.slots.values().filter_map(|facts| facts.started).max();
            self.started = Latest { at, unsure: false };
        }
        self.started.at
    }

    /// When the last of those has started that run as they should.
    pub(super) fn last_running(&mut self) -> Option<Timestamp> {
        if self.running.unsure {
            let at = self.slots.values().filter_map(Facts::runs_since).max();
            self.running = Latest { at, unsure: false };
        }
        self.running.at
    }

    /// The lowest numbers of replicas that are free.
    pub(super) fn free(&mut self, count: usize) -> Vec<Slot> {
        let mut free = Vec::new();
        let mut next = self.full + 1;
        let used = self.slots.range(Slot::Replica(next)..).filter(|(_, facts)| facts.used);
        let mut used = used.map(|(slot, _)| *slot).peekable();
        while free.len() < count {
            if used.next_if_eq(&Slot::Replica(next)).is_none() {
                free.push(Slot::Replica(next));
            } else if free.is_empty() {
                self.full = next;
            }
            next += 1;
        }
        free
    }
}

impl Facts {
    fn is(&self, progress: Progress) -> bool {
        self.progress == Some(progress)
    }

    fn runs_since(&self) -> Option<Timestamp> {
        let runs = self.is(Progress::Running) || self.is(Progress::Settling);
        self.started.filter(|_| runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_numbers_are_found_however_slots_come_and_go() {
        let mut known = Known::default();
        let used = Facts { used: true, ..Facts::default() };
        let numbers = |known: &mut Known, count| -> Vec<u64> {
            let number = |slot| if let Slot::Replica(n) = slot { n } else { 0 };
            known.free(count).into_iter().map(number).collect()
        };
        assert_eq!(numbers(&mut known, 3), [1, 2, 3]);
        for n in [1, 2, 3, 5, 8] {
            known.set(Slot::Replica(n), used);
        }
        assert_eq!(numbers(&mut known, 4), [4, 6, 7, 9]);
        assert_eq!(numbers(&mut known, 0), [] as [u64; 0]);
        known.set(Slot::Replica(2), Facts::default());
        assert_eq!(numbers(&mut known, 2), [2, 4]);
        known.set(Slot::Replica(2), used);
        known.set(Slot::Replica(4), used);
        assert_eq!(numbers(&mut known, 1), [6]);
        assert_eq!(known.used(), 6);
    }

    #[test]
    fn the_latest_start_is_known_when_it_is_taken_away() {
        let mut known = Known::default();
        let started = |secs| Facts {
            started: Some(Timestamp::from_secs(secs)),
            progress: Some(Progress::Running),
            ..Facts::default()
        };
        for n in [3, 9, 5] {
            known.set(Slot::Replica(n), started(n));
        }
        assert_eq!(known.last_started(), Some(Timestamp::from_secs(9)));
        known.set(Slot::Replica(9), Facts::default());
        assert_eq!(known.last_started(), Some(Timestamp::from_secs(5)));
        assert_eq!(known.last_running(), Some(Timestamp::from_secs(5)));
        known.set(Slot::Replica(5), started(7));
        assert_eq!(known.last_running(), Some(Timestamp::from_secs(7)));
    }
}
