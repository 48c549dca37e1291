//! What hosts share: the switch, the registry, the programs, one directory.

use std::fs::{self, OpenOptions};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::process::{Belongs, kill_all};
use super::{Host, all, command, netns, remove_tree, sweep};
use crate::eventually::within;

/// The switch's own address; the registry and whoever looks from outside are there.
pub const SWITCH_ADDRESS: &str = "10.99.0.1";
/// Where hosts find the registry.
pub const REGISTRY: &str = "10.99.0.1:5000";
/// Where hosts find a registry that wants a password, if a test starts one.
pub const PRIVATE_REGISTRY: &str = "10.99.0.1:5001";
const NAMES: [&str; 3] = ["shoal-manager", "shoal-agent", "shoalctl"];

/// A switch with hosts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lab {
    /// Begins the name of everything that belongs to it; its own on this machine.
    pub name: String,
    /// Everything of it on disk.
    pub dir: PathBuf,
    /// The hosts, in order.
    pub hosts: Vec<Host>,
}

/// Where the programs under test are.
#[derive(Debug, Clone)]
pub struct Programs(PathBuf);

impl Programs {
    /// In a directory.
    ///
    /// # Errors
    /// Names the first that is missing.
    pub fn at(dir: PathBuf) -> Result<Self> {
        match NAMES.iter().find(|name| !dir.join(name).is_file()) {
            Some(missing) => bail!(
                "{missing} is not in {}; build it with: cargo build --workspace --bins",
                dir.display()
            ),
            None => Ok(Self(dir)),
        }
    }

    /// In `SHOAL_BIN_DIR`, else beside the running program, where cargo puts them.
    ///
    /// # Errors
    /// As [`Programs::at`].
    pub fn find() -> Result<Self> {
        if let Some(dir) = std::env::var_os("SHOAL_BIN_DIR") {
            return Self::at(dir.into());
        }
        let own = std::env::current_exe().context("find the running program")?;
        let dir = own.parent().context("the running program has no directory")?;
        let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
        Self::at(dir.to_owned())
    }
}

pub(super) fn switch(lab: &str) -> String {
    format!("{lab}-sw")
}

impl Lab {
    /// Names, and a directory with the programs; nothing runs yet. Without a `dir`, it is one that
    /// [`sweep`](super::sweep) knows. The user of the managers has to be able to reach it.
    ///
    /// # Errors
    /// When the directory cannot be made or the programs cannot be put into it.
    pub fn prepare(dir: Option<&Path>, hosts: usize, programs: &Programs) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-{number}", sweep::PREFIX, std::process::id());
        let dir = dir.map_or_else(|| sweep::root().join(&name), Path::to_owned);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let mut lab = Self { name, dir, hosts: Vec::new() };
        lab.hosts = (1..=hosts).map(|number| Host::new(&lab, number)).collect();
        fs::create_dir_all(lab.programs())?;
        for name in NAMES {
            // Copies: a build in the meantime changes nothing here, and the managers' user can
            // reach them.
            let (from, to) = (programs.0.join(name), lab.programs().join(name));
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
            }
        }
        Ok(lab)
    }

    /// Makes the switch and starts the registry.
    ///
    /// # Errors
    /// When something of it fails.
    pub fn power_on(&self) -> Result<()> {
        let switch = self.switch();
        netns::add(&switch)?;
        netns::ip(&format!("-n {switch} link add br0 type bridge"))?;
        netns::ip(&format!("-n {switch} addr add {SWITCH_ADDRESS}/24 dev br0"))?;
        netns::ip(&format!("-n {switch} link set br0 up"))?;
        self.start_registry()
    }

    fn start_registry(&self) -> Result<()> {
        let dir = self.dir.join("registry");
        fs::create_dir_all(&dir)?;
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {}/data\n  delete:\n    enabled: true\n\
             http:\n  addr: {REGISTRY}\n",
            dir.display(),
        );
        fs::write(&config, text)?;
        let log = || OpenOptions::new().create(true).append(true).open(dir.join("log"));
        let mut command = Command::new("setsid");
        command.args(["-f", "nsenter"]).arg(self.net_argument());
        command.args(["docker-registry", "serve"]).arg(&config);
        command.stdin(Stdio::null()).stdout(log()?).stderr(log()?);
        command.status().context("start setsid")?;
        let connect = || Ok(TcpStream::connect(REGISTRY).map(|_| ())?);
        self.inside(|| within(Duration::from_secs(20), connect)).with_context(|| {
            let said = fs::read_to_string(dir.join("log")).unwrap_or_default();
            format!("the registry does not listen on {REGISTRY}: {said}")
        })
    }

    /// The name of the switch's network namespace.
    #[must_use]
    pub fn switch(&self) -> String {
        switch(&self.name)
    }

    fn net_argument(&self) -> String {
        format!("--net={}", netns::path(&self.switch()).display())
    }

    /// The directory with the programs.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// The directory with the contexts of the lab's user.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    /// Runs a closure where the switch is.
    ///
    /// # Errors
    /// As the closure.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        netns::inside(&self.switch(), work)
    }

    /// A command that will run where the switch is.
    #[must_use]
    pub fn on_switch(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(self.net_argument()).arg("--").arg(program.as_ref());
        command
    }

    /// `shoalctl` as the lab's user, on the switch, with the agent of one of the hosts.
    #[must_use]
    pub fn ctl(&self, host: &Host) -> Command {
        let mut command = self.on_switch(self.programs().join("shoalctl"));
        command.env("SHOAL_CONFIG", self.config()).env("SHOAL_AGENT_SOCKET", host.socket());
        command.env_remove("SHOAL_CONTEXT").env("NO_COLOR", "1");
        command.env("DOCKER_CONFIG", self.dir.join("docker"));
        command
    }

    /// A host by its name.
    ///
    /// # Errors
    /// Names those that there are.
    pub fn host(&self, name: &str) -> Result<&Host> {
        let names = || self.hosts.iter().map(|h| h.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.hosts.iter().find(|host| host.name == name);
        found.with_context(|| format!("there is no host {name}: known are {}", names()))
    }

    /// Removes everything, the directory too. Goes on after failures.
    ///
    /// # Errors
    /// Names all that could not be removed.
    pub fn remove(&self) -> Result<()> {
        let mut steps: Vec<Result<()>> = self.hosts.iter().map(Host::remove).collect();
        let switch = netns::path(&self.switch());
        steps.push(kill_all(Belongs { netns: Some(&switch), cgroup: None, dir: &self.dir }));
        steps.push(netns::remove(&self.switch()));
        steps.push(remove_tree(&self.dir));
        steps.push(self.nothing_left());
        all(steps)
    }

    /// Looks for anything of the lab that is still there.
    ///
    /// # Errors
    /// Names it.
    pub fn nothing_left(&self) -> Result<()> {
        let mut left = sweep::namespaces(&self.name);
        left.extend(super::cgroup::beginning_with(&self.name));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.to_string_lossy();
        left.extend(mounts.lines().filter(|l| l.contains(&*dir)).map(|l| format!("mount {l}")));
        if self.dir.exists() {
            left.push(dir.into_owned());
        }
        let links = command::run(Command::new("ip").args(["-o", "link"]), Duration::from_secs(20))?;
        left.extend(links.out.lines().filter(|l| l.contains(&self.name)).map(str::to_owned));
        if !left.is_empty() {
            bail!("left behind: {}", left.join("; "));
        }
        Ok(())
    }
}
