//! Command line of `shoal-manager`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The manager of a shoal cluster: Raft log, cluster state, certificate authority, control loops, API.
///
/// The agent of the same host starts and supervises it; it can also be run by hand. It needs no
/// privileges beyond its own state directory.
#[derive(Debug, Parser)]
#[command(name = "shoal-manager", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until told to stop.
    Run(RunOptions),
    /// Let agents obey a manager again that was brought back from an old copy of its state directory.
    ///
    /// Agents obey no leader of an earlier term than one that they have obeyed. This gives a manager that
    /// does not run a higher term than it has, and than the one named by --above. Stop this host's shoal
    /// agent before, and start it again afterwards. Do it only if no other manager of the cluster lives:
    /// what was written after the copy was made is lost, and containers that it does not know are ended.
    RaiseTerm(RaiseTermOptions),
}

/// How far to raise the term.
#[derive(Debug, Clone, Args)]
pub struct RaiseTermOptions {
    /// Where the log, snapshots and credentials are kept.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,

    /// The highest term that an agent has obeyed, as it says when it refuses the manager.
    #[arg(long, value_name = "TERM", default_value_t = 0, hide_default_value = true)]
    pub above: u64,
}

/// Where state is kept if nobody says otherwise.
const STATE_DIR: &str = "/var/lib/shoal/manager";

/// How to serve.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Where the log, snapshots and credentials are kept.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,

    /// Unix socket for the agent of the same host.
    #[arg(long, value_name = "PATH", default_value = "/run/shoal/manager/manager.sock")]
    pub socket: PathBuf,

    /// Address and port to listen on.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:4242")]
    pub listen: String,

    /// Address and port where others reach this manager.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: String,

    /// How log lines are written.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Which log lines are written: off, error, warn, info, debug, trace, or directives such as
    /// info,shoal_manager=debug. A plain info keeps the consensus library to its warnings.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "SHOAL_LOG")]
    pub log_level: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}
