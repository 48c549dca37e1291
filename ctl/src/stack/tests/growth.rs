//! What a file costs grows with its length, whatever is in it.

use std::time::Duration;

use super::super::dotenv;
use super::super::interpolate::Variables;
use super::{load_all, web};

/// Twice the length may cost this many tenths of the time at most.
const GROWTH_MAX: u128 = 28;
/// A machine that is busy gets so many attempts.
const ATTEMPTS: usize = 5;

/// What this thread has had of processors (kernel, scheduler statistics): counted when it lets go.
fn processor_time() -> Duration {
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

fn each(n: usize, line: impl Fn(usize) -> String) -> String {
    (0..n).map(line).collect()
}

type Make = fn(usize) -> Vec<String>;

const KINDS: [(&str, Make); 11] = [
    ("variables", |n| vec![web(&format!("environment:\n{}", each(n, |i| format!("  V{i}: x\n"))))]),
    ("variables in a list", |n| {
        vec![web(&format!("environment:\n{}", each(n, |i| format!("- V{i}=x\n"))))]
    }),
    ("variables that nobody has set", |n| {
        vec![web(&format!("environment:\n{}", each(n, |i| format!("  V{i}: $NO{i}\n"))))]
    }),
    ("variables that nobody has set, in one text", |n| {
        vec![web(&format!("command: \"{}\"\n", each(n, |i| format!("$NO{i} "))))]
    }),
    ("a merged mapping", |n| {
        let pairs = each(n, |i| format!("V{i}: x, "));
        vec![format!("x-e: &e {{{pairs}}}\n{}", web("environment: {<<: *e, A: b}"))]
    }),
    ("merged mappings", |n| {
        let maps = each(n, |i| format!("{{V{i}: x}}, "));
        vec![web(&format!("environment: {{<<: [{maps}]}}"))]
    }),
    ("two files", |n| {
        let one = web(&format!("environment:\n{}", each(n, |i| format!("  V{i}: x\n"))));
        vec![one.clone(), one]
    }),
    ("two files of services", |n| {
        let services = each(n / 20, |i| format!("  s{i}: {{image: x}}\n"));
        let one = format!("services:\n{services}");
        vec![one.clone(), one]
    }),
    ("services", |n| {
        vec![format!("services:\n{}", each(n / 20, |i| format!("  s{i}: {{image: x}}\n")))]
    }),
    ("labels", |n| vec![web(&format!("labels: [{}]", each(n, |i| format!("l{i}=x, "))))]),
    ("ports and mounts", |n| {
        let ports = each(n / 10, |i| format!("'{}:80', ", i + 1));
        let mounts = each(n / 10, |i| format!("'/a:/m{i}', "));
        vec![web(&format!("ports: [{ports}]\nvolumes: [{mounts}]"))]
    }),
];

/// Whether twice as much costs about twice as much.
fn is_linear(seen: &mut Vec<(Duration, Duration)>, cost: impl Fn(usize) -> Duration) -> bool {
    const LINES: usize = 8000;
    (0..ATTEMPTS).any(|_| {
        let (once, twice) = (cost(LINES), cost(2 * LINES));
        seen.push((once, twice));
        twice.as_nanos() * 10 <= once.as_nanos() * GROWTH_MAX
    })
}

#[test]
fn twice_the_stack_file_costs_about_twice_the_work() {
    let mut wrong = Vec::new();
    for (name, kind) in KINDS {
        let mut seen = Vec::new();
        let cost = |n| {
            let texts = kind(n);
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let began = processor_time();
            let outcome = load_all(&texts);
            let spent = processor_time() - began;
            outcome.map_err(|problems| problems.list[0].clone()).expect(name);
            spent
        };
        if !is_linear(&mut seen, cost) {
            wrong.push(format!("{name}: once and twice as much: {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn twice_the_environment_file_costs_about_twice_the_work() {
    type Make = fn(usize) -> String;
    let kinds: [(&str, Make); 3] = [
        ("lines", |n| each(n, |i| format!("V{i}=x\n"))),
        ("variables that nobody has set", |n| each(n, |i| format!("V{i}=$NO{i}\n"))),
        ("one text", |n| format!("A=\"{}\"", each(n, |i| format!("$NO{i} \n")))),
    ];
    for (name, kind) in kinds {
        let mut seen = Vec::new();
        let cost = |n| {
            let text = kind(n);
            let began = processor_time();
            dotenv::parse(&text, &Variables::new()).expect(name);
            processor_time() - began
        };
        assert!(is_linear(&mut seen, cost), "{name}: once and twice as much: {seen:?}");
    }
}
