//! Ends that cannot be shed: by changing the user, the session or the parent.

use std::fs;
use std::path::Path;
use std::time::Duration;

use shoal_agent_planning::oci::{ContainerConfig, MountConfig, MountKind};
use shoal_agent_runtime::{ExecSpec, Runtime, Stream, TermSize};

use crate::dead::Dead;
use crate::host::{
    Host, able, alive, command, finish, id, kill, shell, supervisors, text, wait_for,
};

/// Ways of a program to lose what ties it to whoever started it, each ending in `sleep NUMBER`.
const WAYS: [&str; 3] = [
    "exec sleep NUMBER",
    "exec su app -c 'exec sleep NUMBER'",
    "(setsid sh -c 'sleep NUMBER & exec sleep NUMBER' &); exec su app -c 'sleep NUMBER'",
];
/// Processes that sleep then.
const SLEEPERS: [usize; 3] = [1, 1, 3];

/// Seconds that nobody else sleeps.
fn number(row: usize, way: usize) -> String {
    format!("1{}{row}{way}", std::process::id())
}

/// The processes on this machine that sleep for so long.
fn sleeping(number: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let wanted = format!("sleep\0{number}\0").into_bytes();
    let found = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c == wanted);
    pids.filter(found).collect()
}

fn way(row: usize, way: usize) -> ExecSpec {
    let script = WAYS[way].replace("NUMBER", &number(row, way));
    let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
    ExecSpec { argv, ..ExecSpec::default() }
}

async fn until_sleeping(row: usize) {
    let all = || (0..WAYS.len()).all(|way| sleeping(&number(row, way)).len() == SLEEPERS[way]);
    wait_for("every way to sleep", all).await.unwrap();
}

async fn until_gone(row: usize) {
    let left = || -> Vec<i32> { (0..WAYS.len()).flat_map(|w| sleeping(&number(row, w))).collect() };
    let gone = wait_for("everything to end", || left().is_empty()).await;
    gone.unwrap_or_else(|e| panic!("row {row}: {e}; left: {:?}", left()));
}

/// The groups of executions that are there.
fn exec_groups(host: &Host, name: &str) -> Vec<String> {
    let groups = host.parent_groups().into_iter().map(|p| p.join(format!("ctr-{name}")));
    let entries = groups.filter_map(|g| fs::read_dir(g).ok()).flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| n.starts_with("exec-")).collect()
}

#[tokio::test]
async fn who_drops_an_execution_ends_all_of_it() {
    if !able() {
        return;
    }
    let host = Host::new();
    let id = id("drop");
    host.start(&id, &command(&["sleep", "1000"])).await;
    // As a user does it, as a user on a terminal does it, as a health check does it.
    for row in 0..3 {
        let mut sessions = Vec::new();
        for n in 0..WAYS.len() {
            let mut spec = way(row, n);
            spec.tty = (row == 1).then_some(TermSize { rows: 24, cols: 80 });
            spec.sweep = row == 2;
            sessions.push(host.runtime.exec(&id, spec).await.unwrap());
        }
        until_sleeping(row).await;
        assert_eq!(exec_groups(&host, "drop").len(), WAYS.len());
        let sleepers = (0..WAYS.len()).flat_map(|way| sleeping(&number(row, way)));
        for sleeper in sleepers {
            let groups = fs::read_to_string(format!("/proc/{sleeper}/cgroup")).unwrap();
            assert!(groups.contains("/ctr-drop/exec-"), "row {row}: it is in {groups}");
        }
        drop(sessions);
        until_gone(row).await;
        wait_for("the groups to go", || exec_groups(&host, "drop").is_empty()).await.unwrap();
    }
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

/// One that waits for a file system that does not answer cannot be killed; it keeps no other alive.
#[tokio::test]
async fn who_cannot_be_killed_holds_up_no_other_end() {
    if !able() {
        return;
    }
    let host = Host::new();
    let dead = Dead::mount();
    let id = id("dead");
    let bind = MountConfig {
        destination: "/m".into(),
        kind: MountKind::Bind { source: dead.path().to_owned() },
        read_only: false,
    };
    let config = ContainerConfig { mounts: vec![bind], ..command(&["sleep", "1000"]) };
    host.start(&id, &config).await;
    let before = dead.unanswered();
    let sleeps = number(9, 0);
    let script = format!("su app -c 'sleep {sleeps}' & exec cat /m/file");
    let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let spec = ExecSpec { argv, ..ExecSpec::default() };
    let session = host.runtime.exec(&id, spec).await.unwrap();
    let stuck = || dead.unanswered() > before && sleeping(&sleeps).len() == 1;
    wait_for("it to be stuck", stuck).await.unwrap();
    drop(session);
    wait_for("the other to end", || sleeping(&sleeps).is_empty()).await.unwrap();
    drop(dead);
    wait_for("the group to go", || exec_groups(&host, "dead").is_empty()).await.unwrap();
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn executions_end_with_their_container() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let id = id("stop");
    host.start(&id, &command(&["sleep", "1000"])).await;
    let mut sessions = Vec::new();
    for n in 0..WAYS.len() {
        sessions.push(host.runtime.exec(&id, way(3, n)).await.unwrap());
    }
    until_sleeping(3).await;
    host.runtime.signal(&id, 9).await.unwrap();
    assert_eq!(host.exit(&id).await.signal, Some(9));
    until_gone(3).await;
    for session in sessions {
        assert_ne!(finish(session).await.0, Some(0));
    }
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

/// Not a test: the agent that is killed by the test below.
#[tokio::test]
#[ignore = "run by another test"]
async fn agent_process() {
    let Some(home) = std::env::var_os("SHOAL_TEST_HOME") else { return };
    let cgroup = std::env::var("SHOAL_TEST_CGROUP").unwrap();
    let number = |way: &str| std::env::var(format!("SHOAL_TEST_{way}")).unwrap();
    let host = Host::at(Path::new(&home), &cgroup);
    let script = WAYS[1].replace("NUMBER", &number("INIT"));
    host.start(&id("box"), &shell(&script)).await;
    let mut sessions = Vec::new();
    for (n, way) in WAYS.iter().enumerate() {
        let script = way.replace("NUMBER", &number(&n.to_string()));
        let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let spec = ExecSpec { argv, ..ExecSpec::default() };
        sessions.push(host.runtime.exec(&id("box"), spec).await.unwrap());
    }
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn without_agent_and_supervisor_nothing_lives_on() {
    if !able() {
        return;
    }
    let host = Host::new();
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap());
    agent
        .args(["--exact", "root_ends::agent_process", "--ignored"])
        .env("SHOAL_TEST_HOME", host.home())
        .env("SHOAL_TEST_CGROUP", &host.config.cgroup_parent)
        .env("SHOAL_TEST_INIT", number(5, 0))
        .stdout(std::process::Stdio::null());
    for n in 0..WAYS.len() {
        agent.env(format!("SHOAL_TEST_{n}"), number(4, n));
    }
    let mut agent = agent.spawn().unwrap();
    until_sleeping(4).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    until_gone(4).await;
    let container = sleeping(&number(5, 0));
    assert_eq!(container.len(), 1, "the container does not notice that the agent is gone");
    let status = fs::read_to_string(format!("/proc/{}/status", container[0])).unwrap();
    assert!(status.contains("Uid:\t1000\t"), "it has changed its user: {status}");
    let dir = host.config.run_dir.join("box");
    let left = || supervisors(dir.to_str().unwrap());
    // What it had forked for the executions has its command line, until it has ended too.
    wait_for("the supervisor to be alone", || left().len() == 1).await.unwrap();
    kill(left()[0], 9);
    // Nobody is left who would be told.
    wait_for("the container to die", || !alive(container[0])).await.unwrap();
    host.runtime.adopt().await.unwrap();
    host.runtime.remove(&id("box")).await.unwrap();
    host.assert_clean().await;
    let guards = || supervisors("shoal-guard\0box").into_iter().filter(|p| alive(*p)).count();
    wait_for("the guard to go", || guards() == 0).await.unwrap();
}

#[tokio::test]
async fn the_programs_own_end_is_the_end() {
    if !able() {
        return;
    }
    let host = Host::new();
    let id = id("end");
    host.start(&id, &command(&["sleep", "1000"])).await;
    let run = |script: String, sweep: bool, tty: bool| {
        let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let tty = tty.then_some(TermSize { rows: 24, cols: 80 });
        let spec = ExecSpec { argv, sweep, tty, ..ExecSpec::default() };
        let (host, id) = (&host, &id);
        async move {
            let session = host.runtime.exec(id, spec).await.unwrap();
            tokio::time::timeout(Duration::from_secs(20), finish(session)).await.expect("an end")
        }
    };
    for (row, sweep, tty) in [(6, false, false), (7, true, false), (8, false, true)] {
        let left = number(row, 0);
        // It holds the streams open, as a terminal's it survives the hang-up.
        let script = format!("trap '' HUP; sleep {left} & echo started");
        let (code, output) = run(script, sweep, tty).await;
        assert_eq!(code, Some(0));
        assert_eq!(text(&output, Stream::Stdout).trim_end(), "started");
        let lives = usize::from(!sweep);
        assert_eq!(sleeping(&left).len(), lives, "a check's is killed, a user's lives on: {row}");
        assert!(exec_groups(&host, "end").is_empty(), "what lives on is the container's own");
    }
    // Whoever goes on writing is not listened to for ever; what the program wrote last is not lost.
    let script = "while :; do echo noise >&2; done & head -c 60000 /dev/zero; exit 3";
    let (code, output) = run(script.to_owned(), false, false).await;
    assert_eq!((code, text(&output, Stream::Stdout).len()), (Some(3), 60_000));
    host.runtime.remove(&id).await.unwrap();
    assert!(sleeping(&number(6, 0)).is_empty(), "it ends with the container");
    host.assert_clean().await;
}
