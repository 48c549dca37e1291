//! A thousand nodes: how long until all that have to know of one more do, and what a change costs the manager.
//!
//! `cargo bench -p shoal-manager --bench peers -- [--nodes 1000] [--changes 10]`. A real manager, in a process of its
//! own, and agents that only talk, in this one: each over a connection of its own, with mutual TLS. They
//! acknowledge what they are told and say that their tasks run. Two changes: a task on one more node of a network
//! that ten have joined, and a node that joins where all have one, so that everybody gets one more peer. Times are
//! from the call (which is before the commit) until everybody has it, and until everybody's acknowledgement has been
//! answered.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

mod agents;
mod cluster;
#[path = "../../../tests/bench/series.rs"]
mod series;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;

use crate::agents::{Agents, Count};
use crate::cluster::{Cluster, FEW};
use crate::series::quantile;

/// How long everything that happens by itself may take.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    if std::env::args().nth(1).is_some_and(|word| word == "run") {
        return cluster::manage();
    }
    let options = Options::parse();
    ensure!(
        options.nodes >= FEW + options.changes,
        "expected at least {} nodes",
        FEW + options.changes
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(bench(&options))
}

async fn bench(options: &Options) -> Result<()> {
    let cluster = Cluster::start().await?;
    let mut agents = Agents::default();
    let begun = Instant::now();
    for _ in 0..options.nodes {
        agents.join(&cluster).await?;
    }
    println!("{} nodes have joined in {:.1} s", options.nodes, begun.elapsed().as_secs_f64());

    cluster.network("narrow").await?;
    let before = agents.count();
    cluster.service("few", "narrow", Some(FEW)).await?;
    agents.settle(before, FEW).await?;
    let mut narrow = Vec::new();
    for n in 1..=options.changes {
        let look = Look::begin(&cluster, &agents)?;
        cluster.scale("few", FEW + n).await?;
        // The new one is told of all, all others of the new one.
        narrow.push(look.until(&agents, FEW + n, "one more of ten").await?);
    }

    cluster.network("wide").await?;
    let (begun, before) = (Instant::now(), agents.count());
    cluster.service("all", "wide", None).await?;
    let all = options.nodes;
    agents.settle(before, all).await?;
    println!("all have been told of all in {:.1} s", begun.elapsed().as_secs_f64());
    let mut wide = Vec::new();
    for n in 1..=options.changes {
        let look = Look::begin(&cluster, &agents)?;
        agents.join(&cluster).await?;
        wide.push(look.until(&agents, all + n, "a node joins all").await?);
    }
    report("one more of ten", &narrow);
    report("a node joins all", &wide);
    Ok(())
}

/// What was there before a change.
struct Look<'a> {
    cluster: &'a Cluster,
    begun: Instant,
    processor: Duration,
    count: Count,
}

struct Sample {
    told: Duration,
    acknowledged: Duration,
    processor: Duration,
    messages: u64,
    bytes: u64,
}

impl<'a> Look<'a> {
    fn begin(cluster: &'a Cluster, agents: &Agents) -> Result<Self> {
        Ok(Self {
            cluster,
            begun: Instant::now(),
            processor: cluster.processor_time()?,
            count: agents.count(),
        })
    }

    /// Until so many nodes have one task more to lead to, and that one all.
    async fn until(self, agents: &Agents, nodes: u64, what: &str) -> Result<Sample> {
        let serving = self.count.serving + 2 * nodes - 1;
        agents.until(what, |count| count.serving >= serving).await?;
        let told = self.begun.elapsed();
        agents.until("it is acknowledged", Count::is_acknowledged).await?;
        let acknowledged = self.begun.elapsed();
        // What follows by itself.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let count = agents.count();
        ensure!(
            count.serving == serving,
            "{what}: {} were told, expected {serving}",
            count.serving
        );
        let sample = Sample {
            told,
            acknowledged,
            processor: self.cluster.processor_time()? - self.processor,
            messages: count.messages - self.count.messages,
            bytes: count.bytes - self.count.bytes,
        };
        println!("{what:<18} {sample}");
        Ok(sample)
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [told, acknowledged, processor] =
            [self.told, self.acknowledged, self.processor].map(|time| time.as_secs_f64() * 1e3);
        write!(
            f,
            "told {told:>7.0} ms, acknowledged {acknowledged:>7.0} ms, processor {processor:>7.0} ms, {:>6} messages, \
             {:>9} bytes",
            self.messages, self.bytes
        )
    }
}

fn report(what: &str, samples: &[Sample]) {
    let by = |of: fn(&Sample) -> Duration| {
        let all: Vec<f64> = samples.iter().map(|one| of(one).as_secs_f64() * 1e3).collect();
        [0.5, 1.0].map(|q| quantile(&all, q))
    };
    let told = by(|sample| sample.told);
    let acknowledged = by(|sample| sample.acknowledged);
    let processor = by(|sample| sample.processor);
    println!(
        "\n{what}: median and most of {} changes\n  told by      {:>8.0} {:>8.0} ms\n  acknowledged {:>8.0} {:>8.0} ms\n  \
         processor    {:>8.0} {:>8.0} ms of the manager",
        samples.len(),
        told[0],
        told[1],
        acknowledged[0],
        acknowledged[1],
        processor[0],
        processor[1]
    );
}

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "1000")]
    nodes: u64,
    #[arg(long, default_value = "10")]
    changes: u64,
    /// Cargo says it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}
