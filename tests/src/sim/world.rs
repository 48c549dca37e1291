//! The whole: one leader, nodes, a user, and what breaks.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_manager_planning::assignment::News;
use shoal_manager_state::testing::{replace_node, replace_task};
use shoal_manager_state::{
    ClusterState, Command, Event as StateEvent, PredefinedIds, apply, invariant,
};
use shoal_types::id::{IdSource, NodeId};
use shoal_types::object::{JoinTokens, RootCa};
use shoal_types::spec::{ClusterSpec, NodeRole, NodeSpec};
use shoal_types::time::Timestamp;

use super::agent::Agent;
use super::context::Context;
use super::leader::Leader;
use super::mind::{Memory, Mind};
use super::queue::Event;
use super::wire::Up;
use super::{specs, user};
use crate::invariants::{
    Reality, Running, beside_its_partner, no_address_twice, no_task_above_its_node,
    nothing_is_forgotten, nothing_overdrawn, one_running_task_per_slot, planning_comes_to_rest,
    retries_are_paced, terms_never_go_back,
};

/// How long faults and the user go on.
const CHAOS: Duration = Duration::from_secs(90);

/// Between two looks of the judges that are slow.
const SLOW_LOOK_EVERY: u64 = 40;

pub(crate) struct World<M> {
    pub(crate) ctx: Context,
    pub(crate) mind: M,
    pub(crate) state: ClusterState,
    pub(crate) leader: Leader,
    /// A manager that leads no more and does not know it yet, with all it has of the state.
    pub(crate) replaced: Option<(Leader, ClusterState)>,
    pub(crate) terms: terms_never_go_back::Judge,
    pub(crate) agents: BTreeMap<NodeId, Agent>,
    pub(crate) wrong: Vec<String>,
    slots: one_running_task_per_slot::Judge,
    room: nothing_overdrawn::Judge,
    pace: retries_are_paced::Judge,
    beside: beside_its_partner::Judge,
    /// When faults end.
    pub(crate) chaos_until: Timestamp,
    events: u64,
    pub(crate) applied: u64,
    pub(crate) refused: u64,
}

impl<M: Mind> World<M> {
    pub(crate) fn new(seed: u64, mind: M, traced: bool) -> Self {
        let mut ctx = Context::new(seed, traced);
        ctx.queue.now = Timestamp::from_secs(1000);
        let now = ctx.queue.now;
        let mut world = Self {
            ctx,
            mind,
            state: ClusterState::new(),
            leader: Leader::new(1, now),
            replaced: None,
            terms: terms_never_go_back::Judge::default(),
            agents: BTreeMap::new(),
            wrong: Vec::new(),
            slots: one_running_task_per_slot::Judge::default(),
            room: nothing_overdrawn::Judge::default(),
            pace: retries_are_paced::Judge::default(),
            beside: beside_its_partner::Judge::default(),
            chaos_until: now + CHAOS,
            events: 0,
            applied: 0,
            refused: 0,
        };
        world.found();
        world
    }

    fn found(&mut self) {
        let ids = &mut self.ctx.ids;
        let create = Command::CreateCluster {
            id: ids.next_id(),
            spec: ClusterSpec::default(),
            root_ca: RootCa { cert_pem: "certificate".to_owned(), key_pem: "key".to_owned() },
            join_tokens: JoinTokens::default(),
            networks: PredefinedIds {
                bridge: ids.next_id(),
                host: ids.next_id(),
                none: ids.next_id(),
            },
            level: specs::NEWER_LEVEL,
        };
        self.apply(create);
        for _ in 0..2 + self.ctx.random.below(4) {
            self.add_node();
        }
        self.ctx.queue.after(Duration::from_secs(1), Event::User);
        self.ctx.queue.after(Duration::from_secs(5), Event::Fault);
    }

    /// A host joins the cluster.
    pub(crate) fn add_node(&mut self) {
        let id: NodeId = self.ctx.ids.next_id();
        let hostname = format!("host-{}", self.agents.len() + 1);
        let description = specs::description(&hostname, &mut self.ctx.random);
        let first = self.agents.is_empty();
        let role = if first { NodeRole::Manager } else { NodeRole::Agent };
        let spec = NodeSpec { role, ..NodeSpec::default() };
        self.apply(Command::CreateNode { id, spec, description: description.clone() });
        let mut agent = Agent::new(id, description);
        agent.start(&mut self.ctx, &mut self.mind);
        self.agents.insert(id, agent);
    }

    /// Applies a command, as every manager would.
    #[expect(clippy::needless_pass_by_value, reason = "callers have no more use for it")]
    pub(crate) fn apply(&mut self, command: Command) -> bool {
        let (index, now) = (self.state.applied_index() + 1, self.ctx.queue.now);
        let result = apply(&mut self.state, index, now, command.clone());
        self.ctx.note(|| format!("{index} {command:?} -> {:?}", result.as_ref().map(|_| ())));
        let done = match &result {
            Ok(_) => {
                if let Some(task) = self.mind.applied(&self.state, &command) {
                    replace_task(&mut self.state, task);
                }
                if let Some(node) = self.mind.admitted(&self.state, &command) {
                    replace_node(&mut self.state, node);
                }
                true
            }
            Err(why) => {
                if let Some(state) = self.mind.refused(&self.state, &command, why) {
                    self.state = state;
                    self.leader.memory.forget();
                    let sessions = self.leader.sessions.values_mut();
                    let sent = sessions.filter_map(|session| session.sent.as_mut());
                    sent.for_each(|sent| sent.news = News::whole());
                }
                false
            }
        };
        self.applied += u64::from(done);
        self.refused += u64::from(!done);
        let events = self.state.take_events();
        events.iter().for_each(|event| self.mind.hear(&mut self.leader.memory, event));
        self.tell_sessions(&events);
        if !events.is_empty() || !done {
            self.wake_all();
        }
        done
    }

    /// Lets everything happen until `until`, or until something is wrong.
    pub(crate) fn run_until(&mut self, until: Timestamp) {
        while self.ctx.queue.now < until && self.wrong.is_empty() {
            let Some(event) = self.ctx.queue.next() else { return };
            let idle = changes_nothing(&event);
            self.handle(event);
            if idle && self.wrong.is_empty() {
                continue;
            }
            self.look();
            self.events += 1;
            if self.events.is_multiple_of(SLOW_LOOK_EVERY) {
                self.look_closely();
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Plan(which, at) => self.plan(which, at),
            Event::Propose(which, period) => self.propose(which, period),
            Event::Dispatch => self.dispatch(),
            Event::ToLeader(node, message) => self.leader_hears(node, message),
            Event::ToNode(node, message) => self.node_hears(node, message),
            Event::StreamBroke(node) => self.stream_broke(node),
            Event::Beat(node, life) => self.beat(node, life),
            Event::Flush(node, life) => self.flush(node, life),
            Event::Work(node, task, life) => {
                if let Some(agent) = self.agents.get_mut(&node).filter(|a| a.is_alive(life)) {
                    agent.plan(task, &mut self.ctx);
                }
            }
            Event::Stage(node, task, life, number) => {
                if let Some(agent) = self.agents.get_mut(&node).filter(|a| a.is_alive(life)) {
                    agent.go_on(task, number, &mut self.ctx);
                }
            }
            Event::ContainerStops(node, number, killed) => {
                if let Some(agent) = self.agents.get_mut(&node) {
                    agent.container_stopped(number, killed, &mut self.ctx);
                }
            }
            Event::Round(node, life) => {
                if let Some(agent) = self.agents.get_mut(&node).filter(|a| a.is_alive(life)) {
                    agent.look_around(&mut self.ctx);
                }
            }
            Event::Seen(node, life, observed) => {
                if let Some(agent) = self.agents.get_mut(&node).filter(|a| a.is_alive(life)) {
                    agent.put_in_order(&observed, &mut self.ctx, &mut self.mind);
                }
            }
            Event::Order(node, life, rest, done) => {
                if let Some(agent) = self.agents.get_mut(&node).filter(|a| a.is_alive(life)) {
                    agent.do_in_order(rest, done, &mut self.ctx);
                }
            }
            Event::HostHeard(node, life, look) => {
                if let Some(agent) = self.agents.get_mut(&node).filter(|a| a.is_alive(life)) {
                    agent.look_at_host(look, &mut self.ctx, &mut self.mind);
                }
            }
            Event::HostKept(node, life, rest, failed) => {
                if let Some(agent) = self.agents.get_mut(&node).filter(|a| a.is_alive(life)) {
                    self.wrong.extend(agent.keep_host(rest, failed, &mut self.ctx));
                }
            }
            Event::Glance(node, life) => {
                if let Some(agent) = self.agents.get_mut(&node).filter(|a| a.is_alive(life)) {
                    agent.glance(&mut self.ctx);
                }
            }
            Event::StepDown(term) => self.step_down(term),
            Event::SwitchOff(node, life) => self.switch_off(node, life),
            Event::ContainerEnds(node, number) => {
                if let Some(agent) = self.agents.get_mut(&node) {
                    agent.container_ended(number, &mut self.ctx);
                }
            }
            Event::Fault => self.fault(),
            Event::Mend(node, what) => self.mend(node, what),
            Event::User => self.user_acts(),
        }
    }

    fn user_acts(&mut self) {
        if self.ctx.calm {
            return;
        }
        if let Some(command) = user::wish(&self.state, &mut self.ctx) {
            self.apply(command);
        }
        let next = self.ctx.random.millis(50, 4000);
        self.ctx.queue.after(next, Event::User);
    }

    /// What is so on the hosts themselves.
    pub(crate) fn reality(&self) -> Reality {
        let running = self.agents.iter().flat_map(|(node, agent)| {
            agent.host.running().map(|container| Running {
                task: container.task.id,
                service: container.task.service_id,
                slot: container.task.slot,
                node: *node,
                held_since: agent.host.since(container.task.id),
            })
        });
        let held = |(node, agent): (&NodeId, &Agent)| {
            let node = *node;
            agent.tasks().into_iter().map(move |task| (node, task))
        };
        let levels = self.agents.iter().map(|(node, agent)| (*node, agent.description.level));
        Reality {
            running: running.collect(),
            held: self.agents.iter().flat_map(held).collect(),
            levels: levels.collect(),
        }
    }

    fn look(&mut self) {
        let reality = self.reality();
        let moment = reality.beside(&self.state, self.ctx.queue.now);
        self.wrong.extend(self.slots.look(&moment));
        self.wrong.extend(self.room.look(&moment));
        self.wrong.extend(self.pace.look(&moment));
        self.wrong.extend(self.beside.look(&moment));
        self.wrong.extend(no_task_above_its_node::judge(&moment));
        self.wrong.extend(no_address_twice::judge(&moment));
    }

    /// The judges that plan or compare everything.
    pub(crate) fn look_closely(&mut self) {
        self.wrong.extend(invariant::check(&self.state));
        let now = self.ctx.queue.now;
        let (mind, heard) = (&mut self.mind, &self.leader.heard);
        let mut ids = self.ctx.ids.clone();
        let mut plan = |memory: &mut Memory, view: &ClusterState, events: &[StateEvent]| {
            events.iter().for_each(|event| mind.hear(memory, event));
            let planned = mind.orchestrate(memory, view, now, &mut ids).commands.into_iter();
            let mut commands: Vec<_> = planned.map(|c| specs::with_level(view, c)).collect();
            if commands.is_empty() {
                commands = mind.schedule(memory, view, now).commands;
            }
            if commands.is_empty() {
                commands = mind.watch_nodes(memory, view, heard, now).commands;
            }
            commands
        };
        let mut memory = self.leader.memory.clone();
        let rest = planning_comes_to_rest::judge(&self.state, now, |view, events| {
            plan(&mut memory, view, events)
        });
        match rest {
            Ok(state) => {
                // Who is silent for how long only this leader knows.
                let mut fresh = Memory { watch: memory.watch, ..Memory::begin(now) };
                let left = plan(&mut fresh, &state, &[]);
                self.wrong.extend(nothing_is_forgotten::judge(&left));
            }
            Err(wrong) => self.wrong.push(wrong),
        }
    }
}

/// Whether neither what managers have nor what is on hosts is another one after it.
const fn changes_nothing(event: &Event) -> bool {
    matches!(
        event,
        Event::Plan(..)
            | Event::Dispatch
            | Event::ToLeader(_, Up::Heartbeat { .. })
            | Event::StreamBroke(_)
            | Event::Beat(..)
            | Event::Flush(..)
            | Event::Work(..)
            | Event::Round(..)
            | Event::Seen(..)
            | Event::HostHeard(..)
            | Event::HostKept(..)
            | Event::Glance(..)
            | Event::StepDown(..)
    )
}
