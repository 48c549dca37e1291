//! What a supervisor is told: written once by the agent into the container's run directory, read by
//! the supervisor and by every process that joins the container later.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::runtime::{LinuxResources, Process};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shoal_agent_planning::oci::capabilities::CapabilitySet;

use super::mounts::MountSetup;
use crate::cgroup::Layout;
use crate::seccomp::Instruction;
use crate::{ContainerId, Layers, LogLimits, NetworkMode};

/// File of the [`Setup`] in the run directory.
pub const SETUP_FILE: &str = "setup.json";
/// File of the OCI specification that libcontainer reads, in the run directory.
pub const CONFIG_FILE: &str = "config.json";
/// Mount point of the root file system in the run directory, mounted only in the supervisor's own
/// namespace.
pub const ROOTFS_DIR: &str = "rootfs";
/// libcontainer's state, in the run directory.
pub const OCI_DIR: &str = "oci";
/// The supervisor's socket in the run directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Who supervises, in the run directory.
pub const SUPERVISOR_FILE: &str = "supervisor.json";
/// How the container ended, in the state directory.
pub const EXIT_FILE: &str = "exit.json";
/// The writable layer and overlayfs' scratch space, in the state directory.
pub const UPPER_DIR: &str = "upper";
/// See [`UPPER_DIR`].
pub const WORK_DIR: &str = "work";
/// The log's files, in the state directory.
pub const LOG_DIR: &str = "log";

/// A container as its supervisor makes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setup {
    /// Its name.
    pub id: ContainerId,
    /// Where short-lived things are.
    pub run_dir: PathBuf,
    /// Where what survives a reboot is.
    pub state_dir: PathBuf,
    /// Its image.
    pub layers: Layers,
    /// How control groups are arranged here.
    pub layout: Layout,
    /// Its control group, from the root of every hierarchy.
    pub cgroup: String,
    /// Its limits.
    pub resources: LinuxResources,
    /// Whether it sees its control groups.
    pub cgroup_mount: bool,
    /// Whether it enters a control group namespace on its own, at the end; otherwise libcontainer
    /// has done so if it was wanted.
    pub own_cgroups: bool,
    /// Its network.
    pub network: NetworkMode,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its stdin stays open.
    pub open_stdin: bool,
    /// Bounds of its log.
    pub log: LogLimits,
    /// Its user as named, looked up in its own files; nobody is user 0.
    pub user: String,
    /// Whether its environment says where home is, so that no user's own does.
    pub home_given: bool,
    /// What is mounted beside the file systems of every container, parents before children.
    #[serde(default)]
    pub mounts: Vec<MountSetup>,
    /// Whether its root directory cannot be written.
    #[serde(default)]
    pub read_only_root: bool,
    /// Parameters of its network namespace, `net.ipv4.…` to value.
    pub net_sysctls: BTreeMap<String, String>,
    /// For people who look here.
    pub labels: BTreeMap<String, String>,
    /// What it may do.
    pub confinement: Confinement,
}

/// What the kernel holds a container to: applied last, just before its program is executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Capabilities that can ever be had again.
    pub bounding: u64,
    /// Capabilities in force.
    pub effective: u64,
    /// Capabilities that may be put in force.
    pub permitted: u64,
    /// Whether executing a file never gives privileges.
    pub no_new_privileges: bool,
    /// The compiled filter.
    #[serde(serialize_with = "write_program", deserialize_with = "read_program")]
    pub seccomp: Vec<Instruction>,
}

fn write_program<S: Serializer>(program: &[Instruction], s: S) -> Result<S::Ok, S::Error> {
    let bytes: Vec<u8> = program.iter().flat_map(|i| i.to_bytes()).collect();
    s.serialize_str(&STANDARD.encode(bytes))
}

fn read_program<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Instruction>, D::Error> {
    use serde::de::Error;
    let text = String::deserialize(d)?;
    let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
    let (whole, rest) = bytes.as_chunks::<{ Instruction::SIZE }>();
    if !rest.is_empty() {
        return Err(D::Error::custom("seccomp program is cut short"));
    }
    Ok(whole.iter().map(|b| Instruction::from_bytes(*b)).collect())
}

impl Confinement {
    /// As a specification's process says, behind a compiled filter.
    #[must_use]
    pub fn new(process: &Process, seccomp: Vec<Instruction>) -> Self {
        let caps = process.capabilities().as_ref();
        let mask = |set: Option<&oci_spec::runtime::Capabilities>| {
            set.map_or(0, |set| CapabilitySet::from_oci(set).mask())
        };
        Self {
            bounding: mask(caps.and_then(|c| c.bounding().as_ref())),
            effective: mask(caps.and_then(|c| c.effective().as_ref())),
            permitted: mask(caps.and_then(|c| c.permitted().as_ref())),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            seccomp,
        }
    }
}

impl Setup {
    /// Reads the setup of a run directory.
    ///
    /// # Errors
    /// The kernel's answer, or `InvalidData`.
    pub fn read(run_dir: &Path) -> io::Result<Self> {
        let bytes = fs::read(run_dir.join(SETUP_FILE))?;
        serde_json::from_slice(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Where its root file system is mounted, in the supervisor's namespace.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.run_dir.join(ROOTFS_DIR)
    }
}

/// A process, told apart from a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub start_ticks: u64,
}

impl ProcessIdentity {
    /// Looks a process up; `None` when there is none with this id.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything; what follows the last one is regular.
        let (_, rest) = stat.rsplit_once(')')?;
        let start_ticks = rest.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// Whether this very process still exists.
    #[must_use]
    pub fn exists(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}
