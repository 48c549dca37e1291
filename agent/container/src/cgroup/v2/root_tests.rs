//! Version 2 for real, as far as the host has it: on the hybrid layout its hierarchy is idle but
//! there, without the controllers.

use std::path::PathBuf;
use std::process::{Child, Command};

use oci_spec::runtime::LinuxResources;
use shoal_agent_planning::oci::defaults::device_rules;

use super::*;
use crate::cgroup::Layout;

/// A group of its own on the version 2 hierarchy; gone at the end, also after a failure.
struct Group {
    path: PathBuf,
    child: Option<Child>,
}

impl Group {
    fn new(name: &str) -> Option<(Self, Cgroup)> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        let root = roots.into_iter().find(|r| r.join("cgroup.controllers").exists())?;
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let path = root.join(format!("shoal-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let layout = Layout::Unified { root: root.clone() };
        let relative = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let group = Cgroup::open(&layout, &relative).unwrap().unwrap();
        Some((Self { path, child: None }, group))
    }

    fn run(&mut self, script: &str) {
        let script = format!("echo $$ > {}/cgroup.procs; {script}", self.path.display());
        self.child = Some(Command::new("sh").args(["-c", &script]).spawn().unwrap());
    }

    fn code(&mut self) -> Option<i32> {
        self.child.take().unwrap().wait().unwrap().code()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir(&self.path);
    }
}

#[test]
fn devices_are_restricted_by_the_kernel() {
    let Some((mut place, group)) = Group::new("devices") else { return };
    let script = "exec 2>/dev/null; true < /dev/null || exit 1; true < /dev/kmsg && exit 3; exit 0";
    place.run("exec 2>/dev/null; true < /dev/kmsg");
    assert_eq!(place.code(), Some(0), "the host's own processes may");
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(device_rules()));
    apply(&group, &resources).unwrap();
    place.run(script);
    assert_eq!(place.code(), Some(0), "1: an allowed device was refused, 3: a forbidden one not");
}

#[test]
fn everything_in_a_group_is_killed_and_the_group_removed() {
    let Some((mut place, group)) = Group::new("kill") else { return };
    place.run("sleep 1000 & sleep 1000 & sleep 1000");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while group.processes().unwrap().len() < 4 {
        assert!(std::time::Instant::now() < deadline, "{:?}", group.processes().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    group.kill().unwrap();
    assert_eq!(place.code(), None, "killed by a signal");
    assert!(group.processes().unwrap().is_empty());
    group.remove().unwrap();
    assert!(!place.path.exists());
}

#[test]
fn a_process_can_be_forked_into_a_group() {
    use crate::sys::process::{Fork, exit_now, fork_single_threaded};
    let Some((_place, group)) = Group::new("fork") else { return };
    // A test process has several threads, which must not be forked.
    match fork_single_threaded(group.entry().unwrap().fork_target()) {
        Ok(Fork::Child) => exit_now(0),
        Ok(Fork::Parent(_)) => panic!("forked with several threads"),
        Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EDEADLK)),
    }
}
