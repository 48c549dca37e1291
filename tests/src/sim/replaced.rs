//! A manager that leads no more and does not know it yet. What it has of the state stays as it was, and it
//! writes nothing; but it goes on assigning, and opens sessions for whoever asks it.

use shoal_types::id::NodeId;

use super::leader::Leader;
use super::leading::dispatch_to;
use super::mind::Mind;
use super::queue::Event;
use super::wire::{Down, Up};
use super::world::World;

/// The longest that it takes for one to be it.
const NOTICES_MS_MAX: u64 = 20_000;

impl<M: Mind> World<M> {
    /// Another manager leads, and this one does not hear of it.
    pub(crate) fn replace_leader(&mut self) {
        self.ctx.note(|| "the leader is replaced and does not know it".to_owned());
        let (period, now) = (self.leader.period + 1, self.ctx.queue.now);
        let replaced = std::mem::replace(&mut self.leader, Leader::new(period, now));
        let delay = self.ctx.random.millis(500, NOTICES_MS_MAX);
        self.ctx.queue.after(delay, Event::StepDown(replaced.period));
        self.replaced = Some((replaced, self.state.clone()));
        self.wake_all();
    }

    pub(crate) fn step_down(&mut self, term: u64) {
        if self.replaced.as_ref().is_some_and(|(leader, _)| leader.period == term) {
            self.ctx.note(|| format!("the leader of term {term} knows that it is none"));
            self.replaced = None;
        }
    }

    /// Whether it was that one whom a message reached. Who looks for a manager asks any.
    pub(crate) fn replaced_hears(&mut self, node: NodeId, message: &Up) -> bool {
        let Some((leader, view)) = &mut self.replaced else { return false };
        let message = match message {
            Up::Open { .. } => {
                // One of which it knows nothing is nobody's member, to it.
                if view.node(node).is_none() || self.ctx.random.chance(50) {
                    return false;
                }
                // It does not ask whom the node has obeyed: that is for the node to know.
                let session = self.ctx.count();
                leader.open(node, session);
                Some(Down::Opened { session, term: leader.period })
            }
            Up::Heartbeat { session, .. }
            | Up::Statuses { session, .. }
            | Up::Resync { session } => {
                let Some(mine) = leader.sessions.get_mut(&node).filter(|s| s.id == *session) else {
                    return false;
                };
                // Nothing that it hears becomes part of the state.
                if !matches!(message, Up::Resync { .. }) {
                    return true;
                }
                mine.sent = None;
                dispatch_to(leader, view, node, &mut self.wrong)
            }
        };
        if let Some(message) = message {
            self.tell(node, message);
        }
        true
    }
}
