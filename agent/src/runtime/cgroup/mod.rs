//! Control groups, version 2 and the older hierarchies beside it.
//!
//! libcontainer's own code joins every mounted controller and walks the mount table for each; on the
//! older layout that is most of a container's start. Here a container joins only the controllers that
//! limit, count or freeze something, and joins them from inside (writing its own thread id needs no
//! system-wide lock).

pub mod devices;
mod error;
mod layout;
mod v1;
mod v2;

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

pub use error::CgroupError;
pub use layout::{Hierarchy, Layout};

use super::ContainerStats;

/// How long emptying or removing a group may take.
const PATIENCE: Duration = Duration::from_secs(5);

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

    /// For a fork straight into the group, where the kernel offers it (version 2).
    #[must_use]
    pub fn fork_target(&self) -> Option<BorrowedFd<'_>> {
        self.dirs.first().filter(|_| self.unified).map(|d| d.dir.as_fd())
    }

    /// Moves this process, which must have only one thread, into the groups, unless it has been
    /// forked into them.
    ///
    /// A container's first process does this last of all before it is confined. On a busy host,
    /// whoever comes into a new group waits for its turn there; so nothing is made from inside.
    ///
    /// # Errors
    /// [`CgroupError::Write`].
    pub fn join(&self) -> Result<(), CgroupError> {
        if self.unified {
            return Ok(());
        }
        // Moving one's own single thread spares the kernel a system-wide lock, and us its grace
        // period, which is milliseconds for every hierarchy.
        self.dirs.iter().try_for_each(|d| d.write("tasks", "0"))
    }

    /// Sets the limits that would have held up, or counted, the making of the container: on
    /// processors and on processes.
    ///
    /// # Errors
    /// [`CgroupError::Write`].
    pub fn settle(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        if self.unified { v2::limit_cpu(self, resources) } else { v1::limit_cpu(self, resources) }?;
        match (self.with("pids"), resources.pids()) {
            (Some(dir), Some(pids)) if pids.limit() > 0 => {
                dir.write("pids.max", &pids.limit().to_string())
            }
            _ => Ok(()),
        }
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

    /// The processes in it, as this process sees them.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let mut all: Vec<i32> = self
            .dirs
            .iter()
            .filter_map(|d| d.read("cgroup.procs").ok())
            .flat_map(|text| text.lines().filter_map(|l| l.parse().ok()).collect::<Vec<i32>>())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Kills everything in it and waits until it is empty.
    ///
    /// # Errors
    /// [`CgroupError::NotEmpty`] when something would not die.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(200);
        loop {
            let alive = self.processes();
            if alive.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(CgroupError::NotEmpty { processes: alive });
            }
            let kill = if self.unified { v2::kill } else { v1::kill };
            kill(self, &alive);
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

/// Groups that the container made below its own.
fn remove_children(parent: &OwnedFd, name: &str) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(dir) = openat(parent, name, flags, Mode::empty()) else { return };
    let Ok(entries) = rustix::fs::Dir::read_from(&dir) else { return };
    for entry in entries.flatten() {
        let child = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type() == rustix::fs::FileType::Directory && child != "." && child != ".." {
            remove_children(&dir, &child);
            let _ = unlinkat(&dir, child.as_str(), AtFlags::REMOVEDIR);
        }
    }
}
