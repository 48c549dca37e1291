//! What many services cost a host: how long the kernel takes to have all of them, or a change of one; and whether the
//! first packet to one is later because of the others.
//!
//! `cargo bench -p shoal-agent-network --bench ruleset -- [--services 30000] [--changes 2000] [--packets 4000]`, as
//! root. All in network namespaces, with the driver that the agent has.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "../../../../tests/bench/inside.rs"]
mod inside;
mod lab;
#[path = "../../../../tests/bench/ratio.rs"]
mod ratio;
#[path = "../../../../tests/bench/series.rs"]
mod series;
#[path = "../../../../tests/bench/space.rs"]
mod space;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use imbl::OrdSet;
use shoal_agent_network::{BridgeNetworks, NetworkDriver as _};
use shoal_agent_planning::network::ingress::Ingress;
use shoal_agent_planning::network::ruleset::{Vip, Vips};

use crate::lab::{Lab, PORT, SERVER, Stamp, on_one_processor};
use crate::ratio::interval;
use crate::series::quantile;

/// Services beside which the first packet to one is measured, against all of them.
const FEW: u32 = 10;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let labs = [Lab::new(1)?, Lab::new(2)?];
    let [few, many] = &labs;
    few.with_driver(async |driver, stamp| Services::new(FEW).tell(driver, stamp).await.map(drop))?;
    many.with_driver(async |driver, stamp| measure(many, driver, stamp, &options).await)?;
    first_packets(&labs, options.packets)
}

/// Services with one backend each: the first is answered on this host, the others are elsewhere.
#[derive(Clone)]
struct Services {
    remote: OrdSet<IpAddr>,
    vips: Vips,
}

fn vip(service: u32) -> IpAddr {
    Ipv4Addr::from((10 << 24) + (1 << 16) + service).into()
}

fn backend(service: u32, number: u32) -> IpAddr {
    Ipv4Addr::from((10 << 24) + ((16 + 16 * number) << 16) + service).into()
}

impl Services {
    fn new(count: u32) -> Self {
        let of = |service: u32| {
            let first = if service == 0 { IpAddr::from(SERVER) } else { backend(service, 0) };
            (vip(service), Vip::from(vec![first]))
        };
        Self {
            remote: (1..count).map(|service| backend(service, 0)).collect(),
            vips: (0..count).map(of).collect(),
        }
    }

    /// How long it takes until the kernel has what leads there, and until the driver is done with all that follows.
    async fn tell(&self, driver: &BridgeNetworks, stamp: &Stamp) -> anyhow::Result<[Duration; 2]> {
        let Self { remote, vips } = self.clone();
        let start = Instant::now();
        driver.lead(remote, vips, Ingress::default()).await?;
        let had = stamp.last().context("nothing was changed")?.saturating_duration_since(start);
        Ok([had, start.elapsed()])
    }
}

async fn measure(
    lab: &Lab,
    driver: &BridgeNetworks,
    stamp: &Stamp,
    options: &Options,
) -> anyhow::Result<()> {
    let mut services = Services::new(options.services);
    let [had, done] = services.tell(driver, stamp).await?;
    let count = options.services;
    println!(
        "{count} services, told at once: in the tables after {had:.1?}, with routes {done:.1?}"
    );
    lab.run("nft", &["delete", "table", "inet", "shoal"])?;
    let start = Instant::now();
    let repaired = driver.repair().await?;
    println!("all tables looked at and put in place anew: {:.1?}", start.elapsed());
    ensure!(repaired.table_replaced, "nothing was missing: {repaired:?}");
    let start = Instant::now();
    let repaired = driver.repair().await?;
    println!("looked at, as they should be: {:.1?}", start.elapsed());
    ensure!(repaired.is_clean(), "something was other than it should be: {repaired:?}");
    let mut times: [Vec<f64>; 2] = Default::default();
    for number in 0..options.changes {
        // A second backend of one comes, and goes with the next.
        let service = 1 + (number / 2 * 7919) % (options.services - 1);
        let (first, second) = (backend(service, 0), backend(service, 1));
        if number % 2 == 0 {
            services.remote.insert(second);
            services.vips.insert(vip(service), vec![first, second].into());
        } else {
            services.remote.remove(&second);
            services.vips.insert(vip(service), vec![first].into());
        }
        let took = services.tell(driver, stamp).await?;
        for (times, took) in times.iter_mut().zip(took) {
            times.push(took.as_secs_f64() * 1e3);
        }
    }
    println!("a backend comes or goes, {} times", options.changes);
    for (what, times) in ["the kernel has it", "all is done"].iter().zip(&times) {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|q| quantile(times, q));
        println!("  {what}: p50 {p50:.2} ms, p99 {p99:.2} ms, at most {max:.2} ms");
    }
    let differences = driver.compare().await;
    ensure!(differences.findings.is_empty(), "the kernel has something else: {differences:?}");
    Ok(())
}

/// The first packet of a flow to a service, and its answer, in turn on hosts with few and with all.
fn first_packets(labs: &[Lab; 2], packets: u32) -> anyhow::Result<()> {
    for lab in labs {
        lab.serve()?;
    }
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..packets.div_ceil(BURST) {
        for (lab, times) in labs.iter().zip(&mut times) {
            times.extend(lab.in_client(|| {
                on_one_processor()?;
                (0..BURST).map(|_| first_packet()).collect::<anyhow::Result<Vec<f64>>>()
            })?);
        }
    }
    let [few, many] = &times;
    let (low, high) = interval(many, few);
    let [one, other] = [few, many].map(|times| quantile(times, 0.5));
    println!(
        "first packet and its answer, {packets} times: {one:.1} µs beside {FEW} services, {other:.1} µs beside all: \
         {:.2} (95 % {low:.2} to {high:.2})",
        other / one
    );
    Ok(())
}

/// Packets in a row from one client.
const BURST: u32 = 50;

fn first_packet() -> anyhow::Result<f64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((vip(0), PORT))?;
    let mut buffer = [0; 64];
    let start = Instant::now();
    socket.send(b"?")?;
    socket.recv(&mut buffer).context("the service does not answer")?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "30000", value_parser = clap::value_parser!(u32).range(2..1 << 20))]
    services: u32,
    #[arg(long, default_value = "2000")]
    changes: u32,
    #[arg(long, default_value = "4000")]
    packets: u32,
    /// Cargo says it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}
