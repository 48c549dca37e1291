//! Any manager answers: everything is asked of one that follows, and the leader dies in the middle.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shoal_tests::cluster::at;
use shoal_tests::host::{Host, Role, Said, run};
use shoal_tests::skip::skip;

use crate::world::{PATIENCE, Task, World, web};

const COUNTING: &str = "command: [sh, -c, 'i=0; while :; do i=$$((i+1)); echo \"line $$i\"; usleep 50000; done']\n\
                        deploy: {mode: global}";

/// Agents have sessions again so soon after a leader's end: an election and a second.
const SESSIONS: Duration = Duration::from_secs(15);

fn on(world: &World, host: &Host, words: &[&str]) -> Said {
    run(world.cluster.lab.ctl(host).args(words), PATIENCE).unwrap()
}

/// The name of the host whose manager leads.
fn leader(world: &World) -> Result<String> {
    let nodes = world.cluster.json(&["node", "ls"])?;
    let leads = |n: &&serde_json::Value| n.pointer("/ManagerStatus/Leader") == Some(&true.into());
    let leader = nodes.iter().find(leads).map(|n| at(n, "/Description/Hostname").to_owned());
    leader.ok_or_else(|| anyhow::anyhow!("nobody leads"))
}

fn all_ready(world: &World) -> Result<()> {
    let nodes = world.cluster.json(&["node", "ls"])?;
    let ready = nodes.iter().filter(|n| at(n, "/Status/State") == "ready").count();
    ensure!(ready == 3, "{nodes:?}");
    Ok(())
}

fn processes(tasks: &[Task]) -> Vec<(String, u64)> {
    let mut all: Vec<_> = tasks.iter().map(|task| (task.id.clone(), task.pid)).collect();
    all.sort();
    all
}

#[test]
fn a_manager_that_follows_answers_for_everything_and_outlives_the_leader() {
    if skip() {
        return;
    }
    let world = World::of_managers(3);
    let first = world.until("somebody leads", || leader(&world));
    let names = ["h1", "h2", "h3"];
    let asked = names.into_iter().find(|name| *name != first).unwrap();
    let host = world.cluster.named(asked);
    // A way that leads to that one alone, at first.
    let said = on(&world, host, &["context", "create", "--local", "mine"]);
    assert_eq!(said.code, 0, "{}", said.both());
    world.ok(&["context", "use", "mine"]);

    world.deploy("app", &web(COUNTING));
    let before = world.runs("app_web", 3);
    let task = &before[0].id;
    let exec = world.ok(&["exec", task, "echo", "hello"]);
    assert_eq!(exec.trim(), "hello");
    world.logged("app_web", "line 5\n");
    assert_eq!(world.until("the same one leads", || leader(&world)), first);

    // What is followed goes on when the leader is dead: no line is lost, none comes twice.
    let out = world.cluster.lab.dir.join("followed");
    let file = fs::File::create(&out).unwrap();
    let words = ["service", "logs", "-f", "--raw", task];
    let mut following = world.cluster.lab.ctl(world.cluster.host(1));
    let mut following = following.args(words).stdout(file).spawn().unwrap();
    let lines = || -> Vec<u64> {
        let text = fs::read_to_string(&out).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect()
    };
    world.until("lines come", || {
        ensure!(lines().len() > 20);
        Ok(())
    });
    let began = Instant::now();
    world.cluster.named(&first).crash(Role::Manager).unwrap();
    world.ok(&[
        "service",
        "create",
        "--detach",
        "--name",
        "after",
        "REGISTRY/busybox:1",
        "sleep",
        "1000",
    ]);
    let came = lines().len();
    world.until("lines go on", || {
        ensure!(lines().len() > came + 20, "{} lines", lines().len());
        Ok(())
    });
    world.until("all agents have sessions", || all_ready(&world));
    assert!(began.elapsed() < SESSIONS + PATIENCE, "{:?}", began.elapsed());
    following.kill().unwrap();
    following.wait().unwrap();
    let all = lines();
    let begin = all.first().copied().unwrap_or_default();
    let expected: Vec<u64> = (begin..begin + all.len() as u64).collect();
    assert_eq!(all, expected, "no line is lost, none comes twice");

    let after = world.runs("app_web", 3);
    assert_eq!(processes(&after), processes(&before), "no container was touched");
    world.ok(&["service", "rm", "after"]);
    world.remove("app");
    world.end();
}
