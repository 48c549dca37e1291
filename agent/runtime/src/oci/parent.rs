//! The control group above those of the containers. It comes with the first container and goes with
//! the last; one that somebody else has made, with limits of their own maybe, is left alone.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Inner, RuntimeError, lock};

/// How long the group outlives the last container: where containers follow each other it stays.
const LINGER: Duration = Duration::from_secs(1);

impl Inner {
    /// Says that the group is ours. Beside the containers' directories, and gone with them when the
    /// host reboots, as control groups are.
    fn parent_mark(&self) -> PathBuf {
        self.config.run_dir.with_extension("cgroup-parent")
    }
}

/// While it lives, a container is being made that needs the group.
pub(super) struct Claim<'a>(&'a Inner);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        *lock(&self.0.parent_claims) -= 1;
    }
}

/// Before a container is made: writes down that its parent group is ours, if there is none yet. The
/// claim is held until the container is known.
pub(super) fn claim(inner: &Inner) -> Result<Claim<'_>, RuntimeError> {
    let mut claims = lock(&inner.parent_claims);
    if !inner.layout.has(&inner.config.cgroup_parent) {
        let mark = inner.parent_mark();
        fs::write(&mark, "").map_err(RuntimeError::io("writing", mark))?;
    }
    *claims += 1;
    Ok(Claim(inner))
}

/// Removes the group if it is ours and empty, and then what says that it is ours.
pub(super) fn remove(inner: &Inner) -> io::Result<()> {
    let claims = lock(&inner.parent_claims);
    let mark = inner.parent_mark();
    if *claims > 0 || !mark.exists() {
        return Ok(());
    }
    inner.layout.remove_empty(&inner.config.cgroup_parent)?;
    match inner.layout.has(&inner.config.cgroup_parent) {
        true => Ok(()),
        false => fs::remove_file(mark),
    }
}

/// As [`remove`], soon, unless there is another container by then.
pub(super) fn remove_soon(inner: &Arc<Inner>) {
    if !lock(&inner.links).is_empty() {
        return;
    }
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        tokio::time::sleep(LINGER).await;
        if lock(&inner.links).is_empty() {
            // An empty group does no harm; the next removal tries again.
            let _ = tokio::task::spawn_blocking(move || remove(&inner)).await;
        }
    });
}
