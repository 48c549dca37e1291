//! The agent keeps its node in order, with the real planner of that: what belongs to no task goes, and
//! what a task has lost it gets back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use shoal_agent_planning::lower::{asker, made_for};
use shoal_agent_planning::node::holdings::{Action, Assigned, Held as Holds, Observed};
use shoal_agent_planning::node::look::Look;
use shoal_agent_planning::task::Step;
use shoal_types::id::TaskId;
use shoal_types::time::Timestamp;

use super::agent::Agent;
use super::context::Context;
use super::mind::Mind;
use super::queue::Event;

/// How often is looked at everything.
const ROUND: Duration = Duration::from_secs(30);

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Tasks for which nothing else is done meanwhile, and those of them that have waited for that.
    occupied: BTreeSet<TaskId>,
    deferred: BTreeSet<TaskId>,
}

impl Order {
    /// Whether a task has to wait.
    pub(crate) fn defers(&mut self, id: TaskId) -> bool {
        let occupied = self.occupied.contains(&id);
        if occupied {
            self.deferred.insert(id);
        }
        occupied
    }
}

impl Agent {
    /// The tasks of the node as the planner knows them. What is to be cleaned up first holds nothing, to
    /// an agent that begins.
    pub(crate) fn holdings(&self, begins: Option<Timestamp>) -> Assigned {
        let mut holders = BTreeMap::new();
        for (id, held) in &self.held {
            let machine = &held.machine;
            let doomed =
                begins.is_some_and(|now| matches!(machine.next(now), Step::Cleanup { .. }));
            if !machine.holds_resources() || doomed {
                continue;
            }
            let holds = Holds {
                networks: made_for(&held.task, &self.assigned.networks),
                connected: machine.is_connected(),
                asks: asker(&held.task, &self.assigned.networks),
                busy: machine.is_busy(),
            };
            holders.insert(id.to_string(), holds);
        }
        let known = self.held.keys().map(ToString::to_string).collect();
        Assigned { holders, known, lost: BTreeSet::new() }
    }

    /// An agent that begins puts everything in order before anything else.
    pub(crate) fn begin_in_order<M: Mind>(&mut self, ctx: &mut Context, mind: &mut M) {
        self.order = Order::default();
        let assigned = self.holdings(Some(ctx.queue.now));
        let holders = assigned.holders.iter();
        let holders = holders.filter_map(|(id, holds)| Some((id.parse().ok()?, &holds.networks)));
        self.host.things.adopt(holders);
        let observed =
            Observed { containers: self.host.containers(), ..self.host.things.observe() };
        for action in mind.order(&assigned, &observed) {
            self.host.perform(&action);
        }
        let delay = ctx.random.millis(1, 100);
        ctx.queue.after(delay, Event::Round(self.node, self.life));
    }

    /// Looks at everything. What it sees is old by the time it is thought about.
    pub(crate) fn look_around(&mut self, ctx: &mut Context) {
        ctx.queue.after(ROUND, Event::Round(self.node, self.life));
        self.hears_of_host(Look::everything(), ctx);
        let containers = self.host.containers();
        self.sees(Observed { containers, ..self.host.things.observe() }, ctx);
    }

    /// Somebody deletes links of containers: the agent hears of it, if it lives.
    pub(crate) fn lose_links(&mut self, ctx: &mut Context) {
        let mut lost = BTreeSet::new();
        for lease in self.host.things.leases() {
            if ctx.random.chance(70) {
                self.host.things.lose(&lease.0, &lease.1);
                lost.insert(lease);
            }
        }
        self.host.follow();
        if self.power && self.process {
            self.sees(Observed { lost, ..Observed::default() }, ctx);
        }
    }

    fn sees(&self, observed: Observed, ctx: &mut Context) {
        let delay = ctx.random.millis(1, 200) * u32::try_from(self.slowness).unwrap_or(1);
        ctx.queue.after(delay, Event::Seen(self.node, self.life, Box::new(observed)));
    }

    /// Decides what to do about it, by what is assigned now.
    pub(crate) fn put_in_order<M: Mind>(
        &mut self,
        observed: &Observed,
        ctx: &mut Context,
        mind: &mut M,
    ) {
        // All of it is to go.
        if self.removed && !self.held.is_empty() {
            return;
        }
        let mut actions = mind.order(&self.holdings(None), observed);
        let order = &mut self.order;
        actions.retain(|action| task_of(action).is_none_or(|id| !order.occupied.contains(&id)));
        if actions.is_empty() {
            return;
        }
        order.occupied.extend(actions.iter().filter_map(task_of));
        self.go_on_in_order(actions.into(), Vec::new(), ctx);
    }

    fn go_on_in_order(&self, rest: VecDeque<Action>, done: Vec<Action>, ctx: &mut Context) {
        let delay = ctx.random.millis(1, 50) * u32::try_from(self.slowness).unwrap_or(1);
        ctx.queue.after(delay, Event::Order(self.node, self.life, rest, done));
    }

    /// Does the next of what was decided. What fails is tried again with the next round.
    pub(crate) fn do_in_order(
        &mut self,
        mut rest: VecDeque<Action>,
        mut done: Vec<Action>,
        ctx: &mut Context,
    ) {
        if self.host.net.is_busy() && !rest.is_empty() {
            return self.go_on_in_order(rest, done, ctx);
        }
        if let Some(action) = rest.pop_front() {
            let (node, fails) = (self.node, !ctx.calm && ctx.random.chance(5));
            ctx.note(|| format!("node {node}: {action:?}, fails: {fails}"));
            if !fails {
                self.host.perform(&action);
                self.follow(ctx);
            }
            done.push(action);
            return self.go_on_in_order(rest, done, ctx);
        }
        for id in done.iter().filter_map(task_of) {
            self.order.occupied.remove(&id);
            if self.order.deferred.remove(&id) {
                self.plan_soon(id, ctx);
            }
        }
    }
}

/// The task that an action is about.
fn task_of(action: &Action) -> Option<TaskId> {
    match action {
        Action::RemoveContainer { container, .. }
        | Action::Release { container }
        | Action::RemoveFiles { container }
        | Action::Connect { container, .. }
        | Action::Disconnect { container, .. }
        | Action::LetGo { container }
        | Action::Answer { container, .. } => container.parse().ok(),
        Action::EndUse { user, .. } => user.parse().ok(),
        Action::RemoveNetwork { .. } | Action::Unmount { .. } | Action::RemoveVolume { .. } => None,
    }
}
