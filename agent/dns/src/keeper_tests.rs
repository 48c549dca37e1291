//! The real process, which is this program's test of the same name. Needs root and `ip`.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::SocketAddrUnix;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, waitpid};
use shoal_agent_ground::testing::skip_without_root;
use shoal_agent_planning::zone::{Change, Claim, TaskNames, Zone};

use super::keeper::Names;
use super::line::{Line, seqpacket};
use super::root_tests::{Space, ask_over_tcp, asked, asked_at, asker, heard};
use super::tests::{addresses, sockets, zone};
use super::*;

/// For so long nobody may go without an answer when the process is killed.
const GAP: Duration = Duration::from_millis(100);
const IS_PROCESS: &str = "SHOAL_TEST_NAMES_PROCESS";

/// What the others start. By itself it starts itself.
#[test]
fn the_process() {
    if std::env::var_os(IS_PROCESS).is_some() {
        let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).unwrap();
        // Also when the test fails.
        let end = Signal::KILL;
        rustix::process::set_parent_process_death_signal(Some(end)).unwrap();
        process::run(&listener).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("names.sock");
    let mut child = begun(&path);
    let mut line = Line::to(&path).unwrap();
    assert_eq!(line.version, env!("CARGO_PKG_VERSION"));
    line.say_changes(Zone::default().difference(&zone(3))).unwrap();
    assert_eq!(line.zone().unwrap(), zone(3));
    let long = long_names(&line.zone().unwrap());
    line.say_changes(zone(3).difference(&long)).unwrap();
    assert_eq!(line.zone().unwrap(), long);
    assert!(line.borrow().unwrap().is_empty() && line.is_alive());
    line.farewell();
    assert!(child.wait().unwrap().success());
    assert!(!line.is_alive());
}

/// With 16 tasks that have as many aliases as there may be, as long as they may be.
fn long_names(before: &Zone) -> Zone {
    let mut zone = before.clone();
    let aliases = (0..64).map(|n| format!("{n:0>64}")).collect();
    for n in 1..=16 {
        let (service, slot) = ("s".repeat(63), n.to_string());
        let task = TaskNames { service: &service, slot: &slot, aliases: &aliases, serving: true };
        let claims = vec![Claim::of_task(&task, "n1", [10, 0, 1, n + 1].into(), false)];
        zone.take(Change::Claims { owner: format!("long{n}"), claims });
    }
    zone
}

/// One that some earlier agent has begun. It ends with the test.
fn begun(path: &Path) -> Child {
    let listener = seqpacket().unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    itself(listener).spawn().unwrap()
}

#[test]
fn one_that_cannot_be_replaced_is_still_told_and_let_go_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("names.sock");
    let mut child = begun(&path);
    let (sockets, (at, _)) = sockets();
    let line = Line::to(&path).unwrap();
    line.give(&asker("c1", "n1", Forwards::Nobody), &sockets).unwrap();
    drop((line, sockets));
    let start: Start = Box::new(|_| Err(io::Error::other("asked to")));
    let names = Names::of_version(path.clone(), start, env!("CARGO_PKG_VERSION"));
    assert_eq!(names.served().len(), 1);
    know(&names, 1);
    // It hangs, and nobody can be started in its place.
    let signal = |signal| rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
    signal(Signal::STOP);
    let stopped = waitpid(Some(Pid::from_child(&child)), WaitOptions::UNTRACED).unwrap();
    assert!(stopped.unwrap().1.stopped());
    let error = names.know(|_| zone(2)).unwrap_err();
    assert!(matches!(error, NamesError::Process { .. }), "{error}");
    signal(Signal::CONT);
    names.look().unwrap();
    let answer = heard(&asked_at(at, "web.")).unwrap();
    assert_eq!(addresses(&answer).len(), 2, "it was told what it had not heard");
    names.end();
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn one_that_never_answers_is_not_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("names.sock");
    let mut old = begun(&path);
    let (told, started) = channel();
    let told = Mutex::new(told);
    let start = move |listener: OwnedFd| {
        let child = Command::new("sleep").arg("60").stdin(Stdio::from(listener)).spawn()?;
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        told.lock().unwrap().send(child).unwrap();
        Ok(process)
    };
    // The version of the old one is another.
    let names = Names::of_version(path.clone(), Box::new(start), "2");
    names.look().unwrap_err();
    let mut new = started.try_recv().unwrap();
    assert_eq!(new.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    assert!(old.try_wait().unwrap().is_none() && path.exists(), "the old one is kept");
    names.end();
    assert!(old.wait().unwrap().success());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn one_that_was_not_told_all_ends_with_the_next_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("names.sock");
    let (mut told, mut unfinished) = (begun(&path), begun(&path.with_extension("new")));
    let (start, _started) = real();
    let names = Names::of_version(path, start, env!("CARGO_PKG_VERSION"));
    assert!(unfinished.wait().unwrap().success());
    names.look().unwrap();
    assert!(told.try_wait().unwrap().is_none());
    names.end();
    assert!(told.wait().unwrap().success());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn itself(listener: OwnedFd) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--exact", "keeper_tests::the_process"])
        .env(IS_PROCESS, "1")
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Starts it as nobody and says which one it is.
pub(crate) fn real() -> (Start, Receiver<i32>) {
    let (told, started) = channel();
    let told = Mutex::new(told);
    let start = move |listener: OwnedFd| {
        let (begun, begins) = channel();
        // It ends with the thread that starts it.
        std::thread::spawn(move || {
            let mut child = itself(listener).uid(65_534).gid(65_534).spawn().unwrap();
            begun.send(i32::try_from(child.id()).unwrap()).unwrap();
            child.wait()
        });
        let pid = begins.recv().map_err(io::Error::other)?;
        let _ = told.lock().unwrap().send(pid);
        Ok(pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty())?)
    };
    (Box::new(start), started)
}

fn kill(pid: i32) {
    let pid = Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

fn names(dir: &Path, version: &'static str) -> (Names, Receiver<i32>) {
    let (start, started) = real();
    (Names::of_version(dir.join("names.sock"), start, version), started)
}

fn know(names: &Names, tasks: u8) {
    names.know(|_| zone(tasks)).unwrap();
}

/// Asks one question after the other until it is ended.
struct Asking {
    enough: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    asks: tokio::task::JoinHandle<(usize, Duration)>,
}

impl Asking {
    fn begin(space: Arc<Space>, patience: Duration) -> Self {
        let (enough, answered) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stop, count) = (Arc::clone(&enough), Arc::<AtomicUsize>::clone(&answered));
        let all = move || {
            let (mut lost, mut gap, mut last) = (0, Duration::ZERO, Instant::now());
            while !stop.load(Ordering::Relaxed) {
                let socket = asked("web.");
                socket.set_read_timeout(Some(patience)).unwrap();
                match heard(&socket) {
                    Some(answer) if !addresses(&answer).is_empty() => {
                        count.fetch_add(1, Ordering::Relaxed);
                        gap = gap.max(last.elapsed());
                        last = Instant::now();
                    }
                    _ => lost += 1,
                }
            }
            (lost, gap)
        };
        let asks = tokio::spawn(async move { space.inside(all).await });
        Self { enough, answered, asks }
    }

    /// Until some more have been answered.
    async fn go_on(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        until("answers", || self.answered.load(Ordering::Relaxed) >= before + 50).await;
    }

    /// How many were not answered, and the longest time without an answer.
    async fn end(self) -> (usize, Duration) {
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
    know(&first, 1);
    assert!(started.try_recv().is_err(), "there is nobody to be answered");
    first.serve(asker("c1", "n1", Forwards::Nobody), &space.path()).unwrap();
    let one = started.recv().unwrap();
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

    let asking = Asking::begin(Arc::clone(&space), Duration::from_secs(6));
    asking.go_on().await;
    // The agent is killed. The next one finds the process; one of another version has a new one take over
    // and the old one end.
    drop(first);
    asking.go_on().await;
    let (second, started) = names(dir.path(), env!("CARGO_PKG_VERSION"));
    assert_eq!(second.served().len(), 1, "its sockets are had again");
    second.look().unwrap();
    if let Ok(pid) = started.try_recv() {
        panic!("its version was right, and {pid} was started");
    }
    asking.go_on().await;
    drop(second);
    let (third, started) = names(dir.path(), "3");
    // It knows what the first one has said, and no agent says it again.
    third.look().unwrap();
    let two = started.recv().unwrap();
    until("the old one ends", || !is_there(one)).await;
    asking.go_on().await;
    assert_eq!(asking.end().await.0, 0, "lost");
    let three = killed_under_way(&space, &started, two).await;
    // One that hangs is replaced, too.
    let pid = Pid::from_raw(three).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let status = || fs::read_to_string(format!("/proc/{three}/status")).unwrap();
    until("it is stopped", || status().contains("State:\tT")).await;
    let socket = space.inside(|| asked("web.")).await;
    third.look().unwrap();
    assert_eq!(addresses(&heard(&socket).unwrap()).len(), 1);
    until("it is dead", || !is_there(three)).await;
    third.end();
}

/// It is killed while questions are under way. One that it has read is lost with it, so who asks does not
/// wait for long. Which process answers then.
async fn killed_under_way(space: &Arc<Space>, started: &Receiver<i32>, mut pid: i32) -> i32 {
    for _ in 0..3 {
        let asking = Asking::begin(Arc::clone(space), Duration::from_millis(5));
        asking.go_on().await;
        kill(pid);
        pid = started.recv_timeout(Duration::from_secs(8)).unwrap();
        asking.go_on().await;
        let (_, gap) = asking.end().await;
        assert!(gap < GAP, "{gap:?}, expected less than {GAP:?}");
    }
    pid
}

/// Others are waited for on behalf of those who are still there, and not of a container that has gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_container_goes_while_others_are_asked() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let space = Space::new();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    let (agent, _started) = names(dir.path(), env!("CARGO_PKG_VERSION"));
    let forwards = Forwards::To(vec![silent.local_addr().unwrap()]);
    agent.serve(asker("c1", "n1", forwards), &space.path()).unwrap();
    let _asked = space.inside(|| asked("example.org.")).await;
    silent.recv(&mut [0; 512]).unwrap();
    let begun = Instant::now();
    agent.let_go("c1").unwrap();
    until("its sockets are closed", || open(&space.path()).is_ok()).await;
    // Others are waited for four seconds.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_knows_what_its_agent_knows() {
    if skip_without_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let space = Space::new();
    let (agent, _started) = names(dir.path(), env!("CARGO_PKG_VERSION"));
    know(&agent, 200);
    agent.serve(asker("c1", "n1", Forwards::Nobody), &space.path()).unwrap();
    assert_eq!(count(&space).await, 200);
    know(&agent, 3);
    assert_eq!(count(&space).await, 3);
    // The next agent knows it, too, and what it does not know any more is forgotten.
    drop(agent);
    let (agent, _started) = names(dir.path(), env!("CARGO_PKG_VERSION"));
    let taken_over = |before: &Zone| {
        assert_eq!(*before, zone(3));
        zone(2)
    };
    agent.know(taken_over).unwrap();
    assert_eq!(count(&space).await, 2);
    // A container that is gone is let go of: its address can be had again.
    agent.let_go("c1").unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while let Err(error) = open(&space.path()) {
        assert!(Instant::now() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    agent.end();
    assert!(agent.served().is_empty());
}
