//! What everything in a simulation shares: time, chance, ids, and notes for the trace.

use std::collections::VecDeque;
use std::time::Duration;

use shoal_types::assignment::AssignedTask;
use shoal_types::id::SeededIds;
use shoal_types::spec::TaskRuntime;

use super::queue::Queue;
use super::random::Random;

/// Events kept for the trace of a failure.
const TRACE_MAX: usize = 150;

pub(crate) struct Context {
    pub(crate) queue: Queue,
    pub(crate) random: Random,
    pub(crate) ids: SeededIds,
    /// Whether nothing breaks any more.
    pub(crate) calm: bool,
    counter: u64,
    trace: Option<VecDeque<String>>,
}

impl Context {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        Self {
            queue: Queue::default(),
            random: Random::new(seed),
            ids: SeededIds::new(seed ^ 0x5_1a75),
            calm: false,
            counter: 0,
            trace: traced.then(VecDeque::new),
        }
    }

    pub(crate) fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Notes what happens, if somebody will read it.
    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        let Some(trace) = &mut self.trace else { return };
        if trace.len() == TRACE_MAX {
            trace.pop_front();
        }
        let ms = self.queue.now.as_nanos() / 1_000_000;
        trace.push_back(format!("{:>4}.{:03} {}", ms / 1000, ms % 1000, text()));
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().into_iter().flatten().collect()
    }

    /// How long a container lives by itself: what its image is for decides.
    pub(crate) fn lifetime(&mut self, task: &AssignedTask) -> Option<Duration> {
        match kind(task) {
            Kind::Bad => Some(self.random.millis(100, 2000)),
            Kind::Once => Some(self.random.millis(500, 3000)),
            Kind::Good => {
                (!self.calm && self.random.chance(10)).then(|| self.random.millis(500, 60_000))
            }
        }
    }

    /// With what code it ends; not at all if it is a good one and nothing breaks any more.
    pub(crate) fn exit_code(&mut self, task: &AssignedTask) -> Option<i32> {
        match kind(task) {
            Kind::Bad => Some(1),
            Kind::Once => Some(0),
            Kind::Good if self.calm => None,
            Kind::Good => Some(if self.random.chance(30) { 0 } else { 137 }),
        }
    }
}

enum Kind {
    Good,
    Bad,
    Once,
}

fn kind(task: &AssignedTask) -> Kind {
    let TaskRuntime::Container(container) = &task.spec.runtime else { return Kind::Good };
    match container.image.split(':').next() {
        Some("bad") => Kind::Bad,
        Some("once") => Kind::Once,
        _ => Kind::Good,
    }
}
