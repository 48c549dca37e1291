//! A service that shares the network of another one.

use anyhow::{Result, ensure};
use shoal_tests::cluster::at;
use shoal_tests::host::{Role, kill};
use shoal_tests::skip::skip;

use crate::world::{Task, World, web};

/// `db` publishes a port at which `side` answers. Only who is in the same network hears the one on 127.0.0.1.
const STACK: &str = "services:
  side:
    image: REGISTRY/busybox:1
    stop_grace_period: 1s
    network_mode: service:db
    command:
      - sh
      - -c
      - |
        trap 'exit 0' TERM
        mkdir -p /tmp/w
        until wget -q -O /tmp/w/partner http://127.0.0.1:9000/index.html; do sleep 0.2; done
        echo side at $$(hostname) with $$(cat /tmp/w/partner) >/tmp/w/index.html
        httpd -p 8080 -h /tmp/w
        while :; do sleep 0.1; done
    deploy: {replicas: 2, update_config: {monitor: 1s}}
  db:
    image: REGISTRY/busybox:1
    stop_grace_period: 1s
    command: [sh, -c, 'mkdir -p /tmp/w; echo db at $$(hostname) >/tmp/w/index.html; exec httpd -f -p 127.0.0.1:9000 -h /tmp/w']
    ports: ['8080:8080']
    deploy:
      replicas: 2
      restart_policy: {delay: 1s}
      update_config: {monitor: 1s}
";

/// Both tasks of each slot run, on one host and with one network.
fn pairs(world: &World) -> Result<Vec<(Task, Task)>> {
    let (dbs, sides) = (world.running("net_db")?, world.running("net_side")?);
    let listed = world.cluster.json(&["service", "ps", "net_side"])?;
    ensure!(dbs.len() == 2 && sides.len() == 2, "{dbs:#?} {sides:#?}");
    let pair = |db: Task| {
        let side = sides.iter().find(|side| side.slot == db.slot).cloned();
        let side = side.ok_or_else(|| anyhow::anyhow!("nobody is beside {db:?}"))?;
        ensure!(side.host == db.host, "{db:?} {side:?}");
        let space = |task: &Task| std::fs::read_link(format!("/proc/{}/ns/net", task.pid));
        ensure!(space(&db)? == space(&side)?, "{db:?} {side:?}");
        let shown = listed.iter().find(|one| at(one, "/ID") == side.id);
        ensure!(shown.is_some_and(|one| at(one, "/PartnerID") == db.id), "{shown:#?}");
        Ok((db, side))
    };
    dbs.into_iter().map(pair).collect()
}

fn answers(world: &World) {
    for host in ["h1", "h2", "h3"] {
        world.page(host, 8080, "side at ");
        let page = world.page(host, 8080, "with db at ");
        let said: Vec<&str> = page.split_whitespace().collect();
        assert_eq!(said.get(2), said.get(6), "one name for both: {page}");
    }
}

#[test]
fn tasks_share_the_network_of_those_of_another_service_wherever_these_go() {
    if skip() {
        return;
    }
    let world = World::start(3);
    world.deploy("net", STACK);
    let first = world.until("each is beside its partner", || pairs(&world));
    assert_ne!(first[0].0.host, first[1].0.host, "one pair on each of two hosts");
    answers(&world);
    let shown = world.ok(&["service", "inspect", "--pretty", "net_side"]);
    assert!(shown.contains("service:net_db"), "{shown}");

    // An agent comes back and finds both.
    let host = first[0].0.host.clone();
    world.cluster.named(&host).crash(Role::Agent).unwrap();
    world.cluster.named(&host).start_agent().unwrap();
    world.until("both go on", || {
        let now = pairs(&world)?;
        ensure!(now == first, "{now:#?}");
        Ok(())
    });
    answers(&world);

    // One of the partners dies, and its side comes back with the next one.
    let (db, side) = &first[0];
    kill(i32::try_from(db.pid).unwrap());
    let next = world.until("both are replaced", || {
        let now = pairs(&world)?;
        let known = |task: &Task| task.id == db.id || task.id == side.id;
        ensure!(!now.iter().any(|(db, side)| known(db) || known(side)), "{now:#?}");
        Ok(now)
    });
    assert!(next.contains(&first[1]), "the other pair knows nothing of it");
    let ended = world.tasks("net_side").unwrap().into_iter().find(|task| task.id == side.id);
    let ended = ended.expect("it is remembered");
    assert_eq!(ended.state, "shutdown", "{ended:?}");
    let why = "the task whose network it shares, net_db.";
    assert!(ended.error.starts_with(why) && ended.error.ends_with(", has ended"), "{ended:?}");
    answers(&world);

    // The node is drained of both.
    world.ok(&["node", "update", "--availability", "drain", &host]);
    world.until("both go elsewhere", || {
        let now = pairs(&world)?;
        ensure!(now.iter().all(|(db, _)| db.host != host), "{now:#?}");
        Ok(())
    });
    answers(&world);
    world.ok(&["node", "update", "--availability", "active", &host]);

    // By the command line, and what cannot be.
    let alone = ["service", "create", "--name", "alone", "--network", "service:nobody"];
    let said = world.cluster.ctl(&[&alone[..], &["busybox:1"]].concat());
    let why = "service \"alone\" shares the network of service \"nobody\", which does not exist";
    assert!(said.code != 0 && said.both().contains(why), "{}", said.both());
    let said = world.cluster.deploy("bad", &web("network_mode: service:db"));
    let why = "services.web.network_mode: service \"db\" is not in the stack";
    assert!(said.code != 0 && said.both().contains(why), "{}", said.both());

    // Without its partners it waits, and says for what.
    world.ok(&["service", "rm", "net_db"]);
    world.fails("net_side", "waits for service \"net_db\", whose network it shares: there is none");
    world.deploy("net", STACK);
    world.until("each is beside its partner again", || pairs(&world));
    world.remove("net");
    world.end();
}
