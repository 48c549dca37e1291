//! What is on a host, to see that nothing is left behind.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use super::{Host, Role, cgroup, netns};
use crate::eventually::within;

/// Below the state directory, what is not a task's: it stays and changes. The ledger of networks
/// is one file for all of them.
const LASTING: [&str; 4] = ["images", "manager", "volumes", "networks"];

/// Characters of an id.
const ID_LENGTH: usize = 25;

/// Processes, mounts, links, tables, groups and files of a host, as lines.
pub type Inventory = BTreeSet<String>;

impl Host {
    /// Everything on the host that a task could have left.
    ///
    /// # Errors
    /// When the host is not up.
    pub fn inventory(&self) -> Result<Inventory> {
        let mut found = Inventory::new();
        let own = |p: &super::Process| Role::Agent.is(p) || Role::Manager.is(p);
        let others = self.processes().into_iter().filter(|p| !own(p));
        found.extend(others.map(|p| format!("process {}", p.command)));
        for pid in [Some(self.holder()?), self.the(Role::Agent).ok().map(|p| p.pid)] {
            let Some(pid) = pid else { continue };
            let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            let place = |line: &str| line.split(' ').nth(4).map(str::to_owned);
            let dir = self.dir.to_string_lossy();
            let mounts = text.lines().filter_map(place).filter(|m| m.starts_with(&*dir));
            found.extend(mounts.map(|m| format!("mount {m}")));
        }
        found.extend(netns::links(&self.netns())?.into_iter().map(|l| format!("link {l}")));
        found.extend(netns::tables(&self.netns())?.into_iter().map(|t| format!("nft {t}")));
        let groups = cgroup::below(&self.cgroup());
        found.extend(groups.into_iter().map(|g| format!("cgroup {}", g.display())));
        files(&self.run_dir(), &[], &mut found);
        files(&self.state_dir(), &LASTING, &mut found);
        let mounted = self.state_dir().join("images/mounts");
        files(&mounted, &[], &mut found);
        Ok(found)
    }

    /// Waits until nothing is on the host that was not there at an earlier time.
    ///
    /// # Errors
    /// Names what is left.
    pub fn nothing_since(&self, earlier: &Inventory, patience: Duration) -> Result<()> {
        within(patience, || {
            let now = self.inventory()?;
            let left: Vec<&String> = now.difference(earlier).collect();
            if !left.is_empty() {
                bail!("left behind on {}: {left:#?}", self.name);
            }
            Ok(())
        })
    }
}

fn files(dir: &Path, but: &[&str], found: &mut Inventory) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if but.iter().any(|skipped| name == *skipped) {
            continue;
        }
        // A directory that is there for all tasks alike is made when the first needs it.
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_dir || is_of_an_object(&name) {
            found.insert(format!("file {}", of_any_epoch(&entry.path()).display()));
        }
        if is_dir {
            files(&entry.path(), but, found);
        }
    }
}

/// Whether a name has the id of a task, network or the like in it.
fn is_of_an_object(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let mut parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    parts.any(|part| part.len() == ID_LENGTH)
}
/// The key of a tunnel under the name that it has in the first epoch: each epoch has one, and only one stays.
fn of_any_epoch(path: &Path) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let epoch = name.strip_prefix("tunnel.").and_then(|rest| rest.strip_suffix(".key"));
    match epoch.and_then(|epoch| epoch.parse::<u64>().ok()) {
        Some(_) => path.with_file_name("tunnel.key"),
        None => path.to_owned(),
    }
}
