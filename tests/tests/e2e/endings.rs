//! How deployments end, as a pipeline sees it: the exit code, the last record, and what runs at that
//! very moment.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, ChildStdout, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use shoal_tests::cluster::at;
use shoal_tests::host::inside;
use shoal_tests::skip::skip;

use crate::world::{World, service};

/// A service that runs, and one that does not, each with a policy for when it fails.
const IDLES: &str = "command: [sleep, '1000']";
const FAILS: &str = "command: [sh, -c, exit 3]";
const BACK: &str = "deploy: {restart_policy: {delay: 500ms}, update_config: {monitor: 2s, failure_action: rollback}}";

/// `--format json` of one command that goes on by itself.
struct Stream {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Stream {
    fn begin(world: &World, words: &[&str]) -> Self {
        let mut command = world.cluster.lab.ctl(world.cluster.host(1));
        command.args(["--format", "json"]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> Option<Value> {
        let line = self.lines.next()?.unwrap();
        let record: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(record["Version"], 1, "{record}");
        assert!(at(&record, "/Time").ends_with('Z'), "{record}");
        Some(record)
    }

    /// Reads on to a record like this one.
    fn until(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut read = Vec::new();
        while let Some(record) = self.next() {
            if is_it(&record) {
                return record;
            }
            read.push(record);
        }
        panic!("it ended before {what}: {read:#?}");
    }

    /// The exit code and the last record, which says the same.
    fn end(mut self) -> (i32, Value) {
        let mut last = Value::Null;
        while let Some(record) = self.next() {
            assert_ne!(last["Event"], "outcome", "something follows the outcome: {record}");
            last = record;
        }
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        assert_eq!(last["Event"], "outcome", "{last}");
        assert_eq!(last["ExitCode"], code, "{last}");
        (code, last)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A stack `shop` of two services.
fn shop(web: &str, worker: &str) -> String {
    service("web", web) + service("worker", worker).trim_start_matches("services:\n")
}

fn deploy(world: &World, stack: &str, yaml: &str, more: &[&str]) -> Stream {
    let file = world.cluster.stack_file(stack, yaml);
    let file = file.to_string_lossy();
    let words = ["stack", "deploy", "-c", &file, stack];
    Stream::begin(world, &[&words, more].concat())
}

/// What the services' specs want to run: the commands of their running tasks, at this moment.
fn runs_now(world: &World, services: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for name in services {
        for task in world.cluster.json(&["service", "ps", name]).unwrap() {
            if at(&task, "/Status/State") == "running" && at(&task, "/DesiredState") == "running" {
                let command = task.pointer("/Spec/ContainerSpec/Args").unwrap().to_string();
                found.push(format!("{name} {command}"));
            }
        }
    }
    found
}

fn states(outcome: &Value) -> Vec<(&str, &str)> {
    let services = outcome["Services"].as_array().unwrap();
    services.iter().map(|s| (at(s, "/Service"), at(s, "/State"))).collect()
}

#[test]
fn an_exit_code_is_a_fact_about_what_runs() {
    if skip() {
        return;
    }
    let world = World::start(1);
    one_that_fails_takes_all_back(&world);
    by_hand(&world);
    a_rollback_that_fails_too(&world);
    time_is_up(&world);
    interrupted(&world);
    superseded_and_removed(&world);
    what_is_waited_for_is_told(&world);
    world.end();
}

fn one_that_fails_takes_all_back(world: &World) {
    let good = shop(&format!("{IDLES}\n{BACK}"), IDLES);
    let (code, outcome) = deploy(world, "shop", &good, &[]).end();
    assert_eq!((code, at(&outcome, "/Outcome")), (0, "converged"), "{outcome:#}");
    assert_eq!(states(&outcome), [("shop_web", "converged"), ("shop_worker", "converged")]);
    let before = runs_now(world, &["shop_web", "shop_worker"]);
    assert_eq!(before.len(), 2, "{before:?}");

    // The worker of the new version is fine, and goes back nevertheless.
    let bad = shop(&format!("{FAILS}\n{BACK}"), "command: [sleep, '2000']");
    let mut stream = deploy(world, "shop", &bad, &[]);
    let news = stream.until("the failure is told", |r| r["Kind"] == "failed");
    assert!(at(&news, "/Message").contains("exit code 3"), "{news:#}");
    assert_eq!((at(&news, "/Service"), at(&news, "/Node")), ("shop_web", "h1"), "{news:#}");
    let (code, outcome) = stream.end();
    assert_eq!(runs_now(world, &["shop_web", "shop_worker"]), before, "{outcome:#}");
    assert_eq!((code, at(&outcome, "/Outcome")), (4, "rolled-back"), "{outcome:#}");
    assert!(at(&outcome, "/Reason").contains("exit code 3"), "{outcome:#}");
    assert_eq!(states(&outcome), [("shop_web", "rolled-back"), ("shop_worker", "rolled-back")]);

    // The same for people: the state of every service stands in the message.
    let said = world.cluster.deploy("shop", &bad);
    assert_eq!(said.code, 4, "{}", said.both());
    for service in ["shop_web", "shop_worker"] {
        let words = format!("{service} is rolled back, 1 of 1 run");
        assert!(said.err.contains(&words), "{}", said.both());
    }
    assert_eq!(runs_now(world, &["shop_web", "shop_worker"]), before, "{}", said.both());
    // History is no news: the third time, the failures of before are not told again.
    let (code, outcome) = deploy(world, "shop", &good, &[]).end();
    assert_eq!((code, at(&outcome, "/Outcome")), (0, "converged"), "{outcome:#}");
    assert_eq!(at(&outcome, "/Reason"), "");
}

fn by_hand(world: &World) {
    let next = shop(&format!("{IDLES}\n{BACK}"), "command: [sleep, '3000']");
    let (code, _) = deploy(world, "shop", &next, &[]).end();
    assert_eq!(code, 0);
    let stack = world.cluster.json(&["stack", "inspect", "shop"]).unwrap();
    let left: Vec<&str> = stack[0]["History"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["RolledBack"].as_str().unwrap_or_default())
        .filter(|why| !why.is_empty())
        .collect();
    assert!(left.len() >= 2 && left.iter().all(|why| why.contains("exit code 3")), "{stack:#?}");
    let (code, outcome) = Stream::begin(world, &["stack", "rollback", "shop"]).end();
    assert_eq!((code, at(&outcome, "/Outcome")), (0, "converged"), "{outcome:#}");
    let now = runs_now(world, &["shop_worker"]);
    assert!(now.len() == 1 && now[0].contains("1000"), "{now:?}");
    let listed = world.cluster.json(&["stack", "ls"]).unwrap();
    assert_eq!((at(&listed[0], "/Name"), listed[0]["Services"].as_u64()), ("shop", Some(2)));
    assert!(listed[0]["Spec"].is_null(), "a list has no specs in it: {listed:#?}");
    world.remove("shop");
}

/// The version that fails spoils what the one before needs.
fn a_rollback_that_fails_too(world: &World) {
    let stack = |command: &str| {
        let lines = format!("command: [sh, -c, '{command}']\nvolumes: [data:/data]\n{BACK}");
        service("db", &lines) + "volumes:\n  data: {}\n"
    };
    let first = stack("test ! -e /data/spoilt && exec sleep 1000");
    assert_eq!(deploy(world, "fragile", &first, &[]).end().0, 0);
    let (code, outcome) = deploy(world, "fragile", &stack("touch /data/spoilt; exit 7"), &[]).end();
    assert_eq!((code, at(&outcome, "/Outcome")), (6, "rollback-failed"), "{outcome:#}");
    assert_eq!(runs_now(world, &["fragile_db"]), Vec::<String>::new());
    assert_eq!(states(&outcome), [("fragile_db", "rollback-failed")]);
    let reason = at(&outcome, "/Reason");
    assert!(reason.contains("exit code 1") && reason.contains("exit code 7"), "{outcome:#}");
    world.remove("fragile");
}

const NOWHERE: &str =
    "command: [sleep, '1000']\ndeploy: {placement: {constraints: [node.hostname == nowhere]}}";

fn time_is_up(world: &World) {
    let yaml = service("web", NOWHERE);
    let mut stream = deploy(world, "late", &yaml, &["--timeout", "5s"]);
    let news = stream.until("it says what it waits for", |r| r["Kind"] == "waiting");
    assert_eq!(at(&news, "/Task"), "late_web.1", "{news:#}");
    let (code, outcome) = stream.end();
    assert_eq!((code, at(&outcome, "/Outcome")), (5, "timed-out"), "{outcome:#}");
    assert!(at(&outcome, "/Reason").contains("no suitable node"), "{outcome:#}");
    assert_eq!(states(&outcome), [("late_web", "starting")]);
    world.remove("late");
}

fn interrupted(world: &World) {
    for (signal, code, word) in
        [(Signal::INT, 130, "interrupted"), (Signal::TERM, 143, "terminated")]
    {
        let yaml = service("web", NOWHERE);
        let mut stream = deploy(world, "cut", &yaml, &[]);
        stream.until("progress", |r| r["Event"] == "progress");
        kill_process(Pid::from_child(&stream.child), signal).unwrap();
        let (exit, outcome) = stream.end();
        assert_eq!((exit, at(&outcome, "/Outcome")), (code, word), "{outcome:#}");
        assert_eq!(states(&outcome), [("cut_web", "starting")]);
        // It goes on by itself.
        let there = world.cluster.json(&["service", "ls"]).unwrap();
        assert!(there.iter().any(|s| at(s, "/Spec/Name") == "cut_web"), "{there:#?}");
    }
    world.remove("cut");
}

fn superseded_and_removed(world: &World) {
    let mut first = deploy(world, "turn", &service("web", NOWHERE), &[]);
    first.until("progress", |r| r["Event"] == "progress");
    let (code, _) = deploy(world, "turn", &service("web", IDLES), &[]).end();
    assert_eq!(code, 0);
    let (code, outcome) = first.end();
    assert_eq!((code, at(&outcome, "/Outcome")), (7, "superseded"), "{outcome:#}");
    assert!(at(&outcome, "/Reason").contains("version 2 of the stack"), "{outcome:#}");

    let mut second = deploy(world, "turn", &service("web", NOWHERE), &[]);
    second.until("progress", |r| r["Event"] == "progress");
    world.remove("turn");
    let (code, outcome) = second.end();
    assert_eq!((code, at(&outcome, "/Outcome")), (8, "removed-meanwhile"), "{outcome:#}");
}

/// A registry on the first host itself that has no time for anybody.
fn busy_registry(world: &World) -> String {
    let netns = world.cluster.host(1).netns();
    let listener = inside(&netns, || Ok(TcpListener::bind("127.0.0.1:0")?)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Ends with the process: nobody asks it any more when the cluster is gone.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 15\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            if stream.read(&mut head).is_ok_and(|n| n > 0) {
                let _ = stream.write_all(answer);
            }
        }
    });
    address
}

fn what_is_waited_for_is_told(world: &World) {
    let registry = busy_registry(world);
    let yaml = service("web", &format!("image: {registry}/slow:1"));
    let mut stream = deploy(world, "slow", &yaml, &["--timeout", "9s"]);
    let news = stream.until("it says what is tried again", |r| {
        r["Kind"] == "activity" && at(r, "/Message").contains("try 2 of")
    });
    let message = at(&news, "/Message");
    let expected = format!("pulling {registry}/slow:1, try 2 of 4, after: ");
    assert!(message.starts_with(&expected) && message.contains("limits the rate"), "{news:#}");
    assert_eq!((at(&news, "/Task"), at(&news, "/State")), ("slow_web.1", "preparing"), "{news:#}");
    let listed = world.ok(&["service", "ps", "--no-trunc", "slow_web"]);
    assert!(listed.contains("try 2 of 4, after: "), "{listed}");
    let (code, outcome) = stream.end();
    assert_eq!(code, 5, "{outcome:#}");
    assert!(at(&outcome, "/Reason").contains("limits the rate"), "{outcome:#}");
    world.remove("slow");

    let check = "healthcheck: {test: 'echo nobody home; exit 1', interval: 1s, start_period: 60s, start_interval: 1s}";
    let yaml = service("web", &format!("{IDLES}\n{check}"));
    let file = world.cluster.stack_file("ill", &yaml);
    let said = world.cluster.ctl(&[
        "stack",
        "deploy",
        "--timeout",
        "9s",
        "-c",
        &file.to_string_lossy(),
        "ill",
    ]);
    assert_eq!(said.code, 5, "{}", said.both());
    for text in [&said.out, &said.err] {
        let check = "the health check \"echo nobody home; exit 1\" has not passed yet";
        assert!(text.contains(check) && text.contains("last: nobody home"), "{}", said.both());
    }
    world.remove("ill");
}
