//! Services and the tasks they are made of.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{ContainerSpec, Driver, Labels, Options};
use crate::resources::ResourceRequirements;
use crate::time::{nanos, nanos_opt};

/// A set of tasks that are to run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceSpec {
    /// Unique in the cluster; see [`crate::name`].
    pub name: String,
    /// Labels of the service (not of its containers).
    pub labels: Labels,
    /// What each task is.
    pub task_template: Arc<TaskSpec>,
    /// How many tasks, and where.
    pub mode: ServiceMode,
    /// How a new spec replaces an old one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_config: Option<UpdateConfig>,
    /// How the previous spec replaces a failed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_config: Option<UpdateConfig>,
    /// How the service is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_spec: Option<EndpointSpec>,
}

/// How many tasks a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ServiceMode {
    /// A number of tasks, anywhere.
    Replicated {
        /// How many.
        #[serde(rename = "Replicas")]
        replicas: u64,
    },
    /// One task on every node that fits.
    Global {},
    /// A number of tasks that run to completion.
    ReplicatedJob {
        /// How many at a time.
        #[serde(rename = "MaxConcurrent", skip_serializing_if = "Option::is_none")]
        max_concurrent: Option<u64>,
        /// How many in all.
        #[serde(rename = "TotalCompletions", skip_serializing_if = "Option::is_none")]
        total_completions: Option<u64>,
    },
    /// One task on every node that fits, run to completion.
    GlobalJob {},
}

impl ServiceMode {
    /// Docker's name of the mode.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replicated { .. } => "replicated",
            Self::Global {} => "global",
            Self::ReplicatedJob { .. } => "replicated-job",
            Self::GlobalJob {} => "global-job",
        }
    }
}

/// What one task is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaskSpec {
    /// What runs.
    #[serde(flatten)]
    pub runtime: TaskRuntime,
    /// Limits and reservations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// What happens when it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// Where it may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Networks it joins, as the user named them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkAttachmentConfig>,
    /// Name of the service whose network its tasks share, each with that one's task of the same slot. They have none
    /// of their own then, and nothing that belongs to one. As Docker's `container:` and compose's `service:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_of: Option<String>,
    /// Where its output goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<Driver>,
    /// A counter; another value replaces the tasks though nothing else changed.
    pub force_update: u64,
}

impl TaskSpec {
    /// A task that runs this, and of which nothing else is said.
    #[must_use]
    pub const fn of(runtime: TaskRuntime) -> Self {
        Self {
            runtime,
            resources: None,
            restart_policy: None,
            placement: None,
            networks: Vec::new(),
            network_of: None,
            log_driver: None,
            force_update: 0,
        }
    }

    /// The container to run, if that is what the task is.
    #[must_use]
    pub fn container(&self) -> Option<&ContainerSpec> {
        match &self.runtime {
            TaskRuntime::Container(container) => Some(container),
            TaskRuntime::Plugin(_) | TaskRuntime::Attachment { .. } => None,
        }
    }
}

/// The kinds of thing a task can run.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "all but none are containers, and always behind Arc")]
pub enum TaskRuntime {
    /// A container.
    Container(ContainerSpec),
    /// An engine plugin.
    Plugin(PluginSpec),
    /// Nothing: the task stands for a foreign container on a network.
    Attachment {
        /// The foreign container.
        container_id: String,
    },
}

/// An engine plugin as a task. Carried for Docker's clients; shoal has no plugins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PluginSpec {
    /// Local name.
    pub name: String,
    /// Where it comes from.
    pub remote: String,
    /// What it may do.
    pub plugin_privilege: Vec<PluginPrivilege>,
    /// Whether it is switched off.
    pub disabled: bool,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
}

/// One thing a plugin asks to be allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PluginPrivilege {
    /// Such as `network`.
    pub name: String,
    /// For people.
    pub description: String,
    /// Such as `host`.
    pub value: Vec<String>,
}

/// Whether, when and how often an ended task is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RestartPolicy {
    /// Which ends count.
    pub condition: RestartCondition,
    /// Wait before the replacement starts; [`RestartPolicy::DEFAULT_DELAY`] if absent.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "nanos_opt::serialize")]
    pub delay: Option<Duration>,
    /// How often at most within the window; zero is without limit.
    pub max_attempts: u64,
    /// The time over which attempts are counted; zero is for ever.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "nanos_opt::serialize")]
    pub window: Option<Duration>,
}

impl RestartPolicy {
    /// Docker's default delay.
    pub const DEFAULT_DELAY: Duration = Duration::from_secs(5);
}

/// Which ends of a task lead to a replacement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// None.
    None,
    /// Any but exit code 0.
    OnFailure,
    /// All. Docker's default.
    #[default]
    Any,
}

/// Where a task may run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Placement {
    /// All must hold; see [`crate::constraint`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// Spread over these, the first one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<PlacementPreference>,
    /// Tasks of this service per node; zero is without limit.
    pub max_replicas: u64,
    /// Platforms of the image; empty for any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
}

/// A wish about placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PlacementPreference {
    /// Equal shares for each value of a label.
    Spread {
        /// Such as `node.labels.rack`.
        #[serde(rename = "SpreadDescriptor")]
        descriptor: String,
    },
}

/// An operating system on an architecture, with Go's names (`linux`, `amd64`).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Platform {
    /// `GOARCH`; empty for any.
    #[serde(rename = "Architecture")]
    pub architecture: String,
    /// `GOOS`; empty for any.
    #[serde(rename = "OS")]
    pub os: String,
}

/// One network a task joins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkAttachmentConfig {
    /// Name or id of the network.
    pub target: String,
    /// Further names of the service on that network.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// For the network's driver.
    #[serde(skip_serializing_if = "Options::is_empty")]
    pub driver_opts: Options,
    /// The addresses that its task has there, at most one of each family; what is absent is chosen. As in SwarmKit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// How a new spec is rolled out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateConfig {
    /// Slots replaced at a time; zero is all at once.
    pub parallelism: u64,
    /// Wait between one slot and the next.
    #[serde(serialize_with = "nanos::serialize")]
    pub delay: Duration,
    /// What a failed rollout leads to.
    pub failure_action: FailureAction,
    /// How long a new task is watched for failure; [`UpdateConfig::DEFAULT_MONITOR`] if absent.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "nanos_opt::serialize")]
    pub monitor: Option<Duration>,
    /// Share of failed tasks, 0 to 1, that a rollout tolerates.
    pub max_failure_ratio: f32,
    /// Whether the old task stops before or after the new one runs.
    pub order: UpdateOrder,
}

impl UpdateConfig {
    /// Docker's default monitoring time.
    pub const DEFAULT_MONITOR: Duration = Duration::from_secs(5);
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            failure_action: FailureAction::Pause,
            monitor: None,
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

/// What a failed rollout leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    /// It stops where it is.
    #[default]
    Pause,
    /// It goes on.
    Continue,
    /// The previous spec is rolled out.
    Rollback,
}

/// Order within one slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old task ends, then the new one starts.
    #[default]
    StopFirst,
    /// The new task runs, then the old one stops.
    StartFirst,
}

/// How a service is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EndpointSpec {
    /// How names resolve.
    pub mode: EndpointMode,
    /// Published ports.
    pub ports: Vec<PortConfig>,
    /// Whether clients are led to the same task each time, and by what they are told apart. A change replaces
    /// tasks, as one of the mode does. Without: whichever comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Whether clients are led to tasks of one place before all others. A change replaces tasks, as one of the mode
    /// does. Without: to any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
}

impl EndpointSpec {
    /// Itself, or none where that means the same: a service that says nothing keeps its tasks.
    #[must_use]
    pub fn unless_default(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
    }
}

/// By what clients are told apart that are led to the same task each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// By the address that they ask from. As `ClientIP` in Kubernetes, but without a time: it holds for as long as
    /// the tasks are the same ones.
    ClientIp,
}

/// Which of its tasks a service's clients are led to before all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Locality {
    /// Those on the node that is asked, and others only while none of these serves. The node of a container that asks a
    /// virtual address, the one at whose port somebody asks. As `PreferSameNode` in Kubernetes.
    PreferLocal,
}

/// What the service's name resolves to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// One virtual address.
    #[default]
    Vip,
    /// The addresses of its tasks.
    Dnsrr,
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortConfig {
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port in the container.
    pub target_port: u16,
    /// Port on the host; zero lets the system choose.
    pub published_port: u16,
    /// Where it answers.
    pub publish_mode: PublishMode,
    /// Only on this address of the host; on all if absent. `0.0.0.0` is all of both families, `::` all of IPv6.
    #[serde(rename = "HostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl PortConfig {
    /// Whether two addresses of a host, as ports name them, have any in common.
    #[must_use]
    pub fn meet(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
        let everywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let (one, other) = (one.unwrap_or(everywhere), other.unwrap_or(everywhere));
        let includes = |one: IpAddr, other: IpAddr| {
            one == everywhere || (one.is_ipv6() && one.is_unspecified() && other.is_ipv6())
        };
        one == other || includes(one, other) || includes(other, one)
    }
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Lower-case name, as in `80/tcp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Where a published port answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On every node, led to some task (the routing mesh).
    Ingress,
    /// On the nodes that run a task, led to that task.
    Host,
}
