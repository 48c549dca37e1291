//! Work in a network namespace, for benchmarks that make hosts of them.

use std::thread;

use anyhow::bail;

use crate::space::move_into;

/// Runs something there, on a thread of its own.
pub(crate) fn inside<T: Send>(
    space: &str,
    act: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let enter = || -> anyhow::Result<T> {
        move_into(space)?;
        act()
    };
    thread::scope(|scope| scope.spawn(enter).join())
        .unwrap_or_else(|_| bail!("a thread has panicked"))
}
