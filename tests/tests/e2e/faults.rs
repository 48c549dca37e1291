//! Programs and hosts that die at bad moments.

use anyhow::ensure;
use shoal_tests::host::{Host, Role};
use shoal_tests::skip::skip;

use crate::world::{World, web};

/// Counts in its log, fast enough that a lost line would be noticed.
const COUNTING: &str =
    "command: [sh, -c, 'i=0; while :; do i=$$((i+1)); echo \"line $$i\"; usleep 20000; done']";

#[test]
fn agents_supervisors_and_managers_are_killed() {
    if skip() {
        return;
    }
    let world = World::start(2);
    agent(&world);
    exits_while_the_agent_is_dead(&world);
    supervisor(&world);
    manager(&world);
    everything_in_the_middle_of_a_deploy(&world);
    world.end();
}

fn agent(world: &World) {
    world.deploy("count", &web(COUNTING));
    let before = world.runs("count_web", 1).remove(0);
    let host = world.cluster.named(&before.host);
    world.logged("count_web", "line 20\n");
    host.crash(Role::Agent).unwrap();
    let logged = lines(&world.cluster.ctl(&["service", "logs", "--raw", "count_web"]).out).len();
    host.start_agent().unwrap();
    let after = world.until("lines from before and after the crash", || {
        let logs = world.logs("count_web")?;
        ensure!(lines(&logs).len() > logged + 60, "{} lines", lines(&logs).len());
        Ok(logs)
    });
    let numbers = lines(&after);
    let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, expected, "no line is lost, none comes twice");
    let tasks = world.runs("count_web", 1);
    assert_eq!((&tasks[0].id, tasks[0].pid), (&before.id, before.pid), "the same process");
    world.remove("count");
}

fn lines(logs: &str) -> Vec<u64> {
    logs.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect()
}

fn exits_while_the_agent_is_dead(world: &World) {
    let yaml = web(
        "command: [sh, -c, 'while [ ! -e /tmp/go ]; do usleep 50000; done; echo bye; exit 7']\n\
         volumes: [{type: bind, source: /tmp, target: /host}]\n\
         deploy: {restart_policy: {condition: none}}",
    );
    let yaml = yaml.replace("/tmp/go", &format!("/host/{}/go", relative(world)));
    world.deploy("once", &yaml);
    let task = world.runs("once_web", 1).remove(0);
    let host = world.cluster.named(&task.host);
    host.crash(Role::Agent).unwrap();
    std::fs::write(world.cluster.lab.dir.join("go"), "").unwrap();
    world.until("the container ends while no agent is there", || {
        let path = format!("/proc/{}", task.pid);
        ensure!(!std::path::Path::new(&path).exists(), "process {} lives", task.pid);
        Ok(())
    });
    host.start_agent().unwrap();
    world.until("the exit code is known", || {
        let tasks = world.tasks("once_web")?;
        ensure!(tasks.iter().any(|t| t.exit == Some(7)), "{tasks:#?}");
        Ok(())
    });
    world.logged("once_web", "bye");
    world.remove("once");
}

/// The lab's directory below the one that is bound.
fn relative(world: &World) -> String {
    world.cluster.lab.dir.strip_prefix("/tmp").unwrap().display().to_string()
}

fn supervisor(world: &World) {
    world.deploy("idle", &web("command: [sleep, '1000']\ndeploy: {restart_policy: {delay: 1s}}"));
    let before = world.runs("idle_web", 1).remove(0);
    let host = world.cluster.named(&before.host);
    let supervisors = host.supervisors();
    assert_eq!(supervisors.len(), 1, "{supervisors:?}");
    shoal_tests::host::kill(supervisors[0].pid);
    world.until("another task takes its place", || {
        let running = world.running("idle_web")?;
        ensure!(running.len() == 1 && running[0].id != before.id, "{:#?}", world.tasks("idle_web"));
        Ok(())
    });
    world.until("the container of a dead supervisor ends", || {
        let path = format!("/proc/{}", before.pid);
        ensure!(!std::path::Path::new(&path).exists(), "process {} lives", before.pid);
        Ok(())
    });
    world.remove("idle");
}

fn manager(world: &World) {
    world.deploy("idle", &web("command: [sleep, '1000']\ndeploy: {replicas: 3}"));
    let before = world.runs("idle_web", 3);
    world.cluster.host(1).crash(Role::Manager).unwrap();
    world.until("the manager is back and knows all", || {
        let after = world.running("idle_web")?;
        ensure!(after == before, "{after:#?}");
        Ok(())
    });
    // And it works: agents have sessions again.
    world.ok(&["service", "scale", "idle_web=4"]);
    world.runs("idle_web", 4);
    world.remove("idle");
}

fn everything_in_the_middle_of_a_deploy(world: &World) {
    let yaml = web("command: [sleep, '1000']\ndeploy: {replicas: 8}");
    let file = world.cluster.stack_file("many", &yaml);
    world.ok(&["stack", "deploy", "--detach", "-c", &file.to_string_lossy(), "many"]);
    let (first, second) = (world.cluster.host(1), world.cluster.host(2));
    world.until("some of it is being made on both hosts", || {
        let made = [first.supervisors().len(), second.supervisors().len()];
        ensure!(!made.contains(&0), "{made:?}");
        Ok(())
    });
    second.crash(Role::Agent).unwrap();
    first.crash(Role::Manager).unwrap();
    let killed = first.supervisors();
    assert!(!killed.is_empty(), "there is something to kill");
    for supervisor in &killed {
        shoal_tests::host::kill(supervisor.pid);
    }
    second.start_agent().unwrap();
    // What is told must be so: a task counts when its process is there.
    world.until("all of it runs in the end", || {
        let running = world.running("many_web")?;
        let lives = |pid: u64| std::path::Path::new(&format!("/proc/{pid}")).exists();
        let alive = running.iter().filter(|t| lives(t.pid)).count();
        ensure!((running.len(), alive) == (8, 8), "{} run, {alive} live", running.len());
        Ok(())
    });
    world.remove("many");
}

#[test]
fn hosts_die_return_and_reboot() {
    if skip() {
        return;
    }
    let world = World::start(3);
    world.deploy("idle", &web("command: [sleep, '1000']\ndeploy: {replicas: 3}"));
    let before = world.runs("idle_web", 3);
    assert!(before.iter().any(|t| t.host == "h3"), "{before:#?}");

    // Unplugged: its containers go on where nobody reaches them, and are replaced.
    let away = world.cluster.named("h3");
    away.set_link(false).unwrap();
    elsewhere(&world, "h3");
    assert_eq!(away.supervisors().len(), 1, "what cannot be reached cannot be stopped");
    away.set_link(true).unwrap();
    world.until("a task that was replaced is stopped when its host returns", || {
        ensure!(away.supervisors().is_empty(), "{:?}", away.supervisors());
        Ok(())
    });
    world.runs("idle_web", 3);

    // Dead: the same, and it comes back with nothing of before.
    world.ok(&["service", "scale", "idle_web=6"]);
    world.runs("idle_web", 6);
    let dead = world.cluster.named("h2");
    dead.kill().unwrap();
    elsewhere(&world, "h2");
    dead.boot().unwrap();
    ready(&world, 3);
    world.until("nothing of before runs after a boot", || {
        let running = world.running("idle_web")?;
        let there = running.iter().filter(|t| t.host == "h2").count();
        ensure!(running.len() == 6 && dead.supervisors().len() == there, "{running:#?}");
        Ok(())
    });

    // The host of the manager, too.
    world.cluster.host(1).boot().unwrap();
    ready(&world, 3);
    world.runs("idle_web", 6);
    world.remove("idle");
    world.end();
}

/// Others have its tasks now: a host that is removed while it lives must not go on beside them, and
/// neither must one that hears of it only when its agent is back.
#[test]
fn a_removed_host_that_lives_stops_its_containers() {
    if skip() {
        return;
    }
    let world = World::start(3);
    world.deploy("idle", &web("command: [sleep, '1000']\ndeploy: {replicas: 3}"));
    let before = world.runs("idle_web", 3);
    for host in ["h2", "h3"] {
        assert!(before.iter().any(|t| t.host == host), "{before:#?}");
    }
    let (first, late, gone) =
        (world.cluster.host(1), world.cluster.named("h2"), world.cluster.named("h3"));

    world.ok(&["node", "rm", "--force", "h3"]);
    stopped(&world, gone);
    elsewhere(&world, "h3");
    let log = std::fs::read_to_string(gone.log()).unwrap();
    assert!(log.contains("this node was removed from its cluster"), "{log}");

    late.crash(Role::Agent).unwrap();
    world.ok(&["node", "rm", "--force", "h2"]);
    elsewhere(&world, "h2");
    assert!(!late.supervisors().is_empty(), "it has not heard of it");
    late.start_agent().unwrap();
    stopped(&world, late);
    let running = world.runs("idle_web", 3);
    assert!(running.iter().all(|t| t.host == "h1"), "{running:#?}");
    assert_eq!(first.supervisors().len(), 3, "only the replacements run");
    world.remove("idle");
    world.end();
}

fn stopped(world: &World, host: &Host) {
    world.until("the containers of a removed host are gone", || {
        ensure!(host.supervisors().is_empty(), "{:?}", host.supervisors());
        Ok(())
    });
}

/// Waits until all tasks run on hosts other than one.
fn elsewhere(world: &World, host: &str) {
    let count = world.running("idle_web").unwrap().len();
    world.until("tasks come back elsewhere", || {
        let mut running = world.running("idle_web")?;
        running.retain(|t| t.host != host);
        ensure!(running.len() == count, "{running:#?}");
        Ok(())
    });
}

fn ready(world: &World, count: usize) {
    world.until("all nodes are ready", || {
        let nodes = world.cluster.json(&["node", "ls"])?;
        let state =
            |n: &&serde_json::Value| shoal_tests::cluster::at(n, "/Status/State") == "ready";
        let ready = nodes.iter().filter(state).count();
        ensure!(ready == count, "{ready} are ready");
        Ok(())
    });
}
