//! A cluster of lies for tests: a small certificate authority, a manager that does as it is told,
//! and a workload that runs nothing. The transport between them is the real one.

pub(crate) mod assigner;
mod ca;
mod manager;
mod workload;

use std::time::Duration;

pub(crate) use ca::TestCa;
pub(crate) use manager::{ExecSide, FakeManager, Period};
pub(crate) use workload::{Asked, FakeWorkload, ProcessSide};

/// Waits until `look` has something to say.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(seen) = look() {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
