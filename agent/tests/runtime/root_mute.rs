//! Supervisors that hang, and hosts on which nobody can look: neither ends a container.

use std::time::{Duration, Instant};

use futures::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shoal_agent_runtime::{ContainerId, ExecSpec, ObservedState, Runtime, Stream};
use tokio::time::timeout;

use crate::host::{
    Host, PATIENCE, able, alive, finish, id, kill, shell, supervisors, text, wait_for,
};

const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;
/// Less than a supervisor may take to answer.
const SOON: Duration = Duration::from_secs(10);

fn supervisor(host: &Host, id: &ContainerId) -> i32 {
    supervisors(host.config.run_dir.join(id.as_str()).to_str().unwrap())[0]
}

async fn joined(host: &Host, id: &ContainerId) {
    let argv = vec!["echo".to_owned(), "inside".to_owned()];
    let begun = host.runtime.exec(id, ExecSpec { argv, ..ExecSpec::default() });
    let session = timeout(SOON, begun).await.expect("a health check would have failed").unwrap();
    let (code, output) = finish(session).await;
    assert_eq!((code, text(&output, Stream::Stdout).as_str()), (Some(0), "inside\n"));
}

#[tokio::test]
async fn a_supervisor_that_hangs_is_noticed_and_fails_no_health_check() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let id = id("hangs");
    host.start(&id, &shell("trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done")).await;
    let pid = supervisor(&host, &id);
    kill(pid, SIGSTOP);
    joined(&host, &id).await;
    let mut unheard = host.runtime.unheard();
    let noticed = unheard.wait_for(|all| all.get(&id).is_some_and(|why| why.contains("answer")));
    timeout(PATIENCE, noticed).await.expect("it is not noticed").unwrap();
    joined(&host, &id).await;
    kill(pid, SIGCONT);
    let heard = unheard.wait_for(|all| !all.contains_key(&id));
    timeout(PATIENCE, heard).await.expect("it is not heard again").unwrap();
    host.runtime.signal(&id, 15).await.unwrap();
    assert_eq!(host.exit(&id).await.code, Some(7));
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

/// Soon enough for its time to end, of which most is left.
#[tokio::test]
async fn a_program_gets_its_signal_although_its_supervisor_hangs() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let id = id("hangs");
    let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done";
    let first = host.start(&id, &shell(script)).await;
    while !host.log(&id).await.contains("up") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pid = supervisor(&host, &id);
    kill(pid, SIGSTOP);
    timeout(SOON, host.runtime.signal(&id, 15)).await.expect("it takes too long").unwrap();
    wait_for("its end", || !alive(first)).await.unwrap();
    kill(pid, SIGCONT);
    assert_eq!(host.exit(&id).await.code, Some(7));
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

/// A container whose supervisor hangs.
async fn hanging() -> (Host, ContainerId) {
    let (host, id) = (Host::new(), id("hangs"));
    host.start(&id, &shell("while :; do sleep 0.05; done")).await;
    kill(supervisor(&host, &id), SIGSTOP);
    (host, id)
}

/// Nothing is asked of it.
#[tokio::test]
async fn a_supervisor_that_hangs_is_noticed_although_nobody_wants_anything_of_it() {
    if !able() {
        return;
    }
    let (host, id) = hanging().await;
    let mut unheard = host.runtime.unheard();
    let noticed = unheard.wait_for(|all| all.contains_key(&id));
    timeout(PATIENCE, noticed).await.expect("it is not noticed").unwrap();
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn more_requests_than_a_supervisor_that_hangs_has_room_for_come_to_an_end() {
    if !able() {
        return;
    }
    let (host, id) = hanging().await;
    let all = join_all((0..700).map(|_| host.runtime.signal(&id, SIGCONT)));
    timeout(PATIENCE, all).await.expect("signals wait for ever");
    timeout(PATIENCE, host.runtime.remove(&id)).await.expect("removal waits for ever").unwrap();
    host.assert_clean().await;
}

/// This process's own limit: every test has a process to itself.
#[tokio::test]
async fn who_cannot_look_ends_nothing() {
    if !able() {
        return;
    }
    let host = Host::new();
    host.after_an_agent("root_upgrade::former_agent").await;
    let alive = host.processes_in_groups().len();
    let before = getrlimit(Resource::Nofile);
    for spare in [12, 24, 48] {
        let agent = Host::at(host.home(), &host.config.cgroup_parent);
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        setrlimit(Resource::Nofile, Rlimit { current: Some(open + spare), ..before }).unwrap();
        let found = agent.runtime.adopt().await;
        setrlimit(Resource::Nofile, before).unwrap();
        for one in found.iter().flatten() {
            assert!(matches!(one.state, ObservedState::Running { .. }), "{spare}: {one:?}");
        }
    }
    let begin = Instant::now();
    let found = host.runtime.adopt().await.unwrap();
    let running = found.iter().filter(|o| matches!(o.state, ObservedState::Running { .. })).count();
    assert_eq!(running, 20, "{found:?} after {:?}", begin.elapsed());
    assert!(host.processes_in_groups().len() >= alive.min(20));
    for one in found {
        host.runtime.remove(&one.id).await.unwrap();
    }
    wait_for("everything to be gone", || host.remains().is_empty()).await.unwrap();
}
