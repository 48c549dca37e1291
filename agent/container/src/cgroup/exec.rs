//! The group of one execution, below that of its container: whatever its processes become, and
//! whoever they run as, they are found and ended by it.

use std::fs;
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
    /// [`CgroupError::NotEmpty`] when something would not go, [`CgroupError::List`] when that cannot be
    /// told.
    pub fn hand_over(&self) -> Result<(), CgroupError> {
        let Some(above) = self.container.dirs.get(self.at) else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.own.processes()?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(CgroupError::NotEmpty { processes: left });
            }
            self.move_up(above, &left);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Moves processes to the group above, each after a look whether it is here still: a number that was
    /// listed may by now be that of somebody else's process, which would end with the container. What
    /// has ended meanwhile need not go.
    fn move_up(&self, above: &Dir, listed: &[i32]) {
        let here = self.own.dirs.iter().map(|dir| format!("/{}/{}", above.name, dir.name));
        let here: Vec<String> = here.collect();
        for pid in listed {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if groups.lines().any(|line| here.iter().any(|here| line.ends_with(here))) {
                let _ = above.write("cgroup.procs", &pid.to_string());
            }
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use oci_spec::runtime::LinuxResources;

    use super::*;
    use shoal_agent_ground::testing::skip_without_root;

    struct Sleeper(Child);

    impl Sleeper {
        fn new() -> Self {
            Self(Command::new("sleep").arg("1000").spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// The groups of a container, gone at the end.
    struct Container(Cgroup);

    impl Drop for Container {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.remove();
        }
    }

    #[test]
    fn who_is_somebody_elses_by_now_is_not_handed_over() {
        if skip_without_root() {
            return;
        }
        let layout = Layout::detect().unwrap();
        let path = format!("/shoal-test-hand-over-{}", std::process::id());
        let container =
            Container(Cgroup::create(&layout, &path, &LinuxResources::default()).unwrap());
        let group = ExecGroup::make(&layout, &path).unwrap().unwrap();
        let (own, strange) = (Sleeper::new(), Sleeper::new());
        group.own.dirs[0].write("cgroup.procs", &own.pid().to_string()).unwrap();
        let above = &group.container.dirs[group.at];
        // As when the second one had got the number of one that was listed.
        group.move_up(above, &[own.pid(), strange.pid()]);
        assert_eq!(container.0.processes().unwrap(), [own.pid()]);
        assert!(group.own.processes().unwrap().is_empty());
        group.remove().unwrap();
    }
}
