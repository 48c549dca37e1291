//! Leaving nothing of a container.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use shoal_agent_ground::mounts::MountTable;

use super::unaided::{self, clear_cgroup};
use super::{ContainerId, Inner, RuntimeError, lock, parent};
use shoal_agent_container::ProcessIdentity;
use shoal_agent_container::supervise::protocol::Op;
use shoal_agent_container::supervise::setup::{UPPER_DIR, WORK_DIR};

/// How long a supervisor may take to clean up before it is killed.
const PATIENCE: Duration = Duration::from_secs(15);

const SIGKILL: i32 = 9;

/// What stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Nothing,
    /// The log, and how the container ended.
    Log,
}

pub(super) async fn remove(
    inner: Arc<Inner>,
    id: ContainerId,
    keep: Keep,
) -> Result<(), RuntimeError> {
    let mut errors = Vec::new();
    let link = lock(&inner.links).get(&id).cloned();
    if let Some(link) = link {
        // Fails when the supervisor is ending by itself, which is what is wanted.
        if let Err(RuntimeError::Supervisor { .. }) = link.ask(Op::Quit).await {
            // One that does not help has still an end to record.
            let (worker, name) = (Arc::clone(&inner), id.clone());
            let killed = tokio::task::spawn_blocking(move || unaided::kill(&worker, &name)).await;
            errors.extend(killed.map_err(|e| e.to_string()).and_then(|done| done).err());
        }
        if !link.ended_within(PATIENCE).await {
            kill(link.supervisor());
            if !link.ended_within(PATIENCE).await {
                errors.push(format!("supervisor {} does not die", link.supervisor().pid));
            }
        }
    }
    let (worker, name) = (Arc::clone(&inner), id.clone());
    let cleaned = tokio::task::spawn_blocking(move || clean(&worker, &name, keep)).await;
    errors.extend(cleaned.unwrap_or_else(|e| vec![e.to_string()]));
    if errors.is_empty() {
        lock(&inner.links).remove(&id);
        parent::remove_soon(&inner);
        return Ok(());
    }
    Err(RuntimeError::NotRemoved { id, errors })
}

fn clean(inner: &Inner, id: &ContainerId, keep: Keep) -> Vec<String> {
    let mut errors = Vec::new();
    let run_dir = inner.run_dir(id);
    // A supervisor that no agent got hold of.
    let find = || match unaided::supervisor(inner, id)? {
        None if run_dir.exists() => unaided::find_supervisor(inner, id),
        known => Ok(known),
    };
    match find() {
        Ok(Some(process)) => kill(process),
        Ok(None) => {}
        Err(e) => errors.push(format!("looking for its supervisor: {e}")),
    }
    errors.extend(clear_cgroup(inner, &inner.cgroup(id)).err());
    // The record that a container existed goes last: until then, removal can be repeated.
    let state_dir = inner.state_dir(id);
    let dirs = match keep {
        Keep::Nothing => vec![state_dir, run_dir],
        Keep::Log => vec![state_dir.join(UPPER_DIR), state_dir.join(WORK_DIR), run_dir],
    };
    for dir in dirs {
        if let Err(e) = detach_below(&dir).and_then(|()| remove_dir(&dir)) {
            errors.push(format!("removing {}: {e}", dir.display()));
        }
    }
    errors
}

/// Because somebody has asked for the container's removal.
fn kill(process: ProcessIdentity) {
    let _ = process.signal(SIGKILL);
}

/// Takes away what somebody has mounted in a container's directory, whose files are not the container's
/// and would be removed with it. A container's own mounts are in a namespace of its own.
fn detach_below(dir: &Path) -> io::Result<()> {
    let dir = match fs::canonicalize(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        dir => dir?,
    };
    let table = MountTable::parse(&fs::read("/proc/self/mountinfo")?);
    for point in table.below(&dir) {
        // Else what is mounted further in would go from where it has been bound from, too.
        let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        let done = mount_change(point, alone)
            .and_then(|()| unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW));
        match done {
            // Gone with what it was mounted in.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
