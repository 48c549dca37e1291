//! Control groups, version 2 and the older hierarchies beside it.
//!
//! libcontainer's own code joins every mounted controller and walks the mount table for each; on the
//! older layout that is most of a container's start. Here a container joins only the controllers that
//! limit, count or freeze something, and joins them from inside (writing its own thread id needs no
//! system-wide lock).

pub mod devices;
mod entry;
mod error;
mod exec;
mod layout;
mod v1;
mod v2;

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, stat, statat, unlinkat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shoal_agent_planning::usage;
use shoal_types::question::NetworkUsed;

pub use entry::Entry;
pub use error::CgroupError;
pub use exec::ExecGroup;
pub use layout::{Hierarchy, Layout};

use crate::ContainerStats;
use crate::ProcessIdentity;

/// How long emptying or removing a group may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How deep groups may lie below a container's own: those of its executions, and none below them.
const DEPTH_MAX: u32 = 4;
/// Processes that are killed in one round, each with a descriptor open meanwhile.
const KILLED_AT_ONCE: usize = 512;

/// The groups of one container: one directory, or one per hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    unified: bool,
    dirs: Vec<Dir>,
}

/// A container's directory in one hierarchy, held open so that it is reached whatever is mounted.
#[derive(Debug)]
struct Dir {
    controllers: Vec<String>,
    parent: OwnedFd,
    name: String,
    dir: OwnedFd,
}

impl Dir {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let write = || -> io::Result<()> {
            let fd = openat(&self.dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(fd, value.as_bytes())?;
            Ok(())
        };
        let (file, value) = (file.to_owned(), value.to_owned());
        write().map_err(|source| CgroupError::Write {
            group: self.name.clone(),
            file,
            value,
            source,
        })
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let fd = openat(&self.dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = String::new();
        fs::File::from(fd).read_to_string(&mut text)?;
        Ok(text)
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.read(file).ok()?.trim().parse().ok()
    }
}

/// The number after a key in a file of `key number` lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Cgroup {
    /// Makes the groups of a container, with its limits on memory and devices. Those on processors
    /// and processes are left to [`Cgroup::settle`], since they would hold up, or count, the making
    /// of the container.
    ///
    /// # Errors
    /// [`CgroupError`] naming the file and value that was refused.
    pub fn create(
        layout: &Layout,
        path: &str,
        resources: &LinuxResources,
    ) -> Result<Self, CgroupError> {
        let group = layout.make(path)?;
        let applied = match layout {
            Layout::Unified { .. } => v2::apply(&group, resources),
            Layout::Hierarchies(_) => v1::apply(&group, resources),
        };
        match applied {
            Ok(()) => Ok(group),
            Err(e) => {
                let _ = group.remove();
                Err(e)
            }
        }
    }

    /// Opens the groups of a container as far as they exist; `None` when there are none.
    ///
    /// # Errors
    /// [`CgroupError`] when they are there but cannot be opened.
    pub fn open(layout: &Layout, path: &str) -> Result<Option<Self>, CgroupError> {
        layout.open(path)
    }

    /// What it holds open.
    #[must_use]
    pub fn descriptors(&self) -> Vec<&OwnedFd> {
        self.dirs.iter().flat_map(|d| [&d.parent, &d.dir]).collect()
    }

    /// For processes that are to be in it.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn entry(&self) -> io::Result<Entry> {
        Entry::new(self.unified, self.dirs.iter().map(|d| d.dir.as_fd()))
    }

    /// Sets the limits that would have held up, or counted, the making of the container: on
    /// processes, and on processors as far as nothing is in its groups yet.
    ///
    /// # Errors
    /// [`CgroupError::Write`].
    pub fn settle(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        if !self.unified {
            v1::limit_cpu(self, resources)?;
        }
        match (self.with("pids"), resources.pids()) {
            (Some(dir), Some(pids)) if pids.limit() > 0 => {
                dir.write("pids.max", &pids.limit().to_string())
            }
            _ => Ok(()),
        }
    }

    /// Sets what [`Cgroup::settle`] has left, when the container's program has taken over. On version
    /// 2 whoever makes the container is in its groups from the beginning, and would get no further
    /// with a thousandth of a processor.
    ///
    /// # Errors
    /// [`CgroupError::Write`].
    pub fn settle_started(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        if self.unified { v2::limit_cpu(self, resources) } else { Ok(()) }
    }

    fn with(&self, controller: &str) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.has(controller))
    }

    /// How many of its processes the kernel killed for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let text = self.with("memory").and_then(|d| d.read(file).ok()).unwrap_or_default();
        keyed(&text, "oom_kill").unwrap_or(0)
    }

    /// What it uses now.
    #[must_use]
    pub fn stats(&self) -> ContainerStats {
        if self.unified { v2::stats(self) } else { v1::stats(self) }
    }

    /// What went over the network of its processes; nothing where that is this process's own.
    fn network(&self) -> Option<NetworkUsed> {
        // The first is the one that the container began with, unless it is gone.
        let pid = *self.processes().ok()?.first()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
        // Opened first, then looked at again: never is a stranger read that has got its number.
        if self.processes().ok()?.binary_search(&pid).is_err() {
            return None;
        }
        let (own, its) = (stat("/proc/self/ns/net"), statat(&process, "ns/net", AtFlags::empty()));
        let (own, its) = (own.ok()?, its.ok()?);
        if (own.st_dev, own.st_ino) == (its.st_dev, its.st_ino) {
            return None;
        }
        let file = openat(&process, "net/dev", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let mut text = String::new();
        fs::File::from(file.ok()?).read_to_string(&mut text).ok()?;
        Some(usage::network(&text, |_| false))
    }

    /// The processes in it, as this process sees them: all of them, or why they are not known. Nobody
    /// may be taken for gone who could not be looked for.
    ///
    /// # Errors
    /// [`CgroupError::List`].
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        let mut all = Vec::new();
        for dir in &self.dirs {
            // In the older hierarchies a group below it is one of several of the same processes.
            let depth = if self.unified { DEPTH_MAX } else { 0 };
            let failed = |source| CgroupError::List { group: dir.name.clone(), source };
            list(&dir.dir, depth, &mut all).map_err(failed)?;
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Its container's first process, found without anybody's help: whoever is in the groups is of the
    /// container, and the first in a process namespace of its own is that namespace's number 1
    /// (`NSpid` of proc_pid_status(5)). Where that cannot be told it is the oldest that there is.
    ///
    /// # Errors
    /// [`CgroupError::List`]: whether there is one is not known.
    pub fn first_process(&self) -> Result<Option<ProcessIdentity>, CgroupError> {
        let failed = |source| {
            let group = self.dirs.first().map(|dir| dir.name.clone()).unwrap_or_default();
            CgroupError::List { group, source }
        };
        let found =
            self.processes()?.into_iter().filter_map(|p| ProcessIdentity::find(p).transpose());
        let found: Vec<ProcessIdentity> = found.collect::<io::Result<_>>().map_err(failed)?;
        let is_first = |process: &&ProcessIdentity| {
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid));
            let status = status.unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            // One for this process's namespace, one for the container's.
            ids.is_some_and(|ids| ids.split_whitespace().skip(1).eq(["1"]))
        };
        let oldest = || found.iter().min_by_key(|process| (process.start_ticks, process.pid));
        let first = found.iter().find(is_first).or_else(oldest).copied();
        // A number that has been given to somebody else meanwhile is in no group of the container.
        let still = self.processes()?;
        Ok(first.filter(|p| p.exists() && still.binary_search(&p.pid).is_ok()))
    }

    /// Sends SIGKILL to everything in it: to the processes that are there by a second look at
    /// descriptors that were opened after the first, so that never a stranger is hit that has got
    /// the number of one that ended meanwhile.
    fn kill_each(&self) {
        // Whoever kills looks again until nobody is left.
        let found = self.processes().unwrap_or_default().into_iter().filter_map(|pid| {
            Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?))
        });
        let found: Vec<(i32, OwnedFd)> = found.take(KILLED_AT_ONCE).collect();
        let still = self.processes().unwrap_or_default();
        for (_, pidfd) in found.iter().filter(|(pid, _)| still.binary_search(pid).is_ok()) {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    /// Kills everything in it and waits until it is empty.
    ///
    /// # Errors
    /// [`CgroupError::NotEmpty`] when something would not die, [`CgroupError::List`] when that cannot
    /// be told.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(200);
        loop {
            let left = match self.processes() {
                Ok(alive) if alive.is_empty() => return Ok(()),
                Ok(processes) => CgroupError::NotEmpty { processes },
                Err(error) => error,
            };
            if Instant::now() > deadline {
                return Err(left);
            }
            let kill = if self.unified { v2::kill } else { v1::kill };
            kill(self);
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Removes the groups, which must be empty, or nearly so.
    ///
    /// # Errors
    /// Every group that could not be removed, as the first of them.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut result = Ok(());
        for dir in &self.dirs {
            if let Err(e) = remove(&dir.parent, &dir.name) {
                result = result.and(Err(e));
            }
        }
        result
    }
}

fn remove(parent: &OwnedFd, name: &str) -> Result<(), CgroupError> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    loop {
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
            // A process that is just ending, or a group made inside.
            Err(rustix::io::Errno::BUSY | rustix::io::Errno::NOTEMPTY)
                if Instant::now() < deadline =>
            {
                remove_children(parent, name);
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Err(e) => {
                return Err(CgroupError::Remove { group: name.to_owned(), source: e.into() });
            }
        }
    }
}

/// Groups that were made below a container's own.
fn remove_children(parent: &OwnedFd, name: &str) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(dir) = openat(parent, name, flags, Mode::empty()) else { return };
    for child in children(&dir).unwrap_or_default() {
        remove_children(&dir, &child);
        let _ = unlinkat(&dir, child.as_str(), AtFlags::REMOVEDIR);
    }
}

/// The names of the groups below one.
fn children(dir: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type() == FileType::Directory && name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

/// The processes in a group and, so many levels deep, in those below it.
fn list(dir: &OwnedFd, depth: u32, into: &mut Vec<i32>) -> io::Result<()> {
    let read = || -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(dir, "cgroup.procs", flags, Mode::empty())?;
        let mut text = String::new();
        fs::File::from(file).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().or_else(none_there)?;
    into.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    if depth == 0 {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for name in children(dir).or_else(none_there)? {
        match openat(dir, name.as_str(), flags, Mode::empty()) {
            Ok(child) => list(&child, depth - 1, into)?,
            Err(e) => none_there(e.into())?,
        }
    }
    Ok(())
}

/// Nothing, where the group has gone meanwhile, or is one of threads, whose processes are listed above
/// it.
fn none_there<T: Default>(error: io::Error) -> io::Result<T> {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP) => Ok(T::default()),
        _ => Err(error),
    }
}
