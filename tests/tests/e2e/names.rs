//! Names, as containers ask for them.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Result, ensure};
use shoal_tests::cluster::at;
use shoal_tests::host::{Host, Process, Role, SWITCH_ADDRESS, kill};
use shoal_tests::skip::skip;

use crate::world::{World, page};

const SLEEPS: &str = "command: [sleep, '1000']";

fn service(name: &str, lines: &str, deploy: &str) -> String {
    format!(
        "  {name}:\n    image: REGISTRY/busybox:1\n    stop_grace_period: 1s\n    {lines}\n    \
         deploy: {{{deploy}update_config: {{monitor: 1s}}}}\n"
    )
}

/// What a task is told of a name: what is said after the name itself.
pub(crate) fn told(world: &World, task: &str, name: &str) -> BTreeSet<String> {
    // Its wget and ping cannot look up names, since it is static.
    let said = world.cluster.ctl(&["exec", task, "nslookup", "-type=a", name, "127.0.0.11"]).both();
    let answers = said.lines().skip_while(|line| !line.trim().is_empty());
    let addresses = answers.filter_map(|line| line.strip_prefix("Address: "));
    addresses.map(|address| address.trim().to_owned()).collect()
}

/// What an address is called, as a task is told.
fn called(world: &World, task: &str, address: &str) -> String {
    let said = world.cluster.ctl(&["exec", task, "nslookup", address, "127.0.0.11"]).both();
    let name = said.lines().find_map(|line| line.split_once("name = "));
    name.map(|(_, name)| name.trim().trim_end_matches('.').to_owned()).unwrap_or_default()
}

/// A task is told so many addresses, or will be.
pub(crate) fn until_told(world: &World, task: &str, name: &str, count: usize) -> BTreeSet<String> {
    world.until(&format!("{name} has {count} addresses"), || {
        let told = told(world, task, name);
        ensure!(told.len() == count, "{told:?}");
        Ok(told)
    })
}

/// A resolver on the switch, as the one of a company is: every name is at 192.0.2.1. Ends when dropped.
struct Resolver {
    enough: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    fn start(world: &World, address: &str) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let bind = || Ok(UdpSocket::bind((address, 53))?);
        let socket = world.cluster.lab.inside(bind).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        let over = Arc::clone(&enough);
        let thread = thread::spawn(move || {
            let mut question = [0; 512];
            while !over.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
                let _ = socket.send_to(&answer(&question[..length]), from);
            }
        });
        Self { enough, thread: Some(thread) }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// The question with an answer (RFC 1035, 4.1): one record, whose name is that of the question.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    // Nothing beside it, so that the answer is where it belongs.
    answer[10..12].fill(0);
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    answer.truncate(end);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]);
    answer
}

fn processes(host: &Host) -> Vec<i32> {
    let names = |process: &Process| process.command.contains(" names ");
    host.processes().into_iter().filter(names).map(|process| process.pid).collect()
}

#[test]
fn services_of_a_stack_find_each_other_on_one_host() {
    if skip() {
        return;
    }
    let world = World::start(1);
    let outside = SWITCH_ADDRESS;
    let _resolver = Resolver::start(&world, outside);
    // The first one is dead: nobody has that address.
    let dns = format!("{SLEEPS}\n    dns: [10.255.255.1, {outside}]\n    networks: [back, inside]");
    let stack = format!(
        "services:\n{}{}{}{}networks:\n  back: {{driver: bridge}}\n  inside: {{driver: bridge, \
         internal: true}}\n",
        service("web", &format!("{}\n    networks: [back]", page("web")), "replicas: 2, "),
        service("asker", &dns, ""),
        service("closed", &format!("{SLEEPS}\n    dns: [{outside}]\n    networks: [inside]"), ""),
        service("own", &format!("{SLEEPS}\n    hostname: me\n    networks: [back]"), ""),
    );
    world.deploy("shop", &stack);
    let other = service("asker", &format!("{SLEEPS}\n    networks: [back]"), "");
    world.deploy("other", &format!("services:\n{other}networks: {{back: {{driver: bridge}}}}\n"));
    let asker = world.runs("shop_asker", 1).remove(0).id;
    let both = until_told(&world, &asker, "web", 2);
    for name in ["shop_web", "tasks.web", "tasks.shop_web", "web.shop_back", "WEB"] {
        assert_eq!(told(&world, &asker, name), both, "{name}");
    }
    let mut slots = BTreeSet::new();
    for slot in 1..=2 {
        let address = until_told(&world, &asker, &format!("shop_web.{slot}"), 1);
        let name = called(&world, &asker, address.first().unwrap());
        assert_eq!(name, format!("shop_web.{slot}.shop_back"));
        slots.extend(address);
    }
    assert_eq!(slots, both);

    // What others are asked, and who is told nothing: who reaches nobody, and who is on another network.
    let external = BTreeSet::from(["192.0.2.1".to_owned()]);
    assert_eq!(told(&world, &asker, "example.com"), external);
    let closed = world.runs("shop_closed", 1).remove(0).id;
    assert_eq!(told(&world, &closed, "example.com"), BTreeSet::new());
    until_told(&world, &closed, "asker", 1);
    assert_eq!(told(&world, &closed, "web"), BTreeSet::new());
    let stranger = world.runs("other_asker", 1).remove(0).id;
    until_told(&world, &stranger, "asker", 1);
    for name in ["web", "shop_web", "shop_web.1", "tasks.web", "web.shop_back"] {
        assert_eq!(told(&world, &stranger, name), BTreeSet::new(), "{name}");
    }
    // Its own name is told to itself alone.
    let own = world.runs("shop_own", 1).remove(0).id;
    assert_eq!(until_told(&world, &own, "me", 1), told(&world, &own, "shop_own.1"));
    assert_eq!(told(&world, &asker, "me"), external, "others are asked");

    // A task that goes is gone from the name.
    world.ok(&["service", "scale", "shop_web=1"]);
    let left = until_told(&world, &asker, "web", 1);
    assert!(left.is_subset(&both));
    let host = world.cluster.named("h1");
    assert_eq!(processes(host).len(), 1);
    world.remove("shop");
    world.remove("other");
    world.end();
}

#[test]
fn services_on_different_hosts_find_each_other() {
    if skip() {
        return;
    }
    let world = World::start(3);
    let each = |name: &str, lines: &str| service(name, lines, "mode: global, ");
    let stack = format!(
        "services:\n{}{}{}networks:\n  default: {{driver: overlay}}\n",
        each("web", &format!("{}\n    networks: {{default: {{aliases: [www]}}}}", page("web"))),
        each("asker", SLEEPS),
        service("rr", &page("rr"), "mode: global, endpoint_mode: dnsrr, "),
    );
    world.deploy("net", &stack);
    let askers = world.runs("net_asker", 3);
    let services = world.cluster.json(&["service", "inspect", "net_web"]).unwrap();
    let vip = at(&services[0], "/Endpoint/VirtualIPs/0/Addr").split('/').next().unwrap().to_owned();
    let only = BTreeSet::from([vip.clone()]);
    let services = world.cluster.json(&["service", "inspect", "net_rr"]).unwrap();
    assert_eq!(services[0].pointer("/Endpoint/VirtualIPs/0"), None, "{services:?}");
    let mut all = BTreeSet::new();
    for asker in &askers {
        let tasks = until_told(&world, &asker.id, "tasks.web", 3);
        assert_eq!(told(&world, &asker.id, "tasks.net_web"), tasks);
        for name in ["web", "net_web", "web.net_default", "www"] {
            assert_eq!(told(&world, &asker.id, name), only, "{name} on {}", asker.host);
        }
        assert_eq!(called(&world, &asker.id, &vip), "net_web.net_default");
        // One that has no address of its own is all its tasks.
        let rr = until_told(&world, &asker.id, "rr", 3);
        assert_eq!(told(&world, &asker.id, "tasks.net_rr"), rr);
        all.insert(tasks);
    }
    assert_eq!(all.len(), 1, "the same is told everywhere: {all:?}");

    // The agent is killed, and what it knew of others is still told; the process is, and is back; both are.
    let host = world.cluster.named("h2");
    let asker = &askers.iter().find(|asker| asker.host == "h2").unwrap().id;
    let one = processes(host);
    host.crash(Role::Agent).unwrap();
    assert_eq!(processes(host), one, "it lives on");
    let asks = "n=0; while [ $n -lt 100 ]; do n=$((n+1)); nslookup -type=a web 127.0.0.11 | \
                grep -c '^Address: 10'; done | sort | uniq -c";
    host.start_agent().unwrap();
    let said = world.until("the agent is back", || exec(&world, asker, "true"));
    assert_eq!(said.trim(), "");
    assert_eq!(
        exec(&world, asker, asks).unwrap().split_whitespace().collect::<Vec<_>>(),
        ["100", "1"]
    );
    assert_eq!(processes(host), one, "it lives on");
    processes(host).into_iter().for_each(kill);
    let until_as_before = || {
        // A host that has heard of nobody else yet leads to its own.
        world.until("web is where it was", || {
            let told = told(&world, asker, "web");
            ensure!(told == only, "{told:?}");
            Ok(())
        });
    };
    until_as_before();
    until_told(&world, asker, "tasks.web", 3);
    host.crash(Role::Agent).unwrap();
    processes(host).into_iter().for_each(kill);
    host.start_agent().unwrap();
    until_as_before();
    until_told(&world, asker, "tasks.web", 3);
    world.remove("net");
    world.end();
}

pub(crate) fn exec(world: &World, task: &str, script: &str) -> Result<String> {
    let said = world.cluster.ctl(&["exec", task, "sh", "-c", script]);
    ensure!(said.code == 0, "{}", said.both());
    Ok(said.both())
}
