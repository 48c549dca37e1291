//! The group of one execution, below that of its container: whatever its processes become, and
//! whoever they run as, they are found and ended by it.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::{Cgroup, CgroupError, Dir, Entry, Layout, PATIENCE};

/// Names that are tried: more than executions of one process id can have left.
const NAMES: u32 = 1000;

/// A group without limits of its own. In the older hierarchies it is in one of them only, the one that
/// can freeze; in all others its processes are in the container's groups, as on version 2 everything
/// is counted there.
#[derive(Debug)]
pub struct ExecGroup {
    container: Cgroup,
    /// Which of the container's directories it is below.
    at: usize,
    own: Cgroup,
}

impl ExecGroup {
    /// Makes a group below that of a container; `None` when the container has none any more.
    ///
    /// # Errors
    /// [`CgroupError`] naming the group.
    pub fn make(layout: &Layout, container: &str) -> Result<Option<Self>, CgroupError> {
        let Some(container) = Cgroup::open(layout, container)? else { return Ok(None) };
        Self::below(container)
    }

    fn below(container: Cgroup) -> Result<Option<Self>, CgroupError> {
        let freezer = container.dirs.iter().position(|d| d.has("freezer"));
        let listed = || container.dirs.iter().position(|d| d.has("pids"));
        let at = if container.unified { Some(0) } else { freezer.or_else(listed) };
        let Some(above) = at.and_then(|at| container.dirs.get(at)) else { return Ok(None) };
        let failed = |e: Errno| CgroupError::Make {
            path: format!("{}/exec", above.name).into(),
            source: e.into(),
        };
        let pid = std::process::id();
        for number in 0..NAMES {
            let name = format!("exec-{pid}-{number}");
            match mkdirat(&above.dir, name.as_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                // Removed since it was opened.
                Err(Errno::NOENT | Errno::NODEV) => return Ok(None),
                Err(e) => return Err(failed(e)),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let dir = openat(&above.dir, name.as_str(), flags, Mode::empty()).map_err(failed)?;
            let parent = above
                .dir
                .try_clone()
                .map_err(|source| CgroupError::Make { path: name.clone().into(), source })?;
            let dir = Dir { controllers: above.controllers.clone(), parent, name, dir };
            let own = Cgroup { unified: container.unified, dirs: vec![dir] };
            let at = at.unwrap_or_default();
            return Ok(Some(Self { container, at, own }));
        }
        Err(failed(Errno::EXIST))
    }

    /// For processes that are to be in it.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn entry(&self) -> io::Result<Entry> {
        let own = self.own.dirs.iter().map(|d| d.dir.as_fd());
        if self.own.unified {
            return Entry::new(true, own);
        }
        let others = self.container.dirs.iter().enumerate().filter(|(i, _)| *i != self.at);
        Entry::new(false, others.map(|(_, d)| d.dir.as_fd()).chain(own))
    }

    /// Its name below the container's group.
    #[must_use]
    pub fn name(&self) -> &str {
        self.own.dirs.first().map_or("", |d| d.name.as_str())
    }

    /// The groups of the container.
    #[must_use]
    pub fn container(&self) -> &Cgroup {
        &self.container
    }

    /// Kills everything in it and waits until it is empty.
    ///
    /// # Errors
    /// [`CgroupError::NotEmpty`] when something would not die.
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.own.kill()
    }

    /// Gives what is left in it to the container, where it lives on and ends with it.
    ///
    /// # Errors
    /// [`CgroupError::NotEmpty`] when something would not go.
    pub fn hand_over(&self) -> Result<(), CgroupError> {
        let Some(above) = self.container.dirs.get(self.at) else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.own.processes();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(CgroupError::NotEmpty { processes: left });
            }
            // What has ended meanwhile need not go.
            for pid in left {
                let _ = above.write("cgroup.procs", &pid.to_string());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes the group, which must be empty, or nearly so.
    ///
    /// # Errors
    /// [`CgroupError::Remove`].
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.own.remove()
    }
}
