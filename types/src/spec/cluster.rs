//! Settings of the whole cluster.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::Labels;
use crate::time::{nanos, nanos_opt};

/// Settings of the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ClusterSpec {
    /// Name of the cluster.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// Ended tasks kept per slot.
    pub task_history_retention_limit: u64,
    /// Time between two heartbeats of an agent; three missed ones mean it is down.
    #[serde(serialize_with = "nanos::serialize")]
    pub heartbeat_period: Duration,
    /// How long a node's certificate is valid.
    #[serde(serialize_with = "nanos::serialize")]
    pub node_cert_expiry: Duration,
    /// Where overlay networks get their subnets from that name none, the first one first;
    /// [`AddressPool::USUAL`] if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address_pools: Vec<AddressPool>,
    /// When the keys of the tunnels between nodes change.
    pub tunnel_keys: TunnelKeySpec,
}

/// When the keys of the tunnels between nodes change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TunnelKeySpec {
    /// How long they are used; zero: until somebody wants others. [`Self::USUAL_PERIOD`] if absent.
    #[serde(serialize_with = "nanos_opt::serialize", skip_serializing_if = "Option::is_none")]
    pub period: Option<Duration>,
    /// They change at once when this does.
    pub force_rotate: u64,
}

impl TunnelKeySpec {
    /// How long keys are used where nobody says otherwise.
    pub const USUAL_PERIOD: Duration = Duration::from_hours(24);

    /// How long they are used; for ever if absent.
    #[must_use]
    pub fn period(self) -> Option<Duration> {
        Some(self.period.unwrap_or(Self::USUAL_PERIOD)).filter(|period| !period.is_zero())
    }
}

/// A range of addresses that is cut into subnets of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressPool {
    /// The range.
    pub base: Ipv4Net,
    /// Prefix length of each subnet that is taken from it.
    pub size: u8,
}

impl AddressPool {
    /// The size of subnets where nobody says another one.
    pub const USUAL_SIZE: u8 = 24;

    /// Docker's default for networks across nodes: `10.0.0.0/8`, cut into `/24`.
    pub const USUAL: Self =
        Self { base: Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8), size: Self::USUAL_SIZE };

    /// How many subnets there are in it; none if they would be larger than it is.
    #[must_use]
    pub const fn count(self) -> u64 {
        match self.size.checked_sub(self.base.prefix_len()) {
            Some(bits) if self.size <= 32 => 1 << bits,
            _ => 0,
        }
    }
}

impl ClusterSpec {
    /// Where overlay networks get their subnets from that name none.
    #[must_use]
    pub fn pools(&self) -> &[AddressPool] {
        match self.address_pools.as_slice() {
            [] => &[AddressPool::USUAL],
            pools => pools,
        }
    }
}

impl Default for ClusterSpec {
    /// Docker's defaults, with a heartbeat of 2 s for its 5 s: a lost host is noticed within 6 s.
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            labels: Labels::new(),
            task_history_retention_limit: 5,
            heartbeat_period: Duration::from_secs(2),
            node_cert_expiry: Duration::from_secs(90 * 24 * 3600),
            address_pools: Vec::new(),
            tunnel_keys: TunnelKeySpec::default(),
        }
    }
}
