//! Test hosts: network namespaces on one switch, each with its own mounts, directories and control
//! group, that run the real `shoal-agent`.
//!
//! A [`Lab`] is the switch and what is shared; a [`Host`] is one machine in it. Both are plain
//! values that can be written down and read again: what runs is found by where it runs. Nothing is
//! linked to the machine's own network, so nothing leaves it.

mod cgroup;
mod command;
mod inventory;
mod lab;
mod netns;
mod process;
mod sweep;

use std::fs::{self, OpenOptions};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

pub use command::{Said, run, succeed};
pub use inventory::Inventory;
pub use lab::{Lab, PRIVATE_REGISTRY, Programs, REGISTRY, SWITCH_ADDRESS};
pub use netns::inside;
pub use process::Process;
pub use sweep::sweep;

use crate::eventually::within;
use process::Belongs;

/// How long an agent may take to open its socket, and a holder to start.
const START: Duration = Duration::from_secs(30);

/// One machine of a lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    /// Its host name: `h1`, `h2`, ...
    pub name: String,
    /// Its address on the switch.
    pub address: String,
    /// Everything of it on disk.
    pub dir: PathBuf,
    lab: String,
    programs: PathBuf,
    labels: Vec<String>,
}

impl Host {
    fn new(lab: &Lab, number: usize) -> Self {
        let name = format!("h{number}");
        Self {
            address: format!("10.99.0.{}", 10 + number),
            dir: lab.dir.join(&name),
            lab: lab.name.clone(),
            programs: lab.programs(),
            labels: vec![format!("host={name}")],
            name,
        }
    }

    /// The name of its network namespace.
    #[must_use]
    pub fn netns(&self) -> String {
        format!("{}-{}", self.lab, self.name)
    }

    /// The control group above its containers.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("/{}-{}", self.lab, self.name)
    }

    /// What survives a reboot.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// What does not.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Where its agent listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("agent.sock")
    }

    /// What its agent says; the manager says it there, too.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Switches the machine on: a fresh network, an empty run directory, the agent. What an
    /// earlier boot left is gone, as after a real one.
    ///
    /// # Errors
    /// When something of it fails; the agent's last words are in the message.
    pub fn boot(&self) -> Result<()> {
        self.kill()?;
        remove_tree(&self.run_dir())?;
        for dir in [&self.dir, &self.state_dir(), &self.run_dir()] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let (netns, switch) = (self.netns(), lab::switch(&self.lab));
        let port = &self.name;
        // The kernel takes links down with their namespace, but later.
        netns::ip(&format!("-n {switch} link delete {port}")).ok();
        netns::remove(&netns)?;
        netns::add(&netns)?;
        // A host keeps its hardware address when it boots again; with another one its neighbours
        // would talk to the old one for as long as they remember it, up to 45 s.
        let last: u8 = self.address.rsplit('.').next().unwrap_or_default().parse()?;
        let mac = format!("02:00:0a:63:00:{last:02x}");
        let peer = format!("peer name eth0 address {mac} netns {netns}");
        netns::ip(&format!("-n {switch} link add {port} type veth {peer}"))?;
        netns::ip(&format!("-n {switch} link set {port} master br0 up"))?;
        netns::ip(&format!("-n {netns} addr add {}/24 dev eth0", self.address))?;
        netns::ip(&format!("-n {netns} link set eth0 up"))?;
        netns::ip(&format!("-n {netns} route add default via {SWITCH_ADDRESS}"))?;
        self.hold()?;
        self.start_agent()
    }

    /// A process that keeps the host's mount namespace, as init does on a real one.
    fn hold(&self) -> Result<()> {
        let script = format!("echo $$ >{}; exec sleep infinity", self.holder_file().display());
        let netns = format!("--net={}", netns::path(&self.netns()).display());
        let words = ["-f", "nsenter", &netns, "unshare", "--mount", "sh", "-c", &script];
        let mut command = Command::new("setsid");
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().context("start setsid")?;
        if !status.success() {
            bail!("cannot make the mount namespace of {}", self.name);
        }
        within(START, || self.holder()).map(|_| ())
    }

    fn holder_file(&self) -> PathBuf {
        self.dir.join("holder.pid")
    }

    fn holder(&self) -> Result<i32> {
        let text = fs::read_to_string(self.holder_file()).context("read the holder's pid")?;
        let pid: i32 = text.trim().parse().context("the holder's pid")?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if !command.starts_with(b"sleep") {
            bail!("{} is not up", self.name);
        }
        Ok(pid)
    }

    /// A command that will run on this host: in its network and with its mounts.
    ///
    /// # Errors
    /// When the host is not up.
    pub fn command(&self, program: impl AsRef<Path>) -> Result<Command> {
        let holder = self.holder()?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", netns::path(&self.netns()).display()))
            .arg(format!("--mount=/proc/{holder}/ns/mnt"))
            .arg("--")
            .arg(program.as_ref());
        Ok(command)
    }

    /// Starts the agent and waits until it listens.
    ///
    /// # Errors
    /// With the agent's last words.
    pub fn start_agent(&self) -> Result<()> {
        self.start_agent_with(&[])
    }

    /// The same with more in its environment.
    ///
    /// # Errors
    /// With the agent's last words.
    pub fn start_agent_with(&self, environment: &[(&str, &str)]) -> Result<()> {
        let log = || OpenOptions::new().create(true).append(true).open(self.log());
        let mut command = Command::new("setsid");
        let inner = self.command(self.programs.join("shoal-agent"))?;
        command.arg("-f").arg(inner.get_program()).args(inner.get_args());
        command.arg("run");
        command.arg("--state-dir").arg(self.state_dir()).arg("--run-dir").arg(self.run_dir());
        command.args(["--cgroup-parent", &self.cgroup(), "--hostname", &self.name]);
        command.args(["--manager-user", "nobody"]);
        for registry in [REGISTRY, PRIVATE_REGISTRY] {
            command.args(["--plain-http-registry", registry]);
        }
        command.arg("--manager-binary").arg(self.programs.join("shoal-manager"));
        for label in &self.labels {
            command.args(["--label", label]);
        }
        command.envs(environment.iter().copied());
        let ready = self.notified(&mut command)?;
        command.stdin(Stdio::null()).stdout(log()?).stderr(log()?);
        let status = command.status().context("start setsid")?;
        if !status.success() {
            bail!("cannot start the agent of {}", self.name);
        }
        let mut said = [0; 256];
        let listens = ready.recv(&mut said).context("it does not say that it is ready");
        let listens = listens.and_then(|len| {
            let said = String::from_utf8_lossy(&said[..len]);
            anyhow::ensure!(said.contains("READY=1"), "it says {said:?}");
            UnixStream::connect(self.socket()).context("ready, it does not listen").map(drop)
        });
        listens.with_context(|| {
            format!("the agent of {} does not come; its log:\n{}", self.name, self.last_words())
        })
    }

    /// Where a service manager would hear that the agent is ready (sd_notify(3)).
    fn notified(&self, command: &mut Command) -> Result<UnixDatagram> {
        let path = self.dir.join("notify.sock");
        fs::remove_file(&path).ok();
        let socket = UnixDatagram::bind(&path).context("make the socket for notifications")?;
        socket.set_read_timeout(Some(START)).context("bound the wait")?;
        command.env("NOTIFY_SOCKET", &path);
        Ok(socket)
    }

    /// The end of the agent's log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// All processes of the host, but for the one that holds its namespaces.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let holder = self.holder().unwrap_or(0);
        let (netns, cgroup) = (netns::path(&self.netns()), self.cgroup());
        let belongs = Belongs { netns: Some(&netns), cgroup: Some(&cgroup), dir: &self.dir };
        let mut found = process::list(belongs);
        found.retain(|p| p.pid != holder);
        found
    }

    /// The process of the host that is meant by a role.
    ///
    /// # Errors
    /// When there is none, or are several.
    pub fn the(&self, role: Role) -> Result<Process> {
        let mut found: Vec<_> = self.processes().into_iter().filter(|p| role.is(p)).collect();
        // What it has just forked looks like it until it executes something else.
        let pids: Vec<i32> = found.iter().map(|p| p.pid).collect();
        found.retain(|p| process::parent(p.pid).is_none_or(|parent| !pids.contains(&parent)));
        match (found.pop(), found.is_empty()) {
            (Some(process), true) => Ok(process),
            (None, _) => bail!("{} has no {role:?}", self.name),
            (Some(_), false) => bail!("{} has several of {role:?}", self.name),
        }
    }

    /// The supervisors of the host's containers.
    #[must_use]
    pub fn supervisors(&self) -> Vec<Process> {
        self.processes().into_iter().filter(is_supervisor).collect()
    }

    /// Sends SIGKILL to one of the host's own programs.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub fn crash(&self, role: Role) -> Result<()> {
        let process = self.the(role)?;
        process::kill_whole(process.pid, START).with_context(|| format!("end {process:?}"))
    }

    /// Pulls the plug: everything that runs on the host ends at once, its link goes down.
    ///
    /// # Errors
    /// When something cannot be ended.
    pub fn kill(&self) -> Result<()> {
        self.set_link(false).ok();
        let (netns, cgroup) = (netns::path(&self.netns()), self.cgroup());
        process::kill_all(Belongs { netns: Some(&netns), cgroup: Some(&cgroup), dir: &self.dir })?;
        within(START, || match cgroup::remove(&cgroup) {
            left if left.is_empty() => Ok(()),
            left => bail!("control groups cannot be removed: {left:?}"),
        })
    }

    /// Takes the host's link up or down; what runs on it goes on.
    ///
    /// # Errors
    /// When the host has no link.
    pub fn set_link(&self, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        netns::ip(&format!("-n {} link set {} {state}", lab::switch(&self.lab), self.name))?;
        Ok(())
    }

    /// Removes the host with everything of it on disk. Goes on after failures.
    ///
    /// # Errors
    /// Names all that could not be removed.
    pub fn remove(&self) -> Result<()> {
        let steps = [self.kill(), netns::remove(&self.netns()), remove_tree(&self.dir)];
        all(steps)
    }
}

/// Sends SIGKILL to one process.
pub fn kill(pid: i32) {
    process::signal(pid, Signal::KILL);
}

/// A program of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The agent.
    Agent,
    /// The manager.
    Manager,
}

impl Role {
    fn is(self, process: &Process) -> bool {
        match self {
            Self::Agent => process.program() == "shoal-agent" && !is_helper(process),
            Self::Manager => process.program() == "shoal-manager",
        }
    }
}

/// Whether it is a process of the agent's that outlives it.
fn is_helper(process: &Process) -> bool {
    is_supervisor(process) || process.command.split(' ').nth(1) == Some("tunnel")
}

fn is_supervisor(process: &Process) -> bool {
    process.command.split(' ').nth(1) == Some("supervise")
}

/// The outcome of steps that all were tried.
fn all(steps: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let failures: Vec<String> =
        steps.into_iter().filter_map(Result::err).map(|e| format!("{e:#}")).collect();
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(())
}

/// Removes a directory with all in it. One that does not exist is no error.
fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}
