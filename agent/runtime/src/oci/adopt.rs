//! Taking over what an earlier agent left.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::link::{self, aftermath, clear_cgroup};
use super::{CGROUP_PREFIX, ContainerId, Inner, Observed, RuntimeError, lock, parent};
use crate::{ExitStatus, ObservedState, Prepared};
use shoal_agent_container::cgroup::Layout;
use shoal_agent_container::supervise::exit;
use shoal_agent_container::supervise::log::now_nanos;
use shoal_agent_container::supervise::setup::{LOG_DIR, OCI_DIR, ProcessIdentity, SUPERVISOR_FILE};

pub(super) async fn adopt(inner: Arc<Inner>) -> Result<Vec<Observed>, RuntimeError> {
    let mut ids = names(&inner.config.run_dir)?;
    ids.extend(names(&inner.config.state_dir)?);
    let mut found = Vec::new();
    for id in &ids {
        let state = one(&inner, id).await;
        found.push(Observed { id: id.clone(), state });
    }
    let sweeper = Arc::clone(&inner);
    // Groups of containers that have left no other trace.
    let _ = tokio::task::spawn_blocking(move || sweep(&sweeper, &ids)).await;
    Ok(found)
}

fn names(dir: &Path) -> Result<BTreeSet<ContainerId>, RuntimeError> {
    let entries = fs::read_dir(dir).map_err(RuntimeError::io("listing", dir))?;
    Ok(entries.flatten().filter_map(|e| ContainerId::new(e.file_name().to_str()?).ok()).collect())
}

async fn one(inner: &Arc<Inner>, id: &ContainerId) -> ObservedState {
    if let Some((link, status)) = link::connect(inner, id).await {
        let supervisor_pid = link.supervisor().pid;
        lock(&inner.links).insert(id.clone(), link);
        return match status.init {
            Some(init) => ObservedState::Running { pid: init.pid, supervisor_pid },
            None => ObservedState::Prepared(Prepared { supervisor_pid }),
        };
    }
    let (inner, id) = (Arc::clone(inner), id.clone());
    let blocking = tokio::task::spawn_blocking(move || without_supervisor(&inner, &id));
    let lost = |e: tokio::task::JoinError| ObservedState::Broken { reason: e.to_string() };
    blocking.await.unwrap_or_else(lost)
}

fn without_supervisor(inner: &Inner, id: &ContainerId) -> ObservedState {
    let (run_dir, state_dir) = (inner.run_dir(id), inner.state_dir(id));
    // One that does not listen, or has not got that far, does no good.
    let supervisor = fs::read(run_dir.join(SUPERVISOR_FILE)).ok();
    let supervisor: Option<ProcessIdentity> =
        supervisor.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(process) = supervisor.filter(|p| p.exists()) {
        kill(process);
    }
    match exit::read(&state_dir) {
        Ok(Some(status)) => return ObservedState::Exited(status),
        Ok(None) => {}
        Err(e) => return ObservedState::Broken { reason: format!("its exit record: {e}") },
    }
    if run_dir.join(OCI_DIR).exists() {
        return ObservedState::Exited(aftermath(inner, id, "while no agent ran"));
    }
    let _ = clear_cgroup(inner, &inner.cgroup(id));
    if !run_dir.exists() && state_dir.join(LOG_DIR).exists() {
        let message = Some("the host was restarted".to_owned());
        let status = ExitStatus {
            code: None,
            signal: None,
            oom_killed: false,
            at_nanos: now_nanos(),
            message,
        };
        // So that the next agent tells the same story, and who follows its log comes to an end.
        let _ = exit::write(&state_dir, &status);
        return ObservedState::Exited(status);
    }
    ObservedState::Broken { reason: "it was not prepared wholly".to_owned() }
}

/// Kills a process for certain to be the one meant: the descriptor is opened before the look.
pub(super) fn kill(process: ProcessIdentity) {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let Some(pid) = Pid::from_raw(process.pid) else { return };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if process.exists() {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
}

fn sweep(inner: &Inner, known: &BTreeSet<ContainerId>) {
    let parent = inner.config.cgroup_parent.trim_matches('/');
    let roots: Vec<&Path> = match &inner.layout {
        Layout::Unified { root } => vec![root],
        Layout::Hierarchies(all) => all.iter().map(|h| h.root.as_path()).collect(),
    };
    let entries =
        roots.iter().filter_map(|r| fs::read_dir(r.join(parent)).ok()).flatten().flatten();
    let stray: BTreeSet<ContainerId> = entries
        .filter_map(|e| {
            let name = e.file_name();
            ContainerId::new(name.to_str()?.strip_prefix(CGROUP_PREFIX)?).ok()
        })
        .filter(|id| !known.contains(id))
        .collect();
    for id in stray {
        let _ = clear_cgroup(inner, &inner.cgroup(&id));
    }
    // Refused while there is any container in it.
    let _ = parent::remove(inner);
}
