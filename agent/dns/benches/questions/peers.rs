//! Who answers.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use shoal_agent_dns::{ADDRESS, Asker, Names};
use shoal_agent_planning::zone::{Change, Claim, Zone, ZoneNetwork};

const DNSMASQ: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 53);
const NETWORK: &str = "n1";
/// How long is waited until somebody answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// One that answers.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddrV4,
    pid: i32,
}

impl Peer {
    /// What it has spent so far, what the kernel did for it included (proc_pid_stat(5)).
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<_, _>>()?;
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    pub(crate) fn rss_mib(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
        Ok(kib.parse::<f64>()? / 1024.0)
    }
}

/// A namespace in which both answer, and what is asked.
pub(crate) struct Lab {
    space: File,
    dnsmasq: Child,
    names: Names,
    peers: [Peer; 2],
    questions: Vec<Vec<u8>>,
    _dir: tempfile::TempDir,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.names.end();
        let _ = self.dnsmasq.kill();
        let _ = self.dnsmasq.wait();
    }
}

fn service(number: u16) -> (String, Ipv4Addr) {
    let [high, low] = number.to_be_bytes();
    (format!("service{number}"), Ipv4Addr::new(10, 0, high, low))
}

fn space() -> anyhow::Result<File> {
    let make = || {
        shoal_agent_container::sys::process::unshare(UnshareFlags::NEWNET)?;
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
        ensure!(up.success(), "cannot set up the loopback interface");
        Ok(File::open("/proc/thread-self/ns/net")?)
    };
    thread::spawn(make).join().unwrap_or_else(|_| bail!("a thread has panicked"))
}

fn inside<T: Send>(
    space: &File,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let enter = || {
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join())
        .unwrap_or_else(|_| bail!("a thread has panicked"))
}

impl Lab {
    pub(crate) fn new(count: u16) -> anyhow::Result<Self> {
        let (space, dir) = (space()?, tempfile::tempdir()?);
        let services: Vec<_> = (1..=count).map(service).collect();
        let mut hosts = String::new();
        for (name, address) in &services {
            writeln!(hosts, "{address} {name}")?;
        }
        let file = dir.path().join("hosts");
        fs::write(&file, hosts)?;
        let dnsmasq = inside(&space, || {
            Command::new("dnsmasq")
                .args([
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--no-resolv",
                    "--no-hosts",
                ])
                .args(["--user=root", "--pid-file=", "--bind-interfaces", "--local-ttl=1"])
                .arg(format!("--listen-address={}", DNSMASQ.ip()))
                .arg(format!("--addn-hosts={}", file.display()))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("start dnsmasq, of Debian's package dnsmasq-base")
        })?;
        let names = names(&space, dir.path().join("names.sock"), &services)?;
        let questions =
            services.iter().map(|(name, _)| question(name)).collect::<anyhow::Result<_>>()?;
        let ours = pid_of_names()?;
        let peers = [("shoal", ADDRESS, ours), ("dnsmasq", DNSMASQ, i32::try_from(dnsmasq.id())?)]
            .map(|(name, address, pid)| Peer { name, address, pid });
        let lab = Self { space, dnsmasq, names, peers, questions, _dir: dir };
        lab.wait()?;
        Ok(lab)
    }

    pub(crate) fn peers(&self) -> &[Peer; 2] {
        &self.peers
    }

    pub(crate) fn questions(&self) -> &[Vec<u8>] {
        &self.questions
    }

    /// Does something where both answer.
    pub(crate) fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        inside(&self.space, work)
    }

    /// Until both answer.
    fn wait(&self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        for peer in &self.peers {
            let ask = || super::flood(peer.address, &self.questions, Duration::from_millis(100));
            // Nobody listens yet: that is refused.
            while !self.inside(ask).is_ok_and(|flooded| flooded.answers > flooded.wrong) {
                ensure!(Instant::now() < until, "{} does not answer", peer.name);
            }
        }
        Ok(())
    }
}

/// Our process, which knows the services.
fn names(space: &File, socket: PathBuf, services: &[(String, Ipv4Addr)]) -> anyhow::Result<Names> {
    let names = Names::open(socket, shoal_agent_dns::start(File::open(std::env::current_exe()?)?));
    let zone = |_: &Zone| {
        let mut zone = Zone::default();
        let subnets = "10.0.0.0/16".parse().into_iter().collect();
        let network = ZoneNetwork { name: "net".to_owned(), subnets };
        zone.take(Change::Network { id: NETWORK.to_owned(), network });
        for (name, address) in services {
            let claim = Claim::of_service(name, &BTreeSet::new(), NETWORK, (*address).into());
            zone.take(Change::Claims { owner: name.clone(), claims: vec![claim] });
        }
        zone
    };
    names.know(zone)?;
    let asker = Asker {
        container: "c1".to_owned(),
        networks: vec![NETWORK.to_owned()],
        ..Asker::default()
    };
    names.serve(asker, &PathBuf::from(format!("/proc/self/fd/{}", space.as_raw_fd())))?;
    Ok(names)
}

fn question(name: &str) -> anyhow::Result<Vec<u8>> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}."))?, RecordType::A));
    Ok(message.to_vec()?)
}

/// The process that this one has started to answer: its child that is not dnsmasq.
fn pid_of_names() -> anyhow::Result<i32> {
    let own = std::process::id();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<i32>() else { continue };
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        let is_child = parent.and_then(|pid| pid.trim().parse::<u32>().ok()) == Some(own);
        if is_child && command.starts_with(b"shoal-agent\0names\0") {
            return Ok(pid);
        }
    }
    bail!("no process answers names")
}
