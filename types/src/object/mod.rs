//! Objects: a spec plus an id, versions and what the system added beside it.

mod cluster;
mod deployment;
mod network;
mod node;
mod payload;
mod service;
mod stack;
mod task;
mod tunnel;
mod user;

pub use cluster::{Cluster, FormerManager, JoinTokens, RootCa};
pub use deployment::{Deployment, DeploymentKind, DeploymentState};
pub use network::{
    AddressCount, Network, NetworkMembers, NetworkPeer, NetworkService, NetworkSummary,
    NetworkTask, SubnetUse,
};
pub use node::{
    AssignmentProgress, EngineDescription, HOST_SUBNETS_MAX, HostSubnet, ManagerHealth,
    ManagerStatus, Node, NodeDescription, NodeState, NodeStatus, NodeSummary, PluginDescription,
    Reachability,
};
pub use payload::{Config, Payload, Payloads, Secret, Volume};
pub use service::{Endpoint, Service, VirtualIp};
pub use stack::{Stack, StackRevision};
pub use task::{ContainerStatus, Slot, Task, TaskNetwork, TaskStatus};
pub use tunnel::{
    DescribedKeys, InvalidTunnelKey, TROUBLED_LINKS_MAX, TUNNEL_TWINS, TroubledLink, TroubledLinks,
    TunnelDescription, TunnelEnd, TunnelEpochs, TunnelKey, TunnelKeys, TunnelKind,
};
pub use user::User;

use crate::time::Timestamp;

/// What every object carries.
///
/// `version` is the Raft log index that last wrote the object, status included. `spec_version`
/// counts the user's updates alone; updates are compared with it, so that a status write never
/// spoils somebody's edit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Meta {
    /// Log index of the last write of any kind.
    pub version: u64,
    /// Number of the spec; 1 when created.
    pub spec_version: u64,
    /// When the object was created.
    pub created_at: Timestamp,
    /// When it was last written.
    pub updated_at: Timestamp,
}

impl Meta {
    /// For an object that is created at log index `version`.
    #[must_use]
    pub const fn created(version: u64, now: Timestamp) -> Self {
        Self { version, spec_version: 1, created_at: now, updated_at: now }
    }

    /// Records a write of anything but the spec.
    pub const fn touch(&mut self, version: u64, now: Timestamp) {
        self.version = version;
        self.updated_at = now;
    }

    /// Records a write of the spec.
    pub const fn touch_spec(&mut self, version: u64, now: Timestamp) {
        self.touch(version, now);
        self.spec_version += 1;
    }
}
