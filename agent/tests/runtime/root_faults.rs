//! Agents and supervisors that die.

use shoal_agent_planning::oci::{MountConfig, MountKind};
use shoal_agent_runtime::{LogQuery, ObservedState, Runtime};

use crate::dead::Dead;
use crate::host::{Host, able, alive, command, id, kill, shell, supervisors, wait_for};

/// Not a test: the agent that is killed by the tests below, in a process of its own. It starts what
/// it is told to and then does nothing for ever.
#[tokio::test]
#[ignore = "run by other tests"]
async fn agent_process() {
    let Some(home) = std::env::var_os("SHOAL_TEST_HOME") else { return };
    let cgroup = std::env::var("SHOAL_TEST_CGROUP").unwrap();
    let host = Host::at(std::path::Path::new(&home), &cgroup);
    for (name, script) in [
        ("runs", "i=0; while :; do echo $i; i=$((i+1)); usleep 500; done"),
        ("ends", "usleep 300000; echo last; exit 5"),
    ] {
        host.start(&id(name), &shell(script)).await;
    }
    host.runtime.prepare(&id("waits"), host.spec(&command(&["true"]))).await.unwrap();
    std::fs::write(std::path::Path::new(&home).join("ready"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_new_agent_adopts_what_runs_and_what_ended() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let (runs, ends, waits) = (id("runs"), id("ends"), id("waits"));
    host.after_an_agent("root_faults::agent_process").await;
    let record = host.config.state_dir.join("ends/exit.json");
    wait_for("the end to be recorded", || record.exists()).await.unwrap();
    let found = host.runtime.adopt().await.unwrap();
    let state = |id| found.iter().find(|o| o.id == id).unwrap().state.clone();
    let ObservedState::Running { pid, .. } = state(runs.clone()) else { panic!("{found:?}") };
    assert!(matches!(state(ends.clone()), ObservedState::Exited(s) if s.code == Some(5)));
    assert!(matches!(state(waits.clone()), ObservedState::Prepared(_)), "{found:?}");
    assert!(host.log(&ends).await.ends_with("last\n"));
    let log = std::fs::read(host.config.run_dir.join("runs/supervisor.json")).unwrap();
    assert!(alive(pid), "{}", String::from_utf8_lossy(&log));
    // It logged on while no agent ran, and goes on.
    let before = host.log(&runs).await.lines().count();
    let follow = LogQuery { follow: true, ..LogQuery::default() };
    let (lines, ()) = tokio::join!(host.lines(&runs, follow), async {
        let mut now = before;
        while now < before + 100 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            now = host.log(&runs).await.lines().count();
        }
        host.runtime.signal(&runs, 9).await.unwrap();
    });
    for (i, line) in lines.lines().enumerate() {
        assert_eq!(line, i.to_string(), "a line is missing");
    }
    let status = host.exit(&runs).await;
    assert_eq!((status.code, status.signal), (None, Some(9)));
    host.runtime.start(&waits).await.unwrap();
    assert_eq!(host.exit(&waits).await.code, Some(0));
    for id in [&runs, &ends, &waits] {
        host.runtime.remove(id).await.unwrap();
    }
    host.assert_clean().await;
}

#[tokio::test]
async fn a_container_dies_with_its_supervisor() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let id = id("orphan");
    let pid = host.start(&id, &shell("sleep 1000 & sleep 1000")).await;
    let supervisor = supervisors(host.config.run_dir.join("orphan").to_str().unwrap());
    assert_eq!(supervisor.len(), 1);
    kill(supervisor[0], 9);
    let status = host.exit(&id).await;
    assert_eq!((status.code, status.signal), (None, None));
    let message = status.message.unwrap();
    assert!(message.contains("supervisor died") && message.contains("signal: 9"), "{message}");
    wait_for("the container to die", || !alive(pid)).await.unwrap();
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

#[tokio::test]
async fn a_supervisor_that_died_while_no_agent_ran() {
    if !able() {
        return;
    }
    let host = Host::new();
    let (id, bare) = (id("runs"), id("waits"));
    host.after_an_agent("root_faults::agent_process").await;
    let pid = host.processes_in_groups()[0];
    for pid in supervisors(host.config.run_dir.to_str().unwrap()) {
        kill(pid, 9);
        wait_for("its death", || !alive(pid)).await.unwrap();
    }
    let found = host.runtime.adopt().await.unwrap();
    let state = |id| found.iter().find(|o| o.id == id).unwrap().state.clone();
    let ObservedState::Exited(status) = state(id.clone()) else { panic!("{found:?}") };
    assert!(status.message.unwrap().contains("supervisor died"));
    assert!(matches!(state(bare.clone()), ObservedState::Broken { .. }), "{found:?}");
    wait_for("the container to die", || !alive(pid)).await.unwrap();
    for id in [&id, &bare, &crate::host::id("ends")] {
        host.runtime.remove(id).await.unwrap();
    }
    host.assert_clean().await;
}

/// How a container ended is not lost because nobody can read it just now.
#[tokio::test]
async fn an_end_that_cannot_be_read_is_read_when_it_can() {
    if !able() {
        return;
    }
    let host = Host::new();
    host.after_an_agent("root_faults::agent_process").await;
    let (record, aside) = (host.config.state_dir.join("ends/exit.json"), host.home().join("aside"));
    wait_for("the end to be recorded", || record.exists()).await.unwrap();
    std::fs::rename(&record, &aside).unwrap();
    // Nothing is mapped at the first address of a process: its reading fails as that of a bad disk.
    std::os::unix::fs::symlink("/proc/self/mem", &record).unwrap();
    let refused = host.runtime.adopt().await.unwrap_err().to_string();
    assert!(refused.contains("ends") && refused.contains("exit record"), "{refused}");
    std::fs::rename(&aside, &record).unwrap();
    let found = host.runtime.adopt().await.unwrap();
    let ended = found.iter().find(|o| o.id == id("ends")).unwrap();
    assert!(matches!(&ended.state, ObservedState::Exited(s) if s.code == Some(5)), "{ended:?}");
    for name in ["runs", "ends", "waits"] {
        host.runtime.remove(&id(name)).await.unwrap();
    }
    host.assert_clean().await;
}

#[tokio::test]
async fn a_log_that_a_reboot_cut_off_ends() {
    if !able() {
        return;
    }
    let host = Host::new();
    let id = id("rebooted");
    // A reboot leaves what is in the state directory and nothing else.
    let dir = host.config.state_dir.join(id.as_str());
    std::fs::create_dir_all(dir.join("log")).unwrap();
    let entry = r#"{"log":"last\n","stream":"stdout","time":"2026-01-01T00:00:00.000000000Z"}"#;
    std::fs::write(dir.join("log/0000000000.log"), format!("{entry}\n")).unwrap();
    let found = host.runtime.adopt().await.unwrap();
    let [found] = &found[..] else { panic!("{found:?}") };
    let ObservedState::Exited(status) = &found.state else { panic!("{found:?}") };
    assert_eq!(status.message.as_deref(), Some("the host was restarted"));
    let follow = LogQuery { follow: true, ..LogQuery::default() };
    let bound = std::time::Duration::from_secs(20);
    let lines = tokio::time::timeout(bound, host.lines(&id, follow)).await;
    assert_eq!(lines.expect("an end"), "last\n");
    host.runtime.remove(&id).await.unwrap();
    host.assert_clean().await;
}

/// The one that was to take half a minute at most takes that, and no other waits for it.
#[tokio::test]
async fn a_supervisor_that_cannot_be_killed_is_left_to_end_by_itself() {
    if !able() {
        return;
    }
    let mut host = Host::new();
    let dead = Dead::mount();
    let mut config = command(&["true"]);
    config.mounts = vec![MountConfig {
        destination: "/m".into(),
        kind: MountKind::Bind { source: dead.path().join("x") },
        read_only: false,
    }];
    let stuck = id("stuck");
    let prepared = host.runtime.prepare(&stuck, host.spec(&config));
    let prepared = tokio::time::timeout(std::time::Duration::from_secs(55), prepared).await;
    let error = prepared.expect("an answer").unwrap_err().to_string();
    assert!(dead.unanswered() > 0 && error.contains("not prepared in time"), "{error}");
    let (status, out, _) = host.run(&shell("echo beside")).await;
    assert_eq!((status.code, out.as_str()), (Some(0), "beside\n"));
    drop(dead);
    host.runtime.remove(&stuck).await.unwrap();
    host.assert_clean().await;
}
