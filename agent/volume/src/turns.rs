//! Turns: one at a time for each thing, and nothing is kept for what nobody wants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Who waits for its turn has no thread meanwhile.
#[derive(Debug)]
pub(super) struct Turns<K>(Mutex<BTreeMap<K, Arc<Turn<()>>>>);

impl<K> Turns<K> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl<K: Ord> Turns<K> {
    /// Waits for a turn, which lasts until what is returned is dropped.
    pub(super) async fn take(&self, key: K) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !turns.contains_key(&key) {
                turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            turns.entry(key).or_default().clone()
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_wants_any_more_is_forgotten() {
        let turns = Turns::new();
        let kept = turns.take(0).await;
        for n in 1..1000 {
            drop(turns.take(n).await);
        }
        let left = turns.0.lock().unwrap().len();
        assert_eq!(left, 2, "the one that is held, and the last");
        assert!(turns.0.lock().unwrap()[&0].try_lock().is_err());
        drop(kept);
    }
}
