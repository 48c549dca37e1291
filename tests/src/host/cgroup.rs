//! The control groups of a host, in every hierarchy of this machine.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether a group is `parent` or one below it.
pub(super) fn is_at_or_below(group: &str, parent: &str) -> bool {
    group.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The directories of a group: one in each hierarchy where it exists.
fn directories(group: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
    let candidates = std::iter::once(root.to_owned()).chain(hierarchies);
    let name = group.trim_start_matches('/');
    candidates.map(|hierarchy| hierarchy.join(name)).filter(|path| path.is_dir()).collect()
}

/// Every group below one, with its hierarchy; not the group itself.
pub(super) fn below(group: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in directories(group) {
        descend(&directory, &mut found);
    }
    found
}

fn descend(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            descend(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

/// Removes a group with all below it; its processes have to be gone. Returns what is left.
pub(super) fn remove(group: &str) -> Vec<PathBuf> {
    let deepest_first = below(group);
    for directory in deepest_first.into_iter().chain(directories(group)) {
        // Judged by what is left.
        let _ = fs::remove_dir(directory);
    }
    directories(group)
}

/// The groups of the first level whose names begin so.
pub(super) fn beginning_with(prefix: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let root = Path::new("/sys/fs/cgroup");
    let children = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let hierarchies = children(root).map(|e| e.path());
    for hierarchy in std::iter::once(root.to_owned()).chain(hierarchies) {
        let names = children(&hierarchy).filter_map(|e| e.file_name().into_string().ok());
        found.extend(names.filter(|n| n.starts_with(prefix)).map(|n| format!("/{n}")));
    }
    found.sort();
    found.dedup();
    found
}
