//! The leader's shell: loops around the planners, and the dispatcher.

use shoal_manager_planning::assignment::{Held, News};
use shoal_manager_planning::liveness;
use shoal_manager_state::{ClusterState, Command, Event as StateEvent};
use shoal_types::assignment::NodeAssignment;
use shoal_types::id::NodeId;
use shoal_types::object::NodeDescription;
use shoal_types::time::Timestamp;

use super::leader::{Leader, Loop, Sent};
use super::mind::Mind;
use super::queue::Event;
use super::specs;
use super::wire::{Down, Up};
use super::world::World;

impl<M: Mind> World<M> {
    /// Something was written: whoever waits for that plans soon.
    pub(crate) fn wake_all(&mut self) {
        for which in Loop::ALL {
            let at = self.ctx.queue.now + self.ctx.random.millis(1, 50);
            self.plan_at(which, at);
        }
        if !self.leader.dispatching {
            self.leader.dispatching = true;
            let delay = self.ctx.random.millis(1, 100);
            self.ctx.queue.after(delay, Event::Dispatch);
        }
    }

    fn plan_at(&mut self, which: Loop, at: Timestamp) {
        let Some(this) = self.leader.loops.get_mut(&which) else { return };
        if !this.busy && this.planned_at.is_none_or(|known| at < known) {
            this.planned_at = Some(at);
            self.ctx.queue.at(at, Event::Plan(which, at));
        }
    }

    /// Takes a view and plans on it. What is planned is proposed a while later, when the view may
    /// be old.
    pub(crate) fn plan(&mut self, which: Loop, at: Timestamp) {
        let now = self.ctx.queue.now;
        let leader = &mut self.leader;
        if leader.loops.get(&which).is_none_or(|l| l.busy || l.planned_at != Some(at)) {
            return;
        }
        let view = self.state.clone();
        let plan = match which {
            Loop::Orchestrator => {
                self.mind.orchestrate(&mut leader.memory, &view, now, &mut self.ctx.ids)
            }
            Loop::Scheduler => self.mind.schedule(&mut leader.memory, &view, now),
            Loop::TunnelKeys => self.mind.change_keys(&mut leader.memory, &view, now),
            Loop::Liveness => self.mind.watch_nodes(&mut leader.memory, &view, &leader.heard, now),
        };
        self.wrong.extend(plan.missed);
        let wake_at = plan.wake_at;
        let nothing = plan.commands.is_empty();
        if let Some(this) = self.leader.loops.get_mut(&which) {
            this.planned_at = None;
            this.seen = view.applied_index();
            this.busy = !nothing;
            this.rest = plan.commands.into();
        }
        if nothing {
            if let Some(at) = wake_at {
                self.plan_at(which, at.max(now + std::time::Duration::from_millis(1)));
            }
        } else {
            self.propose_soon(which);
        }
    }

    fn propose_soon(&mut self, which: Loop) {
        let slow = !self.ctx.calm && self.ctx.random.chance(5);
        let delay = self.ctx.random.millis(1, if slow { 3000 } else { 30 });
        self.ctx.queue.after(delay, Event::Propose(which, self.leader.period));
    }

    pub(crate) fn propose(&mut self, which: Loop, period: u64) {
        if period != self.leader.period {
            return;
        }
        for _ in 0..=self.ctx.random.below(6) {
            let Some(this) = self.leader.loops.get_mut(&which) else { return };
            let Some(command) = this.rest.pop_front() else { break };
            let command = self.mind.propose(&self.state, command);
            let command = specs::with_level(&self.state, command);
            self.apply(command);
        }
        let Some(this) = self.leader.loops.get_mut(&which) else { return };
        if this.rest.is_empty() {
            this.busy = false;
            let at = self.ctx.queue.now + self.ctx.random.millis(1, 20);
            self.plan_at(which, at);
        } else {
            self.propose_soon(which);
        }
    }

    /// Another manager leads, or the same one again: what was being done is forgotten.
    pub(crate) fn restart_leader(&mut self) {
        self.ctx.note(|| "the leader restarts".to_owned());
        self.leader = Leader::new(self.leader.period + 1, self.ctx.queue.now);
        self.wake_all();
    }

    pub(crate) fn leader_hears(&mut self, node: NodeId, message: Up) {
        if self.replaced_hears(node, &message) {
            return;
        }
        let now = self.ctx.queue.now;
        if self.state.node(node).is_none() {
            return self.tell(node, Down::Removed);
        }
        let session = match &message {
            Up::Open { description } => {
                let description = NodeDescription::clone(description);
                return self.open(node, description);
            }
            Up::Heartbeat { session, .. }
            | Up::Statuses { session, .. }
            | Up::Resync { session } => *session,
        };
        if self.leader.sessions.get(&node).is_none_or(|s| s.id != session) {
            return self.tell(node, Down::NoSession { session });
        }
        match message {
            Up::Open { .. } => {}
            // What a node that counts as lost reports before its next heartbeat counts, too.
            Up::Heartbeat { tunnel, .. } => {
                self.leader.heard.insert(node, now);
                let described = liveness::with_ways(&self.state, node, None, tunnel);
                self.node_is_there(node, described);
            }
            Up::Statuses { statuses, .. } => {
                self.apply(Command::UpdateTaskStatuses {
                    node_id: node,
                    statuses: statuses.clone(),
                });
                self.tell(node, Down::Acknowledged { session, statuses });
            }
            Up::Resync { .. } => {
                if let Some(session) = self.leader.sessions.get_mut(&node) {
                    session.sent = None;
                }
                self.dispatch_to(node);
            }
        }
    }

    fn open(&mut self, node: NodeId, description: NodeDescription) {
        let now = self.ctx.queue.now;
        let session = self.ctx.count();
        self.leader.heard.insert(node, now);
        self.leader.open(node, session);
        self.node_is_there(node, Some(description));
        self.tell(node, Down::Opened { session, term: self.leader.period });
        self.wake_all();
    }

    fn node_is_there(&mut self, id: NodeId, description: Option<NodeDescription>) {
        let now = self.ctx.queue.now;
        let news = liveness::heard(&self.state, id, description, None, "", now);
        if let Some(news) = news {
            self.apply(news);
        }
    }

    /// Tells every connected node what has changed for it.
    pub(crate) fn dispatch(&mut self) {
        self.leader.dispatching = false;
        let nodes: Vec<NodeId> = self.leader.sessions.keys().copied().collect();
        for node in nodes {
            if self.state.node(node).is_none() {
                self.leader.sessions.remove(&node);
                self.tell(node, Down::Removed);
            } else {
                self.dispatch_to(node);
            }
        }
    }

    /// Notes what was written for the nodes that it means something to.
    pub(crate) fn tell_sessions(&mut self, events: &[StateEvent]) {
        for (node, news) in self.mind.news(events, &self.state) {
            let session = self.leader.sessions.get_mut(&node);
            if let Some(sent) = session.and_then(|session| session.sent.as_mut()) {
                sent.news.add(&news);
            }
        }
    }

    fn dispatch_to(&mut self, node: NodeId) {
        let told = dispatch_to(&mut self.leader, &self.state, node, &mut self.wrong);
        if let Some(message) = told {
            self.tell(node, message);
        }
    }
}

/// What a leader has to tell a node, by what it knows of the state. Wrong, if all that it has told by
/// then is not what it would tell a node to which it has told nothing.
pub(crate) fn dispatch_to(
    leader: &mut Leader,
    view: &ClusterState,
    node: NodeId,
    wrong: &mut Vec<String>,
) -> Option<Down> {
    let term = leader.period;
    let session = leader.sessions.get_mut(&node)?;
    let (id, applies_to, is_first) = (session.id, session.sequence, session.sent.is_none());
    let sent = session.sent.get_or_insert_with(|| Sent::nothing(node));
    let changes: Vec<_> = sent.held.catch_up(view, &std::mem::take(&mut sent.news)).collect();
    sent.sum.apply(changes.clone());
    let mut assignment = NodeAssignment::default();
    assignment.apply(Held::new(node).catch_up(view, &News::whole()).collect());
    if sent.sum != assignment {
        wrong.push(format!("node {node} was told something else than what it must hold"));
    }
    if changes.is_empty() && !is_first {
        return None;
    }
    session.sequence += 1;
    let results_in = session.sequence;
    Some(match is_first {
        true => Down::Complete { session: id, term, results_in, assignment },
        false => Down::Incremental { session: id, term, applies_to, results_in, changes },
    })
}
