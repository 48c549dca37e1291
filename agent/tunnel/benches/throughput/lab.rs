//! Two hosts made of network namespaces, and a wire between them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, bail};

use crate::space::{move_into, run};

/// The hosts. What they run goes with them.
pub(crate) struct Lab {
    pub(crate) hosts: [Host; 2],
    dir: tempfile::TempDir,
    /// Processes to end, with the way that they are for.
    processes: Mutex<Vec<(&'static str, i32)>>,
}

impl Lab {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let hosts = [Host::new(1)?, Host::new(2)?];
        let lab = Self { hosts, dir, processes: Mutex::new(Vec::new()) };
        let [one, two] = &lab.hosts;
        one.ip(&[
            "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", &two.space,
        ])?;
        for host in &lab.hosts {
            host.address("up0", 100)?;
        }
        Ok(lab)
    }

    /// A directory for a host.
    pub(crate) fn dir(&self, host: &Host) -> PathBuf {
        self.dir.path().join(&host.space)
    }

    pub(crate) fn started(&self, way: &'static str, pid: i32) {
        if let Ok(mut processes) = self.processes.lock() {
            processes.push((way, pid));
        }
    }

    /// Seconds of processor time that the processes of a way have had so far, in all their threads.
    pub(crate) fn cpu(&self, way: &str) -> anyhow::Result<f64> {
        let processes = self.processes.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
        let mut nanoseconds = 0;
        for (_, pid) in processes.iter().filter(|(name, _)| *name == way) {
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                let text = fs::read_to_string(thread?.path().join("schedstat"))?;
                let on: u64 = text.split(' ').next().context("no schedstat")?.parse()?;
                nanoseconds += on;
            }
        }
        Ok(nanoseconds as f64 / 1e9)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (_, pid) in self.processes.lock().map(|found| found.clone()).unwrap_or_default() {
            let pid = rustix::process::Pid::from_raw(pid);
            let _ =
                pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
    }
}

pub(crate) struct Host {
    pub(crate) number: u8,
    space: String,
}

impl Host {
    fn new(number: u8) -> anyhow::Result<Self> {
        let space = format!("shoal-bench-{}-{number}", std::process::id());
        run("ip", &["netns", "add", &space])?;
        let host = Self { number, space };
        host.ip(&["link", "set", "lo", "up"])?;
        Ok(host)
    }

    /// In the network of this number.
    pub(crate) fn at(&self, net: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, net, 0, self.number)
    }

    pub(crate) fn address(&self, ifname: &str, net: u8) -> anyhow::Result<()> {
        self.ip(&["address", "add", &format!("{}/24", self.at(net)), "dev", ifname])?;
        self.ip(&["link", "set", ifname, "up"])
    }

    pub(crate) fn ip(&self, args: &[&str]) -> anyhow::Result<()> {
        run("ip", &[&["-n", &self.space], args].concat())
    }

    /// Runs a program inside, to its end.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<()> {
        run("ip", &[&["netns", "exec", &self.space, program], args].concat())
    }

    /// A program that stays.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space]).arg(program);
        command
    }

    /// Calls a function inside, on a thread of its own.
    pub(crate) fn enter<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> JoinHandle<anyhow::Result<T>> {
        let space = self.space.clone();
        thread::spawn(move || {
            move_into(&space)?;
            act()
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.space]).status();
    }
}

pub(crate) fn joined<T>(thread: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().unwrap_or_else(|_| bail!("a thread has panicked"))
}
