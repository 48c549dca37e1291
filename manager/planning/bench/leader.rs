//! The leader's loops without their waiting: each plans when it has proposed all of its last plan, and
//! what it proposes is applied and shown in batches.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use shoal_manager_planning::{BATCH_MAX, Plan, orchestrator, scheduler};
use shoal_manager_state::testing::TestCluster;
use shoal_manager_state::{ClusterState, Command, Event};

/// A leader of a cluster, and what its work has cost.
pub(crate) struct Leader {
    pub(crate) cluster: TestCluster,
    orchestrator: orchestrator::Memory,
    scheduler: scheduler::Memory,
    rests: [VecDeque<Command>; 2],
    /// What readers were shown last: they hold it while the next batch is applied.
    view: ClusterState,
    /// What was written last.
    pub(crate) written: Vec<Event>,
    pub(crate) planning: [Duration; 2],
    pub(crate) applying: Duration,
}

impl Leader {
    pub(crate) fn new(cluster: TestCluster) -> Self {
        let view = cluster.state.clone();
        let mut this = Self {
            cluster,
            orchestrator: orchestrator::Memory::default(),
            scheduler: scheduler::Memory::default(),
            rests: Default::default(),
            view,
            written: Vec::new(),
            planning: Default::default(),
            applying: Duration::ZERO,
        };
        this.publish();
        this
    }

    /// Forgets what everything so far has cost.
    pub(crate) fn reset(&mut self) {
        self.planning = Default::default();
        self.applying = Duration::ZERO;
    }

    /// Applies commands that come from elsewhere.
    pub(crate) fn apply(&mut self, commands: impl IntoIterator<Item = Command>) {
        let begun = Instant::now();
        for command in commands {
            self.cluster.try_apply(command).expect("nothing is refused");
        }
        self.publish();
        self.applying += begun.elapsed();
    }

    fn publish(&mut self) {
        self.view = self.cluster.state.clone();
        self.written = self.cluster.events();
        for event in &self.written {
            self.orchestrator.hear(event);
            self.scheduler.hear(event);
        }
    }

    /// Both loops in turn until neither has anything to do; how many commands they proposed.
    pub(crate) fn work(&mut self) -> usize {
        let mut proposed = 0;
        loop {
            let before = proposed;
            for which in [0, 1] {
                if self.rests[which].is_empty() {
                    self.rests[which] = self.plan(which).commands.into();
                }
                let rest = &mut self.rests[which];
                let batch: Vec<Command> = rest.drain(..rest.len().min(BATCH_MAX)).collect();
                proposed += batch.len();
                if !batch.is_empty() {
                    self.apply(batch);
                }
            }
            if proposed == before {
                return proposed;
            }
        }
    }

    fn plan(&mut self, which: usize) -> Plan {
        let (view, now) = (self.view.clone(), self.cluster.now);
        let begun = Instant::now();
        let plan = match which {
            0 => orchestrator::plan(&view, &mut self.orchestrator, now, &mut self.cluster.ids),
            _ => scheduler::plan(&view, &mut self.scheduler, now),
        };
        self.planning[which] += begun.elapsed();
        plan
    }
}
