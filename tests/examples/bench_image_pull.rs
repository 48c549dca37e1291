//! Pull and unpack of an eight-layer image: our store against `skopeo copy` + `umoci unpack`, from
//! one registry on this host, interleaved.
//!
//! `cargo run --release -p shoal-tests --example bench_image_pull [rounds] [MiB]`, as root.
#![allow(clippy::print_stdout, reason = "it reports to a person")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use shoal_agent_image::{ImageStore, PullPolicy, StoreConfig};
use shoal_tests::image::{BuiltImage, ImageBuilder, LocalRegistry, Packing};
use tempfile::TempDir;

const LAYERS: usize = 8;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, reference, dir] = arguments.as_slice()
        && mode == "--pull"
    {
        return pull(reference, Path::new(dir));
    }
    let number = |at: usize, default| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (rounds, mib) = (number(0, 10)?, number(1, 200)?);
    for packing in [Packing::Gzip, Packing::Zstd] {
        compare(packing, rounds, mib)?;
    }
    Ok(())
}

/// One pull in a process of its own, so that its memory can be seen.
fn pull(reference: &str, dir: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let store = ImageStore::open(dir, StoreConfig::default())?;
    let reference = reference.parse()?;
    let start = Instant::now();
    runtime.block_on(store.ensure(&reference, PullPolicy::Always, None, None))?;
    let cold = start.elapsed();
    let start = Instant::now();
    runtime.block_on(store.ensure(&reference, PullPolicy::Always, None, None))?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    let peak = peak.split_whitespace().nth(1).unwrap_or("0");
    println!("{} {} {peak}", cold.as_micros(), start.elapsed().as_micros());
    Ok(())
}

fn compare(packing: Packing, rounds: usize, mib: usize) -> Result<()> {
    let registry = LocalRegistry::start()?;
    let image = synthetic(packing, mib)?;
    image.push(registry.address(), "bench", "1")?;
    let packed: usize = image.layers.iter().map(|layer| layer.bytes.len()).sum();
    println!("{packing:?}: {LAYERS} layers, {mib} MiB, packed {} MiB", packed >> 20);
    let reference = format!("{}/bench:1", registry.address());
    let (mut ours, mut theirs, mut warm, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for round in 0..=rounds {
        let (cold, again, memory) = our_pull(&reference)?;
        let other = their_pull(&reference)?;
        // The first round fills the page cache.
        if round > 0 {
            ours.push(cold);
            theirs.push(other);
            warm.push(again);
            peak = peak.max(memory);
        }
    }
    let (ours, theirs) = (Spread::of(ours), Spread::of(theirs));
    println!("  store           {ours}");
    println!("  skopeo + umoci  {theirs}");
    println!(
        "  ratio of p50 {:.2}, of min {:.2}; warm pull {}; peak RSS {peak} kB",
        ours.p50.as_secs_f64() / theirs.p50.as_secs_f64(),
        ours.min.as_secs_f64() / theirs.min.as_secs_f64(),
        Spread::of(warm),
    );
    Ok(())
}

fn our_pull(reference: &str) -> Result<(Duration, Duration, u64)> {
    let dir = TempDir::new()?;
    let output = Command::new(std::env::current_exe()?)
        .args(["--pull", reference])
        .arg(dir.path())
        .output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next().context("too few numbers")?.context("no number");
    Ok((Duration::from_micros(next()?), Duration::from_micros(next()?), next()?))
}

/// To the same state on the disk: everything durable.
fn their_pull(reference: &str) -> Result<Duration> {
    let dir = TempDir::new()?;
    let layout = dir.path().join("layout");
    let start = Instant::now();
    run(Command::new("skopeo")
        .args(["copy", "-q", "--src-tls-verify=false"])
        .args([format!("docker://{reference}"), format!("oci:{}:1", layout.display())]))?;
    let bundle: PathBuf = dir.path().join("bundle");
    let image = format!("{}:1", layout.display());
    run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle))?;
    rustix::fs::syncfs(std::fs::File::open(dir.path())?)?;
    Ok(start.elapsed())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Programs, libraries and many small files; about half of it can be compressed away.
fn synthetic(packing: Packing, mib: usize) -> Result<BuiltImage> {
    let mut random = StdRng::seed_from_u64(1);
    let mut builder = ImageBuilder::new().packing(packing);
    let bytes_per_layer = (mib << 20) / LAYERS;
    for layer in 0..LAYERS {
        let mut written = 0;
        let mut file = 0;
        while written < bytes_per_layer {
            let size = match file % 20 {
                0 => 1 << 20,
                1..=4 => 64 << 10,
                _ => 4 << 10,
            };
            let mut bytes = vec![0; size];
            random.fill_bytes(&mut bytes[..size / 2]);
            for (at, byte) in bytes[size / 2..].iter_mut().enumerate() {
                *byte = b"the quick brown fox jumps over the lazy dog\n"[at % 44];
            }
            builder = builder.file(&format!("/l{layer}/d{}/f{file}", file % 50), &bytes, 0o644);
            written += size;
            file += 1;
        }
        builder = builder.next_layer();
    }
    builder.build()
}

struct Spread {
    min: Duration,
    p50: Duration,
    max: Duration,
}

impl Spread {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort();
        let at = |index: usize| all.get(index).copied().unwrap_or_default();
        Self { min: at(0), p50: at(all.len() / 2), max: at(all.len().saturating_sub(1)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(f, "min {:.0} p50 {:.0} max {:.0} ms", ms(self.min), ms(self.p50), ms(self.max))
    }
}
