//! What every runtime promises, for the tests of each.
#![allow(clippy::unwrap_used, reason = "a promise that is not kept fails the test")]

use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::mpsc;

use crate::{
    ContainerId, ContainerSpec, ExecSpec, Exit, ExitStatus, LogQuery, ObservedState, Runtime,
    RuntimeError,
};

/// Bound of every wait.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two signals to a program that may not have heard the first.
const SIGNAL_PAUSE: Duration = Duration::from_millis(200);

/// Runs the suite on a runtime that has nothing yet. `spec` is a container without a terminal that runs
/// until SIGTERM, and then ends with code 0. `next` is the runtime of the next agent on the same host.
///
/// # Panics
/// A promise is not kept.
pub async fn honour<R: Runtime>(runtime: R, spec: ContainerSpec, next: impl FnOnce(R) -> R) {
    let mut exits = runtime.take_exits().unwrap();
    assert!(runtime.take_exits().is_none(), "one hears of exits");
    assert!(runtime.adopt().await.unwrap().is_empty());
    nobody(&runtime).await;
    life(&runtime, &spec, &mut exits).await;
    again(&runtime, &spec, &mut exits).await;
    forced(&runtime, &spec, &mut exits).await;
    adopted(runtime, &spec, next).await;
}

fn name(id: &str) -> ContainerId {
    ContainerId::new(id).unwrap()
}

/// Has a container end in good order. A program that has not come to its handler yet does not hear the
/// signal (a process namespace's first process gets none that it does not handle), so that it is sent
/// until it does.
async fn stopped(
    runtime: &impl Runtime,
    id: &ContainerId,
    exits: &mut mpsc::UnboundedReceiver<Exit>,
) -> Exit {
    let stopping = async {
        loop {
            let sent = runtime.signal(id, 15).await;
            assert!(matches!(sent, Ok(()) | Err(RuntimeError::NotRunning { .. })), "{sent:?}");
            if let Ok(exit) = tokio::time::timeout(SIGNAL_PAUSE, exits.recv()).await {
                return exit.unwrap();
            }
        }
    };
    tokio::time::timeout(PATIENCE, stopping).await.unwrap()
}

async fn next_exit(exits: &mut mpsc::UnboundedReceiver<Exit>) -> Exit {
    tokio::time::timeout(PATIENCE, exits.recv()).await.unwrap().unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "answers go straight in")]
fn is_unknown<T>(result: Result<T, RuntimeError>) -> bool {
    matches!(result, Err(RuntimeError::NotFound { .. }))
}

#[expect(clippy::needless_pass_by_value, reason = "answers go straight in")]
fn does_not_run<T>(result: Result<T, RuntimeError>) -> bool {
    matches!(result, Err(RuntimeError::NotRunning { .. }))
}

/// A container that nobody has heard of.
async fn nobody(runtime: &impl Runtime) {
    let id = name("nobody");
    assert!(is_unknown(runtime.start(&id).await));
    assert!(is_unknown(runtime.signal(&id, 15).await));
    assert!(is_unknown(runtime.supervisor(&id).await));
    assert!(is_unknown(runtime.exec(&id, ExecSpec::default()).await));
    assert!(is_unknown(runtime.logs(&id, LogQuery::default()).await));
    assert!(is_unknown(runtime.stats(&id).await));
    assert!(is_unknown(runtime.disk(&id).await));
    runtime.remove(&id).await.unwrap();
    runtime.release(&id).await.unwrap();
    assert!(is_unknown(runtime.logs(&id, LogQuery::default()).await));
}

/// From the beginning to the end, every call twice.
async fn life(
    runtime: &impl Runtime,
    spec: &ContainerSpec,
    exits: &mut mpsc::UnboundedReceiver<Exit>,
) {
    let id = name("one");
    let made = runtime.prepare(&id, spec.clone()).await.unwrap();
    assert_eq!(traces(runtime).await, [(id.clone(), false)]);
    assert_eq!(runtime.supervisor(&id).await.unwrap(), made);
    let twice = runtime.prepare(&id, spec.clone()).await;
    assert!(matches!(twice, Err(RuntimeError::AlreadyExists { .. })), "{twice:?}");
    assert!(does_not_run(runtime.signal(&id, 15).await));
    assert!(does_not_run(runtime.exec(&id, ExecSpec::default()).await));
    let pid = runtime.start(&id).await.unwrap().pid;
    assert_eq!(runtime.start(&id).await.unwrap().pid, pid, "starting twice is starting once");
    runtime.stats(&id).await.unwrap();
    runtime.disk(&id).await.unwrap();
    let exit = stopped(runtime, &id, exits).await;
    assert_eq!((exit.id, exit.status.code, exit.status.signal), (id.clone(), Some(0), None));
    assert!(does_not_run(runtime.signal(&id, 15).await));
    assert!(does_not_run(runtime.start(&id).await), "it ran");
    assert!(does_not_run(runtime.exec(&id, ExecSpec::default()).await));
    let twice = runtime.prepare(&id, spec.clone()).await;
    assert!(matches!(twice, Err(RuntimeError::AlreadyExists { .. })), "{twice:?}");
    for _ in 0..2 {
        runtime.release(&id).await.unwrap();
        assert!(runtime.logs(&id, LogQuery::default()).await.is_ok(), "the log stays");
        assert_eq!(traces(runtime).await, [(id.clone(), true)]);
        assert!(does_not_run(runtime.start(&id).await));
        assert!(does_not_run(runtime.stats(&id).await));
    }
    for _ in 0..2 {
        runtime.remove(&id).await.unwrap();
        assert!(is_unknown(runtime.logs(&id, LogQuery::default()).await));
        assert_eq!(traces(runtime).await, []);
    }
}

/// What there is of which container, and whether it is only a log.
async fn traces(runtime: &impl Runtime) -> Vec<(ContainerId, bool)> {
    let found = runtime.traces().await.unwrap();
    found.into_iter().map(|trace| (trace.id, trace.only_log)).collect()
}

/// What was released is made anew under its name.
async fn again(
    runtime: &impl Runtime,
    spec: &ContainerSpec,
    exits: &mut mpsc::UnboundedReceiver<Exit>,
) {
    let id = name("again");
    for _ in 0..2 {
        runtime.prepare(&id, spec.clone()).await.unwrap();
        runtime.start(&id).await.unwrap();
        let exit = stopped(runtime, &id, exits).await;
        assert_eq!(exit.status.code, Some(0), "each start has its own end");
        runtime.release(&id).await.unwrap();
    }
    let mut log = runtime.logs(&id, LogQuery::default()).await.unwrap();
    while let Some(line) = log.next().await {
        line.unwrap();
    }
    runtime.remove(&id).await.unwrap();
}

/// Removed while they run: the exit is told, once.
async fn forced(
    runtime: &impl Runtime,
    spec: &ContainerSpec,
    exits: &mut mpsc::UnboundedReceiver<Exit>,
) {
    let id = name("forced");
    for keeps_log in [true, false] {
        runtime.prepare(&id, spec.clone()).await.unwrap();
        runtime.start(&id).await.unwrap();
        let gone = if keeps_log { runtime.release(&id) } else { runtime.remove(&id) };
        gone.await.unwrap();
        let exit = next_exit(exits).await;
        assert_eq!((exit.id, exit.status.code, exit.status.signal), (id.clone(), None, Some(9)));
    }
    // One that was never started owes no exit.
    runtime.prepare(&id, spec.clone()).await.unwrap();
    runtime.remove(&id).await.unwrap();
    assert!(exits.try_recv().is_err());
}

/// The next agent finds what was left, and hears of the end of what lives.
async fn adopted<R: Runtime>(runtime: R, spec: &ContainerSpec, next: impl FnOnce(R) -> R) {
    let all = ["lives", "waits"].map(name);
    for id in &all {
        runtime.prepare(id, spec.clone()).await.unwrap();
    }
    let pid = runtime.start(&all[0]).await.unwrap().pid;
    let runtime = next(runtime);
    let mut exits = runtime.take_exits().unwrap();
    let mut found = runtime.adopt().await.unwrap();
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let ids: Vec<&ContainerId> = found.iter().map(|one| &one.id).collect();
    assert_eq!(ids, [&all[0], &all[1]]);
    let same = matches!(found[0].state, ObservedState::Running { pid: p, .. } if p == pid);
    assert!(same, "{found:?}");
    assert!(matches!(found[1].state, ObservedState::Prepared(_)), "{found:?}");
    let Exit { id, status: ExitStatus { code, .. } } = stopped(&runtime, &all[0], &mut exits).await;
    assert_eq!((id, code), (all[0].clone(), Some(0)));
    for id in &all {
        runtime.remove(id).await.unwrap();
    }
}
