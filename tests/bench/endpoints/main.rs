//! How long after its commit an endpoint's change is seen on every host of a cluster: what a name says, and where
//! packets to a virtual address go.
//!
//! `cargo build --release --workspace --bins && cargo bench -p shoal-tests --bench endpoints -- [--hosts 20]
//! [--changes 40]`, as root. Real agents on test hosts of this machine, with the tunnel that its kernel has. A
//! service gets a task more and a task less in turn. On each host a container asks the name, and the virtual
//! address with a new port each time, a hundred times a second. The time of a change is that of its entry in the
//! log, which is from before it was committed; what is seen is up to 10 ms old.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

mod look;
#[path = "../series.rs"]
mod series;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use serde_json::Value;
use shoal_tests::cluster::{Cluster, at};
use shoal_tests::host::REGISTRY;

use crate::look::{Seen, serve, watch};
use crate::series::quantile;

/// How long everything that happens by itself may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tasks of the service when there is one less.
const FEW: usize = 4;
/// In seconds.
pub(crate) const DAY: f64 = 86_400.0;
/// A change is looked at for so long after all have seen it, so that who sees what was is noticed.
const AFTER: Duration = Duration::from_millis(500);

fn main() -> Result<()> {
    let options = Options::parse();
    let cluster = Cluster::start(options.hosts)?;
    let bench = Bench::prepare(&cluster, options.hosts)?;
    let mut delays: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let enough = AtomicBool::new(false);
    let seen: Vec<Seen> = bench.probes.iter().map(|_| Seen::default()).collect();
    std::thread::scope(|scope| {
        for (pid, seen) in bench.probes.iter().zip(&seen) {
            let (vip, enough) = (bench.vip, &enough);
            scope.spawn(move || watch(*pid, vip, seen, enough));
        }
        let ended = rounds(&bench, &options, &seen, &mut delays);
        enough.store(true, Ordering::Relaxed);
        ended
    })?;
    println!(
        "\n{:<28} {:>6} {:>8} {:>8} {:>8}   ms after commit",
        "", "seen", "p50", "p99", "most"
    );
    for (what, delays) in &delays {
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|q| quantile(delays, q));
        println!("{what:<28} {:>6} {p50:>8.1} {p99:>8.1} {most:>8.1}", delays.len());
    }
    Ok(())
}

fn rounds(
    bench: &Bench<'_>,
    options: &Options,
    seen: &[Seen],
    delays: &mut BTreeMap<&str, Vec<f64>>,
) -> Result<()> {
    for round in 0..options.changes {
        let more = round % 2 == 0;
        let change = bench.change(more)?;
        let (name, packets) = if more {
            ("one more: its name", "one more: its packets")
        } else {
            ("one less: its name", "one less: its packets")
        };
        let [by_name, by_packets] = if more {
            change
                .until(seen, |seen| Some([seen.named(change.address)?, seen.served(&change.task)?]))
        } else {
            change.until(seen, |seen| {
                Some([seen.unnamed(change.address)?, seen.last_served(&change.task, AFTER)?])
            })
        }?;
        let most = |delays: &[f64]| quantile(delays, 1.0);
        println!(
            "{round:>3} {packets:<24} name {:>6.1}, packets {:>6.1}",
            most(&by_name),
            most(&by_packets)
        );
        delays.entry(name).or_default().extend(by_name);
        delays.entry(packets).or_default().extend(by_packets);
    }
    Ok(())
}

/// A task that came or went, and when that was committed, in seconds of the day.
struct Change {
    task: String,
    address: Ipv4Addr,
    at: f64,
}

impl Change {
    /// When each has seen it, in milliseconds since then; what was seen before counts as 0.
    fn until(
        &self,
        all: &[Seen],
        seen: impl Fn(&Seen) -> Option<[f64; 2]>,
    ) -> Result<[Vec<f64>; 2]> {
        let end = Instant::now() + PATIENCE;
        let since = |time: f64| {
            let after = (time - self.at).rem_euclid(DAY);
            if after > DAY / 2.0 { 0.0 } else { after * 1e3 }
        };
        loop {
            let found: Vec<[f64; 2]> = all.iter().filter_map(&seen).collect();
            if found.len() == all.len() {
                return Ok([0, 1].map(|n| found.iter().map(|one| since(one[n])).collect()));
            }
            ensure!(Instant::now() < end, "{} of {} have seen it", found.len(), all.len());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Bench<'a> {
    cluster: &'a Cluster,
    /// A process in the container that looks, of each host.
    probes: Vec<i32>,
    vip: Ipv4Addr,
    events: Receiver<Value>,
    _stream: Stream,
}

impl<'a> Bench<'a> {
    fn prepare(cluster: &'a Cluster, hosts: usize) -> Result<Self> {
        let image = format!("{REGISTRY}/busybox:1");
        cluster.ctl_ok(&["network", "create", "-d", "overlay", "meet"])?;
        let service = |words: &[&str]| {
            let rest = ["--network", "meet", "--stop-grace-period", "1s", &image, "sleep", "1d"];
            let words: Vec<&str> =
                ["service", "create"].iter().chain(words).chain(&rest).copied().collect();
            cluster.ctl_ok(&words)
        };
        service(&["--name", "probe", "--mode", "global"])?;
        service(&["--name", "web", "--replicas", &FEW.to_string()])?;
        let (events, stream) = Stream::begin(cluster)?;
        let probes = running(cluster, "probe", hosts)?.iter().map(pid).collect();
        for task in running(cluster, "web", FEW)? {
            serve(pid(&task), at(&task, "/ID").to_owned())?;
        }
        let web = cluster.json(&["service", "inspect", "web"])?;
        let web = web.first().context("no service")?;
        let vip = address(web, "/Endpoint/VirtualIPs/0/Addr")?;
        Ok(Self { cluster, probes, vip, events, _stream: stream })
    }

    /// One task more, or one less.
    fn change(&self, more: bool) -> Result<Change> {
        while self.events.try_recv().is_ok() {}
        let scale = format!("web={}", if more { FEW + 1 } else { FEW });
        self.cluster.ctl_ok(&["service", "scale", "--detach", &scale])?;
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).context("the task does not change")?;
            if at(&event, "/Object/ServiceName") != "web" {
                continue;
            }
            let (state, wanted) =
                (at(&event, "/Object/Status/State"), at(&event, "/Object/DesiredState"));
            let is_it = if more { state == "running" } else { wanted != "running" };
            if is_it {
                let task = at(&event, "/Object/ID").to_owned();
                if more {
                    serve(pid(event.pointer("/Object").unwrap_or(&Value::Null)), task.clone())?;
                }
                let address = address(&event, "/Object/NetworksAttachments/0/Addresses/0")?;
                return Ok(Change { task, address, at: seconds_of_day(at(&event, "/Time"))? });
            }
        }
    }
}

fn running(cluster: &Cluster, service: &str, count: usize) -> Result<Vec<Value>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut tasks = cluster.json(&["service", "ps", service])?;
        tasks.retain(|task| at(task, "/Status/State") == "running");
        if tasks.len() == count {
            return Ok(tasks);
        }
        ensure!(Instant::now() < end, "{} of {count} tasks of {service} run", tasks.len());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn pid(task: &Value) -> i32 {
    let pid = task.pointer("/Status/ContainerStatus/PID").and_then(Value::as_i64);
    pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0)
}

fn address(value: &Value, pointer: &str) -> Result<Ipv4Addr> {
    let text = at(value, pointer).split('/').next().unwrap_or_default();
    text.parse().with_context(|| format!("no address at {pointer} of {value}"))
}

/// `2026-01-31T12:00:00.123456789Z`
fn seconds_of_day(time: &str) -> Result<f64> {
    let clock = time.trim_end_matches('Z').split('T').nth(1).context("not a time")?;
    let parts: Vec<f64> = clock.split(':').map(str::parse).collect::<Result<_, _>>()?;
    let [hours, minutes, seconds] = parts[..] else { bail!("not a time: {time}") };
    Ok(hours * 3600.0 + minutes * 60.0 + seconds)
}

/// A `shoalctl events` that goes on until it is dropped.
struct Stream(Child);

impl Stream {
    fn begin(cluster: &Cluster) -> Result<(Receiver<Value>, Self)> {
        let mut command = cluster.lab.ctl(cluster.host(1));
        command.args(["events", "--filter", "type=task", "--format", "json"]);
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let (say, events) = channel();
        std::thread::spawn(move || {
            let values =
                lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok());
            values.take_while(|value: &Value| say.send(value.clone()).is_ok()).for_each(drop);
        });
        Ok((events, Self(child)))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "20")]
    hosts: usize,
    #[arg(long, default_value = "40")]
    changes: usize,
    /// Cargo says it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}
