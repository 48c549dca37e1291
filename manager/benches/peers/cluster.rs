//! A manager, and what a user does.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use shoal_manager::config::{Cli, Command as Word};
use shoal_manager::server;
use shoal_manager_state::testing::{global_spec, service_spec};
use shoal_proto::v1 as pb;
use shoal_proto::v1::bootstrap_client::BootstrapClient;
use shoal_proto::v1::control_client::ControlClient;
use shoal_transport::{
    Credentials, LiveCredentials, MANAGER_NAME, PrivateKey, client_channel, unix_channel,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::agents::description;

/// Tasks of the service that few see.
pub(crate) const FEW: u64 = 10;
/// A clock tick, in hundredths of a second (`sysconf(_SC_CLK_TCK)`).
const TICKS: u64 = 100;

/// This program as a manager: as the real one, with another name.
pub(crate) fn manage() -> Result<()> {
    let Word::Run(options) = Cli::parse().command else { anyhow::bail!("expected run") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(server::run(options, CancellationToken::new()))
}

pub(crate) struct Cluster {
    manager: Running,
    control: ControlClient<Channel>,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    _dir: tempfile::TempDir,
}

/// Killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Cluster {
    pub(crate) async fn start() -> Result<Self> {
        // A descriptor for each node, here and there.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let all = rustix::process::Rlimit { current: limit.maximum, ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, all)?;
        let dir = tempfile::tempdir()?;
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let socket = dir.path().join("manager.sock");
        let manager = Command::new(std::env::current_exe()?)
            .arg("run")
            .args([Path::new("--state-dir"), dir.path(), Path::new("--socket"), &socket])
            .args(["--listen", &address.to_string(), "--advertise", &address.to_string()])
            .env("RUST_LOG", "error")
            .spawn()
            .map(Running)?;
        let (node_key, admin_key) = (PrivateKey::generate()?, PrivateKey::generate()?);
        let request = pb::BootstrapRequest {
            node_csr_der: node_key.request()?,
            admin_csr_der: admin_key.request()?,
            description: Some(description(0)),
            advertise_addr: address.to_string(),
            ..Default::default()
        };
        let end = Instant::now() + Duration::from_secs(20);
        let made = loop {
            let mut client = BootstrapClient::new(unix_channel(&socket));
            match client.bootstrap(request.clone()).await {
                Ok(made) => break made.into_inner(),
                Err(error) => ensure!(Instant::now() < end, "no manager: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let admin = Credentials::from_pem(made.admin_chain_pem, admin_key.to_pem(), made.root_pem)?;
        let control = ControlClient::new(channel(address, admin)?);
        let token = made.agent_join_token;
        Ok(Self { manager, control, address, token, _dir: dir })
    }

    pub(crate) async fn network(&self, name: &str) -> Result<()> {
        let config = pb::IpamConfig {
            subnet: if name == "wide" { "10.64.0.0/16" } else { "10.65.0.0/16" }.to_owned(),
            ..Default::default()
        };
        let spec = pb::NetworkSpec {
            name: name.to_owned(),
            driver: Some(pb::Driver { name: "overlay".to_owned(), ..Default::default() }),
            ipam: Some(pb::Ipam { config: vec![config], ..Default::default() }),
            ..Default::default()
        };
        self.control.clone().create_network(pb::CreateNetworkRequest { spec: Some(spec) }).await?;
        Ok(())
    }

    /// With so many tasks on as many nodes, or one on each that there is.
    pub(crate) async fn service(
        &self,
        name: &str,
        network: &str,
        replicas: Option<u64>,
    ) -> Result<()> {
        let spec = Some(spec(name, network, replicas)?);
        let request = pb::CreateServiceRequest { spec, ..Default::default() };
        self.control.clone().create_service(request).await?;
        Ok(())
    }

    pub(crate) async fn scale(&self, name: &str, replicas: u64) -> Result<()> {
        let change =
            pb::update_service_request::Change::Spec(spec(name, "narrow", Some(replicas))?);
        let reference = name.to_owned();
        let request =
            pb::UpdateServiceRequest { reference, change: Some(change), ..Default::default() };
        self.control.clone().update_service(request).await?;
        Ok(())
    }

    /// What the manager has used so far.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.manager.0.id()))?;
        let (_, rest) = stat.rsplit_once(')').context("not a stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        let both = ticks(11).zip(ticks(12)).context("not a stat")?;
        Ok(Duration::from_millis((both.0 + both.1) * 1000 / TICKS))
    }
}

fn spec(name: &str, network: &str, replicas: Option<u64>) -> Result<pb::ServiceSpec> {
    let of = replicas.map_or_else(|| global_spec(name), |replicas| service_spec(name, replicas));
    let mut spec = pb::ServiceSpec::from(&of);
    let template = spec.task_template.as_mut().context("no task")?;
    template.networks =
        vec![pb::NetworkAttachmentConfig { target: network.to_owned(), ..Default::default() }];
    if replicas.is_some() {
        template.placement = Some(pb::Placement { max_replicas: 1, ..Default::default() });
    }
    Ok(spec)
}

pub(crate) fn channel(address: SocketAddr, credentials: Credentials) -> Result<Channel> {
    let live = LiveCredentials::new(credentials)?;
    Ok(client_channel(address.to_string().parse()?, live, MANAGER_NAME)?)
}
