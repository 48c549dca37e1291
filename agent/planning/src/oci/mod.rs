//! From a plain description of a process to an OCI runtime specification, with Docker's defaults.
//!
//! Only what both cgroup worlds and the runtime honour can be said here; everything else is refused
//! by the caller before it comes to this. See the OCI runtime-spec, config.md and config-linux.md.

pub mod capabilities;
pub mod defaults;
pub mod seccomp;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxNamespace,
    LinuxNamespaceType, LinuxPids, LinuxResources, Mount, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, Root, Spec, User,
};

use shoal_types::spec::is_own_sysctl;

pub use capabilities::UnknownCapability;

/// What a container is to be, in the units people write it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Program and arguments; not empty.
    pub argv: Vec<String>,
    /// `NAME=value`; `PATH` is added when missing.
    pub env: Vec<String>,
    /// Absolute working directory inside the container; made when missing.
    pub cwd: PathBuf,
    /// Host name; the kernel's otherwise.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// Mounts beside the default ones; one at a default's place replaces it.
    pub mounts: Vec<MountConfig>,
    /// Capabilities on top of Docker's default set, with or without `CAP_`; `ALL` for every one.
    pub cap_add: Vec<String>,
    /// Capabilities taken away, likewise; additions win over `ALL` here.
    pub cap_drop: Vec<String>,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Resource limits of the process.
    pub rlimits: Vec<Rlimit>,
    /// Namespaced kernel parameters, `net.ipv4.ip_forward` to `1`.
    pub sysctls: BTreeMap<String, String>,
    /// Limits on what it uses.
    pub resources: Resources,
    /// Whether it runs on a terminal.
    pub tty: bool,
    /// Whether it may never gain privileges by executing a file.
    pub no_new_privileges: bool,
    /// Whether its network is none of its own: the host's, or that of another container.
    pub foreign_network: bool,
    /// Bytes of `/dev/shm`.
    pub shm_bytes: u64,
    /// Score the kernel adds when it looks for a process to kill for memory, -1000 to 1000.
    pub oom_score_adj: i32,
}

impl ContainerConfig {
    /// Sets variables, `NAME=value`, in place of those of the same names.
    pub fn set_env(&mut self, variables: &[String]) {
        let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
        for variable in variables {
            self.env.retain(|entry| name(entry) != name(variable));
            self.env.push(variable.clone());
        }
    }
}

impl Default for ContainerConfig {
    fn default() -> Self {
        Self {
            argv: Vec::new(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            hostname: None,
            domainname: None,
            mounts: Vec::new(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            read_only: false,
            rlimits: Vec::new(),
            sysctls: BTreeMap::new(),
            resources: Resources::default(),
            tty: false,
            no_new_privileges: false,
            foreign_network: false,
            shm_bytes: defaults::SHM_BYTES,
            oom_score_adj: 0,
        }
    }
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountConfig {
    /// Absolute place in the container.
    pub destination: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A copy of a small file, in memory of its own, which is little: what the container makes of it
    /// nobody else sees. The file is read when the container starts.
    Copy {
        /// Absolute path on the host.
        source: PathBuf,
    },
    /// A directory or file of the host; also what lies mounted below it.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
    },
    /// Memory.
    Tmpfs {
        /// Largest size in bytes; half of the host's memory otherwise.
        size_bytes: Option<u64>,
        /// Permission bits of its root.
        mode: u32,
    },
}

/// A limit of setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// `nofile`, `nproc` and so on, as `ulimit` options of compose files are named.
    pub name: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Limits; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory; swap is not allowed on top.
    pub memory_bytes: Option<u64>,
    /// Bytes below which the kernel reclaims from others first.
    pub memory_reservation_bytes: Option<u64>,
    /// Thousand-millionths of a processor, as Docker's `NanoCPUs`.
    pub nano_cpus: Option<u64>,
    /// Relative weight when processors are short, 2 to 262144; 1024 is the default.
    pub cpu_shares: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Why a description is not a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidContainer {
    /// Nothing to run.
    #[error("argv is empty: neither the image nor the service names a command")]
    NoCommand,
    /// A relative path where only an absolute one makes sense.
    #[error("{field} {path:?} is not an absolute path without '..'")]
    NotAbsolute {
        /// The field.
        field: &'static str,
        /// The refused path.
        path: PathBuf,
    },
    /// A byte that cannot be handed to the kernel.
    #[error("{field} contains a NUL byte")]
    Nul {
        /// The field.
        field: &'static str,
    },
    /// Not a capability.
    #[error("{field}: {source}")]
    Capability {
        /// The field.
        field: &'static str,
        /// Which, and what is accepted.
        source: UnknownCapability,
    },
    /// Not a resource limit.
    #[error("rlimits: {name:?} is not one of {accepted}", accepted = RLIMITS.map(|(n, _)| n).join(", "))]
    Rlimit {
        /// The refused name.
        name: String,
    },
    /// The soft limit is above the hard one.
    #[error("rlimits: soft limit {soft} of {name} is above its hard limit {hard}")]
    RlimitOrder {
        /// The limit.
        name: String,
        /// Soft.
        soft: u64,
        /// Hard.
        hard: u64,
    },
    /// A kernel parameter that is not the container's own.
    #[error(
        "sysctls: {name:?} is not namespaced: only net.*, fs.mqueue.* and the kernel's IPC \
         parameters are, and net.* only without the host's network"
    )]
    Sysctl {
        /// The refused name.
        name: String,
    },
    /// A number out of its range.
    #[error("{field} is {value}, not within {min}..={max}")]
    Range {
        /// The field.
        field: &'static str,
        /// The refused value.
        value: u64,
        /// Smallest accepted.
        min: u64,
        /// Largest accepted.
        max: u64,
    },
}

const RLIMITS: [(&str, PosixRlimitType); 16] = [
    ("as", PosixRlimitType::RlimitAs),
    ("core", PosixRlimitType::RlimitCore),
    ("cpu", PosixRlimitType::RlimitCpu),
    ("data", PosixRlimitType::RlimitData),
    ("fsize", PosixRlimitType::RlimitFsize),
    ("locks", PosixRlimitType::RlimitLocks),
    ("memlock", PosixRlimitType::RlimitMemlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue),
    ("nice", PosixRlimitType::RlimitNice),
    ("nofile", PosixRlimitType::RlimitNofile),
    ("nproc", PosixRlimitType::RlimitNproc),
    ("rss", PosixRlimitType::RlimitRss),
    ("rtprio", PosixRlimitType::RlimitRtprio),
    ("rttime", PosixRlimitType::RlimitRttime),
    ("sigpending", PosixRlimitType::RlimitSigpending),
    ("stack", PosixRlimitType::RlimitStack),
];

/// Period of the processor quota in microseconds, as Docker sets it for `NanoCPUs`.
const CPU_PERIOD_US: u64 = 100_000;
/// Longest period the kernel takes, in microseconds.
const CPU_PERIOD_MAX_US: u64 = 1_000_000;
/// Smallest quota the kernel takes, in microseconds.
const CPU_QUOTA_MIN_US: u64 = 1_000;
/// The least that comes of both, in billionths of a CPU.
const NANO_CPUS_MIN: u64 = 1_000_000;
/// Docker's smallest memory limit: below it a container cannot even start.
const MEMORY_MIN_BYTES: u64 = 6 << 20;

/// Makes the specification of a container.
///
/// The root path is `rootfs`, the user is root and the control group path is left out: all three are
/// the runtime's.
///
/// # Errors
/// The first [`InvalidContainer`], naming the field.
pub fn spec(config: &ContainerConfig) -> Result<Spec, InvalidContainer> {
    let caps = capabilities::effective(&config.cap_add, &config.cap_drop)
        .map_err(|(field, source)| InvalidContainer::Capability { field, source })?;
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(Some(config.read_only));
    let mut spec = Spec::default();
    spec.set_version("1.0.2".to_owned())
        .set_root(Some(root))
        .set_hostname(config.hostname.clone())
        .set_domainname(config.domainname.clone())
        .set_process(Some(process(config, &caps)?))
        .set_mounts(Some(mounts(config)?))
        .set_linux(Some(linux(config, &caps)?));
    Ok(spec)
}

fn process(
    config: &ContainerConfig,
    caps: &capabilities::CapabilitySet,
) -> Result<Process, InvalidContainer> {
    if config.argv.first().is_none_or(String::is_empty) {
        return Err(InvalidContainer::NoCommand);
    }
    no_nul("argv", &config.argv)?;
    no_nul("env", &config.env)?;
    absolute("cwd", &config.cwd)?;
    let mut env = config.env.clone();
    if !env.iter().any(|e| e.starts_with("PATH=")) {
        env.push(defaults::PATH.to_owned());
    }
    if config.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_user(User::default())
        .set_args(Some(config.argv.clone()))
        .set_env(Some(env))
        .set_cwd(config.cwd.clone())
        .set_capabilities(Some(linux_capabilities(caps)))
        .set_rlimits(Some(rlimits(&config.rlimits)?))
        .set_no_new_privileges(Some(config.no_new_privileges))
        .set_oom_score_adj(Some(config.oom_score_adj));
    Ok(process)
}

/// Inheritable and ambient sets stay empty (CVE-2022-24769).
fn linux_capabilities(caps: &capabilities::CapabilitySet) -> LinuxCapabilities {
    let mut linux = LinuxCapabilities::default();
    linux
        .set_bounding(Some(caps.to_oci()))
        .set_effective(Some(caps.to_oci()))
        .set_permitted(Some(caps.to_oci()))
        .set_inheritable(None)
        .set_ambient(None);
    linux
}

fn rlimits(wanted: &[Rlimit]) -> Result<Vec<PosixRlimit>, InvalidContainer> {
    let one = |r: &Rlimit| {
        let typ = RLIMITS
            .iter()
            .find(|(name, _)| *name == r.name)
            .map(|(_, typ)| *typ)
            .ok_or_else(|| InvalidContainer::Rlimit { name: r.name.clone() })?;
        if r.soft > r.hard {
            let (name, soft, hard) = (r.name.clone(), r.soft, r.hard);
            return Err(InvalidContainer::RlimitOrder { name, soft, hard });
        }
        let limit = PosixRlimitBuilder::default().typ(typ).soft(r.soft).hard(r.hard);
        // Every field has a default, so building cannot fail.
        Ok(limit.build().unwrap_or_default())
    };
    wanted.iter().map(one).collect()
}

fn mounts(config: &ContainerConfig) -> Result<Vec<Mount>, InvalidContainer> {
    let mut all = defaults::mounts(config.shm_bytes);
    for wanted in &config.mounts {
        absolute("mounts destination", &wanted.destination)?;
        if let MountKind::Bind { source } | MountKind::Copy { source } = &wanted.kind {
            absolute("mounts source", source)?;
        }
        // What is below them, the runtime makes in its own; a bind covers it as a whole.
        let roots = ["/dev", "/proc", "/sys"].map(Path::new);
        let root = roots.contains(&wanted.destination.as_path());
        all.retain(|m| root || m.destination() != &wanted.destination);
    }
    // Parents before children, whatever order they were written in.
    let mut extra: Vec<&MountConfig> = config.mounts.iter().collect();
    extra.sort_by_key(|m| m.destination.components().count());
    all.extend(extra.into_iter().map(mount));
    Ok(all)
}

fn mount(wanted: &MountConfig) -> Mount {
    let mut m = Mount::default();
    m.set_destination(wanted.destination.clone());
    let mut options = Vec::new();
    match &wanted.kind {
        MountKind::Bind { source } => {
            m.set_typ(Some("bind".to_owned())).set_source(Some(source.clone()));
            options.extend(["rbind".to_owned(), "rprivate".to_owned()]);
        }
        MountKind::Copy { source } => {
            // Not one of OCI's: the runtime's own.
            m.set_typ(Some("copy".to_owned())).set_source(Some(source.clone()));
            options.extend(["nosuid", "nodev", "noexec"].map(str::to_owned));
        }
        MountKind::Tmpfs { size_bytes, mode } => {
            m.set_typ(Some("tmpfs".to_owned())).set_source(Some(PathBuf::from("tmpfs")));
            options.extend(["nosuid", "nodev", "noexec"].map(str::to_owned));
            options.push(format!("mode={mode:o}"));
            options.extend(size_bytes.map(|size| format!("size={size}")));
        }
    }
    // With everything below.
    options.push(if wanted.read_only { "rro" } else { "rw" }.to_owned());
    m.set_options(Some(options));
    m
}

fn linux(
    config: &ContainerConfig,
    caps: &capabilities::CapabilitySet,
) -> Result<Linux, InvalidContainer> {
    for name in config.sysctls.keys() {
        if !is_own_sysctl(name, config.foreign_network) {
            return Err(InvalidContainer::Sysctl { name: name.clone() });
        }
    }
    let mut kinds = vec![
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ];
    if !config.foreign_network {
        kinds.push(LinuxNamespaceType::Network);
    }
    let namespace = |typ| {
        let mut ns = LinuxNamespace::default();
        ns.set_typ(typ);
        ns
    };
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(kinds.into_iter().map(namespace).collect()))
        .set_masked_paths(Some(defaults::MASKED_PATHS.map(str::to_owned).to_vec()))
        .set_readonly_paths(Some(defaults::READONLY_PATHS.map(str::to_owned).to_vec()))
        .set_seccomp(Some(seccomp::profile(caps)))
        .set_sysctl(Some(sysctls(config).into_iter().collect()))
        .set_resources(Some(resources(&config.resources)?));
    Ok(linux)
}

/// What the container asks for, over what every network of a container's own has.
fn sysctls(config: &ContainerConfig) -> BTreeMap<String, String> {
    let usual = defaults::NET_SYSCTLS.iter().filter(|_| !config.foreign_network);
    let mut all: BTreeMap<String, String> =
        usual.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    all.extend(config.sysctls.clone());
    all
}

fn resources(limits: &Resources) -> Result<LinuxResources, InvalidContainer> {
    let range = |field, value: Option<u64>, min, max| match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(InvalidContainer::Range { field, value, min, max })
        }
        _ => Ok(()),
    };
    let most = i64::MAX.unsigned_abs();
    range("resources.memory_bytes", limits.memory_bytes, MEMORY_MIN_BYTES, most)?;
    range("resources.memory_reservation_bytes", limits.memory_reservation_bytes, 0, most)?;
    range("resources.nano_cpus", limits.nano_cpus, NANO_CPUS_MIN, 1 << 50)?;
    range("resources.cpu_shares", limits.cpu_shares, 2, 262_144)?;
    range("resources.pids", limits.pids, 1, 4_194_304)?;
    let signed = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);

    let mut out = LinuxResources::default();
    if limits.memory_bytes.is_some() || limits.memory_reservation_bytes.is_some() {
        let mut memory = LinuxMemory::default();
        memory
            .set_limit(limits.memory_bytes.map(signed))
            .set_swap(limits.memory_bytes.map(signed))
            .set_reservation(limits.memory_reservation_bytes.map(signed));
        out.set_memory(Some(memory));
    }
    if limits.nano_cpus.is_some() || limits.cpu_shares.is_some() {
        let mut cpu = LinuxCpu::default();
        let share = limits.nano_cpus.map(cpu_share);
        cpu.set_shares(limits.cpu_shares)
            .set_quota(share.map(|(quota, _)| signed(quota)))
            .set_period(share.map(|(_, period)| period));
        out.set_cpu(Some(cpu));
    }
    if let Some(pids) = limits.pids {
        let mut p = LinuxPids::default();
        p.set_limit(signed(pids));
        out.set_pids(Some(p));
    }
    let rules: Vec<LinuxDeviceCgroup> = defaults::device_rules();
    out.set_devices(Some(rules));
    Ok(out)
}

/// Quota and period, in microseconds, of an amount of CPU. What comes to less than the kernel's
/// smallest quota in the usual period gets that quota in a longer one.
fn cpu_share(nano_cpus: u64) -> (u64, u64) {
    const NANO: u64 = 1_000_000_000;
    match nano_cpus / (NANO / CPU_PERIOD_US) {
        quota if quota >= CPU_QUOTA_MIN_US => (quota, CPU_PERIOD_US),
        _ => {
            (CPU_QUOTA_MIN_US, (CPU_QUOTA_MIN_US * NANO / nano_cpus.max(1)).min(CPU_PERIOD_MAX_US))
        }
    }
}

fn absolute(field: &'static str, path: &Path) -> Result<(), InvalidContainer> {
    let climbs = path.components().any(|c| matches!(c, std::path::Component::ParentDir));
    let nul = path.as_os_str().as_encoded_bytes().contains(&0);
    if path.is_absolute() && !climbs && !nul {
        Ok(())
    } else {
        Err(InvalidContainer::NotAbsolute { field, path: path.to_owned() })
    }
}

fn no_nul(field: &'static str, values: &[String]) -> Result<(), InvalidContainer> {
    if values.iter().any(|v| v.contains('\0')) {
        return Err(InvalidContainer::Nul { field });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
