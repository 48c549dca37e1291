//! Several managers: one dies and the others go on, nodes become managers and are ones no more.

use anyhow::{Result, ensure};
use serde_json::Value;
use shoal_tests::cluster::at;
use shoal_tests::host::{Host, Role, Said, run};
use shoal_tests::skip::skip;

use crate::world::{PATIENCE, Task, World, web};

const GLOBAL: &str = "command: [sleep, '1000']\ndeploy: {mode: global}";

fn on(world: &World, host: &Host, words: &[&str]) -> Said {
    run(world.cluster.lab.ctl(host).args(words), PATIENCE).unwrap()
}

fn names(world: &World) -> Vec<String> {
    world.cluster.lab.hosts.iter().map(|host| host.name.clone()).collect()
}

/// A way to each manager, whoever leads.
fn make_contexts(world: &World) {
    for host in &world.cluster.lab.hosts {
        let said = on(world, host, &["context", "create", "--local", &host.name]);
        assert_eq!(said.code, 0, "{}", said.both());
    }
}

/// How a node's manager fares, as `node ls` shows it.
fn manager_status(node: &Value) -> &'static str {
    let leads = node.pointer("/ManagerStatus/Leader").and_then(Value::as_bool);
    match (leads, at(node, "/ManagerStatus/Reachability")) {
        (None, _) => "",
        (Some(true), _) => "Leader",
        (Some(false), "reachable") => "Reachable",
        (Some(false), "unreachable") => "Unreachable",
        (Some(false), _) => "Unknown",
    }
}

/// Nodes with how their managers fare, by name, once a leader tells; the other commands go to it from then on.
fn look(world: &World) -> Result<Vec<(String, &'static str)>> {
    let mut why = String::new();
    for name in names(world) {
        let words = ["--context", &name, "node", "ls", "--format", "json"];
        let said = on(world, world.cluster.host(1), &words);
        if said.code != 0 {
            why = said.both();
            continue;
        }
        let nodes: Result<Vec<Value>, _> =
            serde_json::Deserializer::from_str(&said.out).into_iter::<Value>().collect();
        let nodes: Vec<Value> = match nodes?.as_slice() {
            [Value::Array(all)] => all.clone(),
            all => all.to_vec(),
        };
        let mut seen: Vec<_> = nodes
            .iter()
            .map(|n| (at(n, "/Description/Hostname").to_owned(), manager_status(n)))
            .collect();
        seen.sort();
        let leader = seen.iter().find(|(_, status)| *status == "Leader");
        let leader = leader.ok_or_else(|| anyhow::anyhow!("nobody leads: {seen:?}"))?;
        world.ok(&["context", "use", &leader.0]);
        return Ok(seen);
    }
    anyhow::bail!("no manager answers: {why}")
}

/// Waits until as many managers lead or answer, and nobody else is one. The name of the leader.
fn managers(world: &World, count: usize) -> String {
    world.until(&format!("{count} managers"), || {
        let seen = look(world)?;
        let is = |wanted: &str| seen.iter().filter(|(_, status)| *status == wanted).count();
        let all = seen.iter().filter(|(_, status)| !status.is_empty()).count();
        ensure!(is("Leader") == 1 && is("Reachable") + 1 == count && all == count, "{seen:?}");
        Ok(seen.into_iter().find(|(_, status)| *status == "Leader").unwrap().0)
    })
}

/// Waits until somebody leads who is not this one, which is seen to be away.
fn led_without(world: &World, gone: &str) -> String {
    world.until(&format!("somebody leads without {gone}"), || {
        let seen = look(world)?;
        let status = |name: &str| seen.iter().find(|(n, _)| n == name).map(|(_, status)| *status);
        ensure!(status(gone) != Some("Leader"), "{seen:?}");
        Ok(seen.iter().find(|(_, status)| *status == "Leader").unwrap().0.clone())
    })
}

/// Tasks of all hosts but one.
fn elsewhere(tasks: &[Task], host: &str) -> Vec<(String, u64)> {
    let mut left: Vec<_> =
        tasks.iter().filter(|t| t.host != host).map(|t| (t.id.clone(), t.pid)).collect();
    left.sort();
    left
}

#[test]
fn a_manager_dies_and_the_others_go_on() {
    if skip() {
        return;
    }
    let world = World::of_managers(3);
    make_contexts(&world);
    managers(&world, 3);
    world.deploy("app", &web(GLOBAL));
    let before = world.runs("app_web", 3);

    // The process, and its agent before, which would start it again before anybody else leads.
    let leader = managers(&world, 3);
    let host = world.cluster.named(&leader);
    host.crash(Role::Agent).unwrap();
    host.crash(Role::Manager).unwrap();
    led_without(&world, &leader);
    world.ok(&["node", "update", "--label-add", "after=crash", "h1"]);
    host.start_agent().unwrap();
    managers(&world, 3);
    assert_eq!(elsewhere(&world.runs("app_web", 3), ""), elsewhere(&before, ""), "untouched");

    // The whole host.
    let leader = managers(&world, 3);
    world.cluster.named(&leader).kill().unwrap();
    led_without(&world, &leader);
    world.ok(&["node", "update", "--label-add", "after=power-cut", "h1"]);
    world.until("it is seen that it does not answer", || {
        let seen = look(&world)?;
        ensure!(seen.contains(&(leader.clone(), "Unreachable")), "{seen:?}");
        Ok(())
    });
    let running = world.running("app_web").unwrap();
    assert_eq!(elsewhere(&running, &leader), elsewhere(&before, &leader), "untouched");
    world.cluster.named(&leader).boot().unwrap();
    managers(&world, 3);
    world.runs("app_web", 3);
    world.remove("app");
    world.end();
}

#[test]
fn nodes_become_managers_and_are_ones_no_more() {
    if skip() {
        return;
    }
    let world = World::start(3);
    world.deploy("app", &web(GLOBAL));
    let before = world.runs("app_web", 3);
    world.ok(&["node", "promote", "h2", "h3"]);
    world.until("managers on all hosts", || {
        let nodes = world.cluster.json(&["node", "ls"])?;
        let seen: Vec<_> = nodes.iter().map(manager_status).collect();
        ensure!(seen.iter().all(|status| ["Leader", "Reachable"].contains(status)), "{seen:?}");
        Ok(())
    });
    make_contexts(&world);

    // Whoever leads is demoted, and comes back as another member.
    let leader = managers(&world, 3);
    world.ok(&["node", "demote", &leader]);
    managers(&world, 2);
    let kept = world.cluster.named(&leader).state_dir().join("manager");
    world.until("its manager is gone with all that it kept", || {
        let process = world.cluster.named(&leader).the(Role::Manager);
        ensure!(process.is_err() && !kept.exists(), "{process:?}");
        Ok(())
    });
    world.ok(&["node", "promote", &leader]);
    managers(&world, 3);
    assert_eq!(elsewhere(&world.runs("app_web", 3), ""), elsewhere(&before, ""), "untouched");

    // In good order from a manager's host; and by force, when its host is gone.
    let leader = managers(&world, 3);
    let said = world.cluster.ctl(&["node", "rm", &leader]);
    assert!(said.code != 0 && said.err.contains("manager"), "{}", said.both());
    let leaver = names(&world).into_iter().find(|name| *name != leader).unwrap();
    let said = on(&world, world.cluster.named(&leaver), &["leave"]);
    assert_eq!(said.code, 0, "{}", said.both());
    let leader = managers(&world, 2);
    assert!(!look(&world).unwrap().iter().any(|(name, _)| *name == leaver));

    // The last two: one may go while it answers, and the last one stays.
    let other = names(&world).into_iter().find(|name| *name != leader && *name != leaver).unwrap();
    world.ok(&["node", "demote", &other]);
    managers(&world, 1);
    let said = world.cluster.ctl(&["node", "demote", &leader]);
    assert!(said.err.contains("is the last manager"), "{}", said.both());
    let said = on(&world, world.cluster.named(&leader), &["leave"]);
    assert!(said.code != 0 && said.err.contains("is the last manager"), "{}", said.both());
    world.ok(&["node", "rm", "--force", &other]);
    world.remove("app");
}
