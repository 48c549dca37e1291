//! Ports that answer on every node, asked from outside of the cluster.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use shoal_tests::cluster::at;
use shoal_tests::host::SWITCH_ADDRESS;
use shoal_tests::skip::skip;

use crate::world::{World, service};

/// Where a page is that says who asks, and the name of the container that answers.
pub(crate) const WHO: &str = "/cgi-bin/who";

/// A service that has it on port 8080, published without a word on where.
fn stack() -> String {
    service("web", lines())
}

pub(crate) fn lines() -> &'static str {
    "command:\n\
        - sh\n\
        - -c\n\
        - |\n\
        \x20 mkdir -p /tmp/w/cgi-bin\n\
        \x20 printf '#!/bin/sh\\nprintf \"Content-Type: text/plain\\\\r\\\\n\\\\r\\\\n\"\\necho asked by $$REMOTE_ADDR, I am $$(hostname)\\n' >/tmp/w/cgi-bin/who\n\
        \x20 busybox chmod +x /tmp/w/cgi-bin/who\n\
        \x20 exec httpd -f -p 8080 -h /tmp/w\n\
        ports: ['8080:8080']\n\
        deploy: {update_config: {monitor: 1s}}"
}

/// What the page says on a host.
fn ask(world: &World, host: &str) -> Result<String> {
    world.cluster.get(world.cluster.named(host), 8080, WHO)
}

/// Every host says that the switch has asked, and who has answered is the same one.
pub(crate) fn all_answer(world: &World) -> String {
    let mut answered = BTreeSet::new();
    for host in ["h1", "h2", "h3"] {
        let said = world.until(&format!("{host} answers"), || {
            let said = ask(world, host)?;
            // It may have been asked by IPv4 on a socket of IPv6.
            let client = said.trim_start_matches("asked by ").split(',').next().unwrap_or_default();
            let client = client.trim_matches(['[', ']']).trim_start_matches("::ffff:");
            ensure!(client == SWITCH_ADDRESS, "{host}: {said:?}");
            Ok(said)
        });
        answered.insert(said.split("I am ").nth(1).unwrap_or_default().trim().to_owned());
    }
    assert_eq!(answered.len(), 1, "{answered:?}");
    answered.pop_first().unwrap()
}

#[test]
fn a_published_port_answers_on_every_node_and_knows_who_asks() {
    if skip() {
        return;
    }
    let world = World::start(3);
    world.deploy("net", &stack());
    let [task] = &world.runs("net_web", 1)[..] else { panic!("one task") };
    let first = all_answer(&world);
    let listed = world.ok(&["service", "ls"]);
    assert!(listed.contains("*:8080->8080/tcp"), "{listed}");

    // The task moves.
    world.ok(&["node", "update", "--availability", "drain", &task.host]);
    let next = world.until("it runs elsewhere", || {
        let running = world.running("net_web")?;
        ensure!(running.len() == 1 && running[0].host != task.host, "{running:?}");
        Ok(running[0].clone())
    });
    assert_ne!(next.id, task.id);
    world.until("nobody is led to the old one any more", || {
        for host in ["h1", "h2", "h3"] {
            ensure!(!ask(&world, host)?.contains(&first), "{host} leads to {first}");
        }
        Ok(())
    });
    assert_ne!(all_answer(&world), first);
    world.ok(&["node", "update", "--availability", "active", &task.host]);

    // The port is taken, by name; any port is another one.
    let said = world.cluster.deploy("other", &stack());
    assert_ne!(said.code, 0, "{}", said.both());
    let taken = "service \"other_web\" cannot publish port 8080/tcp on every node: service \"net_web\" has it";
    assert!(said.both().contains(taken), "{}", said.both());
    world.deploy("any", &stack().replace("8080:8080", "8080"));
    let services = world.cluster.json(&["service", "inspect", "any_web"]).unwrap();
    let port = services[0].pointer("/Endpoint/Ports/0/PublishedPort").unwrap().as_u64().unwrap();
    assert!((30_000..=32_767).contains(&port), "{port}");
    assert_eq!(at(&services[0], "/Endpoint/Ports/0/PublishMode"), "ingress");
    let port = u16::try_from(port).unwrap();
    for host in ["h1", "h2", "h3"] {
        world.until(&format!("{host} answers at {port}"), || {
            world.cluster.get(world.cluster.named(host), port, WHO)
        });
    }

    // Nobody listens any more where it was.
    world.remove("net");
    world.remove("any");
    for host in ["h1", "h2", "h3"] {
        world.until(&format!("{host} refuses"), || {
            let error = ask(&world, host).err().map(|error| format!("{error:#}"));
            ensure!(error.as_ref().is_some_and(|e| e.contains("refused")), "{host}: {error:?}");
            Ok(())
        });
    }
    world.end();
}

/// Asks every host again and again until it is told to stop: how often, and what went wrong.
fn keep_asking(world: &World, stop: &AtomicBool) -> (usize, Vec<String>) {
    let (mut asked, mut lost) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        for host in ["h1", "h2", "h3"] {
            asked += 1;
            if let Err(error) = ask(world, host) {
                lost.push(format!("{host}: {error:#}"));
            }
        }
    }
    (asked, lost)
}

#[test]
fn a_rollout_that_starts_first_loses_no_request() {
    if skip() {
        return;
    }
    let world = World::start(3);
    // Small enough that every task is replaced while it is asked, on whichever host.
    let stack = |version: u32| {
        let check = r"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 1 127.0.0.1 8080 | busybox grep -q HTTP";
        let more = format!(
            "environment: {{VERSION: '{version}'}}\n\
             healthcheck:\n  test: \"{check}\"\n  interval: 1s\n  start_period: 5s\n  start_interval: 100ms\n\
             deploy: {{replicas: 2, update_config: {{order: start-first, monitor: 1s}}}}"
        );
        service("web", &lines().replace("deploy: {update_config: {monitor: 1s}}", &more))
    };
    world.deploy("net", &stack(1));
    let before = world.runs("net_web", 2);
    all_reachable(&world);
    let stop = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..2).map(|_| scope.spawn(|| keep_asking(&world, &stop))).collect();
        world.deploy("net", &stack(2));
        stop.store(true, Ordering::Relaxed);
        askers.into_iter().map(|asker| asker.join().unwrap()).collect::<Vec<_>>()
    });
    let after = world.runs("net_web", 2);
    assert!(after.iter().all(|task| before.iter().all(|old| old.id != task.id)), "{after:?}");
    let count: usize = asked.iter().map(|(count, _)| count).sum();
    assert!(count > 50, "asked {count} times only");
    let lost: Vec<&String> = asked.iter().flat_map(|(_, lost)| lost).collect();
    assert!(lost.is_empty(), "{} of {count} were lost: {lost:#?}", lost.len());
    world.remove("net");
    world.end();
}

/// A page that says at once who answers, and takes longer to end than a container has between the stop signal and its
/// death.
const SLOW: &str = "/cgi-bin/slow";

#[test]
fn what_is_open_when_a_task_is_replaced_is_served_to_its_end() {
    if skip() {
        return;
    }
    let world = World::start(2);
    let slow = "printf '#!/bin/sh\\nprintf \"Content-Type: text/plain\\\\r\\\\n\\\\r\\\\n\"\\nfor i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo; sleep 1; done\\necho served by $$(hostname)\\n' >/tmp/w/cgi-bin/slow";
    let page = "\x20 busybox chmod +x /tmp/w/cgi-bin/who";
    let lines =
        lines().replace(page, &format!("\x20 {slow}\n\x20 busybox chmod +x /tmp/w/cgi-bin/*"));
    world.deploy("net", &service("web", &lines));
    let ask = &|host: &str, path: &str| world.cluster.get(world.cluster.named(host), 8080, path);
    let who = |host: &str| -> Result<String> {
        Ok(ask(host, WHO)?.split("I am ").nth(1).unwrap_or_default().trim().to_owned())
    };
    let set = ["--drain-timeout", "18s", "--update-order", "start-first"];
    world.ok(&[&["service", "update"][..], &set, &["net_web"]].concat());
    let [old] = &world.runs("net_web", 1)[..] else { panic!("one task") };
    world.until("both hosts lead to one task", || {
        let (one, other) = (who("h1")?, who("h2")?);
        ensure!(one == other && !one.is_empty(), "{one} and {other}");
        Ok(())
    });
    let serves = who("h1").unwrap();
    let served = std::thread::scope(|scope| {
        // By the host that it is on, and by another.
        let open = ["h1", "h2"].map(|host| scope.spawn(move || ask(host, SLOW)));
        world.ok(&["service", "update", "--force", "--detach", "net_web"]);
        for host in ["h1", "h2"] {
            world.until("who comes now is led to the new task", || {
                let said = who(host)?;
                ensure!(said != serves, "{said}");
                Ok(())
            });
        }
        let finished = open.iter().any(std::thread::ScopedJoinHandle::is_finished);
        assert!(!finished, "they were open while others were led elsewhere");
        open.map(|open| open.join().unwrap())
    });
    for served in served {
        assert_eq!(served.unwrap().trim(), format!("served by {serves}"));
    }
    world.until("the one before has ended", || {
        let running = world.running("net_web")?;
        ensure!(running.len() == 1 && running[0].id != old.id, "{running:?}");
        Ok(())
    });
    world.remove("net");
    world.end();
}

fn all_reachable(world: &World) {
    for host in ["h1", "h2", "h3"] {
        world.until(&format!("{host} answers"), || ask(world, host));
    }
}
