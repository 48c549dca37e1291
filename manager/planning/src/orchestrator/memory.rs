//! What the orchestrator remembers between two looks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_manager_state::{Action, ClusterState, Event, ObjectRef};
use shoal_types::id::{NetworkId, NodeId, ServiceId, TaskId};
use shoal_types::object::Slot;
use shoal_types::spec::ServiceMode;
use shoal_types::time::Timestamp;

use super::facts::Known;
use super::room::Promised;

/// Within this time everything is looked at again, though nothing has changed.
const PROOF_PERIOD: Duration = Duration::from_secs(60);

/// Tasks that such a look is at, about. Larger clusters take several, and more time.
const PROOF_TASKS: usize = 4096;

/// Between two of them.
const PROOF_PAUSE: Duration = Duration::from_secs(1);

/// What of a service is to be looked at; its sums are in any case.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Dirty {
    /// Everything.
    pub(super) whole: bool,
    pub(super) slots: BTreeSet<Slot>,
}

/// What the orchestrator remembers from when a manager begins to lead until it ceases to: what it knows
/// of each service, what of that may have changed, and what changes by itself as time passes. All of it
/// follows from the view; nothing of it is written down.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Whether it has looked at everything.
    begun: bool,
    /// When it looked last.
    looked: Timestamp,
    /// By which setting it looked.
    history_limit: u64,
    services: BTreeMap<ServiceId, Known>,
    /// Services with a slot for each node.
    globals: BTreeSet<ServiceId>,
    dirty: BTreeMap<ServiceId, Dirty>,
    nodes: BTreeSet<NodeId>,
    /// Tasks that have ended or are gone: others may share their networks.
    ended: BTreeSet<TaskId>,
    /// Services that have changed or are gone, by name: likewise.
    named: BTreeSet<String>,
    /// What is to be looked at when, whatever happens: a slot, or the sums of a service.
    wakes: BTreeSet<(Timestamp, ServiceId, Option<Slot>)>,
    /// Where the last look ended, if it was too much for one plan.
    next: Option<ServiceId>,
    proof: Proof,
    /// What the present plan has promised.
    pub(super) promised: Promised,
    /// Who waits for an address of which network. One more than does is looked at once more.
    starving: BTreeMap<NetworkId, BTreeSet<ServiceId>>,
}

/// The look at everything that goes on all the time.
#[derive(Debug, Clone, Default)]
struct Proof {
    begun: Timestamp,
    at: Timestamp,
    /// Where it goes on.
    next: Option<(ServiceId, Slot)>,
}

impl Memory {
    /// Notes what an event has changed.
    pub fn hear(&mut self, event: &Event) {
        match &event.object {
            ObjectRef::Task(task) => {
                self.dirty.entry(task.service_id).or_default().slots.insert(task.slot);
                if !task.is_live() || event.action == Action::Remove {
                    self.ended.insert(task.id);
                }
                if !self.starving.is_empty() && (!task.is_live() || event.action == Action::Remove)
                {
                    task.networks.iter().for_each(|joined| self.feed(joined.network_id));
                }
            }
            ObjectRef::Service(service) => {
                self.whole(service.id);
                self.named.insert(service.spec.name.clone());
                // It may have left a network on which it had an address.
                let starving: Vec<NetworkId> = self.starving.keys().copied().collect();
                starving.into_iter().for_each(|network| self.feed(network));
            }
            ObjectRef::Deployment(deployment) => self.whole(deployment.service_id),
            ObjectRef::Node(node) => self.nodes.extend([node.id]),
            // The cluster's settings are looked at each time, networks and stacks when they matter.
            ObjectRef::Cluster(_)
            | ObjectRef::Network(_)
            | ObjectRef::Stack(_)
            | ObjectRef::User(_)
            | ObjectRef::Secret(_)
            | ObjectRef::Config(_) => {}
        }
    }

    /// Notes that an address of a network may be free again.
    fn feed(&mut self, network: NetworkId) {
        for service in self.starving.remove(&network).into_iter().flatten() {
            let known = self.services.get(&service).map(|known| &known.starved);
            let waits = known.into_iter().flatten().filter(|(_, of)| **of == network);
            self.dirty.entry(service).or_default().slots.extend(waits.map(|(slot, _)| *slot));
        }
    }

    /// Forgets everything: some events were missed.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    fn whole(&mut self, service: ServiceId) {
        self.dirty.entry(service).or_default().whole = true;
    }

    /// Begins a look: at everything, if it is the first one, the clock was turned back or the cluster
    /// has other settings.
    pub(super) fn begin(&mut self, view: &ClusterState, now: Timestamp) {
        let history_limit = view.spec().task_history_retention_limit;
        if !self.begun || now < self.looked || history_limit != self.history_limit {
            self.forget();
            (self.begun, self.history_limit) = (true, history_limit);
            view.services().for_each(|service| self.whole(service.id));
            for task in view.leaving().filter(|task| view.service(task.service_id).is_none()) {
                self.slot(task.service_id, task.slot);
            }
            self.proof = Proof { begun: now, at: now + PROOF_PERIOD, next: None };
        }
        self.looked = now;
        self.promised.clear();
        for node in std::mem::take(&mut self.nodes) {
            view.tasks_on_node(node).for_each(|task| self.slot(task.service_id, task.slot));
            let globals: Vec<ServiceId> = self.globals.iter().copied().collect();
            globals.into_iter().for_each(|service| self.slot(service, Slot::Node(node)));
        }
        for id in std::mem::take(&mut self.ended) {
            view.sharing(id).for_each(|task| self.slot(task.service_id, task.slot));
        }
        for name in std::mem::take(&mut self.named) {
            view.sharers(&name).for_each(|service| self.whole(service.id));
        }
        while let Some((_, service, slot)) = self.wakes.first().copied().filter(|w| w.0 <= now) {
            self.wakes.pop_first();
            let dirty = self.dirty.entry(service).or_default();
            dirty.slots.extend(slot);
        }
    }

    fn slot(&mut self, service: ServiceId, slot: Slot) {
        self.dirty.entry(service).or_default().slots.insert(slot);
    }

    /// What is to be looked at, in order of ids, from where the last look ended.
    pub(super) fn take_dirty(&mut self) -> impl Iterator<Item = (ServiceId, Dirty)> + use<> {
        let mut first = std::mem::take(&mut self.dirty);
        let from = self.next.take();
        let then = from.map_or_else(BTreeMap::new, |from| {
            let rest = first.split_off(&from);
            std::mem::replace(&mut first, rest)
        });
        first.into_iter().chain(then)
    }

    /// Notes that there is more to look at, from this service on.
    pub(super) fn leave(&mut self, service: ServiceId, dirty: Dirty) {
        self.next.get_or_insert(service);
        self.again(service, dirty);
    }

    /// Notes what is to be looked at again: the plan may come to nothing.
    pub(super) fn again(&mut self, service: ServiceId, dirty: Dirty) {
        let known = self.dirty.entry(service).or_default();
        known.whole |= dirty.whole;
        known.slots.extend(dirty.slots);
    }

    /// Takes out what is known of a service; nothing, if all of it is to be looked at.
    pub(super) fn take_known(&mut self, service: ServiceId) -> Known {
        self.services.remove(&service).unwrap_or_default()
    }

    /// Puts back what is known of a service, and when it is to be looked at.
    pub(super) fn keep_known(
        &mut self,
        id: ServiceId,
        mode: ServiceMode,
        mut known: Known,
        wake: Option<Timestamp>,
    ) {
        if known.wake != wake {
            self.sleep(id, &known);
            known.wake = wake;
        }
        self.wakes.extend(wake.map(|at| (at, id, None)));
        for network in known.starved.values() {
            self.starving.entry(*network).or_default().insert(id);
        }
        if matches!(mode, ServiceMode::Global {}) {
            self.globals.insert(id);
        }
        self.services.insert(id, known);
    }

    /// Forgets a service that is gone.
    pub(super) fn drop_known(&mut self, id: ServiceId) {
        let known = self.take_known(id);
        self.sleep(id, &known);
        self.globals.remove(&id);
    }

    fn sleep(&mut self, id: ServiceId, known: &Known) {
        if let Some(at) = known.wake {
            self.wakes.remove(&(at, id, None));
        }
    }

    /// Notes when a slot is to be looked at though nothing has changed.
    pub(super) fn wake(&mut self, at: Timestamp, service: ServiceId, slot: Slot) {
        self.wakes.insert((at, service, Some(slot)));
    }

    /// When to look again though nothing has changed.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        let first = self.wakes.first().map(|(at, ..)| *at);
        // A proof that is due and was put off follows a look in which there was something to do: who
        // does it looks again in any case.
        let proof = (self.proof.at > self.looked).then_some(self.proof.at);
        first.into_iter().chain(proof).min()
    }

    /// What is looked at now as a proof that nothing was missed, if it is time for that.
    pub(super) fn proof(&mut self, view: &ClusterState) -> BTreeMap<ServiceId, Dirty> {
        let mut part: BTreeMap<ServiceId, Dirty> = BTreeMap::new();
        if self.looked < self.proof.at {
            return part;
        }
        let from = self.proof.next.unwrap_or((0.into(), Slot::Replica(0)));
        let mut last = from;
        let mut slots = view.slots_from(from.0, from.1);
        for (service, slot) in slots.by_ref().take(PROOF_TASKS) {
            part.entry(service).or_default().slots.insert(slot);
            last = (service, slot);
        }
        self.proof.next = slots.find(|next| *next != last);
        self.proof.at = self.looked + PROOF_PAUSE;
        if self.proof.next.is_none() {
            // The sums of all services, those without tasks among them.
            for id in self.services.keys().chain(view.services().map(|service| &service.id)) {
                part.entry(*id).or_default();
            }
            self.proof.at = self.proof.at.max(self.proof.begun + PROOF_PERIOD);
            self.proof.begun = self.proof.at;
        }
        for (id, dirty) in &mut part {
            let bounds = dirty.slots.first().copied().zip(dirty.slots.last().copied());
            if let (Some(known), Some((low, high))) = (self.services.get(id), bounds) {
                dirty.slots.extend(known.between(low, high));
            }
        }
        part
    }

    /// What is known of a service.
    pub(super) fn known(&self, id: ServiceId) -> Option<&Known> {
        self.services.get(&id)
    }

    /// Whether both know the same, if neither has anything to look at.
    #[cfg(test)]
    pub(crate) fn knows_the_same(&self, other: &Self) -> bool {
        self.services == other.services && self.globals == other.globals
    }
}
