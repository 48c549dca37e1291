//! Names of services, asked of our process and of Debian's dnsmasq with the same names as local data, in turn: how
//! many a second, what one costs, how long one takes while 10,000 a second are asked, and how much memory it takes.
//!
//! `cargo bench -p shoal-agent-dns --bench questions -- [--rounds 10] [--seconds 2] [--names 1000]`, as root, with
//! dnsmasq-base installed. Both answer one container: a network namespace. Who asks has a thread of its own, and
//! sends and receives many at once, so that it takes less than who answers.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

mod load;
mod peers;
#[path = "../../../../tests/bench/ratio.rs"]
mod ratio;
#[path = "../../../../tests/bench/series.rs"]
mod series;

use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Parser;

use crate::load::{Sample, flood, pace};
use crate::peers::{Lab, Peer};
use crate::ratio::interval;
use crate::series::quantile;

/// One of the figures of a round.
type Of = fn(&Sample) -> f64;

/// Questions a second at which it is looked how long one takes.
const PACE: u32 = 10_000;

fn main() -> anyhow::Result<ExitCode> {
    if std::env::args().nth(1).is_some_and(|word| word == "names") {
        // As the agent's program has it.
        let listener = std::io::stdin().as_fd().try_clone_to_owned()?;
        shoal_agent_dns::process::run(&listener)?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse();
    let lab = Lab::new(options.names)?;
    let mut samples: [Vec<Sample>; 2] = Default::default();
    for round in 0..options.rounds {
        for (peer, samples) in lab.peers().iter().zip(&mut samples) {
            let sample = measure(&lab, peer, options.length)?;
            println!("{round:>3} {:<8} {sample}", peer.name);
            samples.push(sample);
        }
    }
    report(&samples);
    Ok(ExitCode::SUCCESS)
}

fn measure(lab: &Lab, peer: &Peer, length: Duration) -> anyhow::Result<Sample> {
    let before = peer.processor_time()?;
    let flooded = lab.inside(|| flood(peer.address, lab.questions(), length))?;
    let spent = peer.processor_time()? - before;
    let times = lab.inside(|| pace(peer.address, lab.questions(), length, PACE))?;
    if flooded.wrong > 0 {
        bail!("{} of {} answers of {} were wrong", flooded.wrong, flooded.answers, peer.name);
    }
    Ok(Sample {
        a_second: flooded.answers as f64 / flooded.took.as_secs_f64(),
        micros_each: spent.as_secs_f64() * 1e6 / (flooded.answers as f64).max(1.0),
        p50_micros: quantile(&times, 0.5),
        p99_micros: quantile(&times, 0.99),
        rss_mib: peer.rss_mib()?,
    })
}

fn report(samples: &[Vec<Sample>; 2]) {
    let [ours, theirs] = samples;
    println!("\n{:<34} {:>10} {:>10}   ratio (95 %)", "median of all rounds", "shoal", "dnsmasq");
    let rows: [(&str, Of); 5] = [
        ("answers a second", |sample| sample.a_second),
        ("processor time of one, us", |sample| sample.micros_each),
        ("p50 at 10,000 a second, us", |sample| sample.p50_micros),
        ("p99 at 10,000 a second, us", |sample| sample.p99_micros),
        ("resident memory, MiB", |sample| sample.rss_mib),
    ];
    for (what, of) in rows {
        let [ours, theirs] = [ours, theirs].map(|all| all.iter().map(of).collect::<Vec<_>>());
        let (one, other) = (quantile(&ours, 0.5), quantile(&theirs, 0.5));
        let (low, high) = interval(&ours, &theirs);
        let ratio = one / other;
        println!("{what:<34} {one:>10.1} {other:>10.1}   {ratio:.2} ({low:.2} to {high:.2})");
    }
}

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "10")]
    rounds: usize,
    #[arg(long = "seconds", default_value = "2", value_parser = seconds)]
    length: Duration,
    #[arg(long, default_value = "1000")]
    names: u16,
    /// Cargo says it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A length of time in seconds.
fn seconds(text: &str) -> anyhow::Result<Duration> {
    Ok(Duration::try_from_secs_f64(text.parse()?)?)
}
