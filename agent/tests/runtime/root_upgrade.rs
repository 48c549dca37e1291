//! An agent takes over containers whose supervisors are of other versions than it is, and ends none of
//! them for that.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;

use shoal_agent_container::ProcessIdentity;
use shoal_agent_runtime::{ContainerId, ExecSpec, ObservedState, Runtime, RuntimeError, Stream};

use crate::host::{
    Host, PATIENCE, able, alive, finish, id, kill, shell, supervisors, text, wait_for,
};
use crate::other_version::{Version, WAITED_AT_ONCE, stand};

/// Twenty containers, each under a supervisor of its version.
const VERSIONS: [(Version, usize); 7] = [
    (Version::Ours, 1),
    (Version::Old, 7),
    (Version::Later, 5),
    (Version::Foreign, 2),
    (Version::Deaf, 3),
    (Version::Busy, 1),
    (Version::Babbling, 1),
];

/// Ends when it is told to, with a code of its own.
const SCRIPT: &str = "trap 'echo bye; exit 7' TERM; echo hello; while :; do sleep 0.05; done";

fn all() -> BTreeMap<ContainerId, Version> {
    let each = VERSIONS.iter().flat_map(|(version, count)| (0..*count).map(move |n| (*version, n)));
    each.map(|(version, n)| (id(&format!("{version:?}-{n}").to_lowercase()), version)).collect()
}

/// Not a test: the agent before the upgrade, killed by the tests below.
#[tokio::test]
#[ignore = "run by other tests"]
async fn former_agent() {
    let Some(home) = std::env::var_os("SHOAL_TEST_HOME") else { return };
    let cgroup = std::env::var("SHOAL_TEST_CGROUP").unwrap();
    let host = Host::at(Path::new(&home), &cgroup);
    for id in all().keys() {
        host.start(id, &shell(SCRIPT)).await;
    }
    fs::write(Path::new(&home).join("ready"), "").unwrap();
    std::future::pending::<()>().await;
}

/// The containers' first processes, by libcontainer's record of them.
fn processes(host: &Host) -> BTreeMap<ContainerId, ProcessIdentity> {
    let of = |id: &ContainerId| {
        let run_dir = host.config.run_dir.join(id.as_str());
        let state = fs::read(run_dir.join("oci").join(id.as_str()).join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        let pid = i32::try_from(state["pid"].as_i64().unwrap()).unwrap();
        ProcessIdentity::of(pid).unwrap_or_else(|| panic!("{id} does not run"))
    };
    all().keys().map(|id| (id.clone(), of(id))).collect()
}

#[tokio::test]
async fn an_upgraded_agent_ends_no_container_whatever_its_supervisor_is() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    host.after_an_agent("root_upgrade::former_agent").await;
    let before = processes(&host);
    assert_eq!(before.len(), 20);
    for (id, version) in all() {
        stand(version, &host.config.run_dir.join(id.as_str()));
    }
    let found = host.runtime.adopt().await.unwrap();
    // Three say nothing for as long as is waited for one, and nobody waits for their sum.
    assert_eq!(WAITED_AT_ONCE.load(Ordering::SeqCst), 3);
    let mut unheard = BTreeMap::new();
    for one in &found {
        let ObservedState::Running { pid, unheard: why, .. } = &one.state else {
            panic!("{one:?}");
        };
        assert_eq!(*pid, before[&one.id].pid, "{one:?}");
        unheard.insert(one.id.clone(), why.clone());
    }
    let mut known = host.runtime.unheard();
    for (id, version) in all() {
        let why = unheard[&id].as_deref();
        let expected = match version {
            Version::Ours | Version::Old | Version::Later => None,
            Version::Foreign => Some("needs an agent that knows protocol 9"),
            Version::Deaf => Some("does not answer within"),
            // Noticed by who reads or by who writes.
            Version::Busy => Some("the connection"),
            Version::Babbling => Some("220 smtp.example.org ready is no line of the protocol"),
        };
        let Some(text) = expected else {
            // On a host that is slow it may be heard later only.
            let heard = known.wait_for(|known| !known.contains_key(&id));
            let heard = tokio::time::timeout(PATIENCE, heard).await;
            heard.unwrap_or_else(|_| panic!("{id} is not heard")).unwrap();
            continue;
        };
        assert!(why.is_some_and(|why| why.contains(text)), "{id}: {why:?}");
        assert!(known.borrow().contains_key(&id), "{id} is shown as it was found");
    }
    assert_eq!(processes(&host), before, "taken over, and something was restarted");
    exec_in_each(&host).await;
    for id in all().keys() {
        assert!(host.log(id).await.starts_with("hello\n"), "{id}");
    }
    assert_eq!(processes(&host), before, "joined and read, and something was restarted");
    stop_each(&mut host).await;
    host.assert_clean().await;
}

/// Possible wherever the files say what has to be known, whoever says anything else.
async fn exec_in_each(host: &Host) {
    for (id, version) in all() {
        let argv = ["sh", "-c", "echo inside; exit 5"].map(str::to_owned).to_vec();
        let begun = host.runtime.exec(&id, ExecSpec { argv, ..ExecSpec::default() }).await;
        if version == Version::Foreign {
            let error = begun.unwrap_err();
            assert!(matches!(error, RuntimeError::OtherVersion { .. }), "{id}: {error}");
            let error = error.to_string();
            assert!(error.contains("needs a program that knows format 9"), "{id}: {error}");
            continue;
        }
        let (code, output) = finish(begun.unwrap_or_else(|e| panic!("{id}: {e}"))).await;
        assert_eq!((code, text(&output, Stream::Stdout)), (Some(5), "inside\n".to_owned()), "{id}");
    }
}

async fn stop_each(host: &mut Host) {
    for id in all().keys() {
        host.runtime.signal(id, 15).await.unwrap_or_else(|e| panic!("{id}: {e}"));
    }
    let mut ended = BTreeMap::new();
    while ended.len() < all().len() {
        let exit = tokio::time::timeout(PATIENCE, host.exits.recv()).await;
        let exit = exit.unwrap_or_else(|_| panic!("these alone ended: {ended:?}")).unwrap();
        assert!(ended.insert(exit.id.clone(), exit.status).is_none(), "{} twice", exit.id);
    }
    for (id, status) in &ended {
        assert_eq!(status.code, Some(7), "{id}: {status:?}");
        assert!(host.log(id).await.ends_with("bye\n"), "{id}");
        host.runtime.remove(id).await.unwrap();
    }
}

/// Asked to go, whoever does not help goes all the same.
#[tokio::test]
async fn a_container_under_a_supervisor_that_does_not_help_is_removed_when_it_is_asked_for() {
    if !able() {
        return;
    }
    let host = Host::new();
    host.after_an_agent("root_upgrade::former_agent").await;
    for (id, version) in all() {
        stand(version, &host.config.run_dir.join(id.as_str()));
    }
    host.runtime.adopt().await.unwrap();
    let ids = all();
    let removing = ids.keys().map(|id| host.runtime.remove(id));
    for removed in futures::future::join_all(removing).await {
        removed.unwrap();
    }
    host.assert_clean().await;
}

/// Whoever is proven gone is gone, whether or not it has left a record of who it was, and whoever is not
/// is left alone.
#[tokio::test]
async fn a_record_that_cannot_be_read_is_no_death() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    host.after_an_agent("root_upgrade::former_agent").await;
    let before = processes(&host);
    let run_dir = |id: &ContainerId| host.config.run_dir.join(id.as_str());
    let (lost, torn, dead) = (id("old-0"), id("old-1"), id("old-2"));
    // Nobody can reach them by their sockets, and nothing says who they are.
    fs::remove_file(run_dir(&lost).join("control.sock")).unwrap();
    fs::remove_file(run_dir(&lost).join("supervisor.json")).unwrap();
    fs::remove_file(run_dir(&torn).join("control.sock")).unwrap();
    fs::write(run_dir(&torn).join("supervisor.json"), "{\"pid\":").unwrap();
    fs::remove_file(run_dir(&dead).join("supervisor.json")).unwrap();
    for pid in supervisors(run_dir(&dead).to_str().unwrap()) {
        kill(pid, 9);
        wait_for("its death", || !alive(pid)).await.unwrap();
    }
    let found = host.runtime.adopt().await.unwrap();
    for one in &found {
        match &one.state {
            ObservedState::Exited(status) if one.id == dead => {
                let message = status.message.as_deref().unwrap_or_default();
                assert!(message.contains("supervisor died"), "{message}");
            }
            ObservedState::Running { pid, unheard, .. } if one.id != dead => {
                assert_eq!(*pid, before[&one.id].pid);
                assert_eq!(unheard.is_some(), [&lost, &torn].contains(&&one.id), "{one:?}");
            }
            _ => panic!("{one:?}"),
        }
    }
    for id in [&lost, &torn] {
        host.runtime.signal(id, 15).await.unwrap();
        assert_eq!(host.exit(id).await.code, Some(7));
    }
    for id in all().keys() {
        host.runtime.remove(id).await.unwrap();
    }
    host.assert_clean().await;
}

/// What a supervisor of today does with what it does not know, and with more agents than it has room for.
#[tokio::test]
async fn a_supervisor_answers_what_it_does_not_know_and_the_ninth_who_comes() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let id = id("asked");
    host.start(&id, &shell(SCRIPT)).await;
    let socket = host.config.run_dir.join("asked/control.sock");
    let mut all: Vec<_> =
        (0..12).map(|_| BufReader::new(UnixStream::connect(&socket).unwrap())).collect();
    let mut last = all.pop().unwrap();
    last.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    let mut hear = |last: &mut BufReader<UnixStream>| {
        line.clear();
        last.read_line(&mut line).unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()
    };
    assert_eq!(hear(&mut last), serde_json::json!({"hello": {"protocol": 1, "needs": 0}}));
    let asked = "{\"seq\":3,\"op\":{\"dance\":{\"with\":\"me\"}},\"more\":1}\n{\"seq\":4,\"op\":\"status\"}\n";
    last.get_mut().write_all(asked.as_bytes()).unwrap();
    let answer = hear(&mut last);
    assert_eq!(answer["reply"]["result"]["Err"]["unsupported"]["op"], "dance", "{answer}");
    let answer = hear(&mut last);
    assert!(answer["reply"]["result"]["Ok"]["init"]["pid"].is_number(), "{answer}");
    drop((last, all));
    // Its own agent was pushed out with the first of them, and has come back.
    host.runtime.signal(&id, 15).await.unwrap();
    assert_eq!(host.exit(&id).await.code, Some(7));
    match host.runtime.signal(&id, 15).await {
        Err(RuntimeError::NotRunning { .. }) => {}
        other => panic!("{other:?}"),
    }
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}
