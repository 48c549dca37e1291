//! `shoal-lab`: test hosts by hand, for the demo and for looking around.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use shoal_tests::cluster::busybox_image;
use shoal_tests::host::{Lab, Programs, REGISTRY};
use shoal_tests::image::ImageBuilder;

/// Hosts on this machine: a network namespace each, with the real agent in it.
#[derive(Debug, Parser)]
#[command(name = "shoal-lab")]
struct Cli {
    /// Everything of the lab; lab.json in it says what there is
    #[arg(long, global = true, default_value = "/tmp/shoal-lab", env = "SHOAL_LAB")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a switch, a registry and hosts with agents that wait for `shoalctl init` or `join`
    Up {
        /// How many
        #[arg(long, default_value_t = 3)]
        hosts: usize,
        /// The directory with the programs [default: where this one is]
        #[arg(long)]
        programs: Option<PathBuf>,
    },
    /// Remove everything
    Down,
    /// Pull a host's plug: all its processes end at once
    Kill {
        /// h1, h2, ...
        host: String,
    },
    /// Switch a host on again
    Start {
        /// h1, h2, ...
        host: String,
    },
    /// Run a command in a host's network and with its mounts
    Exec {
        /// h1, h2, ... or switch
        host: String,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        argv: Vec<String>,
    },
    /// Run shoalctl as the lab's user; --agent-socket is that of the host
    Ctl {
        /// The host whose agent is asked by init and join
        #[arg(long, default_value = "h1")]
        host: String,
        /// What shoalctl is told
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        argv: Vec<String>,
    },
    /// Put an image with one static program (or busybox) into the registry
    Push {
        /// NAME:TAG
        name: String,
        /// The program; busybox if absent
        #[arg(long)]
        program: Option<PathBuf>,
        /// NAME=VALUE for its environment; may be repeated
        #[arg(long)]
        env: Vec<String>,
    },
    /// Show what is on a host, for comparison
    Inventory {
        /// h1, h2, ...
        host: String,
    },
    /// Write what a shell needs: eval "$(shoal-lab env)"
    Env,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shoal-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Up { hosts, programs } => up(&cli.dir, *hosts, programs.as_deref())?,
        Command::Down => match load(&cli.dir) {
            Ok(lab) => lab.remove()?,
            Err(_) if !cli.dir.join(FILE).exists() => {}
            Err(error) => return Err(error),
        },
        Command::Kill { host } => load(&cli.dir)?.host(host)?.kill()?,
        Command::Start { host } => load(&cli.dir)?.host(host)?.boot()?,
        Command::Exec { host, argv } => return Err(exec(&cli.dir, host, argv)),
        Command::Ctl { host, argv } => {
            let lab = load(&cli.dir)?;
            let mut command = lab.ctl(lab.host(host)?);
            command.env_remove("NO_COLOR").args(argv);
            return Err(command.exec().into());
        }
        Command::Push { name, program, env } => push(&cli.dir, name, program.as_deref(), env)?,
        Command::Inventory { host } => {
            for line in load(&cli.dir)?.host(host)?.inventory()? {
                println!("{line}");
            }
        }
        Command::Env => {
            let lab = load(&cli.dir)?;
            println!("export SHOAL_LAB={}", lab.dir.display());
            println!("export SHOAL_CONFIG={}", lab.config().display());
            println!("export REGISTRY={REGISTRY}");
            for host in &lab.hosts {
                println!("export {}={}", host.name, host.address);
            }
            let own = std::env::current_exe()?;
            println!("shoalctl() {{ {} ctl \"$@\"; }}", own.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

const FILE: &str = "lab.json";

fn load(dir: &Path) -> Result<Lab> {
    let file = dir.join(FILE);
    let text = fs::read(&file).with_context(|| format!("no lab is up: read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("understand {}", file.display()))
}

fn up(dir: &Path, hosts: usize, programs: Option<&Path>) -> Result<()> {
    if let Some(missing) = shoal_tests::skip::missing() {
        bail!("a lab needs {missing}");
    }
    if dir.join(FILE).exists() {
        bail!("there is a lab in {} already: shoal-lab down --dir removes it", dir.display());
    }
    let programs = match programs {
        Some(programs) => Programs::at(programs.to_owned())?,
        None => Programs::find()?,
    };
    fs::create_dir_all(dir)?;
    let dir = dir.canonicalize()?;
    let lab = Lab::prepare(Some(&dir), hosts, &programs)?;
    // Before anything runs: whatever fails after this, `down` finds it.
    fs::write(dir.join(FILE), serde_json::to_vec_pretty(&lab)?)?;
    lab.power_on()?;
    for host in &lab.hosts {
        host.boot()?;
        println!("{} {}", host.name, host.address);
    }
    Ok(())
}

/// Never returns if the command could be started.
fn exec(dir: &Path, host: &str, argv: &[String]) -> anyhow::Error {
    let command = || {
        let lab = load(dir)?;
        let Some((program, rest)) = argv.split_first() else { bail!("no command") };
        let mut command = match host {
            "switch" => lab.on_switch(program),
            host => lab.host(host)?.command(program)?,
        };
        command.args(rest);
        Ok(command)
    };
    match command() {
        Ok(mut command) => command.exec().into(),
        Err(error) => error,
    }
}

fn push(dir: &Path, name: &str, program: Option<&Path>, env: &[String]) -> Result<()> {
    let lab = load(dir)?;
    let (repository, tag) = name.split_once(':').context("expected NAME:TAG")?;
    let mut image = match program {
        Some(program) => {
            let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
            let file = program.file_name().and_then(|n| n.to_str()).context("a program's name")?;
            let path = format!("/{file}");
            ImageBuilder::new().file(&path, &bytes, 0o755).dir("tmp", 0o1777).entrypoint(&[&path])
        }
        None => busybox_image()?,
    };
    for pair in env {
        let (name, value) = pair.split_once('=').context("expected NAME=VALUE")?;
        image = image.env(name, value);
    }
    let built = image.build()?;
    let digest = lab.inside(|| built.push(REGISTRY, repository, tag))?;
    println!("{REGISTRY}/{name} {digest}");
    Ok(())
}
