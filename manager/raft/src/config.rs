//! Timing and sizes.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};

const LEARNER_LAG_ENTRIES: u64 = 100;

/// How a Raft member behaves. All members of a group use the same values.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// How often a leader shows that it is alive. Also the time within which a follower must
    /// write what it was sent, before the leader sends it again.
    pub heartbeat: Duration,
    /// A follower that hears nothing for a random time between this ...
    pub election_timeout_min: Duration,
    /// ... and this asks to be elected.
    pub election_timeout_max: Duration,
    /// A snapshot is taken after so many entries ...
    pub snapshot_after_entries: u64,
    /// ... or after so many bytes of entries.
    pub snapshot_after_bytes: u64,
    /// Entries that stay in the log below a snapshot, for members that are a little behind.
    pub keep_entries: u64,
}

impl Default for RaftConfig {
    /// Made for disks whose flush may take a second under load: a slow flush delays heartbeats.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            election_timeout_min: Duration::from_millis(1500),
            election_timeout_max: Duration::from_millis(3000),
            snapshot_after_entries: 5000,
            snapshot_after_bytes: 64 << 20,
            keep_entries: 500,
        }
    }
}

impl RaftConfig {
    pub(super) fn to_openraft(&self) -> Result<Arc<Config>, Box<ConfigError>> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let config = Config {
            cluster_name: "shoal".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_timeout_min),
            election_timeout_max: millis(self.election_timeout_max),
            // For the whole transfer and its installation.
            install_snapshot_timeout: 600_000,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_after_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            // A new member is made a voter when it lacks no more than this.
            replication_lag_threshold: LEARNER_LAG_ENTRIES,
            ..Config::default()
        };
        config.validate().map(Arc::new).map_err(Box::new)
    }
}
