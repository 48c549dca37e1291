//! Messages on their way, late, lost, twice, in any order; and what agents make of them.

use std::time::Duration;

use shoal_types::id::NodeId;

use super::agent::Agent;
use super::context::Context;
use super::mind::Mind;
use super::queue::Event;
use super::wire::{Down, Up};
use super::world::World;

fn latency(ctx: &mut Context) -> Duration {
    let slow = !ctx.calm && ctx.random.chance(4);
    ctx.random.millis(1, if slow { 4000 } else { 40 })
}

fn is_lost(ctx: &mut Context) -> bool {
    !ctx.calm && ctx.random.chance(2)
}

impl<M: Mind> World<M> {
    pub(crate) fn tell(&mut self, node: NodeId, message: Down) {
        if is_lost(&mut self.ctx) {
            return self.break_stream(node);
        }
        let delay = latency(&mut self.ctx);
        self.ctx.queue.after(delay, Event::ToNode(node, message));
    }

    /// A message was lost: the transport resets the stream sooner or later.
    fn break_stream(&mut self, node: NodeId) {
        let delay = self.ctx.random.millis(100, 3000);
        self.ctx.queue.after(delay, Event::StreamBroke(node));
    }

    fn send(&mut self, node: NodeId, message: Up) {
        let connected = self.agents.get(&node).is_some_and(Agent::is_connected);
        if !connected {
            return;
        }
        if is_lost(&mut self.ctx) {
            return self.break_stream(node);
        }
        if !self.ctx.calm && self.ctx.random.chance(5) {
            let delay = latency(&mut self.ctx);
            self.ctx.queue.after(delay, Event::ToLeader(node, message.clone()));
        }
        let delay = latency(&mut self.ctx);
        self.ctx.queue.after(delay, Event::ToLeader(node, message));
    }

    pub(crate) fn stream_broke(&mut self, node: NodeId) {
        if let Some(agent) = self.agents.get_mut(&node) {
            agent.session = None;
        }
    }

    pub(crate) fn beat(&mut self, node: NodeId, life: u64) {
        let Some(agent) =
            self.agents.get_mut(&node).filter(|a| a.is_alive(life) && !a.removed && !a.halted)
        else {
            return;
        };
        agent.change_keys(&mut self.ctx);
        let message = match agent.session {
            Some(session) => Up::Heartbeat { session, tunnel: agent.description.tunnel },
            None => Up::Open { description: Box::new(agent.description.clone()) },
        };
        let delay = match agent.session {
            Some(_) => self.ctx.random.millis(1600, 2000),
            None => self.ctx.random.millis(300, 1500),
        };
        self.ctx.queue.after(delay, Event::Beat(node, life));
        self.send(node, message);
    }

    pub(crate) fn flush(&mut self, node: NodeId, life: u64) {
        let Some(agent) = self.agents.get_mut(&node).filter(|a| a.is_alive(life)) else { return };
        if let Some(message) = agent.report(&mut self.ctx) {
            self.send(node, message);
        }
    }

    pub(crate) fn node_hears(&mut self, node: NodeId, message: Down) {
        // Who knows that it is no member listens to nobody: an answer to an earlier attempt, by a leader that
        // was replaced and does not know of it, may come after the one that says so.
        let listens = |agent: &&mut Agent| agent.is_connected() && !agent.removed;
        let Some(agent) = self.agents.get_mut(&node).filter(listens) else { return };
        let (ctx, mind, terms) = (&mut self.ctx, &mut self.mind, &mut self.terms);
        let mine = |session| agent.session == Some(session);
        if let Down::Complete { session, term, .. } | Down::Incremental { session, term, .. } =
            &message
            && !(mine(*session) && mind.listens(agent.host.obeyed, *term))
        {
            return;
        }
        match message {
            Down::Removed => agent.leave(ctx),
            Down::Opened { session, term } => {
                // An answer to an older attempt must not bring back an older session.
                if agent.session.is_none_or(|known| known < session)
                    && mind.listens(agent.host.obeyed, term)
                {
                    agent.host.obeyed = agent.host.obeyed.max(term);
                    agent.opened(session, ctx);
                    self.send(node, Up::Resync { session });
                }
            }
            Down::NoSession { session } if mine(session) => agent.session = None,
            Down::Complete { term, results_in, assignment, .. } => {
                // Messages may overtake each other; what is older is not listened to.
                if agent.sequence.is_none_or(|known| known < results_in) {
                    self.wrong.extend(terms.look(node, term));
                    agent.obey_all(results_in, assignment, ctx);
                }
            }
            Down::Incremental { session, term, applies_to, results_in, changes } => {
                if agent.obey(applies_to, results_in, changes, ctx) {
                    self.wrong.extend(terms.look(node, term));
                } else {
                    self.send(node, Up::Resync { session });
                }
            }
            Down::Acknowledged { session, statuses } if mine(session) => {
                agent.acknowledged(statuses);
            }
            Down::NoSession { .. } | Down::Acknowledged { .. } => {}
        }
    }
}
