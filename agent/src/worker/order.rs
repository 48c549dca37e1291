//! Keeping the node in order while the worker works: what belongs to no task goes, and what a task has
//! lost it gets back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_agent_network::Lost;
use shoal_agent_planning::lower::made_for;
use shoal_agent_planning::node::holdings::{Action, Observed};
use shoal_agent_planning::task::Fact;
use shoal_types::error_chain::chain;
use shoal_types::id::TaskId;
use tokio::sync::oneshot;

use super::WorkerError;
use super::event::Event;
use super::holdings;
use super::state::State;

/// What is under way.
#[derive(Default)]
pub(super) struct Order {
    /// Tasks for which something is put in order, so that nothing else is done for them; and those of
    /// them that have waited for it.
    occupied: BTreeSet<TaskId>,
    deferred: BTreeSet<TaskId>,
    /// What failed is tried again with the next round.
    failed: BTreeSet<Action>,
    looking: bool,
    /// Whether something has ended that links may have waited for.
    ended: bool,
}

impl Order {
    /// Whether a task has to wait. It is planned for when its turn comes.
    pub(super) fn defers(&mut self, id: TaskId) -> bool {
        let occupied = self.occupied.contains(&id);
        if occupied {
            self.deferred.insert(id);
        }
        occupied
    }
}

impl State {
    /// Has everything looked at, unless that is under way, or all of it is to go.
    pub(super) fn look_around(&mut self) {
        self.order.failed.clear();
        if self.order.looking || self.is_leaving() {
            return;
        }
        self.order.looking = true;
        let context = Arc::clone(&self.context);
        let look = async move {
            if let Err(error) = context.drivers.names.look().await {
                tracing::error!(error = %chain(&error), "names are not answered");
            }
            Event::Seen(holdings::observe(&context).await.unwrap_or_else(|error| {
                tracing::warn!(error = %chain(&error), "cannot look at what the node has");
                Observed::default()
            }))
        };
        self.spawn_event(look, Event::Seen(Observed::default()));
    }

    /// What was looked at may be older than what tasks have done since: what they have now counts.
    pub(super) fn seen(&mut self, observed: &Observed) {
        self.order.looking = false;
        self.put_in_order(observed);
    }

    /// Connects again what has lost its links: when some have `changed`, when something was put in order,
    /// and when one of those tasks has something to be planned. Otherwise nothing has become possible since
    /// the last time, but for what the next round tries again.
    pub(super) fn reconnect(&mut self, changed: bool, lost: &Lost, planned: &BTreeSet<TaskId>) {
        let ended = std::mem::take(&mut self.order.ended);
        let concerned = |container: &str| container.parse().is_ok_and(|id| planned.contains(&id));
        if !lost.is_empty()
            && (changed || ended || lost.iter().any(|(container, _)| concerned(container)))
        {
            self.put_in_order(&Observed { lost: lost.clone(), ..Observed::default() });
        }
    }

    /// Says what would be put in order now, and does nothing about it.
    pub(super) fn differing(&mut self, answer: oneshot::Sender<Result<Vec<Action>, WorkerError>>) {
        let assigned = holdings::assigned(&self.entries, &self.networks, &self.lost, |_| false);
        let context = Arc::clone(&self.context);
        self.operations.spawn(async move {
            let observed = holdings::observe(&context).await;
            // Whoever has asked may have gone.
            let _ = answer.send(observed.map(|seen| holdings::planned(&assigned, &seen)));
        });
    }

    /// Connects containers to networks that their tasks have got since, and disconnects them from others: of tasks
    /// that have something to be planned, before anything else is done for these.
    pub(super) fn rejoin(&mut self, planned: &BTreeSet<TaskId>) {
        let failed = &self.order.failed;
        // What has failed waits for the next round, and all that would follow from it.
        let failed: BTreeSet<TaskId> = failed.iter().filter_map(holdings::task_of).collect();
        let leases = planned.iter().filter(|id| !failed.contains(id)).filter_map(|id| {
            let entry = self.entries.get(id)?;
            if !entry.machine.is_connected() || entry.machine.is_busy() {
                return None;
            }
            let attached = self.context.drivers.networks.attachments(&id.to_string());
            let has: BTreeSet<String> = attached.into_iter().map(|one| one.network).collect();
            let differs = !has.is_empty() && has != made_for(&entry.task, &self.networks);
            differs.then(|| (id.to_string(), has))
        });
        let leases: BTreeMap<_, _> = leases.collect();
        if !leases.is_empty() {
            self.put_in_order(&Observed { leases, ..Observed::default() });
        }
    }

    fn put_in_order(&mut self, observed: &Observed) {
        if self.is_leaving() {
            return;
        }
        let assigned = holdings::assigned(&self.entries, &self.networks, &self.lost, |_| false);
        let mut actions = holdings::planned(&assigned, observed);
        let order = &mut self.order;
        actions.retain(|action| {
            let id = holdings::task_of(action);
            !order.failed.contains(action) && id.is_none_or(|id| !order.occupied.contains(&id))
        });
        if actions.is_empty() {
            return;
        }
        order.occupied.extend(actions.iter().filter_map(holdings::task_of));
        let context = Arc::clone(&self.context);
        let joins = holdings::joins(&self.entries, &self.networks, &actions);
        let because = |action: &Action| (action.clone(), "internal error of the agent".to_owned());
        let lost = Event::InOrder(actions.clone(), actions.iter().map(because).collect());
        let work = async move {
            let failed = holdings::perform(&context, actions.clone(), joins).await;
            Event::InOrder(actions, failed)
        };
        self.spawn_event(work, lost);
    }

    pub(super) fn in_order(
        &mut self,
        actions: &[Action],
        failed: &[(Action, String)],
        dirty: &mut BTreeSet<TaskId>,
    ) {
        self.order.ended = true;
        self.connections_changed(actions, failed, dirty);
        for id in actions.iter().filter_map(holdings::task_of) {
            self.order.occupied.remove(&id);
            if self.order.deferred.remove(&id) {
                dirty.insert(id);
            }
        }
        self.order.failed.extend(failed.iter().map(|(action, _)| action.clone()));
    }

    /// Tasks whose containers were connected or disconnected are known elsewhere now, and say what could not be done.
    fn connections_changed(
        &mut self,
        actions: &[Action],
        failed: &[(Action, String)],
        dirty: &mut BTreeSet<TaskId>,
    ) {
        let now = self.now();
        let of_links =
            |action: &&Action| matches!(action, Action::Connect { .. } | Action::Disconnect { .. });
        let tasks: BTreeSet<TaskId> =
            actions.iter().filter(of_links).filter_map(holdings::task_of).collect();
        for id in tasks {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let own = failed.iter().filter(|(action, _)| holdings::task_of(action) == Some(id));
            let why: Vec<&str> = own.map(|(_, why)| why.as_str()).collect();
            let why = (!why.is_empty()).then(|| why.join("; "));
            entry.machine.learn(Fact::Unconnected(why), now);
            dirty.insert(id);
        }
    }
}
