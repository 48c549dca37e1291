//! What does not answer, or does not end, is waited for by nobody else.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use shoal_tests::skip::skip;
use tempfile::TempDir;

use crate::world::{World, page, service, web};

/// More than any pool of threads has, as it was once.
const REPLICAS: u32 = 40;
/// How long what has nothing to do with the dead filesystem may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A filesystem whose server never answers: whoever asks for anything on it hangs.
struct Dead {
    place: TempDir,
    /// Closing it lets everybody go.
    server: Option<File>,
}

impl Dead {
    /// Test hosts that are made later have it, too.
    fn mount() -> Self {
        let place = tempfile::tempdir().unwrap();
        let server = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let fd = server.as_raw_fd();
        let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other");
        let data = std::ffi::CString::new(data).unwrap();
        mount("shoal-test-dead", place.path(), "fuse", MountFlags::empty(), Some(data.as_c_str()))
            .unwrap();
        Self { place, server: Some(server) }
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        drop(self.server.take());
        // Not asserted: a panic here would hide the one that is under way.
        let _ = unmount(self.place.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn nobody_waits_for_a_source_that_does_not_answer() {
    if skip() {
        return;
    }
    let dead = Dead::mount();
    let world = World::start(1);
    let host = world.cluster.host(1).name.clone();
    world.deploy("before", &service("web", &format!("{}\nports: ['8080:8080']", page("before"))));
    let lines = format!(
        "command: [sleep, '1000']\ndeploy: {{replicas: {REPLICAS}}}\n\
         volumes: [{{type: bind, source: {}, target: /data}}]",
        dead.place.path().join("sub").display()
    );
    let file = world.cluster.stack_file("dead", &web(&lines));
    world.ok(&["stack", "deploy", "--detach", "-c", &file.to_string_lossy(), "dead"]);
    world.fails("dead_web", "did not answer");

    let started = Instant::now();
    world.page(&host, 8080, "before");
    world.deploy("beside", &web("command: [sh, -c, 'echo here; sleep 1000']"));
    world.logged("beside_web", "here");
    let task = world.runs("beside_web", 1).remove(0);
    assert_eq!(world.ok(&["exec", &task.id, "echo", "done"]), "done\n");
    world.remove("beside");
    world.remove("before");
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());

    world.remove("dead");
    drop(dead);
    world.end();
}

#[test]
fn what_a_health_check_leaves_behind_is_not_its_answer_and_does_not_pile_up() {
    if skip() {
        return;
    }
    let world = World::start(1);
    let check = "echo x >>/tmp/checks; sleep 4321 & exit 0";
    let hanging = "echo x >>/tmp/checks; sleep 4321";
    let services = [
        service(
            "leaves",
            &format!(
                "command: [sleep, '1000']\nhealthcheck: {{test: [CMD, sh, -c, '{check}'], interval: 1s, timeout: 5s}}"
            ),
        ),
        service(
            "hangs",
            &format!(
                "command: [sleep, '1000']\nhealthcheck: {{test: [CMD, sh, -c, '{hanging}'], interval: 1s, timeout: 1s, retries: 1000}}"
            ),
        )
        .replacen("services:\n", "", 1),
    ];
    let file = world.cluster.stack_file("check", &services.concat());
    world.ok(&["stack", "deploy", "--detach", "-c", &file.to_string_lossy(), "check"]);
    // The one that leaves a child behind is well.
    let well = world.runs("check_leaves", 1).remove(0);
    let task = world.until("the other one's container runs", || {
        let tasks = world.tasks("check_hangs")?;
        let started = tasks.into_iter().find(|task| task.pid > 0);
        started.ok_or_else(|| anyhow::anyhow!("none has a process"))
    });
    for task in [well, task] {
        world.until("four checks were made", || {
            let checks = world.ok(&["exec", &task.id, "cat", "/tmp/checks"]);
            ensure!(checks.lines().count() >= 4, "{checks}");
            Ok(())
        });
        let list = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done 2>/dev/null";
        let count = format!("{list} | grep '^sleep 4321' | wc -l");
        let left: u32 = world.ok(&["exec", &task.id, "sh", "-c", &count]).trim().parse().unwrap();
        assert!(left <= 1, "{left} processes beside that of the check under way");
    }
    world.remove("check");
    world.end();
}
