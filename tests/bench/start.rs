//! Container start to exit and clean-up: our supervisor against `crun run` and `runc run`, side by
//! side with one specification, and what a supervisor weighs.
//!
//! `cargo bench -p shoal-tests --bench start -- [--rounds 40] [--program PATH]
//! [--alone]`, as root, with crun,
//! runc and a static busybox installed. Everything runs in a private mount namespace without
//! `/sys/fs/cgroup/unified`, which Debian's crun does not get along with on the hybrid layout, and
//! with a host's usual file systems whatever this machine has: `/run` in memory, and an ext4 with a
//! journal for the rest. (Without a journal every new file passes all that were deleted in the last
//! minutes, so the time would say how busy the machine has been.)
//!
//! Ours does more than the others in the same time: it mounts an overlay of layers where they use a
//! directory, keeps a log, and has the exit on disk before it reports it.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

mod ratio;
mod series;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use shoal_agent_planning::oci::{self, ContainerConfig};
use shoal_agent_runtime::oci::{OciConfig, OciRuntime};
use shoal_agent_runtime::{ContainerId, ContainerSpec, Layers, LogLimits, NetworkMode, Runtime};

use crate::ratio::interval;
use crate::series::quantile;

const INSIDE: &str = "SHOAL_BENCH_INSIDE";

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if std::env::var_os(INSIDE).is_none() {
        let error = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        return Err(error).context("running unshare(1)");
    }
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.exists() {
        let _ = rustix::mount::unmount(unified, rustix::mount::UnmountFlags::DETACH);
    }
    let size = c"mode=755,size=256m";
    rustix::mount::mount("tmpfs", "/run", "tmpfs", rustix::mount::MountFlags::empty(), size)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(bench(&options))
}

#[derive(Parser)]
struct Options {
    #[arg(long, default_value = "40")]
    rounds: usize,
    /// An agent's program; the one that was built beside this one if it is left out
    #[arg(long)]
    program: Option<PathBuf>,
    /// Without rivals, for a profiler
    #[arg(long)]
    alone: bool,
    /// Cargo says it to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The agent's program that is measured.
fn program(options: &Options) -> anyhow::Result<PathBuf> {
    // target/release/deps/start-…: the program is two levels up.
    let exe = std::env::current_exe()?;
    let release = exe.ancestors().nth(2).context("where is the target directory?")?;
    let program = options.program.clone().unwrap_or_else(|| release.join("shoal-agent"));
    if !program.exists() {
        bail!("{} is missing: cargo build --release -p shoal-agent", program.display());
    }
    Ok(program)
}

/// A file system of our own on a file of this machine's disk.
struct Disk {
    mounted: tempfile::TempDir,
}

impl Disk {
    fn new() -> anyhow::Result<Self> {
        let mounted = tempfile::tempdir()?;
        let image = tempfile::NamedTempFile::new()?;
        image.as_file().set_len(512 << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(image.path()))?;
        // The device lets the file go with the mount.
        run(Command::new("mount").args(["-o", "loop"]).args([image.path(), mounted.path()]))?;
        Ok(Self { mounted })
    }

    fn path(&self) -> &Path {
        self.mounted.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(self.path(), flags);
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("running {command:?}"))?;
    match status.success() {
        true => Ok(()),
        false => bail!("{command:?}: {status}"),
    }
}

/// Where everything is.
struct Bench {
    home: Disk,
    runtime: OciRuntime,
    cgroup: String,
}

impl Bench {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let home = Disk::new()?;
        let layer = home.path().join("layer");
        for dir in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
            fs::create_dir_all(layer.join(dir))?;
        }
        let busybox = ["/bin/busybox-static", "/bin/busybox"];
        let busybox = busybox.into_iter().find(|p| Path::new(p).exists()).context("no busybox")?;
        fs::copy(busybox, layer.join("bin/busybox"))?;
        for name in ["true", "sleep"] {
            std::os::unix::fs::symlink("busybox", layer.join("bin").join(name))?;
        }
        let cgroup = format!("/shoal-bench-{}", std::process::id());
        let runtime = OciRuntime::new(OciConfig {
            run_dir: PathBuf::from("/run/shoal"),
            state_dir: home.path().join("state"),
            cgroup_parent: cgroup.clone(),
            program: program(options)?,
        })?;
        // What else runs on the machine should disturb all of them little, and equally.
        let parent = Path::new("/sys/fs/cgroup/cpu").join(cgroup.trim_matches('/'));
        if fs::create_dir(&parent).is_ok() {
            fs::write(parent.join("cpu.shares"), "262144")?;
        }
        let _ = rustix::process::setpriority_process(None, -20);
        Ok(Self { home, runtime, cgroup })
    }

    /// A bundle for the others, with the very specification that ours gets.
    fn bundle(&self, name: &str, seccomp: bool) -> anyhow::Result<PathBuf> {
        let bundle = self.home.path().join(name);
        fs::create_dir_all(&bundle)?;
        let mut spec = oci::spec(&config(&["true"]))?;
        let mut root = spec.root().clone().unwrap_or_default();
        root.set_path(self.home.path().join("layer"));
        spec.set_root(Some(root));
        if let Some(linux) = spec.linux_mut() {
            linux.set_cgroups_path(Some(PathBuf::from(format!("{}/{name}", self.cgroup))));
            if !seccomp {
                linux.set_seccomp(None);
            }
        }
        fs::write(bundle.join("config.json"), serde_json::to_vec(&spec)?)?;
        Ok(bundle)
    }

    async fn ours(&self, exits: &mut Exits) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let id = ContainerId::new("bench")?;
        self.runtime.prepare(&id, self.spec(&["true"])?).await?;
        self.runtime.start(&id).await?;
        let exit = exits.recv().await.context("no exit")?;
        self.runtime.remove(&id).await?;
        let took = begin.elapsed();
        if !exit.status.is_success() {
            bail!("ours: {}", exit.status);
        }
        Ok(took)
    }

    fn spec(&self, argv: &[&str]) -> anyhow::Result<ContainerSpec> {
        Ok(ContainerSpec {
            oci: oci::spec(&config(argv))?,
            layers: Layers(vec![self.home.path().join("layer")]),
            network: NetworkMode::Own,
            open_stdin: false,
            log: LogLimits::default(),
            user: String::new(),
            labels: BTreeMap::new(),
        })
    }

    /// Proportional and resident size of supervisors, in KiB, with so many of them at once.
    async fn weigh(&self, exits: &mut Exits, count: usize) -> anyhow::Result<(u64, u64)> {
        let ids: Vec<ContainerId> =
            (0..count).map(|i| ContainerId::new(format!("idle-{i}"))).collect::<Result<_, _>>()?;
        let mut sums = (0, 0);
        let mut pids = Vec::new();
        for id in &ids {
            let spec = self.spec(&["sleep", "1000"])?;
            pids.push(self.runtime.prepare(id, spec).await?.supervisor_pid);
            self.runtime.start(id).await?;
        }
        // A supervisor gives memory back when its container has been quiet for a second.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        for pid in pids {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            sums.0 += kib(&text, "Pss:").context("no Pss")?;
            sums.1 += kib(&text, "Rss:").context("no Rss")?;
        }
        for id in &ids {
            self.runtime.remove(id).await?;
            exits.recv().await.context("no exit")?;
        }
        let count = count as u64;
        Ok((sums.0 / count, sums.1 / count))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for group in groups {
            let _ = fs::remove_dir(group.path().join(self.cgroup.trim_matches('/')));
        }
    }
}

type Exits = tokio::sync::mpsc::UnboundedReceiver<shoal_agent_runtime::Exit>;

fn config(argv: &[&str]) -> ContainerConfig {
    let argv = argv.iter().map(ToString::to_string).collect();
    let mut config = ContainerConfig { argv, ..ContainerConfig::default() };
    config.resources.memory_bytes = Some(64 << 20);
    config.resources.nano_cpus = Some(2_000_000_000);
    config.resources.pids = Some(100);
    config
}

fn kib(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn theirs(program: &str, bundle: &Path) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let status = Command::new(program)
        .args(["run", "--bundle"])
        .arg(bundle)
        .arg(format!("shoal-bench-{}", std::process::id()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("running {program}"))?;
    let took = begin.elapsed();
    if !status.success() {
        bail!("{program}: {status}");
    }
    Ok(took)
}

async fn bench(options: &Options) -> anyhow::Result<()> {
    let bench = Bench::new(options)?;
    let mut exits = bench.runtime.take_exits().context("exits taken")?;
    let mut rivals = vec![
        ("crun", "crun", bench.bundle("crun", true)?),
        ("crun, no seccomp", "crun", bench.bundle("crun-plain", false)?),
        ("runc", "runc", bench.bundle("runc", true)?),
    ];
    if options.alone {
        rivals.clear();
    }
    let mut ours = Vec::new();
    let mut others: Vec<Vec<f64>> = vec![Vec::new(); rivals.len()];
    // The first round warms caches and does not count.
    for round in 0..=options.rounds {
        let turns = rivals.len() + 1;
        for turn in (0..turns).map(|t| (t + round) % turns) {
            let took = match rivals.get(turn) {
                None => bench.ours(&mut exits).await?,
                Some((_, program, bundle)) => theirs(program, bundle)?,
            };
            let series = others.get_mut(turn).unwrap_or(&mut ours);
            if round > 0 {
                series.push(took.as_secs_f64() * 1e3);
            }
        }
    }
    println!("start to exit and clean-up, {} interleaved rounds, milliseconds", options.rounds);
    println!("{:<18} {:>7} {:>7} {:>7}   ours/its p50 (95 %)", "", "p10", "p50", "p90");
    let line = |name: &str, series: &[f64]| {
        let q = |q| quantile(series, q);
        print!("{name:<18} {:>7.2} {:>7.2} {:>7.2}", q(0.1), q(0.5), q(0.9));
    };
    line("shoal", &ours);
    println!();
    for ((name, ..), series) in rivals.iter().zip(&others) {
        line(name, series);
        let (low, high) = interval(&ours, series);
        let ratio = quantile(&ours, 0.5) / quantile(series, 0.5);
        println!("   {ratio:.2} ({low:.2} to {high:.2})");
    }
    for count in [1, 20] {
        let (pss, rss) = bench.weigh(&mut exits, count).await?;
        println!("supervisor, {count:>2} at once: {pss} KiB PSS, {rss} KiB RSS each");
    }
    Ok(())
}
