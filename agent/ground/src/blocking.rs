//! Threads for work that blocks, shared out so that slow work of one kind never keeps another from
//! its own.
//!
//! Each class has a bound, which is waited for before a thread is taken; what belongs to no class
//! (log files, the ledger, name resolution, cleaning up) has the rest for itself. No thread waits
//! here for a lock that is held during slow work: such locks are async ones, taken before.

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// A kind of slow work, with threads of its own.
#[derive(Debug)]
pub struct Class {
    free: Semaphore,
}

/// Layers that are unpacked, one for each download and each slot (see `image/turns.rs`).
pub static UNPACK: Class = Class::new(SHARES[0]);
/// Files of the image store: its list, its layers put in place and removed.
pub static STORE: Class = Class::new(SHARES[1]);
/// What volumes hold: made, mounted, removed.
pub static VOLUMES: Class = Class::new(SHARES[2]);
/// Images' files that are copied into new volumes.
pub static COPY: Class = Class::new(SHARES[3]);
/// Paths that users name: they may be on file systems that never answer.
pub static FOREIGN: Class = Class::new(SHARES[4]);
/// Directories whose files are counted because somebody has asked.
pub static MEASURE: Class = Class::new(SHARES[5]);
/// The kernel's counts of what is used.
pub static COUNT: Class = Class::new(SHARES[6]);

/// Threads of each class, in the order above.
const SHARES: [usize; 7] = [68, 6, 4, 4, 16, 2, 2];
/// Threads for everything else.
const RESERVE: usize = 16;
/// Threads for work that blocks, at most; they end when there is none.
pub const THREADS: usize = {
    let [a, b, c, d, e, f, g] = SHARES;
    a + b + c + d + e + f + g + RESERVE
};

/// The work panicked, or the runtime ended before it was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker thread was lost")]
pub struct Lost;

impl Class {
    const fn new(threads: usize) -> Self {
        Self { free: Semaphore::const_new(threads) }
    }

    /// Runs work on a thread of this class. When this is dropped, work that has begun goes on, and
    /// keeps its thread until it is done.
    ///
    /// # Errors
    /// [`Lost`].
    pub async fn run<T: Send + 'static>(
        &'static self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let permit = self.free.acquire().await.map_err(|_| Lost)?;
        let work = move || {
            let _permit = permit;
            work()
        };
        spawn_blocking(work).await.map_err(|_| Lost)
    }

    /// Runs work that nobody waits for; right here outside a runtime.
    pub fn leave(&'static self, work: impl FnOnce() + Send + 'static) {
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(self.run(work))),
            Err(_) => work(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Whichever class is stuck for ever, the others and everything else go on.
    #[test]
    fn slow_work_of_one_kind_leaves_the_others_their_threads() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(THREADS)
            .enable_all()
            .build()
            .unwrap();
        let all = [&UNPACK, &STORE, &VOLUMES, &COPY, &FOREIGN, &MEASURE, &COUNT];
        runtime.block_on(async {
            let (answer, silence) = mpsc::channel::<()>();
            let silence = std::sync::Arc::new(std::sync::Mutex::new(silence));
            for (n, stuck) in all.iter().enumerate() {
                for _ in 0..200 {
                    let silence = silence.clone();
                    stuck.leave(move || {
                        let _ = silence.lock().unwrap().recv();
                    });
                }
                while stuck.free.available_permits() > 0 {
                    tokio::task::yield_now().await;
                }
                for other in &all[n + 1..] {
                    tokio::time::timeout(PATIENCE, other.run(|| ())).await.unwrap().unwrap();
                }
                tokio::time::timeout(PATIENCE, spawn_blocking(|| ())).await.unwrap().unwrap();
            }
            drop(answer);
            for class in all {
                tokio::time::timeout(PATIENCE, class.run(|| ())).await.unwrap().unwrap();
            }
        });
    }

    #[tokio::test]
    async fn a_panic_costs_no_thread() {
        for _ in 0..2 * SHARES[3] {
            let lost = COPY.run(|| assert!(SHARES.is_empty(), "broken")).await;
            assert_eq!(lost, Err(Lost));
        }
        assert_eq!(COPY.run(|| 1).await, Ok(1));
    }
}
