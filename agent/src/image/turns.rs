//! How much is downloaded and unpacked at the same time, so that nobody's layers hold up everybody's.
//!
//! A download is one of its pull's, of its registry's and of the host's, each with a bound; the
//! bounds are wide enough apart that one slow pull leaves its registry to others, and one slow
//! registry the host. Unpacking takes a slot of its own, and only while there is something to
//! unpack: a download that drips takes none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What may happen at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parallel {
    /// Downloads of one pull.
    pub per_pull: usize,
    /// Downloads from one registry, over all pulls.
    pub per_registry: usize,
    /// Downloads, over all registries. Each has a thread that waits for what arrives.
    pub downloads: usize,
    /// Layers that are being unpacked.
    pub unpacks: usize,
}

impl Default for Parallel {
    fn default() -> Self {
        Self { per_pull: 4, per_registry: 8, downloads: 32, unpacks: 4 }
    }
}

/// The downloads and unpacks of one store.
#[derive(Debug)]
pub(super) struct Turns {
    parallel: Parallel,
    registries: Mutex<HashMap<String, Weak<Semaphore>>>,
    downloads: Arc<Semaphore>,
    unpacks: Arc<Semaphore>,
}

/// Leave to download; held until the download has ended.
#[derive(Debug)]
pub(super) struct Leave {
    _permits: [Option<OwnedSemaphorePermit>; 3],
    /// Known for as long as somebody uses it.
    _registry: Arc<Semaphore>,
}

/// A place to unpack, taken while there is something to do.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.max(1)))
}

impl Turns {
    pub(super) fn new(parallel: Parallel) -> Self {
        let (downloads, unpacks) = (semaphore(parallel.downloads), semaphore(parallel.unpacks));
        Self { parallel, registries: Mutex::default(), downloads, unpacks }
    }

    /// The turns of one pull among themselves.
    pub(super) fn pull(&self) -> Arc<Semaphore> {
        semaphore(self.parallel.per_pull)
    }

    fn registry(&self, name: &str) -> Arc<Semaphore> {
        let mut known = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = known.get(name).and_then(Weak::upgrade) {
            return registry;
        }
        known.retain(|_, registry| registry.strong_count() > 0);
        let registry = semaphore(self.parallel.per_registry);
        known.insert(name.to_owned(), Arc::downgrade(&registry));
        registry
    }

    /// Waits for leave to download for a pull from a registry. Always in this order, so nobody waits
    /// in a circle; and what is shared by more is taken last.
    pub(super) async fn download(&self, pull: &Arc<Semaphore>, registry: &str) -> Leave {
        let registry = self.registry(registry);
        // No semaphore here is ever closed.
        let permits = [
            Arc::clone(pull).acquire_owned().await.ok(),
            Arc::clone(&registry).acquire_owned().await.ok(),
            Arc::clone(&self.downloads).acquire_owned().await.ok(),
        ];
        Leave { _permits: permits, _registry: registry }
    }

    pub(super) fn slot(&self) -> Slot {
        Slot { slots: Arc::clone(&self.unpacks), held: None }
    }
}

impl Slot {
    /// Waits for the slot before there is a thread.
    pub(super) async fn taken(mut self) -> Self {
        self.held = Arc::clone(&self.slots).acquire_owned().await.ok();
        self
    }

    /// Waits for the slot, on a thread that unpacks.
    pub(super) fn take(&mut self, runtime: &Handle) {
        if self.held.is_none() {
            self.held = runtime.block_on(Arc::clone(&self.slots).acquire_owned()).ok();
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
        let turns = Turns::new(Parallel { per_pull: 2, per_registry: 3, downloads: 5, unpacks: 1 });
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
        assert!(turns.download(&turns.pull(), "third").now_or_never().is_none(), "the host's");
        drop(other);
        assert!(turns.download(&turns.pull(), "third").now_or_never().is_some());
        drop(slow);
        turns.download(&first, "slow").await;
        assert_eq!(turns.registries.lock().unwrap().len(), 1, "the others are forgotten");
    }
}
