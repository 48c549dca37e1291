//! The command line of `shoal-agent`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use shoal_agent_planning::tunnel;

/// The name of the program that is started on manager nodes.
const MANAGER_PROGRAM: &str = "shoal-manager";
/// Longest host name (RFC 1035, 2.3.4), in bytes.
const HOSTNAME_MAX: usize = 253;

/// Runs containers on this host and takes part in a shoal cluster.
///
/// One agent runs on every host, as root. It waits on its local socket until `shoalctl init` makes
/// a cluster or `shoalctl join` brings the host into one; from then on it starts and stops what the
/// cluster's managers assign to it. Containers live on when the agent stops or is replaced.
#[derive(Debug, Parser)]
#[command(name = "shoal-agent", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent (what happens without a command, too)
    Run(Box<RunArgs>),
    /// Have the running agent stop all containers in good order, as before a shutdown of the host; it
    /// starts none until it is started again
    StopContainers(SocketArgs),
}

/// Where the running agent is.
#[derive(Debug, Clone, Args)]
pub struct SocketArgs {
    /// Its directory for sockets
    #[arg(long, value_name = "DIR", default_value = "/run/shoal", env = "SHOAL_RUN_DIR")]
    #[arg(value_parser = directory)]
    run_dir: PathBuf,
}

impl SocketArgs {
    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(&self.run_dir)
    }
}

/// What is to be done.
#[derive(Debug)]
pub enum Work {
    /// Run the agent.
    Run(Box<RunArgs>),
    /// Ask the running one to stop all containers.
    StopContainers(SocketArgs),
}

/// The socket for `shoalctl`.
fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}

/// What to tell somebody who types a sub-command that the agent keeps for its own helpers.
#[must_use]
pub fn internal(command: &str) -> String {
    let hint = match command {
        "join" => {
            "to bring this host into a cluster, run `shoalctl join ADDRESS`, which asks for the token"
        }
        _ => "to run the agent, run `shoal-agent run`",
    };
    format!("{command:?} is a command that the agent keeps for itself; {hint}")
}

impl Cli {
    /// What to do, whichever way it was written.
    #[must_use]
    pub fn into_work(self) -> Work {
        match self.command {
            Some(Command::Run(args)) => Work::Run(args),
            Some(Command::StopContainers(args)) => Work::StopContainers(args),
            None => Work::Run(Box::new(self.run)),
        }
    }
}

/// The flags of `shoal-agent run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Directory for what must survive a reboot: credentials, images, volumes, logs
    #[arg(long, value_name = "DIR", default_value = "/var/lib/shoal", env = "SHOAL_STATE_DIR")]
    #[arg(value_parser = directory)]
    pub state_dir: PathBuf,
    /// Directory for sockets and what does not survive a reboot
    #[arg(long, value_name = "DIR", default_value = "/run/shoal", env = "SHOAL_RUN_DIR")]
    #[arg(value_parser = directory)]
    pub run_dir: PathBuf,
    /// Control group above those of the containers; made with the first of them and removed with the
    /// last, unless it was there before
    #[arg(long, value_name = "PATH", default_value = "/shoal", value_parser = cgroup_parent)]
    pub cgroup_parent: String,
    /// What this host is called in the cluster [default: its host name]
    #[arg(long, value_name = "NAME", value_parser = hostname)]
    pub hostname: Option<String>,
    /// A label of this host for placement constraints (`engine.labels.KEY`); may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// The manager program [default: shoal-manager beside this program, else on PATH]
    #[arg(long, value_name = "FILE", value_parser = program)]
    pub manager_binary: Option<PathBuf>,
    /// Whom the manager runs as: a user's name, or `uid[:gid]`
    #[arg(long, value_name = "USER", default_value = "shoal")]
    pub manager_user: String,
    /// A registry to speak plain http to, besides those on loopback addresses; may be repeated
    #[arg(long = "plain-http-registry", value_name = "HOST[:PORT]", value_parser = registry)]
    pub plain_http_registries: Vec<String>,
    /// Hours after which an image that was pulled and that no task uses any more is removed; 0 keeps
    /// all of them. What was loaded by hand stays until it is removed by hand
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    pub unused_image_hours: u16,
    /// This host forwards packets for others than containers too: nothing of theirs is closed, and it
    /// goes on forwarding when it leaves the cluster. Without it, a host that did not forward before does
    /// so for containers alone, and for bridges of others that come to it
    #[arg(long, env = "SHOAL_FORWARDS_FOR_OTHERS")]
    pub forwards_for_others: bool,
    /// Address that other hosts send the packets of containers to [default: where this host's sessions
    /// with managers come from]
    #[arg(long, value_name = "ADDR", env = "SHOAL_DATA_PATH_ADDR")]
    pub data_path_addr: Option<IpAddr>,
    /// UDP port for them
    #[arg(long, value_name = "PORT", default_value_t = tunnel::PORT, env = "SHOAL_DATA_PATH_PORT")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub data_path_port: u16,
    /// Where Prometheus may ask for figures, at `/metrics`, over plain http and without a question who asks: ADDR:PORT, or
    /// PORT of the loopback address [default: nowhere]
    #[arg(long, value_name = "[ADDR:]PORT", env = "SHOAL_METRICS_ADDR", value_parser = metrics_addr)]
    pub metrics_addr: Option<SocketAddr>,
    /// How log lines on standard error look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Least severe level that is logged, here and by the manager: off, error, warn, info, debug,
    /// trace, or directives such as `info,shoal_agent=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "SHOAL_LOG_LEVEL")]
    pub log_level: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object in each line.
    Json,
}

impl LogFormat {
    /// As it is written on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl RunArgs {
    /// The labels by key.
    ///
    /// # Errors
    /// Names the key that was given twice.
    pub fn engine_labels(&self) -> Result<BTreeMap<String, String>, String> {
        let mut labels = BTreeMap::new();
        for (key, value) in &self.labels {
            if labels.insert(key.clone(), value.clone()).is_some() {
                return Err(format!("--label {key}=... is given more than once"));
            }
        }
        Ok(labels)
    }

    /// The manager program to start; looked up each time, as it may be installed later.
    #[must_use]
    pub fn manager_program(&self) -> PathBuf {
        if let Some(path) = &self.manager_binary {
            return path.clone();
        }
        let beside = std::env::current_exe().ok();
        let beside = beside.as_deref().and_then(Path::parent).map(|dir| dir.join(MANAGER_PROGRAM));
        match beside {
            Some(path) if path.is_file() => path,
            _ => PathBuf::from(MANAGER_PROGRAM),
        }
    }

    /// The socket for `shoalctl`.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket(&self.run_dir)
    }
}

/// Supervisors work in directories of their own: a relative path would mean another place there.
fn directory(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

/// A bare name is looked for on `PATH`; the manager does not start in the agent's directory.
fn program(text: &str) -> Result<PathBuf, String> {
    if text.contains('/') { directory(text) } else { Ok(PathBuf::from(text)) }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !key.contains(char::is_whitespace) => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("expected KEY=VALUE with a key without spaces, such as disk=ssd".to_owned()),
    }
}

fn registry(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') || text.contains(char::is_whitespace) {
        return Err("expected HOST or HOST:PORT, such as registry.lan:5000".to_owned());
    }
    Ok(text.to_owned())
}

fn metrics_addr(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    match port.or_else(|_| text.parse()) {
        Ok(addr) if addr.port() != 0 => Ok(addr),
        _ => Err("expected ADDR:PORT, such as 10.0.0.5:9323 or [::1]:9323, or a port".to_owned()),
    }
}

fn hostname(text: &str) -> Result<String, String> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    if text.is_empty() || text.len() > HOSTNAME_MAX || !text.chars().all(plain) {
        return Err(format!("expected 1 to {HOSTNAME_MAX} bytes without spaces"));
    }
    Ok(text.to_owned())
}

fn cgroup_parent(text: &str) -> Result<String, String> {
    let parts = text.strip_prefix('/').unwrap_or("").trim_end_matches('/');
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if parts.split('/').any(odd) || text.contains(char::is_whitespace) {
        return Err("expected an absolute path below the root group, such as /shoal".to_owned());
    }
    Ok(format!("/{parts}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<RunArgs, String> {
        let arguments = std::iter::once("shoal-agent").chain(arguments.iter().copied());
        match Cli::try_parse_from(arguments).map(Cli::into_work) {
            Ok(Work::Run(args)) => Ok(*args),
            Ok(Work::StopContainers(args)) => panic!("runs: {args:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_the_default_command() {
        for arguments in [&["--state-dir", "/s"] as &[&str], &["run", "--state-dir", "/s"]] {
            let args = parse(arguments).expect("valid");
            assert_eq!(args.state_dir, PathBuf::from("/s"));
            assert_eq!(args.run_dir, PathBuf::from("/run/shoal"));
            assert_eq!(args.cgroup_parent, "/shoal");
            assert_eq!(args.socket(), PathBuf::from("/run/shoal/agent.sock"));
        }
    }

    #[test]
    fn paths_are_made_absolute() {
        let args = parse(&["--state-dir", "a/b"]).expect("valid");
        assert_eq!(args.state_dir, std::env::current_dir().expect("one").join("a/b"));
        assert!(parse(&["--run-dir", ""]).is_err());
        for (text, expected) in [("manager", "manager"), ("/bin/manager", "/bin/manager")] {
            let args = parse(&["--manager-binary", text]).expect("valid");
            assert_eq!(args.manager_program(), PathBuf::from(expected));
        }
        let args = parse(&["--manager-binary", "./manager"]).expect("valid");
        assert!(args.manager_program().is_absolute());
    }

    #[test]
    fn labels_are_pairs_and_unique() {
        let args = parse(&["--label", "disk=ssd", "--label", "zone=a=b"]).expect("valid");
        let labels = args.engine_labels().expect("unique");
        assert_eq!(labels["disk"], "ssd");
        assert_eq!(labels["zone"], "a=b");
        let args = parse(&["--label", "disk=ssd", "--label", "disk=hdd"]).expect("valid");
        let error = args.engine_labels().expect_err("twice");
        assert!(error.contains("disk"), "{error}");
    }

    #[test]
    fn figures_are_told_on_loopback_unless_an_address_is_named() {
        for (text, expected) in [
            ("9323", "127.0.0.1:9323"),
            ("0.0.0.0:9323", "0.0.0.0:9323"),
            ("[::1]:9323", "[::1]:9323"),
        ] {
            let args = parse(&["--metrics-addr", text]).expect("valid");
            assert_eq!(args.metrics_addr, Some(expected.parse().expect("one")));
        }
        assert_eq!(parse(&[]).expect("valid").metrics_addr, None);
    }

    #[test]
    fn nonsense_is_refused_with_what_was_expected() {
        let table: [(&[&str], &str); 11] = [
            (&["--metrics-addr", "web:9323"], "ADDR:PORT"),
            (&["--metrics-addr", "10.0.0.5"], "ADDR:PORT"),
            (&["--metrics-addr", "0"], "ADDR:PORT"),
            (&["--label", "disk"], "KEY=VALUE"),
            (&["--label", "=x"], "KEY=VALUE"),
            (&["--plain-http-registry", "http://a"], "HOST:PORT"),
            (&["--cgroup-parent", "shoal"], "absolute path"),
            (&["--cgroup-parent", "/"], "absolute path"),
            (&["--cgroup-parent", "/a/../b"], "absolute path"),
            (&["--hostname", "a b"], "without spaces"),
            (&["--log-format", "xml"], "json"),
        ];
        for (arguments, expected) in table {
            let error = parse(arguments).expect_err("refused");
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
