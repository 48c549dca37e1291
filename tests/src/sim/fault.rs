//! What breaks, and how it is mended.

use std::time::Duration;

use shoal_manager_state::Command;
use shoal_types::id::NodeId;
use shoal_types::object::NodeState;

use super::mind::Mind;
use super::queue::{Event, Mend};
use super::world::World;
use super::{specs, user};

/// The most nodes a cluster of the simulation has.
const NODES_MAX: usize = 7;
/// Longest time that a host takes to stop in good order; then it is switched off all the same.
const SHUTDOWN_MS_MAX: u64 = 15_000;

impl<M: Mind> World<M> {
    pub(crate) fn fault(&mut self) {
        if self.ctx.calm {
            return;
        }
        let next = self.ctx.random.millis(200, 8000);
        self.ctx.queue.after(next, Event::Fault);
        let all: Vec<NodeId> = self.agents.keys().copied().collect();
        let Some(node) = self.ctx.random.any(&all) else { return };
        let kind = self.ctx.random.below(17);
        self.ctx.note(|| format!("fault {kind} on node {node}"));
        match kind {
            0 => self.restart_leader(),
            1 => self.replace_leader(),
            2 | 3 => self.break_node(node, Mend::Process, 20_000),
            4 | 5 => self.break_node(node, Mend::Link, 40_000),
            6 | 7 => self.break_node(node, Mend::Power, 40_000),
            8 => {
                let slowness = self.ctx.random.pick(&[1, 4, 20]);
                if let Some(agent) = self.agents.get_mut(&node) {
                    agent.slowness = slowness;
                }
            }
            9 => self.kill_container(node),
            12 => self.upgrade(node),
            14..=16 => {
                if let Some(agent) = self.agents.get_mut(&node) {
                    agent.harm_host(&mut self.ctx);
                }
            }
            13 => {
                if let Some(agent) = self.agents.get_mut(&node) {
                    agent.lose_links(&mut self.ctx);
                }
            }
            10 if self.state.nodes().len() < NODES_MAX => self.add_node(),
            _ => self.take_node_out(),
        }
    }

    fn break_node(&mut self, node: NodeId, what: Mend, ms_max: u64) {
        let Some(agent) = self.agents.get_mut(&node) else { return };
        match what {
            Mend::Process => agent.crash(),
            Mend::Link => agent.link = false,
            Mend::Power if agent.process && self.ctx.random.chance(40) => {
                agent.halt(&mut self.ctx);
                let delay = self.ctx.random.millis(0, SHUTDOWN_MS_MAX);
                return self.ctx.queue.after(delay, Event::SwitchOff(node, agent.life));
            }
            Mend::Power => agent.lose_power(&mut self.ctx),
        }
        let delay = self.ctx.random.millis(100, ms_max);
        self.ctx.queue.after(delay, Event::Mend(node, what));
    }

    /// The agent is replaced by a newer one. Levels never fall here: what a newer agent has accepted, an
    /// older one would not have.
    fn upgrade(&mut self, node: NodeId) {
        let Some(agent) = self.agents.get_mut(&node) else { return };
        agent.description.level = specs::NEWER_LEVEL;
        self.break_node(node, Mend::Process, 5000);
    }

    /// The end of a shutdown in good order, if the host has not died before.
    pub(crate) fn switch_off(&mut self, node: NodeId, life: u64) {
        let Some(agent) = self.agents.get_mut(&node).filter(|a| a.is_alive(life)) else { return };
        agent.lose_power(&mut self.ctx);
        let delay = self.ctx.random.millis(100, 40_000);
        self.ctx.queue.after(delay, Event::Mend(node, Mend::Power));
    }

    fn kill_container(&mut self, node: NodeId) {
        let Some(agent) = self.agents.get_mut(&node) else { return };
        let running: Vec<u64> = agent.host.running().map(|c| c.number).collect();
        if let Some(number) = self.ctx.random.any(&running) {
            agent.container_ended(number, &mut self.ctx);
        }
    }

    /// The user forgets a node: one that is gone for good, or by force.
    fn take_node_out(&mut self) {
        let Some((node, force)) = user::node_to_remove(&self.state, &mut self.ctx) else { return };
        if force || self.state.node(node).is_some_and(|n| n.status.state == NodeState::Down) {
            self.apply(Command::RemoveNode { id: node, force });
        }
    }

    pub(crate) fn mend(&mut self, node: NodeId, what: Mend) {
        self.ctx.note(|| format!("node {node}: {what:?} works again"));
        let shrinks = !self.ctx.calm && self.ctx.random.chance(20);
        let Some(agent) = self.agents.get_mut(&node) else { return };
        match what {
            Mend::Link if !agent.link => {
                agent.link = true;
                agent.session = None;
            }
            Mend::Power => {
                agent.power = true;
                if shrinks {
                    let hostname = agent.description.hostname.clone();
                    let level = agent.description.level;
                    agent.description = specs::description(&hostname, &mut self.ctx.random);
                    agent.description.level = level;
                }
            }
            Mend::Link | Mend::Process => {}
        }
        if what != Mend::Link && agent.power && !agent.process {
            agent.start(&mut self.ctx, &mut self.mind);
        }
    }

    /// Everything works again, and nothing breaks any more.
    pub(crate) fn heal(&mut self) {
        self.ctx.note(|| "everything heals".to_owned());
        // The last that anybody does to hosts.
        for agent in self.agents.values_mut() {
            (0..3).for_each(|_| agent.harm_host(&mut self.ctx));
        }
        self.ctx.calm = true;
        self.replaced = None;
        let all: Vec<NodeId> = self.agents.keys().copied().collect();
        for node in all {
            if let Some(agent) = self.agents.get_mut(&node) {
                agent.slowness = 1;
                if agent.halted {
                    agent.lose_power(&mut self.ctx);
                }
            }
            for what in [Mend::Power, Mend::Link, Mend::Process] {
                self.mend(node, what);
            }
        }
        if self.ctx.random.chance(60) {
            let services: Vec<_> = self.state.services().cloned().collect();
            for service in services {
                if let Some(command) = user::repair(&service, &mut self.ctx) {
                    self.apply(command);
                }
            }
        }
        let now = self.ctx.queue.now;
        self.chaos_until = now.min(self.chaos_until);
        self.ctx.queue.after(Duration::ZERO, Event::Dispatch);
    }
}
