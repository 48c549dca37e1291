//! What leads from one host to the other.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use gotatun::device::DeviceBuilder;
use gotatun::device::uapi::UapiServer;
use shoal_agent_container::ProcessIdentity;
use shoal_agent_planning::tunnel::{Desired, MTU, Side, TunnelPeer};
use shoal_agent_tunnel::{Tunnel as _, TunnelConfig, Tunnels};
use shoal_types::object::TunnelKind;

use crate::lab::{Host, Lab, joined};

/// The sub-command of gotatun with its own transports.
pub(crate) const PLAIN: &str = "gotatun";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Shoal,
    /// What our process is made of, as it comes.
    Gotatun,
    WireguardGo,
    Vxlan,
    /// The wire itself.
    Bare,
}

impl Way {
    pub(crate) const ALL: [Self; 5] =
        [Self::Shoal, Self::Gotatun, Self::WireguardGo, Self::Vxlan, Self::Bare];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shoal => "shoal",
            Self::Gotatun => PLAIN,
            Self::WireguardGo => "wireguard-go",
            Self::Vxlan => "vxlan",
            Self::Bare => "bare",
        }
    }

    /// Its network.
    pub(crate) fn net(self) -> u8 {
        match self {
            Self::Shoal => 9,
            Self::Gotatun => 8,
            Self::WireguardGo => 7,
            Self::Vxlan => 6,
            Self::Bare => 100,
        }
    }

    /// Whether processes of its own do.
    pub(crate) fn encrypts(self) -> bool {
        matches!(self, Self::Shoal | Self::Gotatun | Self::WireguardGo)
    }

    /// Whether the stream through it is of interest.
    pub(crate) fn carries(self) -> bool {
        self != Self::Bare
    }

    pub(crate) fn set_up(self, lab: &Lab) -> anyhow::Result<()> {
        match self {
            Self::Shoal => self.shoal(lab),
            Self::Gotatun => self.wireguard(lab, &std::env::current_exe()?, &[PLAIN], 51821),
            Self::WireguardGo => self.wireguard(lab, Path::new("wireguard-go"), &["-f"], 51822),
            Self::Vxlan => self.vxlan(lab),
            Self::Bare => Ok(()),
        }
        .with_context(|| format!("setting up {}", self.name()))
    }

    fn shoal(self, lab: &Lab) -> anyhow::Result<()> {
        const PORT: u16 = 51820;
        let open = |host: &Host| {
            let dir = lab.dir(host);
            let config = TunnelConfig {
                ifname: "shwg0".to_owned(),
                side: Side::First,
                state_dir: dir.join("state"),
                run_dir: dir.join("run"),
                program: std::env::current_exe()?,
                kind: Some(TunnelKind::Userspace),
            };
            joined(host.enter(move || Ok(Tunnels::open(config)?)))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let [one, two] = &lab.hosts;
        let tunnels = [open(one)?, open(two)?];
        for (host, own, other, peer) in
            [(one, &tunnels[0], two, &tunnels[1]), (two, &tunnels[1], one, &tunnels[0])]
        {
            let allowed = [IpAddr::from(other.at(self.net())).into()].into();
            let endpoint = SocketAddr::from((other.at(Self::Bare.net()), PORT));
            let key = runtime.block_on(peer.turn(0))?.public_key;
            runtime.block_on(own.turn(0))?;
            let peers = [(key, TunnelPeer { endpoint, allowed, keepalive: None })];
            let desired =
                Desired { listen_port: PORT, mtu: MTU, address: None, peers: peers.into() };
            runtime.block_on(own.ensure(desired))?;
            let text = fs::read(lab.dir(host).join("run/tunnel.pid"))?;
            let process: ProcessIdentity = serde_json::from_slice(&text)?;
            lab.started(self.name(), process.pid);
            host.address("shwg0", self.net())?;
        }
        Ok(())
    }

    /// What `wg` configures.
    fn wireguard(self, lab: &Lab, program: &Path, args: &[&str], port: u16) -> anyhow::Result<()> {
        let keys = [key(lab, self, &lab.hosts[0])?, key(lab, self, &lab.hosts[1])?];
        for (number, host) in lab.hosts.iter().enumerate() {
            let other = &lab.hosts[1 - number];
            // Sockets of all hosts of the machine are in one directory.
            let ifname = format!("sb{}{}", self.net(), host.number);
            let socket = format!("/var/run/wireguard/{ifname}.sock");
            let _ = fs::remove_file(&socket);
            let mut command = host.command(program);
            let child = command.args(args).arg(&ifname).stdout(Stdio::null()).stderr(Stdio::null());
            let child = child.spawn().with_context(|| format!("starting {}", program.display()))?;
            lab.started(self.name(), i32::try_from(child.id())?);
            let until = Instant::now() + Duration::from_secs(10);
            while UnixStream::connect(&socket).is_err() {
                if Instant::now() > until {
                    bail!("{} makes no {socket}", program.display());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let private = lab.dir(host).join(self.name());
            let private = private.to_str().context("no name")?;
            let (port, mtu) = (port.to_string(), MTU.to_string());
            let endpoint = format!("{}:{port}", other.at(Self::Bare.net()));
            let allowed = format!("{}/32", other.at(self.net()));
            let set = ["set", &ifname, "private-key", private, "listen-port", &port, "peer"];
            let peer = [&keys[1 - number][..], "endpoint", &endpoint, "allowed-ips", &allowed];
            host.run("wg", &[&set[..], &peer[..]].concat())?;
            host.ip(&["link", "set", &ifname, "mtu", &mtu])?;
            host.address(&ifname, self.net())?;
        }
        Ok(())
    }

    fn vxlan(self, lab: &Lab) -> anyhow::Result<()> {
        for (number, host) in lab.hosts.iter().enumerate() {
            let local = host.at(Self::Bare.net()).to_string();
            let remote = lab.hosts[1 - number].at(Self::Bare.net()).to_string();
            let link = ["link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789"];
            host.ip(&[&link[..], &["local", &local, "remote", &remote, "dev", "up0"]].concat())?;
            host.address("vx0", self.net())?;
        }
        Ok(())
    }
}

/// Makes a private key for a host, and says the public one.
fn key(lab: &Lab, way: Way, host: &Host) -> anyhow::Result<String> {
    let private = Command::new("wg").arg("genkey").output().context("running wg")?.stdout;
    fs::create_dir_all(lab.dir(host))?;
    let path = lab.dir(host).join(way.name());
    fs::write(&path, private)?;
    let public = Command::new("wg").arg("pubkey").stdin(fs::File::open(&path)?).output()?.stdout;
    Ok(String::from_utf8(public)?.trim().to_owned())
}

/// Gotatun with its own transports, until it is killed.
pub(crate) fn plain(ifname: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let uapi = UapiServer::default_unix_socket(ifname, None, None);
        let uapi = uapi.map_err(|error| anyhow::anyhow!("{error}"))?;
        let builder = DeviceBuilder::new().with_default_udp().with_uapi(uapi).create_tun(ifname)?;
        let mut device = builder.build().await?;
        device.wait().await;
        Ok(())
    })
}
