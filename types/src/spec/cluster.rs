//! Settings of the whole cluster.

use std::time::Duration;

use serde::Serialize;

use super::Labels;
use crate::time::nanos;

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
        }
    }
}
