//! `shoal-manager`: parse, run, drain.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use shoal_manager::config::{Cli, Command, LogFormat, RaiseTermOptions, RunOptions};
use shoal_manager::{raft, server};
use shoal_types::log_filter;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Worker threads: managers wait for disks and networks most of the time.
const THREADS: usize = 2;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(options) => serve(options),
        Command::RaiseTerm(options) => match raise_term(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln_error(&error);
                ExitCode::FAILURE
            }
        },
    }
}

#[expect(clippy::print_stdout, reason = "the answer to a command")]
fn raise_term(options: &RaiseTermOptions) -> anyhow::Result<()> {
    let dir = options.state_dir.join("raft");
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let raised = runtime.block_on(raft::raise_term(&dir, options.above));
    let term = raised.context("the term was not raised")?;
    println!("the next leader of this cluster has a term above {term}");
    Ok(())
}

fn serve(options: RunOptions) -> ExitCode {
    if let Err(error) = start_logging(&options) {
        eprintln_error(&error);
        // EX_CONFIG of sysexits.h: do not start again with the same command line.
        return ExitCode::from(78);
    }
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = server::one_line(&error), "the manager stopped");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "there is no log to write to")]
fn eprintln_error(error: &anyhow::Error) {
    eprintln!("shoal-manager: {error:#}");
}

fn start_logging(options: &RunOptions) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(log_filter::directives(&options.log_level))
        .map_err(|e| anyhow::anyhow!("--log-level {:?}: {e}", options.log_level))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    Ok(())
}

fn run(options: RunOptions) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone())?);
        server::run(options, stop).await
    });
    // Watchers and log readers may hang on for ever; they are not waited for.
    runtime.shutdown_background();
    result
}

/// Cancels `stop` at the first SIGTERM or SIGINT.
fn stop_on_signal(
    stop: CancellationToken,
) -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    })
}
