//! Keeping the node in order while the worker works: what belongs to no task goes, and what a task has
//! lost it gets back.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_agent_network::Lost;
use shoal_agent_planning::node::holdings::{Action, Observed};
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
        let lost = Event::InOrder(actions.clone(), actions.clone());
        let work = async move {
            let failed = holdings::perform(&context, actions.clone()).await;
            Event::InOrder(actions, failed)
        };
        self.spawn_event(work, lost);
    }

    pub(super) fn in_order(
        &mut self,
        actions: &[Action],
        failed: Vec<Action>,
        dirty: &mut BTreeSet<TaskId>,
    ) {
        self.order.ended = true;
        for id in actions.iter().filter_map(holdings::task_of) {
            self.order.occupied.remove(&id);
            if self.order.deferred.remove(&id) {
                dirty.insert(id);
            }
        }
        self.order.failed.extend(failed);
    }
}
