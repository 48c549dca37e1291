//! What earlier runs left when they were killed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::process::{Belongs, kill_all};
use super::{all, cgroup, netns, remove_tree};

/// Begins the names of all labs of tests: with the id of the process that made them after it.
pub(super) const PREFIX: &str = "shoallab";

/// The directory of all labs that tests make.
#[must_use]
pub(super) fn root() -> PathBuf {
    std::env::temp_dir().join("shoal-labs")
}

/// The names of network namespaces that begin so.
pub(super) fn namespaces(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| n.starts_with(prefix))
        .collect()
}

/// Removes what labs left whose makers are dead: only those below the tests' own directory, never
/// one that was given a directory.
///
/// # Errors
/// Names all that could not be removed.
pub fn sweep() -> Result<()> {
    let entries = fs::read_dir(root()).into_iter().flatten().flatten();
    all(entries.map(|e| e.path()).filter(|dir| is_orphan(dir)).map(|dir| remove(&dir)))
}

fn is_orphan(dir: &Path) -> bool {
    let Some(maker) = maker(dir) else { return false };
    !Path::new("/proc").join(maker.to_string()).exists()
}

fn maker(dir: &Path) -> Option<u32> {
    let name = dir.file_name()?.to_str()?;
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn remove(dir: &Path) -> Result<()> {
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let mut steps = Vec::new();
    for group in cgroup::beginning_with(&format!("{name}-")) {
        steps.push(kill_all(Belongs { netns: None, cgroup: Some(&group), dir }));
        cgroup::remove(&group);
    }
    for namespace in namespaces(&format!("{name}-")) {
        let path = netns::path(&namespace);
        steps.push(kill_all(Belongs { netns: Some(&path), cgroup: None, dir }));
        steps.push(netns::remove(&namespace));
    }
    steps.push(remove_tree(dir));
    all(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makers_are_in_the_name() {
        let table = [
            ("/tmp/x/shoallab12-0", Some(12)),
            ("/tmp/x/shoallab12", Some(12)),
            ("/tmp/x/other12-0", None),
            ("/tmp/x/shoallab-0", None),
        ];
        for (path, expected) in table {
            assert_eq!(maker(Path::new(path)), expected, "{path}");
        }
        assert!(!is_orphan(Path::new("/tmp/x/shoallab1-0")), "process 1 is alive");
    }
}
