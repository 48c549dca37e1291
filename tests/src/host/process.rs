//! Which processes belong to a host, and ending them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::cgroup;
use crate::eventually::within;

/// A process, as it looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line, with spaces between the arguments.
    pub command: String,
}

impl Process {
    /// The file name of the program, as its command line has it.
    #[must_use]
    pub fn program(&self) -> &str {
        let first = self.command.split(' ').next().unwrap_or_default();
        first.rsplit('/').next().unwrap_or_default()
    }
}

/// What makes a process belong to a host: any of these.
#[derive(Debug, Clone, Copy)]
pub(super) struct Belongs<'a> {
    /// It is in this network namespace.
    pub netns: Option<&'a Path>,
    /// It is in a control group at or below this one.
    pub cgroup: Option<&'a str>,
    /// Its command line names something below this directory.
    pub dir: &'a Path,
}

/// The processes of a host; never the one that asks.
#[must_use]
pub(super) fn list(belongs: Belongs<'_>) -> Vec<Process> {
    let inode = |path: &Path| fs::metadata(path).ok().map(|m| m.ino());
    let machine = inode(Path::new("/proc/self/ns/net"));
    // Whatever is named by mistake, the machine's own processes never belong to a host.
    let netns = belongs.netns.and_then(inode).filter(|found| Some(*found) != machine);
    let cgroup = belongs.cgroup.filter(|group| !group.trim_matches('/').is_empty());
    let dir = format!("{}/", belongs.dir.display());
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let parents = ancestors(own);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        if parents.contains(&pid) {
            continue;
        }
        let path = entry.path();
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
        if command.is_empty() && inode(&path.join("ns/net")).is_none() {
            continue; // a zombie or a thread of the kernel
        }
        let in_netns = netns.is_some() && inode(&path.join("ns/net")) == netns;
        let groups = fs::read_to_string(path.join("cgroup")).unwrap_or_default();
        let in_group = cgroup.is_some_and(|parent| {
            let mut groups = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
            groups.any(|group| cgroup::is_at_or_below(group, parent))
        });
        if in_netns || in_group || command.contains(&dir) {
            found.push(Process { pid, command });
        }
    }
    found
}

/// A process and those that it descends from: a shell may name the directory on its command line.
fn ancestors(mut pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    while pid > 1 {
        let Some(parent) = parent(pid) else { break };
        found.push(parent);
        pid = parent;
    }
    found
}

/// Who started a process, if that is still there.
pub(super) fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Sends a signal; a process that has gone is no error.
pub(super) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills a process and waits until the last of its threads has ended: until then it has its files and locks.
///
/// # Errors
/// It is not there, or is still there after a while.
pub(super) fn kill_whole(pid: i32, limit: Duration) -> Result<()> {
    let pid = Pid::from_raw(pid).context("no process has that id")?;
    // Readable once the process has ended, with all of its threads (pidfd_open(2)).
    let process = pidfd_open(pid, PidfdFlags::empty()).context("find it")?;
    kill_process(pid, Signal::KILL).context("kill it")?;
    within(limit, || {
        let mut ends = [PollFd::new(&process, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        ensure!(poll(&mut ends, Some(&now))? > 0, "it survives SIGKILL");
        Ok(())
    })
}

/// Kills all processes of a host, those that are born meanwhile too. None of them sees another end, as
/// if there were no power any more.
///
/// # Errors
/// Names those that are still there after a while.
pub(super) fn kill_all(belongs: Belongs<'_>) -> Result<()> {
    for process in list(belongs) {
        signal(process.pid, Signal::STOP);
    }
    within(Duration::from_secs(20), || {
        let alive = list(belongs);
        if alive.is_empty() {
            return Ok(());
        }
        for process in &alive {
            signal(process.pid, Signal::KILL);
        }
        bail!("processes survive SIGKILL: {alive:?}")
    })
}
