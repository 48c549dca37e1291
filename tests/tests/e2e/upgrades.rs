//! An agent is upgraded under containers whose supervisors are of other versions than it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::ensure;
use shoal_tests::host::Role;
use shoal_tests::skip::skip;

use crate::other_version::{Version, stand};
use crate::world::{Task, World, web};

/// What stands where a task's supervisor is, by the task's slot: of twenty, seven are of protocol 0, six
/// of a later one, two of one that cannot be understood, and one each says nothing or nonsense.
fn version(task: &Task) -> Version {
    match task.slot {
        1..=7 => Version::Old,
        8..=13 => Version::Later,
        14 | 15 => Version::Foreign,
        16 => Version::Deaf,
        17 => Version::Busy,
        18 => Version::Babbling,
        _ => Version::Ours,
    }
}

#[test]
fn an_upgraded_agent_goes_on_with_every_container_of_the_former_one() {
    if skip() {
        return;
    }
    let world = World::start(1);
    let host = world.cluster.host(1);
    let marks = host.run_dir().parent().unwrap().join("marks");
    fs::create_dir(&marks).unwrap();
    let yaml = format!(
        "command: [sh, -c, \"trap 'touch /marks/$$(hostname); exit 7' TERM; echo hello; \
         while :; do sleep 0.1; done\"]\n\
         volumes: [{{type: bind, source: {}, target: /marks}}]\n\
         stop_grace_period: 20s\n\
         deploy: {{replicas: 20}}",
        marks.display()
    );
    world.deploy("up", &web(&yaml).replace("    stop_grace_period: 1s\n", ""));
    let before = world.runs("up_web", 20);
    let started = starts(&before);
    host.crash(Role::Agent).unwrap();
    for task in &before {
        stand(version(task), &host.run_dir().join("containers").join(&task.id));
    }
    host.start_agent().unwrap();
    // Whoever lost its task would have another one by the time that these have answered.
    for task in &before {
        exec(&world, task);
    }
    world.until("all have logged", || {
        let logs = world.logs("up_web")?;
        ensure!(logs.lines().filter(|line| *line == "hello").count() == 20, "{logs}");
        Ok(())
    });
    let after = world.runs("up_web", 20);
    let of = |tasks: &[Task]| -> BTreeMap<String, u64> {
        tasks.iter().map(|task| (task.id.clone(), task.pid)).collect()
    };
    assert_eq!(of(&before), of(&after), "the same tasks and the same processes");
    assert_eq!(started, starts(&after), "not even others with the same numbers");
    assert_eq!(world.tasks("up_web").unwrap().len(), 20, "none was tried again");
    let silent = before.iter().filter(|task| (14..=18).contains(&task.slot));
    let silent: BTreeSet<&str> = silent.map(|task| task.id.as_str()).collect();
    world.until("what cannot be talked to is named, and nothing else", || {
        let said = fs::read_to_string(host.log())?;
        let named = unheard(&said);
        ensure!(named == silent, "{named:?} instead of {silent:?}");
        Ok(())
    });
    world.remove("up");
    world.until("every program was told to end, and did", || {
        let told = fs::read_dir(&marks)?.count();
        ensure!(told == 20, "{told} were told");
        for task in &before {
            ensure!(start(task.pid).is_none(), "{} lives", task.pid);
        }
        Ok(())
    });
    fs::remove_dir_all(&marks).unwrap();
    world.end();
}

/// Of whom an agent's log says that their supervisors do not help, and not afterwards that they do.
fn unheard(log: &str) -> BTreeSet<&str> {
    let mut unheard = BTreeSet::new();
    for line in log.lines() {
        let of = |what: &str| {
            let (_, rest) = line.split_once(what)?;
            rest.split(' ').next()
        };
        unheard.extend(of("its supervisor does not help task="));
        if let Some(task) = of("its supervisor helps again task=") {
            unheard.remove(task);
        }
    }
    unheard
}

fn exec(world: &World, task: &Task) {
    if version(task) == Version::Foreign {
        let said = world.cluster.ctl(&["exec", &task.id, "echo", "inside"]);
        assert_ne!(said.code, 0, "{}", said.both());
        assert!(said.both().contains("needs a program that knows format 9"), "{}", said.both());
        return;
    }
    let inside = world.until("the agent answers", || {
        let said = world.cluster.ctl(&["exec", &task.id, "echo", "inside"]);
        ensure!(said.code == 0, "{:?}: {}", version(task), said.both());
        Ok(said.out)
    });
    assert_eq!(inside, "inside\n");
}

fn starts(tasks: &[Task]) -> BTreeMap<u64, String> {
    tasks.iter().map(|task| (task.pid, start(task.pid).expect("it runs"))).collect()
}

/// When a process started, by the kernel.
fn start(pid: u64) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let runs = !["Z", "X"].contains(&fields.next()?);
    fields.nth(18).filter(|_| runs).map(str::to_owned)
}
