//! What comes to belong to nobody while a worker works.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use shoal_agent_container::cgroup::Layout;
use shoal_agent_runtime::Runtime as _;
use shoal_agent_volume::{LocalVolumes, VolumeConfig, VolumeDriver as _};
use shoal_types::id::TaskId;
use shoal_types::spec::{Mount, MountKind};
use shoal_types::task_state::{DesiredState, TaskState};

use crate::host::{Host, PATIENCE, able, alive, id, shell, supervisors, wait_for};
use crate::node::{self, Space, task};

/// Between two looks a container can be made of which the worker does not know.
const ROUND: Duration = Duration::from_secs(1);
/// Looks are so frequent that every step of whatever is made has one.
const ALWAYS: Duration = Duration::from_millis(10);
/// A program that can be stopped.
const SCRIPT: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

/// A control group below that of the containers, in every hierarchy.
fn make_group(host: &Host, name: &str) -> Vec<PathBuf> {
    let parent = host.config.cgroup_parent.trim_matches('/');
    let roots = match host.runtime.cgroup_layout() {
        Layout::Unified { root } => vec![root.clone()],
        Layout::Hierarchies(all) => all.iter().map(|h| h.root.clone()).collect(),
    };
    let dirs: Vec<PathBuf> = roots.iter().map(|root| root.join(parent).join(name)).collect();
    for dir in &dirs {
        fs::create_dir_all(dir).unwrap();
    }
    dirs
}

fn mount_tmpfs(at: &Path) {
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
}

fn is_mounted(at: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == at.to_str())
}

/// What is mounted goes however the test ends.
struct Mounted(Vec<PathBuf>);

impl Drop for Mounted {
    fn drop(&mut self) {
        for at in self.0.iter().rev() {
            let _ = unmount(at, UnmountFlags::DETACH);
        }
    }
}

/// Starts a container of no task, whose parts a look may come between.
async fn start(host: &Host) -> i32 {
    let id = id("runs");
    let starting = async {
        loop {
            let prepared = host.runtime.prepare(&id, host.spec(&shell(SCRIPT))).await;
            if let (Ok(_), Ok(started)) = (prepared, host.runtime.start(&id).await) {
                return started.pid;
            }
            host.runtime.remove(&id).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, starting).await.unwrap()
}

/// Traces of containers that no task has: one that runs, as an agent has left it that was cut off, one
/// of which something of the host is mounted, and ones of which there is only a log, or a control group.
async fn strays(host: &Host, precious: &Path) -> (i32, Vec<PathBuf>) {
    let pid = start(host).await;
    let (run, state) = (&host.config.run_dir, &host.config.state_dir);
    // Made beside and renamed: no look comes between their parts.
    let new = host.home().join("new");
    for dir in ["logged/log", "bound/rootfs"] {
        fs::create_dir_all(new.join(dir)).unwrap();
    }
    fs::write(new.join("logged/log/0"), "text").unwrap();
    fs::rename(new.join("logged"), state.join("logged")).unwrap();
    mount_bind(precious, new.join("bound/rootfs")).unwrap();
    fs::rename(new.join("bound"), run.join("bound")).unwrap();
    let groups = make_group(host, "ctr-grouped");
    let mut all: Vec<PathBuf> = [run.join("runs"), state.join("runs")].into();
    all.extend([state.join("logged"), run.join("bound")].into_iter().chain(groups));
    (pid, all)
}

/// A volume in memory that is mounted for nobody any more, and one on whose data somebody has mounted a
/// disk: where the two are mounted.
async fn volumes(home: &Path) -> [PathBuf; 2] {
    let dir = home.join("volumes");
    let driver = LocalVolumes::open(&dir).unwrap();
    for (name, options) in
        [("memory", vec![("type", "tmpfs"), ("device", "tmpfs")]), ("disk", Vec::new())]
    {
        let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let options = options.into_iter().map(pair).collect();
        let config = VolumeConfig { name: name.to_owned(), options, ..VolumeConfig::default() };
        driver.ensure(config).await.unwrap();
    }
    let places = ["memory", "disk"].map(|name| dir.join(name).join("_data"));
    for at in &places {
        mount_tmpfs(at);
    }
    places
}

/// Whether a file still says what it said.
fn is_whole(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text == "precious")
}

#[test]
fn what_nobody_has_goes_and_what_others_have_does_not() {
    if !able() {
        return;
    }
    let space = Space::new("order");
    space.block_on(async {
        let host = Host::new();
        let parent = &host.config.cgroup_parent;
        let mut node = node::start_looking(host.home(), parent, ROUND).await;
        node.assign([task(1, SCRIPT, |_| {})]);
        let status = node.until_state(1, TaskState::Running).await;
        let mine = i32::try_from(status.container_status.unwrap().pid).unwrap();

        // Of others, though it looks like ours.
        let groups = [make_group(&host, "other"), make_group(&host, "ctr-Other")].concat();
        let file = host.config.state_dir.join("file");
        let precious = host.home().join("precious");
        let further_in = precious.join("sub");
        fs::create_dir_all(&further_in).unwrap();
        mount_tmpfs(&further_in);
        let files = [file.clone(), precious.join("file"), further_in.join("file")];
        for file in &files {
            fs::write(file, "precious").unwrap();
        }
        let [memory, disk] = volumes(host.home()).await;
        let bound = [host.home().join("new"), host.config.run_dir.clone()];
        let mut mounted = vec![further_in.clone(), memory.clone(), disk.clone()];
        mounted.extend(bound.map(|dir| dir.join("bound/rootfs")));
        let _mounted = Mounted(mounted);

        let (pid, left) = strays(&host, &precious).await;
        let here = || left.iter().filter(|path| path.exists()).collect::<Vec<_>>();
        let gone = || here().is_empty() && !alive(pid) && !is_mounted(&memory);
        wait_for("what nobody has to go", gone).await.unwrap_or_else(|e| {
            panic!("{e}: {:?} {} {}", here(), alive(pid), is_mounted(&memory));
        });
        let run_dir = host.config.run_dir.join("runs");
        assert_eq!(supervisors(run_dir.to_str().unwrap()), [0; 0]);
        assert!(groups.iter().all(|group| group.exists()));
        assert!(files.iter().all(|file| is_whole(file)));
        assert!(is_mounted(&disk) && is_mounted(&further_in));
        assert!(alive(mine), "what a task has stays");
        for group in &groups {
            fs::remove_dir(group).unwrap();
        }
        fs::remove_file(&file).unwrap();
        node.worker.leave().await.unwrap();
        host.assert_clean().await;
    });
}

#[test]
fn what_is_made_and_taken_away_is_not_touched_meanwhile() {
    if !able() {
        return;
    }
    let space = Space::new("looks");
    space.block_on(async {
        let host = Host::new();
        let parent = &host.config.cgroup_parent;
        let mut node = node::start_looking(host.home(), parent, ALWAYS).await;
        for round in 0..3 {
            let ids = (1..=6).map(|id| id + 10 * round);
            let mount = Mount::new(MountKind::Volume, "data", "/data");
            let with_volume =
                |id| task(id, SCRIPT, |container| container.mounts = vec![mount.clone()]);
            node.assign(ids.clone().map(with_volume));
            for id in ids.clone() {
                node.until_state(id, TaskState::Running).await;
            }
            for id in ids.clone() {
                node.want(id, DesiredState::Shutdown);
                let status = node.until(id, |status| status.state.is_terminal()).await;
                assert_eq!(status.state, TaskState::Shutdown, "{status:?}");
                assert_eq!(status.container_status.unwrap().exit_code, Some(0));
            }
            let has_log =
                |id: &u128| host.config.state_dir.join(TaskId::from(*id).to_string()).exists();
            assert!(ids.clone().all(|id| has_log(&id)), "logs of tasks that have ended stay");
            for id in ids.take(3) {
                node.drop_task(id);
            }
        }
        node.worker.leave().await.unwrap();
        host.assert_clean().await;
    });
}
