//! Secrets and configs: what a container is given, and that nobody else has a byte of it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::ensure;
use shoal_tests::host::{Host, Role};
use shoal_tests::skip::skip;

use crate::world::{Task, World};

const IMAGE: &str = "10.99.0.1:5000/busybox:1";
const FIRST: &str = "f1rst-hush-hush";
const SECOND: &str = "s3cond-hush-hush";
const OF_STACK: &str = "st4ck-hush-hush";

#[test]
fn a_secret_is_where_a_task_needs_it_and_nowhere_else() {
    if skip() {
        return;
    }
    let world = World::start(2);
    made(&world, &["secret", "create", "db", "-"], FIRST);
    made(&world, &["config", "create", "-l", "team=shop", "app", "-"], "listen=8080");
    let listed = world.ok(&["secret", "inspect", "db"]);
    assert!(listed.contains("\"db\"") && !listed.contains(FIRST), "{listed}");
    assert!(
        world.ok(&["--format", "json", "config", "inspect", "app"]).contains("bGlzdGVuPTgwODA=")
    );
    let large = world.cluster.lab.dir.join("large");
    fs::write(&large, vec![b'x'; 512_001]).unwrap();
    let said = world.cluster.ctl(&["secret", "create", "large", &large.to_string_lossy()]);
    assert!(said.both().contains("data: \"512001\" bytes are too many"), "{}", said.both());

    let given = ["--secret", "db", "--config", "source=app,target=/etc/app.conf,uid=7,mode=0400"];
    let script = "ls -ln /run/secrets/db /etc/app.conf; cat /run/secrets/db /etc/app.conf; echo; \
                  echo x >/run/secrets/db; sleep 1000";
    let words = ["service", "create", "--name", "web", "--constraint", "node.hostname==h2"];
    world.ok(&[&words[..], &given, &[IMAGE, "sh", "-c", script]].concat());
    let task = world.runs("web", 1).remove(0);
    assert_eq!(task.host, "h2");
    let logs = world.logged("web", "Read-only file system");
    assert!(logs.contains(FIRST) && logs.contains("listen=8080"), "{logs}");
    let has = |words: [&str; 4], file: &str| {
        let line = logs.lines().find(|line| line.starts_with('-') && line.ends_with(file));
        let line = line.unwrap_or_default();
        assert!(line.split_whitespace().take(4).eq(words), "{logs}");
    };
    has(["-r--r--r--", "1", "0", "0"], "/run/secrets/db");
    has(["-r--------", "1", "7", "0"], "/etc/app.conf");
    only_on(&world, "h2", FIRST);

    // It is in use.
    let said = world.cluster.ctl(&["secret", "rm", "db"]);
    let expected = "secret \"db\" is in use by service web";
    assert!(said.code != 0 && said.both().contains(expected), "{}", said.both());
    rotated(&world, &task);
    // The agent is killed: its container goes on, and its successor has nothing written down either.
    world.cluster.named("h2").crash(Role::Agent).unwrap();
    world.cluster.named("h2").start_agent().unwrap();
    only_on(&world, "h2", SECOND);
    assert_eq!(world.runs("web", 1)[0].state, "running");
    rebooted(&world);
    world.ok(&["service", "rm", "web"]);
    nowhere(&world, SECOND);
    world.ok(&["secret", "rm", "db"]);
    world.ok(&["config", "rm", "app"]);
    of_a_stack(&world);
    world.end();
}

/// Runs `shoalctl` with something to read.
fn made(world: &World, words: &[&str], input: &str) {
    let mut command = world.cluster.lab.ctl(world.cluster.host(1));
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A later version comes to a service that follows, in a task of its own.
fn rotated(world: &World, before: &Task) {
    made(world, &["secret", "update", "db", "-"], SECOND);
    world.until("the task has the later version", || {
        let running = world.running("web")?;
        ensure!(running.len() == 1 && running[0].id != before.id, "{running:#?}");
        let logs = world.logs("web")?;
        ensure!(logs.contains(SECOND), "{logs}");
        Ok(())
    });
    let listed = world.ok(&["secret", "ls"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    only_on(world, "h2", SECOND);
    nowhere(world, FIRST);
}

/// What was in memory is gone with the host: its task waits for a manager, and then goes on.
fn rebooted(world: &World) {
    let h2 = world.cluster.named("h2");
    h2.boot().unwrap();
    // Until the agent has said so, its task counts as running.
    world.until("the container has it again", || {
        ensure!(!places(h2, SECOND).is_empty());
        Ok(())
    });
    world.runs("web", 1);
    only_on(world, "h2", SECOND);
}

/// A file that changes brings another version, and the service that has it goes over to that.
fn of_a_stack(world: &World) {
    let file = world.cluster.lab.dir.join("password");
    fs::write(&file, OF_STACK).unwrap();
    let yaml = format!(
        "services:\n  web:\n    image: {}\n    command: [sh, -c, 'cat /run/secrets/*; cat /motd; echo; sleep 1000']\n    \
         stop_grace_period: 1s\n    secrets: [password]\n    configs: [motd]\n    deploy:\n      \
         placement: {{constraints: [node.hostname==h2]}}\n\
         secrets:\n  password: {{file: {}}}\nconfigs:\n  motd: {{content: welcome}}\n",
        IMAGE,
        file.display()
    );
    world.deploy("shop", &yaml);
    world.logged("shop_web", "welcome");
    only_on(world, "h2", OF_STACK);
    let first = world.runs("shop_web", 1).remove(0);
    world.deploy("shop", &yaml);
    assert_eq!(world.runs("shop_web", 1).remove(0).id, first.id, "nothing has changed");
    fs::write(&file, "something else").unwrap();
    world.deploy("shop", &yaml);
    assert_ne!(world.runs("shop_web", 1).remove(0).id, first.id);
    world.logged("shop_web", "something else");
    nowhere(world, OF_STACK);
    let said = world.ok(&["stack", "rm", "shop"]);
    assert!(said.contains("shop"), "{said}");
    assert_eq!(world.ok(&["secret", "ls", "-q"]).lines().count(), 0);
}

/// Where the bytes of a secret are on a host, beside the manager's own log and the logs of containers that have
/// written it out. What is in memory is seen as the host sees it.
fn places(host: &Host, secret: &str) -> Vec<PathBuf> {
    let manager = host.state_dir().join("manager");
    let logs = host.state_dir().join("containers");
    let processes = host.processes();
    let agent = processes.iter().find(|p| p.command.split(' ').nth(1) == Some("run"));
    let root = PathBuf::from(format!("/proc/{}/root", agent.expect("an agent").pid));
    let seen = |dir: PathBuf| root.join(dir.strip_prefix("/").unwrap());
    let mut rest = vec![seen(host.state_dir()), seen(host.run_dir())];
    let mut found = Vec::new();
    while let Some(dir) = rest.pop() {
        if dir == seen(manager.clone())
            || (dir.starts_with(seen(logs.clone())) && dir.ends_with("log"))
        {
            continue;
        }
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => rest.push(entry.path()),
                Ok(kind) if kind.is_file() && holds(&entry.path(), secret) => {
                    found.push(entry.path());
                }
                _ => {}
            }
        }
    }
    found.extend(Some(host.log()).filter(|log| holds(log, secret)));
    found
}

fn holds(file: &Path, secret: &str) -> bool {
    let bytes = fs::read(file).unwrap_or_default();
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

/// The agent's memory for it has it, and nothing else.
fn only_on(world: &World, name: &str, secret: &str) {
    for host in [world.cluster.host(1), world.cluster.host(2)] {
        let found = places(host, secret);
        let given = host.run_dir().join("worker/given");
        let fine = |path: &PathBuf| path.to_string_lossy().contains(&*given.to_string_lossy());
        assert!(found.iter().all(fine), "{}: {found:?}", host.name);
        assert_eq!(!found.is_empty(), host.name == name, "{}: {found:?}", host.name);
    }
}

fn nowhere(world: &World, secret: &str) {
    world.until("nobody has it any more", || {
        for host in [world.cluster.host(1), world.cluster.host(2)] {
            let found = places(host, secret);
            ensure!(found.is_empty(), "{}: {found:?}", host.name);
        }
        Ok(())
    });
}
