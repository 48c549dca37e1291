//! Containers.

use std::time::Duration;

use serde::Serialize;

use super::{Labels, Mount, Options, json};
use crate::time::nanos_opt;

/// One container.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerSpec {
    /// Image reference as the user wrote it.
    pub image: String,
    /// Labels of the container.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Replaces the image's entrypoint, and drops the image's command. Absent: the image's; empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Replaces the image's command. Absent: the image's; empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Host name inside; the container's id if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Environment, `NAME=value`; a bare `NAME` unsets the image's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Working directory; the image's if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub dir: String,
    /// `user[:group]`, names or numbers; the image's if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Further groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Changes to confinement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileges: Option<Privileges>,
    /// Whether a small init reaps processes inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
    /// Name or number of the signal that asks it to stop; the image's, else SIGTERM, if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Whether it has a terminal.
    #[serde(rename = "TTY", skip_serializing_if = "std::ops::Not::not")]
    pub tty: bool,
    /// Whether its standard input stays open.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub open_stdin: bool,
    /// Whether its root file system cannot be written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// What else is mounted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// How long after the stop signal it is killed; [`ContainerSpec::DEFAULT_STOP_GRACE`] if absent.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "nanos_opt::serialize")]
    pub stop_grace_period: Option<Duration>,
    /// How long it goes on serving what is open when nobody is led to it any more, before the stop signal; not at all
    /// if absent. At most [`ContainerSpec::DRAIN_TIMEOUT_MAX`].
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "nanos_opt::serialize")]
    pub drain_timeout: Option<Duration>,
    /// How its health is checked; the image's way if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Lines of `/etc/hosts`, `address name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Name resolution.
    #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<DnsConfig>,
    /// Secrets it sees.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "json::secrets")]
    pub secrets: Vec<PayloadReference>,
    /// Configs it sees.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "json::configs")]
    pub configs: Vec<PayloadReference>,
    /// Windows isolation technology.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub isolation: String,
    /// Namespaced kernel parameters.
    #[serde(skip_serializing_if = "Options::is_empty")]
    pub sysctls: Options,
    /// Capabilities beyond the default ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capability_add: Vec<String>,
    /// Default capabilities it does without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capability_drop: Vec<String>,
    /// Resource limits of its processes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<Ulimit>,
    /// How gladly the kernel kills it for memory, -1000 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i64>,
}

impl ContainerSpec {
    /// Docker's default time between stop signal and kill.
    pub const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);

    /// How long a container may go on serving what is open at the most: its node waits for it when it is drained.
    pub const DRAIN_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
}

/// Changes to a container's confinement.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Privileges {
    /// Windows credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_spec: Option<CredentialSpec>,
    /// SELinux label.
    #[serde(rename = "SELinuxContext", skip_serializing_if = "Option::is_none")]
    pub selinux_context: Option<SeLinuxContext>,
    /// System call filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// Whether the default AppArmor profile is switched off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_armor: Option<AppArmor>,
    /// Whether set-user-id programs give nothing.
    pub no_new_privileges: bool,
}

/// Windows credential of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum CredentialSpec {
    /// A config object.
    Config(String),
    /// A file on the node.
    File(String),
    /// A registry value on the node.
    Registry(String),
}

/// SELinux label of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SeLinuxContext {
    /// Whether labelling is off.
    pub disable: bool,
    /// User part.
    pub user: String,
    /// Role part.
    pub role: String,
    /// Type part.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Level part.
    pub level: String,
}

/// System call filter of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "Mode", content = "Profile", rename_all = "lowercase")]
pub enum Seccomp {
    /// The default profile.
    Default,
    /// None.
    Unconfined,
    /// A profile of the user's own, JSON.
    Custom(#[serde(serialize_with = "json::base64")] Vec<u8>),
}

/// AppArmor confinement of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "Mode", rename_all = "lowercase")]
pub enum AppArmor {
    /// The default profile.
    Default,
    /// None.
    Disabled,
}

/// How a container's health is found out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `[]` for the image's, `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    pub test: Vec<String>,
    /// Time from one check to the next; 30 s if absent.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "nanos_opt::serialize")]
    pub interval: Option<Duration>,
    /// Time after which a check counts as failed; 30 s if absent.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "nanos_opt::serialize")]
    pub timeout: Option<Duration>,
    /// Time after the start during which failures do not count; none if absent.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "nanos_opt::serialize")]
    pub start_period: Option<Duration>,
    /// Time from one check to the next during the start period; 5 s if absent.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "nanos_opt::serialize")]
    pub start_interval: Option<Duration>,
    /// Failures in a row that make it unhealthy; 3 if zero.
    pub retries: u64,
}

/// Name resolution inside a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DnsConfig {
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Domains to search.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// A secret or config as a container sees it: by name, so that a stack can have it before it exists.
/// The id that the name means is the service's business, not the spec's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadReference {
    /// Where it appears.
    pub target: PayloadTarget,
    /// Which one.
    pub name: String,
    /// Which version of it, for ever. Absent: the latest one.
    pub version: Option<u64>,
    /// What becomes of tasks that have the latest version when there is a later one.
    pub on_change: OnChange,
}

impl PayloadReference {
    /// Where the latest version is a file of its name, as everybody's.
    #[must_use]
    pub fn to(name: impl Into<String>) -> Self {
        let name = name.into();
        let file = FileTarget { name: name.clone(), ..FileTarget::default() };
        let target = PayloadTarget::File(file);
        Self { target, name, version: None, on_change: OnChange::default() }
    }

    /// Whether tasks are replaced by others when there is a later version.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.version.is_none() && self.on_change == OnChange::Restart
    }

    /// The name of the file or the variable.
    #[must_use]
    pub fn target_name(&self) -> &str {
        match &self.target {
            PayloadTarget::File(file) => &file.name,
            PayloadTarget::Env(name) => name,
            PayloadTarget::Runtime => "",
        }
    }
}

/// What becomes of running tasks when what they were given has a later version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    /// They are replaced by others that have it, as by an update of their service.
    #[default]
    Restart,
    /// They keep theirs. The next update of their service brings it.
    Nothing,
}

/// Where a secret or config appears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PayloadTarget {
    /// As a file.
    File(FileTarget),
    /// As a variable of the environment, of this name.
    Env(String),
    /// Used by the runtime, such as a credential spec; not mounted.
    Runtime,
}

/// A file made from a secret or config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct FileTarget {
    /// Path; below `/run/secrets` or `/` if relative.
    pub name: String,
    /// Owner, a number.
    #[serde(rename = "UID")]
    pub uid: String,
    /// Group, a number.
    #[serde(rename = "GID")]
    pub gid: String,
    /// Permission bits.
    pub mode: u32,
}

impl FileTarget {
    /// Where secrets are that have no absolute place.
    pub const SECRETS: &str = "/run/secrets/";
    /// Where configs are that have none.
    pub const CONFIGS: &str = "/";
    /// Permission bits of a file that says nothing else: everybody reads it.
    pub const MODE: u32 = 0o444;

    /// Its absolute place in the container; a relative one is `below` that directory.
    #[must_use]
    pub fn place(&self, below: &str) -> String {
        if self.name.starts_with('/') { self.name.clone() } else { format!("{below}{}", self.name) }
    }
}

impl Default for FileTarget {
    fn default() -> Self {
        let root = || "0".to_owned();
        Self { name: String::new(), uid: root(), gid: root(), mode: Self::MODE }
    }
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ulimit {
    /// Such as `nofile`.
    pub name: String,
    /// The limit in force; -1 for none.
    pub soft: i64,
    /// The most it can be raised to; -1 for none.
    pub hard: i64,
}

/// Kernel parameters that each container has of its own besides `fs.mqueue.*` and, with a network
/// of its own, `net.*`: those of the IPC and UTS namespaces.
const OWN_SYSCTLS: [&str; 9] = [
    "kernel.domainname",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Whether setting a kernel parameter in a container leaves the host's alone.
#[must_use]
pub fn is_own_sysctl(name: &str, host_network: bool) -> bool {
    // It becomes a path below /proc/sys.
    let is_name = !name.contains(['/', '\0']) && !name.contains("..");
    let of_network = name.starts_with("net.") && !host_network;
    is_name && (OWN_SYSCTLS.contains(&name) || name.starts_with("fs.mqueue.") || of_network)
}
