//! A node: an agent process, which works as the real one does, with the real machine for each of its
//! tasks, on a host of fakes ([`super::host`]).

use std::collections::{BTreeMap, BTreeSet};

use shoal_agent_planning::lower::{asker, is_partner, made_for};
use shoal_agent_planning::task::{
    ExitStatus, Fact, Machine, Moment, Partner, Step, is_still_shared, refusal,
};
use shoal_types::assignment::{AssignedTask, AssignmentChange, NodeAssignment};
use shoal_types::id::{NodeId, TaskId};
use shoal_types::level::Level;
use shoal_types::object::{NodeDescription, TaskStatus, TunnelEnd};
use shoal_types::time::Timestamp;

use super::context::Context;
use super::host::{Done, Host, Operation};
use super::mind::Mind;
use super::order::Order;
use super::queue::Event;
use super::wire::Up;

/// A task in the memory of the agent process.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) task: AssignedTask,
    pub(crate) machine: Machine,
    operation: Option<Operation>,
    /// When it is looked at again by itself.
    wake: Option<Timestamp>,
    /// What the leader has confirmed to know.
    acknowledged: Option<TaskStatus>,
}

impl Held {
    fn new(task: AssignedTask, machine: Machine) -> Self {
        Self { task, machine, operation: None, wake: None, acknowledged: None }
    }

    fn news(&self) -> Option<&TaskStatus> {
        self.machine.status().filter(|status| self.acknowledged.as_ref() != Some(status))
    }
}

/// One node.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) node: NodeId,
    pub(crate) description: NodeDescription,
    pub(crate) host: Host,
    /// Whether the host runs, its network works, the agent process runs.
    pub(crate) power: bool,
    pub(crate) link: bool,
    pub(crate) process: bool,
    /// Whether the host is being shut down in good order.
    pub(crate) halted: bool,
    /// Counts agent processes: events of an earlier one are void.
    pub(crate) life: u64,
    pub(crate) session: Option<u64>,
    pub(crate) sequence: Option<u64>,
    pub(crate) assigned: NodeAssignment,
    pub(crate) held: BTreeMap<TaskId, Held>,
    pub(crate) order: Order,
    /// Told that it does not belong to the cluster any more.
    pub(crate) removed: bool,
    /// How many times slower than others it is.
    pub(crate) slowness: u64,
    flushing: bool,
    /// Whether what a task does is told to those that share its network.
    tells: bool,
}

impl Agent {
    pub(crate) fn new(node: NodeId, description: NodeDescription) -> Self {
        Self {
            node,
            description,
            host: Host::new(node),
            power: true,
            link: true,
            process: true,
            halted: false,
            life: 0,
            session: None,
            sequence: None,
            assigned: NodeAssignment::default(),
            held: BTreeMap::new(),
            order: Order::default(),
            removed: false,
            slowness: 1,
            flushing: false,
            tells: true,
        }
    }

    /// Gets to the present epoch of keys, as far as it knows of it: at once a key, and sooner or later all links.
    pub(crate) fn change_keys(&mut self, ctx: &mut Context) {
        let told = self.assigned.peers.get(&self.node).and_then(|own| own.keys.cluster);
        let Some(tunnel) = &mut self.description.tunnel else { return };
        if self.description.level < Level::KEYS {
            return;
        }
        let keys = tunnel.keys.get_or_insert_default();
        let Some(epochs) = told else { return };
        let of = |epoch: u64| {
            let mut key = tunnel.public_key;
            key.0[..8].copy_from_slice(&epoch.to_le_bytes());
            key
        };
        if keys.epoch != epochs.present {
            let former =
                TunnelEnd { epoch: keys.epoch, public_key: tunnel.public_key, port: tunnel.port };
            keys.other = epochs.former.filter(|epoch| *epoch == keys.epoch).map(|_| former);
            (keys.epoch, keys.lagging) = (epochs.present, u32::from(keys.other.is_some()));
            tunnel.public_key = of(epochs.present);
        } else if epochs.former.is_none() {
            (keys.other, keys.lagging, keys.lacking) = (None, 0, 0);
        } else if ctx.random.chance(30) {
            // It hears of the keys of others, and later agrees on some with them.
            keys.lagging = 0;
        }
    }

    /// Whether a message can come in or go out.
    pub(crate) fn is_connected(&self) -> bool {
        self.power && self.link && self.process && !self.halted
    }

    /// Whether it works.
    pub(crate) const fn is_up(&self) -> bool {
        self.power && self.process && !self.halted
    }

    pub(crate) fn is_alive(&self, life: u64) -> bool {
        self.power && self.process && self.life == life
    }

    /// Every task of which anything is left here.
    pub(crate) fn tasks(&self) -> BTreeSet<TaskId> {
        let mut all = self.host.tasks();
        all.extend(self.held.keys());
        all
    }

    /// Starts the agent process: it reads its ledger and looks at its containers.
    pub(crate) fn start<M: Mind>(&mut self, ctx: &mut Context, mind: &mut M) {
        self.process = true;
        self.halted = false;
        self.tells = mind.tells_sharers();
        self.life += 1;
        self.session = None;
        self.sequence = None;
        self.flushing = false;
        // Nothing of that is written down: who was removed is told again when it asks again.
        self.removed = false;
        self.held.clear();
        self.assigned =
            NodeAssignment { networks: self.host.networks.clone(), ..NodeAssignment::default() };
        for (record, found) in self.host.adopt() {
            let now = Moment::from(ctx.queue.now);
            let machine = mind.resume(&record, found, &self.host.boot, now);
            self.held.insert(record.task.id, Held::new(record.task, machine));
        }
        self.host.net.begin();
        self.begin_in_order(ctx, mind);
        self.follow(ctx);
        self.glance(ctx);
        let tasks: Vec<TaskId> = self.held.keys().copied().collect();
        for id in tasks {
            self.plan_soon(id, ctx);
        }
        let delay = ctx.random.millis(10, 300);
        ctx.queue.after(delay, Event::Beat(self.node, self.life));
    }

    /// The agent process dies, and what it was doing with it.
    pub(crate) fn crash(&mut self) {
        self.process = false;
        self.held.clear();
    }

    /// The host lost power: every container is gone.
    pub(crate) fn lose_power(&mut self, ctx: &mut Context) {
        self.power = false;
        self.crash();
        self.host.lose_power(ctx);
    }

    /// The host is about to be switched off: containers are stopped in good order, and the session ends.
    pub(crate) fn halt(&mut self, ctx: &mut Context) {
        self.halted = true;
        self.session = None;
        let tasks: Vec<TaskId> = self.held.keys().copied().collect();
        for id in tasks {
            if let Some(held) = self.held.get_mut(&id) {
                held.machine.host_stops();
            }
            self.plan(id, ctx);
        }
    }

    /// All that the node is to hold.
    pub(crate) fn obey_all(&mut self, sequence: u64, wanted: NodeAssignment, ctx: &mut Context) {
        self.sequence = Some(sequence);
        let gone: Vec<TaskId> =
            self.held.keys().filter(|id| !wanted.tasks.contains_key(id)).copied().collect();
        for id in gone {
            self.drop_task(id, ctx);
        }
        for task in wanted.tasks.values() {
            self.hold(task.clone(), ctx);
        }
        self.host.networks.clone_from(&wanted.networks);
        self.assigned = wanted;
    }

    /// What has changed of it. False if something in between is missing.
    pub(crate) fn obey(
        &mut self,
        applies_to: u64,
        results_in: u64,
        changes: Vec<AssignmentChange>,
        ctx: &mut Context,
    ) -> bool {
        if self.sequence != Some(applies_to) {
            return false;
        }
        self.sequence = Some(results_in);
        self.assigned.apply(changes.clone());
        self.host.networks.clone_from(&self.assigned.networks);
        for change in changes {
            match change {
                AssignmentChange::UpdateTask(task) => self.hold(task, ctx),
                AssignmentChange::RemoveTask(id) => self.drop_task(id, ctx),
                // Managers of the simulation send everything whole.
                AssignmentChange::RejectTask(..)
                | AssignmentChange::UpdateNetwork(_)
                | AssignmentChange::RemoveNetwork(_)
                | AssignmentChange::UpdateSecret(_)
                | AssignmentChange::RemoveSecret(_)
                | AssignmentChange::UpdateConfig(_)
                | AssignmentChange::RemoveConfig(_)
                | AssignmentChange::UpdateEndpoint(_)
                | AssignmentChange::RemoveEndpoint(_)
                | AssignmentChange::UpdateVips(_)
                | AssignmentChange::RemoveVips(_)
                | AssignmentChange::UpdatePeer(_)
                | AssignmentChange::RemovePeer(_) => {}
            }
        }
        true
    }

    /// Told that the node is no member any more: nothing of it may go on.
    pub(crate) fn leave(&mut self, ctx: &mut Context) {
        self.removed = true;
        self.session = None;
        self.obey_all(0, NodeAssignment::default(), ctx);
    }

    /// What it was told, if it is a member.
    pub(crate) fn told(&self) -> Option<&NodeAssignment> {
        (!self.removed).then_some(&self.assigned)
    }

    fn hold(&mut self, task: AssignedTask, ctx: &mut Context) {
        let (id, now) = (task.id, ctx.queue.now);
        self.host.is_told_of(id, now);
        match self.held.get_mut(&id) {
            Some(held) => {
                held.machine.want(task.desired_state);
                if held.task.networks != task.networks {
                    (held.task.networks, held.task.level) = (task.networks, task.level);
                    held.machine.joins_others();
                }
            }
            None => {
                let machine = self.told_of(&task, now);
                self.held.insert(id, Held::new(task, machine));
            }
        }
        self.plan_soon(id, ctx);
        self.wake_partners(id, ctx);
    }

    /// The machine of a task that this node has just been told of; it takes none that is above its level.
    fn told_of(&self, task: &AssignedTask, now: Timestamp) -> Machine {
        match refusal(task, self.description.level) {
            Some(why) => Machine::rejected(task, why, &self.host.boot, now),
            None => Machine::new(task, &self.host.boot, now),
        }
    }

    fn drop_task(&mut self, id: TaskId, ctx: &mut Context) {
        if let Some(held) = self.held.get_mut(&id) {
            held.machine.drop_it();
            self.plan_soon(id, ctx);
        }
    }

    /// The agent gets round to a task.
    pub(crate) fn plan_soon(&mut self, id: TaskId, ctx: &mut Context) {
        let delay = ctx.random.millis(1, 100) * u32::try_from(self.slowness).unwrap_or(1);
        ctx.queue.after(delay, Event::Work(self.node, id, self.life));
    }

    /// Asks the machine of a task what is next, and begins that.
    pub(crate) fn plan(&mut self, id: TaskId, ctx: &mut Context) {
        let (now, node, life) = (ctx.queue.now, self.node, self.life);
        if self.order.defers(id) {
            return;
        }
        self.hear_of_partner(id, now);
        let shared =
            is_still_shared(self.sharers(id).filter_map(|id| Some(&self.held.get(&id)?.machine)));
        let Some(held) = self.held.get_mut(&id) else { return };
        held.wake = held.wake.filter(|at| *at > now);
        match held.machine.next(now) {
            Step::Nothing => {}
            Step::Cleanup { .. } if shared => {}
            Step::Wait(at) => {
                if held.wake.is_none_or(|wake| at < wake) {
                    held.wake = Some(at);
                    ctx.queue.at(at, Event::Work(node, id, life));
                }
            }
            Step::Abort => {
                held.machine.begin(Step::Abort, now);
                if let Some(operation) = &mut held.operation {
                    operation.aborted = true;
                }
            }
            step => {
                ctx.note(|| format!("node {node} task {id}: {step:?}"));
                held.machine.begin(step, now);
                let number = ctx.count();
                let networks = &self.assigned.networks;
                let made = (made_for(&held.task, networks), asker(&held.task, networks));
                let operation = Operation::new(number, step, &held.task, &held.machine, made, now);
                held.operation = Some(operation);
                self.go_on_soon(id, number, ctx);
            }
        }
        self.tell_soon(id, ctx);
    }

    /// Those that share the network of a task.
    fn sharers(&self, partner: TaskId) -> impl Iterator<Item = TaskId> {
        let shares = move |(_, held): &(&TaskId, &Held)| held.task.partner == Some(partner);
        self.held.iter().filter(shares).map(|(id, _)| *id)
    }

    /// Tells a task what the one does whose network it shares.
    fn hear_of_partner(&mut self, id: TaskId, now: Timestamp) {
        let Some((task, partner)) = self
            .held
            .get(&id)
            .filter(|_| self.tells)
            .and_then(|held| Some((&held.task, held.task.partner?)))
        else {
            return;
        };
        let found = self.held.get(&partner).filter(|one| is_partner(task, &one.task));
        let does = match found {
            Some(found) => found.machine.as_partner("it"),
            None => Partner::Absent("its partner is not there".to_owned()),
        };
        if let Some(held) = self.held.get_mut(&id) {
            held.machine.set_partner(does, now);
        }
    }

    /// Something of a task has changed: whoever shares its network, and whose it shares, is looked at.
    fn wake_partners(&mut self, id: TaskId, ctx: &mut Context) {
        let mut all: Vec<TaskId> = self.sharers(id).collect();
        all.extend(self.held.get(&id).and_then(|held| held.task.partner));
        all.into_iter().for_each(|id| self.plan_soon(id, ctx));
    }

    fn go_on_soon(&mut self, id: TaskId, number: u64, ctx: &mut Context) {
        let delay = ctx.random.millis(1, 150) * u32::try_from(self.slowness).unwrap_or(1);
        ctx.queue.after(delay, Event::Stage(self.node, id, self.life, number));
    }

    /// The operation under way of a task gets to its next stage.
    pub(crate) fn go_on(&mut self, id: TaskId, number: u64, ctx: &mut Context) {
        let Some(held) = self.held.get_mut(&id) else { return };
        let Some(operation) = held.operation.as_mut().filter(|o| o.number == number) else {
            return;
        };
        let done = self.host.act(operation, ctx);
        self.follow(ctx);
        let Some(held) = self.held.get_mut(&id) else { return };
        match done {
            Done::NotYet => self.go_on_soon(id, number, ctx),
            Done::With(fact) => {
                held.operation = None;
                self.learn(id, fact, ctx);
            }
            Done::Forgotten => self.forgotten(id, ctx),
        }
    }

    /// Whoever assigns it again gets a fresh start.
    fn forgotten(&mut self, id: TaskId, ctx: &mut Context) {
        let Some(held) = self.held.remove(&id).filter(|held| !held.machine.is_dropped()) else {
            return;
        };
        self.host.is_told_of(id, ctx.queue.now);
        let machine = self.told_of(&held.task, ctx.queue.now);
        self.held.insert(id, Held::new(held.task, machine));
        self.plan_soon(id, ctx);
        self.wake_partners(id, ctx);
    }

    /// The agent hears of something.
    pub(crate) fn learn(&mut self, id: TaskId, fact: Fact, ctx: &mut Context) {
        let node = self.node;
        let Some(held) = self.held.get_mut(&id) else { return };
        ctx.note(|| format!("node {node} task {id}: {fact:?}"));
        held.machine.learn(fact, ctx.queue.now);
        self.plan(id, ctx);
        self.wake_partners(id, ctx);
    }

    /// The end of a container. Nobody hears of it while the agent process does not run.
    pub(crate) fn container_ended(&mut self, number: u64, ctx: &mut Context) {
        let ended = self.host.container_ends(number, ctx);
        self.hear_of_exit(ended, ctx);
    }

    /// The same, by a signal.
    pub(crate) fn container_stopped(&mut self, number: u64, killed: bool, ctx: &mut Context) {
        let ended = self.host.container_stops(number, killed);
        self.hear_of_exit(ended, ctx);
    }

    fn hear_of_exit(&mut self, ended: Option<(TaskId, ExitStatus)>, ctx: &mut Context) {
        if let Some((id, exit)) = ended.filter(|_| self.process) {
            self.learn(id, Fact::Exited(exit), ctx);
        }
    }

    fn tell_soon(&mut self, id: TaskId, ctx: &mut Context) {
        let news = self.held.get(&id).is_some_and(|held| held.news().is_some());
        if news && !self.flushing && !self.removed {
            self.flushing = true;
            let delay = ctx.random.millis(5, 200);
            ctx.queue.after(delay, Event::Flush(self.node, self.life));
        }
    }

    /// The message with everything that has not been confirmed; sent again until it is.
    pub(crate) fn report(&mut self, ctx: &mut Context) -> Option<Up> {
        let news: Vec<(TaskId, TaskStatus)> =
            self.held.iter().filter_map(|(id, held)| Some((*id, held.news()?.clone()))).collect();
        self.flushing = !news.is_empty() && !self.removed && !self.halted;
        if self.flushing {
            let delay = ctx.random.millis(500, 1500);
            ctx.queue.after(delay, Event::Flush(self.node, self.life));
        }
        let session = self.session?;
        self.flushing.then_some(Up::Statuses { session, statuses: news })
    }

    /// The leader knows these now.
    pub(crate) fn acknowledged(&mut self, statuses: Vec<(TaskId, TaskStatus)>) {
        for (id, status) in statuses {
            if let Some(held) = self.held.get_mut(&id) {
                held.acknowledged = Some(status);
            }
        }
    }

    /// A new session: what has become of all tasks is told again, as the leader may not know.
    pub(crate) fn opened(&mut self, session: u64, ctx: &mut Context) {
        self.session = Some(session);
        self.sequence = None;
        self.held.values_mut().for_each(|held| held.acknowledged = None);
        self.flushing = true;
        let delay = ctx.random.millis(5, 100);
        ctx.queue.after(delay, Event::Flush(self.node, self.life));
    }
}
