//! How much of what costs memory, or places that all share, one caller has at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_transport::PeerId;
use tonic::Status;

use super::asked::Asker;

/// Takes by each caller.
type Taken = Arc<Mutex<BTreeMap<PeerId, usize>>>;

/// What each caller may have some of.
pub(super) struct Shares {
    most: usize,
    /// Many of it, for people.
    what: &'static str,
    taken: Taken,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    of: PeerId,
    taken: Taken,
}

fn lock(taken: &Taken) -> MutexGuard<'_, BTreeMap<PeerId, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shares {
    pub(super) fn new(most: usize, what: &'static str) -> Self {
        Self { most, what, taken: Taken::default() }
    }

    /// Takes one more for the asker.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if it has all that it may have.
    pub(super) fn take(&self, asker: &Asker) -> Result<Share, Status> {
        let of = asker.identity.id;
        let mut taken = lock(&self.taken);
        let has = taken.entry(of).or_default();
        if *has >= self.most {
            let (who, most, what) = (asker.standing.title(of), self.most, self.what);
            let why = format!("{who} has {most} {what} already: at most that many are served");
            return Err(Status::resource_exhausted(why));
        }
        *has += 1;
        Ok(Share { of, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        let left = taken.get(&self.of).map_or(0, |has| has.saturating_sub(1));
        match left {
            0 => drop(taken.remove(&self.of)),
            left => drop(taken.insert(self.of, left)),
        }
    }
}
