//! How much is downloaded and unpacked at the same time, so that nobody's layers hold up everybody's.
//!
//! A download is one of its pull's, of its registry's and of the host's, each with a bound; the
//! bounds are wide enough apart that one slow pull leaves its registry to others, and one slow
//! registry the host; where several slow ones have taken all of the host's places, a registry gets
//! one all the same. Unpacking takes a slot of its own, of those of its pull and of the host, and
//! only while there is something to unpack: a download that drips takes none, and one that never
//! ends passes its slot on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a slot is kept while others may be waiting for it.
const TURN: Duration = Duration::from_secs(1);

/// What may happen at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parallel {
    /// Downloads of one pull.
    pub per_pull: usize,
    /// Downloads from one registry, over all pulls.
    pub per_registry: usize,
    /// Downloads, over all registries. Each has a thread that waits for what arrives.
    pub downloads: usize,
    /// Registries that may have one more when all of those are taken.
    pub registries: usize,
    /// Layers of one pull that are being unpacked.
    pub unpacks_per_pull: usize,
    /// Layers that are being unpacked.
    pub unpacks: usize,
}

impl Default for Parallel {
    fn default() -> Self {
        Self {
            per_pull: 4,
            per_registry: 8,
            downloads: 32,
            registries: 32,
            unpacks_per_pull: 2,
            unpacks: 4,
        }
    }
}

/// The downloads and unpacks of one store.
#[derive(Debug)]
pub(super) struct Turns {
    parallel: Parallel,
    registries: Mutex<HashMap<String, Weak<Registry>>>,
    downloads: Arc<Semaphore>,
    beyond: Arc<Semaphore>,
    unpacks: Arc<Semaphore>,
}

/// The turns of one pull among themselves.
#[derive(Debug)]
pub(super) struct Pull {
    downloads: Arc<Semaphore>,
    unpacks: Arc<Semaphore>,
}

/// The turns of one registry.
#[derive(Debug)]
struct Registry {
    downloads: Arc<Semaphore>,
    /// The one that it may have beyond those of the host.
    beyond: Arc<Semaphore>,
}

/// Leave to download; held until what was downloaded is unpacked.
#[derive(Debug)]
pub(super) struct Leave {
    _permits: [Option<OwnedSemaphorePermit>; 4],
    /// Known for as long as somebody uses it.
    _registry: Arc<Registry>,
}

/// A place to unpack, taken while there is something to do.
#[derive(Debug)]
pub(super) struct Slot {
    /// Those of the pull and those of the host, to be taken in this order.
    slots: [Arc<Semaphore>; 2],
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    _permits: [Option<OwnedSemaphorePermit>; 2],
    since: Instant,
}

fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.max(1)))
}

/// No semaphore here is ever closed, so there is always a permit in the end.
async fn permit(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(semaphore).acquire_owned().await.ok()
}

impl Turns {
    pub(super) fn new(parallel: Parallel) -> Self {
        Self {
            parallel,
            registries: Mutex::default(),
            downloads: semaphore(parallel.downloads),
            beyond: semaphore(parallel.registries),
            unpacks: semaphore(parallel.unpacks),
        }
    }

    /// The turns of one pull among themselves.
    pub(super) fn pull(&self) -> Arc<Pull> {
        Arc::new(Pull {
            downloads: semaphore(self.parallel.per_pull),
            unpacks: semaphore(self.parallel.unpacks_per_pull),
        })
    }

    fn registry(&self, name: &str) -> Arc<Registry> {
        let mut known = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = known.get(name).and_then(Weak::upgrade) {
            return registry;
        }
        known.retain(|_, registry| registry.strong_count() > 0);
        let downloads = semaphore(self.parallel.per_registry);
        let registry = Arc::new(Registry { downloads, beyond: semaphore(1) });
        known.insert(name.to_owned(), Arc::downgrade(&registry));
        registry
    }

    /// Waits for leave to download for a pull from a registry. Always in this order, so nobody waits
    /// in a circle; and what is shared by more is taken last.
    pub(super) async fn download(&self, pull: &Pull, registry: &str) -> Leave {
        let registry = self.registry(registry);
        let first = permit(&pull.downloads).await;
        let second = permit(&registry.downloads).await;
        let beyond = async { [permit(&registry.beyond).await, permit(&self.beyond).await] };
        let [third, fourth] = tokio::select! {
            biased;
            place = permit(&self.downloads) => [place, None],
            place = beyond => place,
        };
        Leave { _permits: [first, second, third, fourth], _registry: registry }
    }

    /// A slot for something of a pull; not taken yet.
    pub(super) fn slot(&self, pull: &Pull) -> Slot {
        Slot { slots: [Arc::clone(&pull.unpacks), Arc::clone(&self.unpacks)], held: None }
    }
}

impl Slot {
    async fn acquire(&mut self) {
        if self.held.is_none() {
            let [pull, host] = &self.slots;
            let permits = [permit(pull).await, permit(host).await];
            self.held = Some(Held { _permits: permits, since: Instant::now() });
        }
    }

    /// Waits for the slot before there is a thread.
    pub(super) async fn taken(mut self) -> Self {
        self.acquire().await;
        self
    }

    /// Waits for the slot, on a thread that unpacks.
    pub(super) fn take(&mut self, runtime: &Handle) {
        if self.held.is_none() {
            runtime.block_on(self.acquire());
        }
    }

    /// Lets others who wait unpack first, if it has been held for long.
    pub(super) fn pass_on(&mut self, runtime: &Handle) {
        if self.held.as_ref().is_some_and(|held| held.since.elapsed() >= TURN) {
            self.leave();
            self.take(runtime);
        }
    }

    /// Lets somebody else unpack.
    pub(super) fn leave(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn neither_a_pull_nor_a_registry_takes_everything() {
        let parallel = Parallel {
            per_pull: 2,
            per_registry: 3,
            downloads: 5,
            registries: 2,
            ..Parallel::default()
        };
        let turns = Turns::new(parallel);
        let first = turns.pull();
        let mut slow = Vec::new();
        for _ in 0..2 {
            slow.push(turns.download(&first, "slow").await);
        }
        assert!(turns.download(&first, "slow").now_or_never().is_none(), "the pull's");
        let second = turns.pull();
        slow.push(turns.download(&second, "slow").await);
        assert!(turns.download(&second, "slow").now_or_never().is_none(), "the registry's");
        let third = turns.pull();
        let other = turns.download(&third, "other").await;
        slow.push(turns.download(&third, "other").await);
        // The host's are all taken; a registry gets one all the same, and not two.
        let got = |registry: &str| turns.download(&turns.pull(), registry).now_or_never();
        let third = got("third").expect("one of its own");
        assert!(got("third").is_none(), "the host's");
        let fourth = got("fourth").expect("one of its own");
        assert!(got("fifth").is_none(), "registries' are bounded, too");
        drop(fourth);
        assert!(got("fifth").is_some());
        drop(other);
        assert!(got("third").is_some());
        drop(third);
        drop(slow);
        turns.download(&first, "slow").await;
        assert_eq!(turns.registries.lock().unwrap().len(), 1, "the others are forgotten");
    }

    #[tokio::test]
    async fn no_pull_takes_all_slots() {
        let turns = Turns::new(Parallel::default());
        let (first, second) = (turns.pull(), turns.pull());
        let take = |pull: &Pull| turns.slot(pull).taken().now_or_never();
        let held: Vec<_> = (0..2).map(|_| take(&first).expect("within its share")).collect();
        assert!(take(&first).is_none(), "the pull's");
        let others: Vec<_> = (0..2).map(|_| take(&second).expect("the others' share")).collect();
        assert!(take(&turns.pull()).is_none(), "the host's");
        drop(held);
        assert!(take(&first).is_some());
        drop(others);
    }

    /// However many layers never come to an end, whoever waits gets a turn.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_slot_that_is_held_for_long_is_passed_on() {
        let turns = Turns::new(Parallel { unpacks: 1, ..Parallel::default() });
        let pulls: Vec<_> = (0..3).map(|_| turns.pull()).collect();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let endless: Vec<_> = pulls[..2]
            .iter()
            .map(|pull| {
                let (mut slot, stop) = (turns.slot(pull), Arc::clone(&stop));
                let runtime = Handle::current();
                tokio::task::spawn_blocking(move || {
                    slot.take(&runtime);
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        slot.pass_on(&runtime);
                        std::thread::yield_now();
                    }
                })
            })
            .collect();
        while turns.unpacks.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let turn = tokio::time::timeout(TURN * 60, turns.slot(&pulls[2]).taken()).await;
        assert!(turn.is_ok(), "whoever holds it keeps it");
        drop(turn);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for endless in endless {
            endless.await.unwrap();
        }
    }
}
