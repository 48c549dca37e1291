//! Whole lives of tasks on a node.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use shoal_types::spec::{Healthcheck, Mount, MountKind, PortConfig, Protocol, PublishMode};
use shoal_types::task_state::{DesiredState, TaskState};

use crate::host::{Host, able, alive, kill, wait_for};
use crate::node::{self, Space, log, task};

fn mount(kind: MountKind, source: &str, target: &str) -> Mount {
    Mount {
        kind,
        source: source.to_owned(),
        target: target.to_owned(),
        read_only: false,
        consistency: String::new(),
        bind_options: None,
        volume_options: None,
        image_options: None,
        tmpfs_options: None,
    }
}

fn port(published: u16, target: u16) -> PortConfig {
    PortConfig {
        name: String::new(),
        protocol: Protocol::Tcp,
        target_port: target,
        published_port: published,
        publish_mode: PublishMode::Host,
        host_ip: None,
    }
}

/// The answer to a request, from inside the network namespace of the caller.
fn fetch(address: &str, port: u16) -> std::io::Result<String> {
    let patience = Duration::from_secs(2);
    let address = std::net::SocketAddr::new(address.parse().unwrap(), port);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Nothing of any container, network or task is left.
async fn assert_clean(host: &Host, space: &Space) {
    host.assert_clean().await;
    for dir in ["ledger/tasks", "files/files"] {
        let left = std::fs::read_dir(host.home().join(dir)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{dir}");
    }
    let links = space.run("ip", &["-o", "link"]);
    assert_eq!(links.lines().count(), 1, "only loopback: {links}");
    assert_eq!(space.run("nft", &["list", "ruleset"]).trim(), "");
}

#[test]
fn a_task_serves_is_told_to_stop_and_leaves_nothing() {
    if !able() {
        return;
    }
    let space = Space::new("serves");
    space.block_on(async {
        let host = Host::new();
        let mut node = node::start(host.home(), &host.config.cgroup_parent).await;
        let script = "trap 'echo bye; exit 3' TERM
            echo $GREETING from $(hostname); cat /etc/hosts; echo kept > /data/file
            /bin/busybox httpd -p 8080 -h /www
            while :; do sleep 0.05; done";
        let www = host.home().join("www");
        std::fs::create_dir(&www).unwrap();
        std::fs::write(www.join("index.html"), "hello from a task").unwrap();
        let mut web = task(1, script, |c| {
            c.env = vec!["GREETING=hi".to_owned()];
            c.hostname = "web-1".to_owned();
            c.mounts = vec![
                mount(MountKind::Bind, www.to_str().unwrap(), "/www"),
                mount(MountKind::Volume, "data", "/data"),
            ];
        });
        web.ports = vec![port(8000, 8080)];
        node.assign([web]);
        let status = node.until_state(1, TaskState::Running).await;
        assert_eq!(status.port_status, [port(8000, 8080)]);
        let pid = i32::try_from(status.container_status.unwrap().pid).unwrap();
        assert!(alive(pid));
        let address = space.run("ip", &["-o", "-4", "addr"]);
        let bridge = address.lines().find(|l| !l.contains(" lo ")).unwrap();
        let gateway = bridge.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
        let fetched = || fetch(gateway, 8000).unwrap_or_default();
        let served = wait_for("the page", || fetched().ends_with("hello from a task")).await;
        let said = log(&node, 1).await;
        served.unwrap_or_else(|e| panic!("{e}: {said}"));
        assert!(said.starts_with("hi from web-1\n"), "{said}");
        assert!(said.contains("\tweb-1\n"), "its own address is in its hosts file: {said}");
        node.want(1, DesiredState::Shutdown);
        let status = node.until_state(1, TaskState::Shutdown).await;
        assert_eq!(status.container_status.unwrap().exit_code, Some(3));
        assert!(log(&node, 1).await.ends_with("bye\n"), "its log stays");
        assert_eq!(fetched(), "");
        let kept = host.home().join("volumes");
        let found = std::process::Command::new("grep").arg("-r").arg("kept").arg(kept).output();
        assert!(found.unwrap().status.success(), "the volume outlives the task");
        node.worker.leave().await.unwrap();
        assert_clean(&host, &space).await;
    });
}

#[test]
fn a_host_that_stops_ends_its_containers_in_good_order_and_starts_no_more() {
    if !able() {
        return;
    }
    let space = Space::new("halts");
    space.block_on(async {
        let host = Host::new();
        let mut node = node::start(host.home(), &host.config.cgroup_parent).await;
        let polite = "trap 'echo saved; exit 0' TERM; while :; do sleep 0.05; done";
        let deaf = task(2, "trap '' TERM; while :; do sleep 0.05; done", |c| {
            c.stop_grace_period = Some(Duration::from_millis(300));
        });
        node.assign([task(1, polite, |_| {}), deaf]);
        for id in [1, 2] {
            node.until_state(id, TaskState::Running).await;
        }
        node.worker.halt().await.unwrap();
        // They do not end by that: they come back with their host.
        for id in [1, 2] {
            let status = node.until(id, |s| s.message == "stopped: the host is shut down").await;
            assert_eq!(status.state, TaskState::Running);
        }
        assert_eq!(log(&node, 1).await, "saved\n");
        node.assign([task(3, polite, |_| {})]);
        node.worker.halt().await.unwrap();
        let held = node.worker.task_summary().await.unwrap();
        assert!(held.iter().all(|task| task.id != 3.into()), "{held:?}");
        node.worker.leave().await.unwrap();
        assert_clean(&host, &space).await;
    });
}

#[test]
fn ends_and_refusals_are_what_they_were() {
    if !able() {
        return;
    }
    let space = Space::new("ends");
    space.block_on(async {
        let host = Host::new();
        let mut node = node::start(host.home(), &host.config.cgroup_parent).await;
        let unhealthy = Healthcheck {
            test: vec!["CMD-SHELL".to_owned(), "echo sick; exit 1".to_owned()],
            interval: Some(Duration::from_millis(50)),
            retries: 2,
            ..Healthcheck::default()
        };
        let mut taken = task(5, "sleep 100", |_| {});
        taken.ports = vec![port(9000, 80)];
        let mut also = task(6, "sleep 100", |_| {});
        also.ports = vec![port(9000, 80)];
        node.assign([
            task(1, "echo done", |_| {}),
            task(2, "exit 7", |_| {}),
            task(3, "kill -SEGV $$; sleep 1000", |_| {}),
            task(4, "", |c| c.command = Some(vec!["/no/such".to_owned()])),
            taken,
            task(7, "sleep 100", |c| c.healthcheck = Some(unhealthy)),
            task(8, "", |c| c.mounts = vec![mount(MountKind::Bind, "/no/such/dir", "/x")]),
            // The directory of the volumes is root's; what is mounted from it is not.
            task(9, "[ $(id -u) = 1234 ] && ls /data/. && cat /etc/hosts", |c| {
                c.user = "1234".to_owned();
                c.mounts = vec![mount(MountKind::Volume, "shared", "/data")];
            }),
        ]);
        node.until_state(1, TaskState::Complete).await;
        let two = node.until_state(2, TaskState::Failed).await;
        assert_eq!(two.err, "exit code 7");
        let four = node.until_state(4, TaskState::Failed).await;
        assert_eq!(four.container_status.unwrap().exit_code, Some(127), "{}", four.err);
        node.until_state(5, TaskState::Running).await;
        node.assign([also]);
        let six = node.until_state(6, TaskState::Rejected).await;
        assert!(six.err.contains("port already in use"), "{}", six.err);
        let seven = node.until_state(7, TaskState::Failed).await;
        assert_eq!(seven.err, "unhealthy: sick");
        let eight = node.until_state(8, TaskState::Rejected).await;
        assert!(eight.err.starts_with("mounts[0].source: bind source"), "{}", eight.err);
        node.until_state(9, TaskState::Complete).await;
        // The first process of a pid namespace is immune to its own signals.
        node.want(3, DesiredState::Shutdown);
        node.until_state(3, TaskState::Shutdown).await;
        node.worker.leave().await.unwrap();
        assert_clean(&host, &space).await;
    });
}

/// Not a test: the agent that is killed by the test below.
#[tokio::test]
#[ignore = "run by another test"]
async fn agent_process() {
    let Some(home) = std::env::var_os("SHOAL_TEST_HOME") else { return };
    let cgroup = std::env::var("SHOAL_TEST_CGROUP").unwrap();
    let mut node = node::start(Path::new(&home), &cgroup).await;
    node.assign(tasks());
    for id in 1..=3 {
        let status = node.until_state(id, TaskState::Running).await;
        let pid = status.container_status.unwrap().pid.to_string();
        std::fs::write(Path::new(&home).join(format!("pid-{id}")), pid).unwrap();
    }
    node.assign((4..=20).map(|id| task(id, "sleep 1000", |_| {})));
    std::fs::write(Path::new(&home).join("ready"), "").unwrap();
    std::future::pending::<()>().await;
}

fn tasks() -> [shoal_types::assignment::AssignedTask; 3] {
    let mut serves = task(1, "while :; do sleep 0.1; done", |_| {});
    serves.ports = vec![port(8000, 80)];
    [
        serves,
        task(2, "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exit 5", |_| {}),
        task(3, "sleep 1000", |_| {}),
    ]
}

#[test]
fn an_agent_that_is_killed_in_the_middle_comes_back() {
    if !able() {
        return;
    }
    let space = Space::new("killed");
    space.block_on(async {
        let host = Host::new();
        let home = host.home();
        let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "root_lives::agent_process", "--ignored"])
            .env("SHOAL_TEST_HOME", home)
            .env("SHOAL_TEST_CGROUP", &host.config.cgroup_parent)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let ready = home.join("ready");
        wait_for("the agent", || ready.exists()).await.unwrap();
        // Right in the middle of preparing and starting.
        tokio::time::sleep(Duration::from_millis(150)).await;
        agent.kill().unwrap();
        agent.wait().unwrap();
        let pid = |id: u32| -> i32 {
            std::fs::read_to_string(home.join(format!("pid-{id}"))).unwrap().parse().unwrap()
        };
        assert!((1..=3).all(|id| alive(pid(id))), "containers live on");
        std::fs::write(format!("/proc/{}/root/dev/shm/go", pid(2)), "").unwrap();
        let ended = pid(2);
        wait_for("the end of one", || !alive(ended)).await.unwrap();
        kill(pid(3), 9);

        let mut node = node::start(home, &host.config.cgroup_parent).await;
        // No manager has been heard.
        let one = node.until_state(1, TaskState::Running).await;
        assert_eq!(one.container_status.unwrap().pid, pid(1).unsigned_abs());
        assert_eq!(one.port_status, [port(8000, 80)]);
        assert_eq!(node.until_state(2, TaskState::Failed).await.err, "exit code 5");
        let three = node.until_state(3, TaskState::Failed).await;
        assert_eq!(three.err, "killed by signal 9 (SIGKILL)");
        node.assign(tasks().into_iter().chain((4..=20).map(|id| task(id, "sleep 1000", |_| {}))));
        for id in 4..=20 {
            let status = node.until_state(id, TaskState::Running).await;
            let pid = i32::try_from(status.container_status.unwrap().pid).unwrap();
            assert!(alive(pid), "{id}");
        }
        // Each hierarchy of control groups lists them.
        let all: BTreeSet<i32> = host.processes_in_groups().into_iter().collect();
        assert!((18..=19).contains(&all.len()), "one container per task: {all:?}");
        node.worker.leave().await.unwrap();
        assert_clean(&host, &space).await;
    });
}

/// How fast a hundred containers come and go. Run it by name, in a release build.
#[test]
#[ignore = "a measurement"]
fn measure_a_hundred() {
    if !able() {
        return;
    }
    let space = Space::new("hundred");
    space.block_on(async {
        let host = Host::new();
        let mut node = node::start(host.home(), &host.config.cgroup_parent).await;
        let begin = Instant::now();
        node.assign((1..=100).map(|id| {
            task(id, "exec sleep 1000", |c| {
                // The first process of a namespace ignores what it does not handle.
                c.stop_signal = "SIGKILL".to_owned();
            })
        }));
        for id in 1..=100 {
            node.until_state(id, TaskState::Running).await;
        }
        let running = begin.elapsed();
        let begin = Instant::now();
        node.worker.leave().await.unwrap();
        eprintln!("100 running after {running:?}, all gone after {:?}", begin.elapsed());
        assert_clean(&host, &space).await;
    });
}
