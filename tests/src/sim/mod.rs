//! The simulation: the real state and planning crates in one process, under one seed.
//!
//! Time is virtual, everything random comes from the seed, nothing waits. A leader plans on views
//! that are old by the time it proposes, and restarts in the middle; agents are slow, crash, lose
//! power or the network, and return; messages are late, lost, twice or in another order; a user
//! changes his mind. Judges look all the time ([`crate::invariants`]). Then everything heals, and
//! the cluster has a bounded time to become what the user wants.

mod agent;
mod context;
mod driver;
mod fault;
mod host;
mod kernel;
mod leader;
mod leading;
mod mind;
mod network;
mod order;
mod queue;
mod random;
mod replaced;
mod specs;
#[cfg(test)]
mod tests;
mod things;
mod user;
mod wire;
mod world;

pub use mind::{Memory, Mind, Real};

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use shoal_manager_state::Command;
use shoal_types::id::ServiceId;
use shoal_types::time::Timestamp;

use crate::invariants::{convergence, node_in_order, rolled_out, told_as_it_is};
use world::World;

/// How long after the last fault everything must be as it is to be: a minute, and what restart
/// delays and rollouts that began late add to it.
const CONVERGED_WITHIN: Duration = Duration::from_secs(120);

/// How long it must stay so.
const STABLE_FOR: Duration = Duration::from_secs(20);

/// How long after that every deployment must have ended: ten minutes without progress and what
/// delays add to it, for an update and for the rollback that follows.
const DEPLOYED_WITHIN: Duration = Duration::from_secs(2 * 660);

/// What was wrong, when, and what came before.
#[derive(Debug)]
pub struct Failure {
    /// The seed that shows it again.
    pub seed: u64,
    /// What the judges say.
    pub wrong: Vec<String>,
    /// The last events before.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {} (again with SHOAL_SIM_SEED={}):", self.seed, self.seed)?;
        self.wrong.iter().try_for_each(|wrong| writeln!(f, "- {wrong}"))
    }
}

/// What happened in a simulation in which nothing was wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Commands that were carried out.
    pub applied: u64,
    /// Commands that were refused: the user's, and those planned on views that were old.
    pub refused: u64,
    /// How long after the last fault everything was as it is to be.
    pub converged_after: Duration,
    /// The managers' state in the end.
    pub state: shoal_manager_state::ClusterState,
}

/// Simulates under one seed. Each run with the same seed is the same to the last event. `mind`
/// makes what the leader thinks with; it is made again to tell what led to a failure.
///
/// # Errors
/// A judge found something wrong.
pub fn run<M: Mind>(seed: u64, mind: impl Fn() -> M) -> Result<Summary, Box<Failure>> {
    match simulate(seed, mind(), false) {
        Ok(summary) => Ok(summary),
        // Writing down what happens costs much, so it is done only where somebody reads it.
        Err(quiet) => match simulate(seed, mind(), true) {
            Err(failure) => Err(failure),
            Ok(_) => Err(quiet),
        },
    }
}

fn simulate<M: Mind>(seed: u64, mind: M, traced: bool) -> Result<Summary, Box<Failure>> {
    let mut world = World::new(seed, mind, traced);
    let until = world.chaos_until;
    world.run_until(until);
    world.heal();
    let healed = world.ctx.queue.now;
    let converged = wait(&mut world, CONVERGED_WITHIN, unfinished);
    if world.wrong.is_empty() {
        let stable = world.ctx.queue.now + STABLE_FOR;
        world.run_until(stable);
        world.look_closely();
        // What ends and is started again is under way at some moments, and so are others that get
        // and lose their places by it; and what is replaced slot by slot.
        let unsteady = world.state.services().any(|s| user::is_unsteady(&world.state, s));
        let rolls = !rolled_out::unended(&world.state, &BTreeSet::new()).is_empty();
        let grace = if unsteady || rolls { STABLE_FOR } else { Duration::ZERO };
        wait(&mut world, grace, unfinished);
        remove_restless(&mut world);
        wait(&mut world, DEPLOYED_WITHIN, |world| {
            rolled_out::unended(&world.state, &restless(world))
        });
    }
    if world.wrong.is_empty() {
        let (applied, refused, state) = (world.applied, world.refused, world.state);
        return Ok(Summary { applied, refused, converged_after: converged.since(healed), state });
    }
    let trace = world.ctx.take_trace();
    Err(Box::new(Failure { seed, wrong: world.wrong, trace }))
}

/// Waits until nothing is missing any more, for at most `limit`; when that was.
fn wait<M: Mind>(
    world: &mut World<M>,
    limit: Duration,
    missing: impl Fn(&World<M>) -> Vec<String>,
) -> Timestamp {
    let deadline = world.ctx.queue.now + limit;
    while world.wrong.is_empty() {
        let missing = missing(world);
        if missing.is_empty() {
            break;
        }
        if world.ctx.queue.now >= deadline {
            world.wrong.extend(missing);
            break;
        }
        let next = world.ctx.queue.now + Duration::from_millis(500);
        world.run_until(next);
    }
    world.ctx.queue.now
}

fn unfinished<M: Mind>(world: &World<M>) -> Vec<String> {
    let reality = world.reality();
    let moment = reality.beside(&world.state, world.ctx.queue.now);
    let mut wrong = convergence::check(&moment, &restless(world));
    wrong.extend(rolled_out::outdated(&world.state));
    for (node, agent) in world.agents.iter().filter(|(_, agent)| agent.is_up()) {
        let observed = agent.host.things.observe();
        wrong.extend(node_in_order::judge(&node.to_string(), &agent.holdings(None), &observed));
        wrong.extend(agent.host.net.judge(*node, &observed.lost));
        if let Some(told) = agent.told().filter(|_| world.state.node(*node).is_some()) {
            wrong.extend(told_as_it_is::judge(&world.state, *node, told));
        }
    }
    if !world.leader.is_idle() {
        wrong.push("the leader is still planning".to_owned());
    }
    wrong
}

/// What goes on for ever says nothing more, and costs much to simulate.
fn remove_restless<M: Mind>(world: &mut World<M>) {
    for id in restless(world) {
        world.apply(Command::RemoveService { id });
    }
}

fn restless<M: Mind>(world: &World<M>) -> BTreeSet<ServiceId> {
    let services = world.state.services();
    services.filter(|s| user::is_restless(&world.state, s)).map(|s| s.id).collect()
}
