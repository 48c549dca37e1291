//! Tasks.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{Meta, Payloads};
use crate::id::{NetworkId, NodeId, ServiceId, TaskId};
use crate::level::{Level, Leveled as _};
use crate::spec::{EndpointSpec, Labels, Options, PortConfig, TaskSpec};
use crate::task_state::{DesiredState, TaskState};
use crate::time::Timestamp;

/// One attempt to fill one slot on one node. It never moves and is never restarted: a restart is
/// a new task of the same slot. What it has taken over from its service it shares with the other
/// tasks of that.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Task {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: TaskId,
    /// Versions and times.
    #[serde(flatten)]
    pub meta: Meta,
    /// The service that it belongs to.
    #[serde(rename = "ServiceID")]
    pub service_id: ServiceId,
    /// Name of the service when the task was made.
    pub service_name: Arc<str>,
    /// Labels of the service when the task was made.
    pub service_labels: Arc<Labels>,
    /// The slot that it fills.
    pub slot: Slot,
    /// Where it runs, once that is decided.
    #[serde(rename = "NodeID", skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// What it is, copied from the service.
    pub spec: Arc<TaskSpec>,
    /// The service's spec version that it was made from.
    pub spec_version: u64,
    /// How its service was to be reached when it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Arc<EndpointSpec>>,
    /// Networks that it joins.
    #[serde(rename = "NetworksAttachments", skip_serializing_if = "<[_]>::is_empty")]
    pub networks: Arc<[TaskNetwork]>,
    /// The secrets and configs that it is given.
    #[serde(flatten)]
    pub payloads: Arc<Payloads>,
    /// The task whose network it shares, once it has a node: the partner, which is on the same one.
    #[serde(rename = "PartnerID", skip_serializing_if = "Option::is_none")]
    pub partner: Option<TaskId>,
    /// What managers want of it.
    pub desired_state: DesiredState,
    /// For a task that waits out a restart delay: when it is to be told to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_after: Option<Timestamp>,
    /// How many tasks of this spec in a row were rejected in its slot, just before it. If there
    /// are any it is not even prepared before `start_after`.
    #[serde(skip_serializing_if = "is_zero")]
    pub rejections: u64,
    /// What a node must be able to do to run it.
    pub level: Level,
    /// What has become of it.
    pub status: TaskStatus,
}

impl Task {
    /// The ports it needs on its node.
    pub fn ports(&self) -> &[PortConfig] {
        self.endpoint.as_ref().map_or(&[], |e| &e.ports)
    }

    /// What it has on a network, if it joins that.
    #[must_use]
    pub fn on(&self, network: NetworkId) -> Option<&TaskNetwork> {
        self.networks.iter().find(|joined| joined.network_id == network)
    }

    /// The name that people see: `web.3`, or `web.NODE` for a global service.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.service_name, self.slot)
    }

    /// Whether it still occupies its slot, or may come to: it is wanted, or is not known to have
    /// ended.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.status.state.is_terminal()
    }

    /// Whether its node has, or had, a container of it, and so a log.
    #[must_use]
    pub fn had_container(&self) -> bool {
        let begun = self.status.container_status.is_some()
            || (self.is_live() && self.status.state.has_begun());
        self.node_id.is_some() && begun
    }

    /// Whether managers want it to run, now or later, and it can still do so.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.desired_state.is_stop() && self.is_live()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One place of a service that a task fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum Slot {
    /// Of a replicated service, counted from 1.
    Replica(u64),
    /// Of a global service.
    Node(NodeId),
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(n) => n.fmt(f),
            Self::Node(id) => id.fmt(f),
        }
    }
}

/// One network of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaskNetwork {
    /// Which one.
    #[serde(rename = "NetworkID")]
    pub network_id: NetworkId,
    /// Further names of the task there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// For the network's driver.
    #[serde(skip_serializing_if = "Options::is_empty")]
    pub driver_opts: Options,
    /// Its addresses there with the network's prefix length, where managers hand them out. Of a service: those that
    /// its spec names, which are kept for its task.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<ipnet::IpNet>,
    /// Whether somebody has connected this one task to it. Else its service names it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub connected: bool,
}

impl TaskNetwork {
    /// Whether it is a network that spans nodes: on these alone managers give addresses.
    #[must_use]
    pub const fn spans_nodes(&self) -> bool {
        !self.addresses.is_empty()
    }
}

/// What has become of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaskStatus {
    /// Rung of the ladder.
    pub state: TaskState,
    /// When it got there.
    pub timestamp: Timestamp,
    /// What is going on, for people.
    pub message: String,
    /// What went wrong, or why it waits, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub err: String,
    /// The container, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_status: Option<ContainerStatus>,
    /// Ports in force on the node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_status: Vec<PortConfig>,
}

impl TaskStatus {
    /// A status without error, container or ports.
    #[must_use]
    pub fn new(state: TaskState, timestamp: Timestamp, message: &str) -> Self {
        Self {
            state,
            timestamp,
            message: message.to_owned(),
            err: String::new(),
            container_status: None,
            port_status: Vec::new(),
        }
    }

    /// What a cluster of this level can write down of it; nothing if it is in a state above that. Taken
    /// apart field by field, so that none is forgotten.
    #[must_use]
    pub fn within(mut self, cluster: Level) -> Option<Self> {
        let Self { state, timestamp: _, message: _, err: _, container_status, port_status } =
            &mut self;
        if state.level() > cluster {
            return None;
        }
        if let Some(container) = container_status {
            let ContainerStatus { container_id: _, pid: _, exit_code: _, signal: _, oom_killed: _ } =
                container;
        }
        port_status.retain(|port| port.level() <= cluster);
        Some(self)
    }

    /// What went wrong; what is going on if nothing did.
    #[must_use]
    pub fn reason(&self) -> &str {
        if self.err.is_empty() { &self.message } else { &self.err }
    }
}

/// The container of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerStatus {
    /// Its id on the node.
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    /// Process id of its first process on the node; zero before it starts.
    #[serde(rename = "PID")]
    pub pid: u32,
    /// Its exit code, once it has ended; 128 + signal if a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed its first process for want of memory.
    #[serde(rename = "OOMKilled", skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
}
