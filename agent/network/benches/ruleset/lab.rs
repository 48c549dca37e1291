//! A host made of a network namespace with two containers, and a device in the place of the tunnel that swallows what
//! is led into it.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;
use shoal_agent_network::{
    AttachRequest, BridgeConfig, BridgeNetworks, Firewall, FirewallError, Netns, NetworkConfig,
    NetworkDriver as _, NftProgram, SubnetConfig,
};
use shoal_agent_planning::network::ruleset::Change;
use shoal_agent_planning::tunnel;

use crate::inside::inside;
use crate::space::{path, run};

/// The network of all services.
const SUBNET: &str = "10.0.0.0/8";
/// Who asks, and who answers.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
pub(crate) const PORT: u16 = 7;

/// The packet filter, and when it had taken the last change.
#[derive(Clone, Default)]
pub(crate) struct Stamp {
    filter: NftProgram,
    last: Arc<Mutex<Option<Instant>>>,
}

impl Stamp {
    pub(crate) fn last(&self) -> Option<Instant> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

type Answer<'a, T> = BoxFuture<'a, Result<T, FirewallError>>;

impl Firewall for Stamp {
    fn apply(&self, script: String) -> Answer<'_, ()> {
        async {
            let done = self.filter.apply(script).await;
            self.set();
            done
        }
        .boxed()
    }

    fn change(&self, table: String, change: Change) -> Answer<'_, ()> {
        async {
            let done = self.filter.change(table, change).await;
            self.set();
            done
        }
        .boxed()
    }

    fn list(&self, table: String) -> Answer<'_, Option<Value>> {
        async { self.filter.list(table).await }.boxed()
    }

    fn gates(&self) -> Answer<'_, Vec<Value>> {
        async { self.filter.gates().await }.boxed()
    }
}

pub(crate) struct Lab {
    host: String,
    client: String,
    server: String,
    dir: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new(number: usize) -> anyhow::Result<Self> {
        let name = |role: &str| format!("shoal-bench-{}-{number}-{role}", std::process::id());
        let (host, client, server) = (name("host"), name("client"), name("server"));
        let lab = Self { host, client, server, dir: tempfile::tempdir()? };
        for space in lab.spaces() {
            run("ip", &["netns", "add", space])?;
            run("ip", &["-n", space, "link", "set", "lo", "up"])?;
        }
        let device = tunnel::ifname("sh");
        run(
            "ip",
            &["-n", &lab.host, "link", "add", &device, "type", "veth", "peer", "name", "sink0"],
        )?;
        run("ip", &["-n", &lab.host, "link", "set", &device, "arp", "off", "up"])?;
        Ok(lab)
    }

    fn spaces(&self) -> [&str; 3] {
        [&self.host, &self.client, &self.server]
    }

    /// Runs something with the host's driver, on threads that are all there. Both containers are connected.
    pub(crate) fn with_driver<T: Send>(
        &self,
        act: impl AsyncFnOnce(&BridgeNetworks, &Stamp) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        inside(&self.host, || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(async {
                let dir = self.dir.path();
                let config = BridgeConfig::new(dir.join("state"), dir.join("run"));
                let stamp = Stamp::default();
                let driver = BridgeNetworks::with_firewall(config, Box::new(stamp.clone()))?;
                let subnets = vec![SubnetConfig::from(SUBNET.parse::<ipnet::IpNet>()?)];
                let id = "all".to_owned();
                let config =
                    NetworkConfig { id, subnets, routed: true, ..NetworkConfig::default() };
                driver.ensure_network(config).await?;
                for (space, address) in [(&self.client, CLIENT), (&self.server, SERVER)] {
                    let request = AttachRequest {
                        container: space.clone(),
                        network: "all".to_owned(),
                        address: Some(address),
                        ..AttachRequest::default()
                    };
                    driver.attach(request, Netns::AtPath(path(space))).await?;
                }
                act(&driver, &stamp).await
            })
        })
    }

    /// Runs a program on the host.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<()> {
        run("ip", &[&["netns", "exec", &self.host, program], args].concat())
    }

    /// Answers every packet, as long as the program runs.
    pub(crate) fn serve(&self) -> anyhow::Result<()> {
        let socket = inside(&self.server, || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?))?;
        thread::spawn(move || {
            if let Err(error) = on_one_processor() {
                println!("{error:#}");
            }
            let mut buffer = [0; 64];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), peer);
            }
        });
        Ok(())
    }

    /// Runs something in the client.
    pub(crate) fn in_client<T: Send>(
        &self,
        act: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        inside(&self.client, act)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for space in self.spaces() {
            let _ = Command::new("ip").args(["netns", "del", space]).status();
        }
    }
}

/// Keeps the thread on one processor: else it would be measured on which of them the scheduler wakes who answers.
pub(crate) fn on_one_processor() -> anyhow::Result<()> {
    let mut first = CpuSet::new();
    first.set(0);
    Ok(sched_setaffinity(None, &first)?)
}
