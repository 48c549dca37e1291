//! Which control groups this host has, and where.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use super::{Cgroup, CgroupError, Dir};

/// Controllers that a container needs: limits, usage, device access, and freezing for the kill.
const WANTED: [&str; 6] = ["memory", "cpu", "cpuacct", "pids", "devices", "freezer"];
/// Without these, limits would be promises.
const REQUIRED: [&str; 3] = ["memory", "cpu", "pids"];

/// Tries at making a group while the one above it is being removed by somebody else.
const MAKE_TRIES: u32 = 10;

/// How this host arranges its control groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Version 2 alone.
    Unified {
        /// Where it is mounted.
        root: PathBuf,
    },
    /// The older hierarchies, with or without an idle version 2 beside them ("hybrid").
    Hierarchies(Vec<Hierarchy>),
}

/// One older hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// The controllers on it.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub root: PathBuf,
}

impl Layout {
    /// Looks at the mount table.
    ///
    /// # Errors
    /// [`CgroupError::Missing`] when memory, processor or process limits could not be enforced.
    pub fn detect() -> Result<Self, CgroupError> {
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::MountTable)?;
        let offered =
            |root: &Path| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        Self::from_mountinfo(&table, offered)
    }

    /// The pure part of [`Layout::detect`]; `offered` gives version 2's controllers at a root.
    pub(super) fn from_mountinfo(
        table: &str,
        offered: impl Fn(&Path) -> String,
    ) -> Result<Self, CgroupError> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut unified = None;
        for line in table.lines() {
            let Some((mount, fs)) = line.split_once(" - ") else { continue };
            let mount: Vec<&str> = mount.split(' ').collect();
            let fs: Vec<&str> = fs.split(' ').collect();
            let (Some(point), Some(kind)) = (mount.get(4), fs.first()) else { continue };
            // A group mounted by itself, as inside a container, is not the root of anything.
            let root = PathBuf::from(point);
            match *kind {
                "cgroup2" if unified.is_none() => unified = Some(root),
                "cgroup" => {
                    let options = fs.get(2).copied().unwrap_or_default();
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| WANTED.contains(o))
                        .map(str::to_owned)
                        .collect();
                    let known = |c: &String| hierarchies.iter().any(|h| h.controllers.contains(c));
                    if !controllers.is_empty() && !controllers.iter().any(known) {
                        hierarchies.push(Hierarchy { controllers, root });
                    }
                }
                _ => {}
            }
        }
        let v1: Vec<&str> =
            hierarchies.iter().flat_map(|h| h.controllers.iter().map(String::as_str)).collect();
        let text = unified.as_deref().map(offered).unwrap_or_default();
        let v2: Vec<&str> = text.split_whitespace().collect();
        let all = |have: &[&str]| REQUIRED.iter().all(|c| have.contains(c));
        match unified {
            Some(root) if all(&v2) => Ok(Self::Unified { root }),
            _ if all(&v1) && v1.contains(&"devices") => Ok(Self::Hierarchies(hierarchies)),
            _ => {
                let have = if hierarchies.is_empty() { v2 } else { v1 };
                let mut missing: Vec<&str> = REQUIRED.to_vec();
                missing.retain(|c| !have.contains(c));
                if missing.is_empty() {
                    missing.push("devices");
                }
                Err(CgroupError::Missing { missing: missing.join(", ") })
            }
        }
    }

    /// Where a group's directories are, by hierarchy.
    fn places(&self, path: &str) -> Vec<(Vec<String>, PathBuf, PathBuf)> {
        let relative = path.trim_matches('/');
        match self {
            Self::Unified { root } => {
                let controllers = WANTED.iter().map(ToString::to_string).collect();
                vec![(controllers, root.clone(), root.join(relative))]
            }
            Self::Hierarchies(all) => all
                .iter()
                .map(|h| (h.controllers.clone(), h.root.clone(), h.root.join(relative)))
                .collect(),
        }
    }

    pub(super) fn make(&self, path: &str) -> Result<Cgroup, CgroupError> {
        for (_, root, place) in self.places(path) {
            make_dir(&place).map_err(|source| CgroupError::Make { path: place.clone(), source })?;
            if matches!(self, Self::Unified { .. }) {
                enable_controllers(&root, &place)?;
            }
        }
        let group = self.open(path)?;
        let missing = || CgroupError::Make {
            path: PathBuf::from(path),
            source: io::ErrorKind::NotFound.into(),
        };
        group.ok_or_else(missing)
    }

    /// Whether there is such a group in any hierarchy.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.places(path).iter().any(|(_, _, place)| place.exists())
    }

    /// Removes a group from every hierarchy where nothing is in it.
    ///
    /// # Errors
    /// The kernel's last answer that is not about something being in it.
    pub fn remove_empty(&self, path: &str) -> io::Result<()> {
        let mut result = Ok(());
        for (_, _, place) in self.places(path) {
            match fs::remove_dir(&place) {
                Err(e) if !is_needed(&e) => result = Err(e),
                _ => {}
            }
        }
        result
    }

    pub(super) fn open(&self, path: &str) -> Result<Option<Cgroup>, CgroupError> {
        let mut dirs = Vec::new();
        for (controllers, _, place) in self.places(path) {
            let (Some(above), Some(name)) = (place.parent(), place.file_name()) else { continue };
            let name = name.to_string_lossy().into_owned();
            match open_pair(above, &name) {
                Ok((parent, dir)) => dirs.push(Dir { controllers, parent, name, dir }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(CgroupError::Open { path: place, source }),
            }
        }
        let unified = matches!(self, Self::Unified { .. });
        Ok((!dirs.is_empty()).then_some(Cgroup { unified, dirs }))
    }
}

/// Whether a group cannot be removed because it is in use, or gone.
fn is_needed(e: &io::Error) -> bool {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, ResourceBusy};
    matches!(e.kind(), DirectoryNotEmpty | NotFound | ResourceBusy)
}

/// Makes a directory with those above it, which may be removed meanwhile as long as they are empty.
fn make_dir(place: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        tries += 1;
        let made = match fs::create_dir(place) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(place),
            other => other,
        };
        match made {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound && tries < MAKE_TRIES => {}
            other => return other,
        }
    }
}

fn open_pair(above: &Path, name: &str) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = openat(CWD, above, flags, Mode::empty())?;
    let dir = openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
    Ok((parent, dir))
}

/// Version 2 hands controllers down one level at a time.
fn enable_controllers(root: &Path, place: &Path) -> Result<(), CgroupError> {
    let mut above: Vec<&Path> =
        place.ancestors().skip(1).take_while(|p| p.starts_with(root)).collect();
    above.reverse();
    for dir in above {
        let file = dir.join("cgroup.subtree_control");
        let have = fs::read_to_string(&file).unwrap_or_default();
        let lacks = |c: &&&str| !have.split_whitespace().any(|h| h == **c);
        for controller in REQUIRED.iter().filter(lacks) {
            let value = format!("+{controller}");
            fs::write(&file, &value).map_err(|source| CgroupError::Write {
                group: dir.display().to_string(),
                file: "cgroup.subtree_control".to_owned(),
                value,
                source,
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 30 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
26 24 0:24 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
27 24 0:25 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
28 24 0:26 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
29 24 0:27 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio
31 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
32 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 24 0:24 / /elsewhere/memory rw - cgroup cgroup rw,memory
";

    #[test]
    fn hybrid_is_the_older_hierarchies_that_matter() {
        let layout = Layout::from_mountinfo(HYBRID, |_| String::new()).unwrap();
        let Layout::Hierarchies(all) = layout else { panic!("{layout:?}") };
        let roots: Vec<_> = all.iter().map(|h| h.root.to_str().unwrap()).collect();
        let at = |c: &str| format!("/sys/fs/cgroup/{c}");
        assert_eq!(roots, [at("cpu,cpuacct"), at("memory"), at("pids"), at("devices")]);
    }

    #[test]
    fn version_two_wins_when_it_has_the_controllers() {
        let layout = Layout::from_mountinfo(HYBRID, |_| "cpuset cpu io memory pids".to_owned());
        let root = PathBuf::from("/sys/fs/cgroup/unified");
        assert_eq!(layout.unwrap(), Layout::Unified { root });
    }

    #[test]
    fn a_host_that_cannot_limit_is_refused() {
        let without = |gone: &str| {
            HYBRID.lines().filter(|l| !l.ends_with(gone)).collect::<Vec<_>>().join("\n")
        };
        let refusal =
            |table: &str| Layout::from_mountinfo(table, |_| String::new()).unwrap_err().to_string();
        assert!(refusal(&without(",pids")).contains("no pids controller"));
        assert!(refusal(&without(",devices")).contains("no devices controller"));
        assert!(refusal("").contains("no memory, cpu, pids controller"));
    }
}
