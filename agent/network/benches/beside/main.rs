//! Two containers on one host: one TCP stream between them, on networks of each kind that the driver makes, beside a plain
//! veth pair.
//!
//! `cargo bench -p shoal-agent-network --bench beside -- [--rounds 10] [--seconds 2]`, as root. Hosts and containers are
//! network namespaces.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

#[path = "../../../../tests/bench/inside.rs"]
mod inside;
#[path = "../../../../tests/bench/ratio.rs"]
mod ratio;
#[path = "../../../../tests/bench/series.rs"]
mod series;
#[path = "../../../../tests/bench/space.rs"]
mod space;
#[path = "../../../../tests/bench/stream.rs"]
mod stream;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use shoal_agent_network::{
    AttachRequest, BridgeConfig, BridgeNetworks, Netns, NetworkConfig, NetworkDriver as _,
    SubnetConfig,
};
use shoal_agent_planning::tunnel;

use crate::inside::inside;
use crate::ratio::interval;
use crate::series::quantile;
use crate::space::{move_into, path, run};
use crate::stream::{Receiver, send};

const PORT: u16 = 7000;
/// Before what is sent counts: the stream has to find its pace.
const WARM_UP: Duration = Duration::from_millis(300);
/// Containers of each network.
const NUMBERS: [u8; 2] = [2, 3];

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "10")]
    rounds: usize,
    /// Of each round and way
    #[arg(long, default_value = "2")]
    seconds: u64,
    /// Cargo says it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Between which containers the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A veth pair, without anything else.
    Pair,
    /// A network of this host alone.
    Bridge,
    /// One that spans hosts.
    Overlay,
}

impl Way {
    const ALL: [Self; 3] = [Self::Pair, Self::Bridge, Self::Overlay];

    fn name(self) -> &'static str {
        match self {
            Self::Pair => "veth pair",
            Self::Bridge => "bridge",
            Self::Overlay => "overlay",
        }
    }

    fn at(self, number: u8) -> Ipv4Addr {
        let net = match self {
            Self::Pair => 1,
            Self::Bridge => 2,
            Self::Overlay => 3,
        };
        Ipv4Addr::new(10, net, 0, number)
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let lab = Lab::new()?;
    lab.connect()?;
    let length = Duration::from_secs(options.seconds);
    let mut rates: [Vec<f64>; 3] = Default::default();
    // The first round warms up, and does not count.
    for round in 0..=options.rounds {
        for turn in 0..Way::ALL.len() {
            let turn = (turn + round) % Way::ALL.len();
            let (Some(way), Some(rates)) = (Way::ALL.get(turn), rates.get_mut(turn)) else {
                continue;
            };
            let rate = lab.stream(*way, length).with_context(|| way.name())?;
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    println!("one TCP stream on one host, {} interleaved rounds of {length:?}", options.rounds);
    let [pair, others @ ..] = &rates;
    for (way, rates) in Way::ALL.iter().zip(&rates) {
        let [low, middle, high] = [0.0, 0.5, 1.0].map(|q| quantile(rates, q));
        println!("{:<10} {middle:>6.1} ({low:.1} to {high:.1}) Gbit/s", way.name());
    }
    for (way, rates) in Way::ALL.iter().skip(1).zip(others) {
        let (low, high) = interval(rates, pair);
        let middle = quantile(rates, 0.5) / quantile(pair, 0.5);
        println!("{} against a veth pair: {middle:.2} (95 % {low:.2} to {high:.2})", way.name());
    }
    Ok(())
}

/// A host, and containers on it.
struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> anyhow::Result<Self> {
        let lab = Self { dir: tempfile::tempdir()? };
        for space in Self::spaces() {
            run("ip", &["netns", "add", &space])?;
            run("ip", &["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(lab)
    }

    fn host() -> String {
        format!("shoal-bench-{}-host", std::process::id())
    }

    fn container(way: Way, number: u8) -> String {
        format!("shoal-bench-{}-{way:?}-{number}", std::process::id())
    }

    fn spaces() -> impl Iterator<Item = String> {
        let containers =
            Way::ALL.into_iter().flat_map(|way| NUMBERS.map(|number| Self::container(way, number)));
        std::iter::once(Self::host()).chain(containers)
    }

    /// Connects all containers.
    fn connect(&self) -> anyhow::Result<()> {
        let [one, two] = NUMBERS.map(|number| Self::container(Way::Pair, number));
        let words = ["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &two];
        run("ip", &[&["-n", &one], &words[..]].concat())?;
        for number in NUMBERS {
            let space = Self::container(Way::Pair, number);
            let address = format!("{}/24", Way::Pair.at(number));
            run("ip", &["-n", &space, "address", "add", &address, "dev", "eth0"])?;
            run("ip", &["-n", &space, "link", "set", "eth0", "up"])?;
        }
        // Networks that span hosts want a tunnel; nothing goes there.
        let (host, device) = (Self::host(), tunnel::ifname("sh"));
        let sink = ["link", "add", &device, "type", "veth", "peer", "name", "sink0"];
        run("ip", &[&["-n", &host], &sink[..]].concat())?;
        run("ip", &["-n", &host, "link", "set", &device, "arp", "off", "up"])?;
        inside(&host, || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(self.attach())
        })
    }

    async fn attach(&self) -> anyhow::Result<()> {
        let dir = self.dir.path();
        let config = BridgeConfig::new(dir.join("state"), dir.join("run"));
        let driver = BridgeNetworks::open(config)?;
        for way in [Way::Bridge, Way::Overlay] {
            let subnet = ipnet::IpNet::new(way.at(0).into(), 24)?;
            let config = NetworkConfig {
                id: way.name().to_owned(),
                subnets: vec![SubnetConfig::from(subnet)],
                routed: way == Way::Overlay,
                ..NetworkConfig::default()
            };
            driver.ensure_network(config).await?;
            for number in NUMBERS {
                let container = Self::container(way, number);
                let place = Netns::AtPath(path(&container));
                let network = way.name().to_owned();
                let address = Some(way.at(number));
                let request =
                    AttachRequest { container, network, address, ..AttachRequest::default() };
                driver.attach(request, place).await?;
            }
        }
        Ok(())
    }

    /// Gbit/s.
    fn stream(&self, way: Way, length: Duration) -> anyhow::Result<f64> {
        let [from, to] = NUMBERS;
        let address = SocketAddr::from((way.at(to), PORT));
        let listener = inside(&Self::container(way, to), || Ok(TcpListener::bind(address)?))?;
        let sender = thread::spawn(move || {
            move_into(&Self::container(way, from))?;
            send(address)
        });
        let mut stream = Receiver::accept(&listener)?;
        stream.read_until(Instant::now() + WARM_UP)?;
        let begin = Instant::now();
        let bytes = stream.read_until(begin + length)?;
        let seconds = begin.elapsed().as_secs_f64();
        drop(stream);
        sender.join().unwrap_or_else(|_| bail!("a thread has panicked"))?;
        Ok(bytes as f64 * 8.0 / seconds / 1e9)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for space in Self::spaces() {
            let _ = Command::new("ip").args(["netns", "del", &space]).status();
        }
    }
}
