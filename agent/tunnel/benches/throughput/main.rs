//! One TCP stream between two hosts, through each of these in turn: our tunnel, gotatun with its own transports,
//! Debian's wireguard-go, plain VXLAN. How fast, what it costs, and how long a byte takes there and back.
//!
//! `cargo bench -p shoal-agent-tunnel --bench throughput -- [--rounds 10] [--seconds 3] [--only WAY,WAY]`, as root,
//! with wireguard-go and wireguard-tools installed. The hosts are network namespaces with a veth pair between.
//! Processor time is that of the two processes that encrypt, all of it, what they spend in the kernel, too.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

mod lab;
mod measure;
#[path = "../../../../tests/bench/ratio.rs"]
mod ratio;
#[path = "../../../../tests/bench/series.rs"]
mod series;
#[path = "../../../../tests/bench/space.rs"]
mod space;
#[path = "../../../../tests/bench/stream.rs"]
mod stream;
mod ways;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use shoal_agent_container::supervise::Given;

use crate::lab::Lab;
use crate::measure::Sample;
use crate::ratio::interval;
use crate::series::quantile;
use crate::ways::Way;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        // As the agent's program has it.
        Some(word) if word == "tunnel" => {
            let given = Given::take(arguments).context("started by hand")?;
            return Ok(shoal_agent_tunnel::device::main(given));
        }
        Some(word) if word == ways::PLAIN => {
            let ifname = arguments.next().and_then(|name| name.into_string().ok());
            ways::plain(&ifname.context("no interface")?)?;
        }
        _ => bench(&Options::parse())?,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "10")]
    rounds: usize,
    #[arg(long = "seconds", default_value = "3", value_parser = seconds)]
    length: Duration,
    /// These ways alone
    #[arg(long = "only", value_delimiter = ',', value_parser = way, default_values = Way::ALL.map(Way::name))]
    ways: Vec<Way>,
    /// Cargo says it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A length of time in seconds.
fn seconds(text: &str) -> anyhow::Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}

fn way(name: &str) -> anyhow::Result<Way> {
    let mut all = Way::ALL.into_iter();
    all.find(|way| way.name() == name).with_context(|| format!("no way is called {name}"))
}

fn bench(options: &Options) -> anyhow::Result<()> {
    let lab = Lab::new()?;
    for way in &options.ways {
        way.set_up(&lab)?;
    }
    let count = options.ways.len();
    let mut all: Vec<Vec<Sample>> = vec![Vec::new(); count];
    // The first round agrees on keys and warms caches, and does not count.
    for round in 0..=options.rounds {
        for turn in (0..count).map(|turn| (turn + round) % count) {
            let (Some(way), Some(samples)) = (options.ways.get(turn), all.get_mut(turn)) else {
                continue;
            };
            let sample = measure::sample(&lab, *way, options.length)
                .with_context(|| format!("through {}", way.name()))?;
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    println!("one TCP stream, {} interleaved rounds of {:?}", options.rounds, options.length);
    let trips = ["round trip, µs", "now and then, µs"];
    println!("{:<13} {:>24} {:>20} {:>18} {:>18}", "", "Mbit/s", "CPU s/Gbit", trips[0], trips[1]);
    for (way, samples) in options.ways.iter().zip(&all) {
        let column = |of: fn(&Sample) -> f64, digits| {
            let (low, middle, high) = spread(samples.iter().map(of));
            format!("{middle:.digits$} ({low:.digits$} to {high:.digits$})")
        };
        let cpu = if way.encrypts() { column(Sample::cpu, 2) } else { String::new() };
        let rate = if way.carries() { column(Sample::rate, 0) } else { String::new() };
        let (trip, rare) = (column(Sample::trip, 0), column(Sample::now_and_then, 0));
        println!("{:<13} {rate:>24} {cpu:>20} {trip:>18} {rare:>18}", way.name());
    }
    let of = |wanted: Way| {
        let at = options.ways.iter().position(|way| *way == wanted)?;
        all.get(at).map(Vec::as_slice)
    };
    let ratio =
        |what: &str, ours: Option<&[Sample]>, theirs: Option<&[Sample]>, of: fn(&Sample) -> f64| {
            let (Some(ours), Some(theirs)) = (ours, theirs) else { return };
            let (ours, theirs): (Vec<f64>, Vec<f64>) =
                (ours.iter().map(of).collect(), theirs.iter().map(of).collect());
            let (low, high) = interval(&ours, &theirs);
            let middle = quantile(&ours, 0.5) / quantile(&theirs, 0.5);
            println!("{what}: {middle:.2} (95 % {low:.2} to {high:.2})");
        };
    let ours = of(Way::Shoal);
    ratio("throughput against wireguard-go", ours, of(Way::WireguardGo), Sample::rate);
    ratio("throughput against gotatun", ours, of(Way::Gotatun), Sample::rate);
    ratio("throughput against VXLAN", ours, of(Way::Vxlan), Sample::rate);
    ratio("CPU seconds per Gbit against wireguard-go", ours, of(Way::WireguardGo), Sample::cpu);
    ratio("CPU seconds per Gbit against gotatun", ours, of(Way::Gotatun), Sample::cpu);
    if let (Some(ours), Some(bare)) = (ours, of(Way::Bare)) {
        let added =
            |of: fn(&Sample) -> f64| spread(ours.iter().map(of)).1 - spread(bare.iter().map(of)).1;
        let (trip, rare) = (added(Sample::trip), added(Sample::now_and_then));
        println!("added to the round trip: {trip:.0} µs; to one now and then: {rare:.0} µs");
    }
    Ok(())
}

/// Lowest, median and highest.
fn spread(series: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let series: Vec<f64> = series.collect();
    (quantile(&series, 0.0), quantile(&series, 0.5), quantile(&series, 1.0))
}
