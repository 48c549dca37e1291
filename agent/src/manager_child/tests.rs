//! A shell script stands in for the manager, run as whoever runs the tests.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    /// With a program that writes down each start, then does `script`.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let program = dir.path().join("manager");
        let starts = dir.path().join("starts");
        let text = format!("#!/bin/sh\necho \"$@\" >> {}\n{script}\n", starts.display());
        std::fs::write(&program, text).expect("write");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { dir }
    }

    fn child(&self) -> ManagerChild {
        let me = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let program = self.dir.path().join("manager");
        ManagerChild::new(ManagerConfig {
            program: Box::new(move || program.clone()),
            user: format!("{}:{}", me.0, me.1),
            state_dir: self.dir.path().join("state"),
            run_dir: self.dir.path().join("run"),
            pid_file: self.dir.path().join("manager.pid"),
            log_format: "text",
            log_level: "info".to_owned(),
        })
    }

    fn starts(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("starts")).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }
}

fn endpoint() -> ManagerEndpoint {
    ManagerEndpoint { listen: "0.0.0.0:1".to_owned(), advertise: "10.0.0.1:1".to_owned() }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

fn pid(child: &ManagerChild) -> Option<i32> {
    match child.state() {
        ManagerState::Running { pid } => Some(pid),
        ManagerState::Stopped | ManagerState::Waiting { .. } => None,
    }
}

#[tokio::test]
async fn it_is_started_with_its_flags_and_stopped() {
    let bench = Bench::new("exec sleep 1000");
    let child = bench.child();
    child.ensure(endpoint());
    eventually("started", || bench.starts().len() == 1).await;
    let pid = pid(&child).expect("runs");
    let flags = &bench.starts()[0];
    assert!(flags.starts_with("run --state-dir "), "{flags}");
    assert!(flags.contains("--listen 0.0.0.0:1 --advertise 10.0.0.1:1"), "{flags}");
    child.stop().await;
    assert_eq!(child.state(), ManagerState::Stopped);
    assert!(!Path::new(&format!("/proc/{pid}/stat")).exists(), "it is gone");
    assert_eq!(bench.starts().len(), 1);
}

#[tokio::test]
async fn one_that_ends_is_started_again() {
    let bench = Bench::new("exit 3");
    let child = bench.child();
    child.ensure(endpoint());
    eventually("started thrice", || bench.starts().len() >= 3).await;
    child.stop().await;
}

#[tokio::test]
async fn the_next_agent_takes_it_over() {
    let bench = Bench::new("exec sleep 1000");
    let child = bench.child();
    child.ensure(endpoint());
    eventually("started", || bench.starts().len() == 1).await;
    let first = pid(&child).expect("runs");
    drop(child);

    let child = bench.child();
    child.ensure(endpoint());
    eventually("taken over", || pid(&child) == Some(first)).await;
    assert_eq!(bench.starts().len(), 1, "not started a second time");
    child.stop().await;
    let state = std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "it has ended: {state}");
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let bench = Bench::new("");
    std::fs::remove_file(bench.dir.path().join("manager")).expect("remove");
    let child = bench.child();
    child.ensure(endpoint());
    eventually("failed", || matches!(child.state(), ManagerState::Waiting { .. })).await;
    let ManagerState::Waiting { why } = child.state() else { panic!("{:?}", child.state()) };
    assert!(why.contains("cannot start the manager") && why.contains("No such file"), "{why}");
    child.stop().await;
}
