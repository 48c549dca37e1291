//! What can go wrong with the networks of a host.

use std::io;
use std::path::PathBuf;

use shoal_agent_planning::network::PublishedPort;
use shoal_agent_planning::network::leases::{LeaseError, PublishError};
use thiserror::Error;

/// Why a call of a [`NetworkDriver`](super::NetworkDriver) failed.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum NetworkError {
    #[error(
        "network `{network}` has IPv6, which this host does not have: it is switched off \
         (net.ipv6.conf.all.disable_ipv6), or the kernel knows nothing of it"
    )]
    WithoutV6 { network: String },
    #[error(
        "network `{network}` is on interface `{parent}`, which node {node} does not have; expected one of its own, or a \
         VLAN of one, such as eth0.50"
    )]
    NoParent { network: String, parent: String, node: String },
    #[error(
        "network `{network}` is on interface `{parent}`, which {what} on node {node}: expected one that leads to a wire"
    )]
    UnfitParent { network: String, parent: String, what: &'static str, node: String },
    #[error(
        "network `{network}` has packets of {mtu} bytes, and interface `{parent}` of node {node} has none above {most}: \
         expected that or less"
    )]
    ParentMtu { network: String, parent: String, mtu: u32, most: u32, node: String },
    #[error("network `{network}`: the kernel of node {node} has no {what}")]
    NoDriver { network: String, what: &'static str, node: String },
    /// The request cannot be granted, now or ever: it is the user's to change.
    #[error(transparent)]
    Refused(#[from] LeaseError),
    #[error("port already in use: {port} is bound by {holder}")]
    PortInUse { port: PublishedPort, holder: String },
    #[error("publish {port}: {} is no address of this host", port.host_ip)]
    NotOurAddress { port: PublishedPort },
    #[error("reserve host port for {port}")]
    Reserve { port: PublishedPort, source: io::Error },
    #[error("open network namespace {}", path.display())]
    OpenNetns { path: PathBuf, source: io::Error },
    #[error("enter network namespace {}", path.display())]
    EnterNetns { path: PathBuf, source: io::Error },
    #[error("network namespace {} is the host's own", path.display())]
    HostNetns { path: PathBuf },
    #[error("open netlink socket")]
    Netlink { source: io::Error },
    #[error("{what}")]
    Link { what: String, source: io::Error },
    #[error("interface name `{ifname}` is taken by something else in the container")]
    NameTaken { ifname: String },
    #[error("interface name prefix `{prefix}` is not 1 to {max} lower case letters or digits")]
    Prefix { prefix: String, max: usize },
    #[error("table name `{table}` is not 1 to 32 lower case letters, digits or underscores")]
    Table { table: String },
    #[error("set {}", path.display())]
    Sysctl { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    #[error("`{id}` is no id of a container")]
    ContainerId { id: String },
    #[error("read {}", path.display())]
    ReadBook { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Book(#[from] shoal_durable::FileError),
    #[error("write {}", path.display())]
    WriteBook { path: PathBuf, source: io::Error },
    #[error("a helper thread of the network driver ended early")]
    HelperGone,
}

/// Why the packet filter could not be changed or read.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FirewallError {
    #[error("`nft` is not installed (package nftables), containers cannot be given a network")]
    Missing,
    #[error("start `nft`")]
    Start { source: io::Error },
    #[error("talk to the packet filter")]
    Talk { source: io::Error },
    #[error("`nft` did not answer within {seconds} s")]
    Timeout { seconds: u64 },
    #[error("`nft` refused: {message}")]
    Refused { message: String },
    #[error("`nft` listed more than {limit} bytes")]
    TooLong { limit: u64 },
    #[error("parse the listing of `nft`")]
    Parse { source: serde_json::Error },
}

impl NetworkError {
    /// Whether asking again without a change by the user is pointless.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::PortInUse { .. }
                | Self::NotOurAddress { .. }
                | Self::NoParent { .. }
                | Self::UnfitParent { .. }
                | Self::ParentMtu { .. }
                | Self::NoDriver { .. }
                | Self::Prefix { .. }
                | Self::Table { .. }
        )
    }
}

impl From<PublishError<Self>> for NetworkError {
    fn from(error: PublishError<Self>) -> Self {
        match error {
            PublishError::Lease(refusal) => refusal.into(),
            PublishError::Host { refusal, .. } => refusal,
        }
    }
}
