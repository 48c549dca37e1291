//! From what a user wrote about a task, and what its image says, to a container of this node.
//!
//! [`plan`] decides everything that can be decided without touching the host; the worker makes
//! volumes, files and network namespaces from it and puts the paths in with
//! [`ContainerPlan::oci_spec`].

mod asker;
mod command;
mod mounts;
mod networks;
mod ports;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime::Spec;
use shoal_types::assignment::AssignedTask;
use shoal_types::id::NetworkId;
use shoal_types::object::Network;
use shoal_types::signal;
use shoal_types::spec::unsupported::CONTAINER;
use shoal_types::spec::{ContainerSpec, Healthcheck, Ulimit};

use crate::health::{self, HealthConfig, InvalidHealthcheck};
use crate::network::UnsupportedSpec;
use crate::network::files::DnsConfig;
use crate::oci::{self, ContainerConfig, InvalidContainer, MountConfig, Resources, Rlimit};
use crate::zone::Asker;

pub use asker::{asker, unasked};
pub use mounts::{ANONYMOUS, PlannedMount, Source};
pub use networks::{Joined, NetworkPlan, connection, is_partner, made_for};
pub use ports::{Publication, publication};

/// What an image says about the containers made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// What is executed before the command's words.
    pub entrypoint: Vec<String>,
    /// The command's words.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`; root if empty.
    pub user: String,
    /// `/` if empty.
    pub workdir: String,
    /// SIGTERM if empty.
    pub stop_signal: String,
    /// Places that are volumes.
    pub volumes: BTreeSet<String>,
    /// How its health is checked.
    pub healthcheck: Option<Healthcheck>,
}

/// What of the host a container gets to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Its name.
    pub hostname: String,
}

/// A container, decided but for the paths of its mounts.
#[derive(Debug, Clone)]
pub struct ContainerPlan {
    /// Everything but mounts.
    pub config: ContainerConfig,
    /// `user[:group]` to be looked up in the image's files; root otherwise.
    pub user: String,
    /// What is mounted, in the order of the paths inside.
    pub mounts: Vec<PlannedMount>,
    /// How it is connected.
    pub network: NetworkPlan,
    /// Its name for itself.
    pub hostname: String,
    /// What it resolves names with.
    pub dns: DnsConfig,
    /// As whom it asks for names that this host answers; `None` if it asks others.
    pub asker: Option<Asker>,
    /// Further lines of its `/etc/hosts`.
    pub hosts: Vec<(IpAddr, String)>,
    /// Whether its standard input stays open.
    pub open_stdin: bool,
    /// Number of the signal that stops it.
    pub stop_signal: i32,
    /// How its health is checked.
    pub healthcheck: Option<Healthcheck>,
    annotations: BTreeMap<String, String>,
}

/// Why a task cannot become a container here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// Not a container at all.
    #[error("the task is no container")]
    NoContainer,
    /// Something this node cannot do.
    #[error("{field}: not supported by this node: {what}")]
    Unsupported {
        /// Path of the field.
        field: String,
        /// What was asked for.
        what: String,
    },
    /// A value that makes no sense.
    #[error("{field}: {value:?} {why}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// The refused value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A network that was not assigned along with the task.
    #[error("network {id} of the task is not known to this node")]
    UnknownNetwork {
        /// Which.
        id: NetworkId,
    },
    /// The task whose network it is to share was not assigned along with it.
    #[error("no task of service {service:?}, whose network the task shares, is known to this node")]
    NoPartner {
        /// Whose network it shares.
        service: String,
    },
    /// A network or a port.
    #[error(transparent)]
    Network(#[from] UnsupportedSpec),
    /// The health check.
    #[error(transparent)]
    Health(#[from] InvalidHealthcheck),
}

pub(crate) fn unsupported(field: impl Into<String>, what: impl Into<String>) -> LowerError {
    LowerError::Unsupported { field: field.into(), what: what.into() }
}

pub(crate) fn invalid(field: impl Into<String>, value: &str, why: impl Into<String>) -> LowerError {
    LowerError::Invalid { field: field.into(), value: value.to_owned(), why: why.into() }
}

/// Decides what the container of a task is that shares no other one's network.
///
/// # Errors
/// See [`plan_beside`].
pub fn plan(
    task: &AssignedTask,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
    image: &ImageDefaults,
    host: &HostFacts,
) -> Result<ContainerPlan, LowerError> {
    plan_beside(task, None, networks, image, host)
}

/// Decides what the container of a task is, which shares the network of its partner's if it is to.
///
/// # Errors
/// The first thing that makes no sense or that this node cannot do, naming the field.
pub fn plan_beside(
    task: &AssignedTask,
    partner: Option<&AssignedTask>,
    networks: &BTreeMap<NetworkId, Arc<Network>>,
    image: &ImageDefaults,
    host: &HostFacts,
) -> Result<ContainerPlan, LowerError> {
    let spec = task.spec.container().ok_or(LowerError::NoContainer)?;
    refuse(spec)?;
    let network = networks::plan(task, partner, networks)?;
    publication(task, networks)?;
    let partners = partner.and_then(|partner| Some((partner, partner.spec.container()?)));
    let hostname = match (&network, spec.hostname.as_str(), partners) {
        // As Docker: who shares a network has the name that it is known by there.
        (NetworkPlan::Of(_), _, Some((partner, spec))) => own_hostname(partner, spec),
        (NetworkPlan::Host, "", _) => host.hostname.clone(),
        _ => own_hostname(task, spec),
    };
    let healthcheck = health::merge(spec.healthcheck.as_ref(), image.healthcheck.as_ref());
    let healthcheck = match &healthcheck {
        Some(check) if HealthConfig::of(check)?.is_some() => healthcheck,
        _ => None,
    };
    let mut config = command::process(spec, image, &hostname)?;
    confine(&mut config, spec)?;
    config.resources = resources(task);
    config.foreign_network = !matches!(network, NetworkPlan::Joined(_));
    config.hostname = Some(hostname.clone());
    let user = if spec.user.is_empty() { &image.user } else { &spec.user };
    let annotations = BTreeMap::from([
        ("io.shoal.task.id".to_owned(), task.id.to_string()),
        ("io.shoal.service.id".to_owned(), task.service_id.to_string()),
        ("io.shoal.service.name".to_owned(), task.service_name.clone()),
    ]);
    Ok(ContainerPlan {
        config,
        user: user.clone(),
        mounts: mounts::plan(task, spec, image)?,
        network,
        hostname,
        dns: dns(spec)?,
        asker: asker(task, networks),
        hosts: extra_hosts(spec)?,
        open_stdin: spec.open_stdin,
        stop_signal: stop_signal(spec, image)?,
        healthcheck,
        annotations,
    })
}

/// What a container with a network of its own calls itself.
fn own_hostname(task: &AssignedTask, spec: &ContainerSpec) -> String {
    match spec.hostname.as_str() {
        // As Docker, where it is the beginning of the container's id.
        "" => task.id.to_string().chars().take(12).collect(),
        name => name.to_owned(),
    }
}

impl ContainerPlan {
    /// The OCI runtime specification, once every mount has its path.
    ///
    /// # Errors
    /// As [`oci::spec`].
    pub fn oci_spec(&self, mounts: Vec<MountConfig>) -> Result<Spec, InvalidContainer> {
        let config = ContainerConfig { mounts, ..self.config.clone() };
        let mut spec = oci::spec(&config)?;
        spec.set_annotations(Some(self.annotations.clone().into_iter().collect()));
        Ok(spec)
    }

    /// Labels for people who look at the host.
    #[must_use]
    pub const fn labels(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }
}

/// What managers refuse already; a node that is older than they are still must not ignore it.
fn refuse(spec: &ContainerSpec) -> Result<(), LowerError> {
    match CONTAINER.iter().find(|row| row.is_asked(spec)) {
        Some(row) => Err(unsupported(row.field, row.what)),
        None => Ok(()),
    }
}

fn confine(config: &mut ContainerConfig, spec: &ContainerSpec) -> Result<(), LowerError> {
    config.cap_add.clone_from(&spec.capability_add);
    config.cap_drop.clone_from(&spec.capability_drop);
    config.read_only = spec.read_only;
    config.sysctls.clone_from(&spec.sysctls);
    config.no_new_privileges = spec.privileges.as_ref().is_some_and(|p| p.no_new_privileges);
    config.rlimits = spec.ulimits.iter().map(rlimit).collect();
    if let Some(score) = spec.oom_score_adj {
        config.oom_score_adj =
            i32::try_from(score).ok().filter(|score| (-1000..=1000).contains(score)).ok_or_else(
                || invalid("oom_score_adj", &score.to_string(), "is not within -1000 to 1000"),
            )?;
    }
    Ok(())
}

fn rlimit(limit: &Ulimit) -> Rlimit {
    // Negative is without limit, RLIM_INFINITY.
    let value = |v: i64| u64::try_from(v).unwrap_or(u64::MAX);
    Rlimit { name: limit.name.clone(), soft: value(limit.soft), hard: value(limit.hard) }
}

fn resources(task: &AssignedTask) -> Resources {
    let pids = Some(oci::defaults::PIDS);
    let Some(wanted) = &task.spec.resources else {
        return Resources { pids, ..Resources::default() };
    };
    let some = |n: u64| Some(n).filter(|n| *n != 0);
    let limits = wanted.limits.unwrap_or_default();
    let memory_bytes = some(limits.memory_bytes);
    let reserved = wanted.reservations.as_ref().and_then(|r| some(r.memory_bytes));
    Resources {
        memory_bytes,
        memory_reservation_bytes: reserved.filter(|r| memory_bytes.is_none_or(|m| *r <= m)),
        nano_cpus: some(limits.nano_cpus),
        cpu_shares: None,
        pids: some(limits.pids).or(pids),
    }
}

fn stop_signal(spec: &ContainerSpec, image: &ImageDefaults) -> Result<i32, LowerError> {
    let given =
        [("stop_signal", &spec.stop_signal), ("stop signal of the image", &image.stop_signal)];
    match given.into_iter().find(|(_, text)| !text.is_empty()) {
        None => Ok(SIGTERM),
        Some((field, text)) => {
            signal::parse(text).ok_or_else(|| invalid(field, text, "is no signal"))
        }
    }
}

const SIGTERM: i32 = 15;

fn dns(spec: &ContainerSpec) -> Result<DnsConfig, LowerError> {
    let Some(dns) = &spec.dns_config else { return Ok(DnsConfig::default()) };
    let server = |text: &String| {
        text.parse().map_err(|_| invalid("dns_config.nameservers", text, "is no address"))
    };
    Ok(DnsConfig {
        servers: dns.nameservers.iter().map(server).collect::<Result<_, _>>()?,
        search: dns.search.clone(),
        options: dns.options.clone(),
    })
}

/// Swarm writes `address name…`, as hosts(5) does.
fn extra_hosts(spec: &ContainerSpec) -> Result<Vec<(IpAddr, String)>, LowerError> {
    let mut lines = Vec::new();
    for line in &spec.hosts {
        let mut words = line.split_whitespace();
        let address = words.next().and_then(|word| word.parse().ok());
        let Some(address) = address else {
            return Err(invalid("hosts", line, "is not an address followed by names"));
        };
        let names: Vec<&str> = words.collect();
        if names.is_empty() {
            return Err(invalid("hosts", line, "names no host"));
        }
        lines.push((address, names.join(" ")));
    }
    Ok(lines)
}

/// The file that a container sees at a place of its own choosing if it mounts something there.
#[must_use]
pub fn own_files(plan: &ContainerPlan) -> Vec<(&'static str, PathBuf)> {
    ["hosts", "hostname", "resolv.conf"]
        .into_iter()
        .map(|name| (name, PathBuf::from("/etc").join(name)))
        .filter(|(_, place)| !plan.mounts.iter().any(|m| m.target == *place))
        .collect()
}
