//! What there is of containers on the host, whoever has left it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use shoal_agent_container::cgroup::Layout;
use shoal_agent_container::supervise::setup::{UPPER_DIR, WORK_DIR};
use tokio::task::spawn_blocking;

use super::{CGROUP_PREFIX, ContainerId, Inner, RuntimeError, Trace};

pub(super) async fn traces(inner: Arc<Inner>) -> Result<Vec<Trace>, RuntimeError> {
    let state_dir = inner.config.state_dir.clone();
    let looked = spawn_blocking(move || look(&inner)).await;
    looked.unwrap_or_else(|e| Err(RuntimeError::io("listing", &state_dir)(io::Error::other(e))))
}

fn look(inner: &Inner) -> Result<Vec<Trace>, RuntimeError> {
    let mut live = names(&inner.config.run_dir)?;
    live.extend(grouped(inner));
    let stored = names(&inner.config.state_dir)?;
    let trace = |id: &ContainerId| {
        let dir = inner.state_dir(id);
        let layers = [UPPER_DIR, WORK_DIR].iter().any(|layer| dir.join(layer).exists());
        Trace { id: id.clone(), only_log: !live.contains(id) && !layers }
    };
    Ok(live.union(&stored).map(trace).collect())
}

/// Containers that have a directory in this one. Files are nobody's container.
pub(super) fn names(dir: &Path) -> Result<BTreeSet<ContainerId>, RuntimeError> {
    let failed = || RuntimeError::io("listing", dir);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let Some(id) = entry.file_name().to_str().and_then(|name| ContainerId::new(name).ok())
        else {
            continue;
        };
        match entry.file_type() {
            Ok(kind) if kind.is_file() => {}
            Ok(_) => {
                names.insert(id);
            }
            // Removed meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed()(e)),
        }
    }
    Ok(names)
}

/// Containers that have a control group, in any hierarchy. Where there is none at all there is no parent
/// of them either.
pub(super) fn grouped(inner: &Inner) -> BTreeSet<ContainerId> {
    let parent = inner.config.cgroup_parent.trim_matches('/');
    let roots: Vec<&Path> = match &inner.layout {
        Layout::Unified { root } => vec![root],
        Layout::Hierarchies(all) => all.iter().map(|h| h.root.as_path()).collect(),
    };
    let entries =
        roots.iter().filter_map(|r| fs::read_dir(r.join(parent)).ok()).flatten().flatten();
    let named = entries.filter_map(|e| {
        let name = e.file_name();
        ContainerId::new(name.to_str()?.strip_prefix(CGROUP_PREFIX)?).ok()
    });
    named.collect()
}
