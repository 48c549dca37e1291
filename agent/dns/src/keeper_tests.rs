//! The real process, which is this program's test of the same name. Needs root and `ip`.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shoal_agent_ground::testing::skip_without_root;
use shoal_agent_planning::zone::{Change, Zone};

use super::root_tests::{Space, ask, ask_over_tcp, asked, asker, heard};
use super::tests::{addresses, zone};
use super::*;

const IS_PROCESS: &str = "SHOAL_TEST_NAMES_PROCESS";

/// No test by itself: what the others start.
#[test]
fn the_process() {
    if std::env::var_os(IS_PROCESS).is_some() {
        let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).unwrap();
        // Also when the test fails.
        let end = rustix::process::Signal::KILL;
        rustix::process::set_parent_process_death_signal(Some(end)).unwrap();
        process::run(&listener).unwrap();
    }
}

/// Starts it as nobody and says which one it is.
fn real() -> (Start, Receiver<i32>) {
    let (told, started) = channel();
    let told = Mutex::new(told);
    let start = move |listener: OwnedFd| {
        let mut child = Command::new("/proc/self/exe")
            .args(["--exact", "keeper_tests::the_process"])
            .env(IS_PROCESS, "1")
            .uid(65_534)
            .gid(65_534)
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let _ = told.lock().unwrap().send(i32::try_from(child.id()).unwrap());
        std::thread::spawn(move || child.wait());
        Ok(())
    };
    (Box::new(start), started)
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn names(dir: &Path, version: &'static str) -> (Names, Receiver<i32>) {
    let (start, started) = real();
    (Names::of_version(dir.join("names.sock"), start, version), started)
}

fn settle(names: &Names, tasks: u8) {
    names.settle(zone(tasks), Vec::new(), &["c1".to_owned()]).unwrap();
}

/// Asks one question after the other until it is ended.
struct Asking {
    enough: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    asks: tokio::task::JoinHandle<usize>,
}

impl Asking {
    fn begin(space: Arc<Space>) -> Self {
        let (enough, answered) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stop, count) = (Arc::clone(&enough), Arc::<AtomicUsize>::clone(&answered));
        let all = move || {
            let mut lost = 0;
            while !stop.load(Ordering::Relaxed) {
                match ask("web.") {
                    Some(answer) if !addresses(&answer).is_empty() => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => lost += 1,
                }
            }
            lost
        };
        let asks = tokio::spawn(async move { space.inside(all).await });
        Self { enough, answered, asks }
    }

    /// Until some more have been answered.
    async fn go_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        until("answers", || self.answered.load(Ordering::Relaxed) >= before + 50).await;
    }

    /// How many were not answered.
    async fn end(self) -> usize {
        self.enough.store(true, Ordering::Relaxed);
        self.asks.await.unwrap()
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(8);
    while !is_so() {
        assert!(Instant::now() < end, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

async fn count(space: &Space) -> usize {
    addresses(&space.inside(|| ask_over_tcp(&["web."])).await[0]).len()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_lost_when_agents_and_processes_come_and_go() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let space = Arc::new(Space::new());
    let (first, started) = names(dir.path(), "1");
    settle(&first, 1);
    let one = started.recv().unwrap();
    first.serve(asker("c1", "n1", Forwards::Nobody), &space.path()).unwrap();
    // It has no rights on any of its threads; those that answer can get none either.
    let mut bound = Vec::new();
    for thread in fs::read_dir(format!("/proc/{one}/task")).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let nobody = "Uid:\t65534\t65534\t65534\t65534";
        for line in ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", nobody] {
            assert!(status.contains(line), "{line} in {status}");
        }
        bound.extend(status.contains("NoNewPrivs:\t1").then_some(status));
    }
    // The one that listens to agents, and two that answer; a program's first thread is the test harness's.
    assert!(bound.len() >= 3, "{bound:?}");

    let asking = Asking::begin(Arc::clone(&space));
    asking.go_on().await;
    // The agent is killed. The next one finds the process; one of another version has a new one take over
    // and the old one end.
    drop(first);
    asking.go_on().await;
    let (second, started) = names(dir.path(), env!("CARGO_PKG_VERSION"));
    assert_eq!(second.served().len(), 1, "its sockets are had again");
    settle(&second, 1);
    if let Ok(pid) = started.try_recv() {
        panic!("its version was right, and {pid} was started");
    }
    asking.go_on().await;
    drop(second);
    let (third, started) = names(dir.path(), "3");
    settle(&third, 1);
    let two = started.recv().unwrap();
    until("the old one ends", || !is_there(one)).await;
    asking.go_on().await;
    assert_eq!(asking.end().await, 0, "lost");
    // It is killed: what is asked then waits until the next one has its sockets.
    kill(two);
    until("it is dead", || !is_there(two)).await;
    let socket = space.inside(|| asked("web.")).await;
    third.look().unwrap();
    let three = started.recv().unwrap();
    assert_eq!(addresses(&heard(&socket).unwrap()).len(), 1);
    // One that hangs is replaced, too.
    let pid = rustix::process::Pid::from_raw(three).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let status = || fs::read_to_string(format!("/proc/{three}/status")).unwrap();
    until("it is stopped", || status().contains("State:\tT")).await;
    let socket = space.inside(|| asked("web.")).await;
    third.look().unwrap();
    assert_eq!(addresses(&heard(&socket).unwrap()).len(), 1);
    until("it is dead", || !is_there(three)).await;
    third.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_knows_what_its_agent_knows() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let space = Space::new();
    let (agent, _started) = names(dir.path(), env!("CARGO_PKG_VERSION"));
    settle(&agent, 200);
    agent.serve(asker("c1", "n1", Forwards::Nobody), &space.path()).unwrap();
    assert_eq!(count(&space).await, 200);
    let changes = zone(200).difference(&zone(3));
    agent.take(&changes).unwrap();
    assert_eq!(count(&space).await, 3);
    // The next agent says it all anew, and has forgotten one.
    drop(agent);
    let (agent, _started) = names(dir.path(), env!("CARGO_PKG_VERSION"));
    agent.settle(zone(2), Vec::new(), &["c1".to_owned()]).unwrap();
    assert_eq!(count(&space).await, 2);
    let none: &[Change] = &[];
    agent.take(none).unwrap();
    // A container that is gone is let go of: its address can be had again.
    agent.let_go("c1").unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while let Err(error) = open(&space.path()) {
        assert!(Instant::now() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    agent.settle(Zone::default(), Vec::new(), &[]).unwrap();
    agent.end();
    assert!(agent.served().is_empty());
}
