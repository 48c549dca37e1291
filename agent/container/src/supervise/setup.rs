//! What a supervisor is told: written once by the agent into the container's run directory, read by
//! the supervisor and by every process that joins the container later.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::runtime::{LinuxResources, Process};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shoal_agent_planning::oci::capabilities::CapabilitySet;

use super::file::{self, Kept};
use super::mounts::MountSetup;
use super::protocol::Failure;
use crate::ProcessIdentity;
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

/// What every process has to know that goes into the container: its first one, and those that join it
/// later, which may be of a newer program. So this is all that a newer program reads; what is added here
/// has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Common {
    /// Its name.
    pub id: ContainerId,
    /// Where short-lived things are.
    pub run_dir: PathBuf,
    /// How control groups are arranged here.
    pub layout: Layout,
    /// Its control group, from the root of every hierarchy.
    pub cgroup: String,
    /// Whether it enters a control group namespace on its own, at the end; otherwise libcontainer
    /// has done so if it was wanted.
    pub own_cgroups: bool,
    /// Whether its environment says where home is, so that no user's own does.
    pub home_given: bool,
    /// Whether its root directory cannot be written.
    #[serde(default)]
    pub read_only_root: bool,
    /// What it may do.
    pub confinement: Confinement,
}

/// A container as its supervisor makes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// For every process of it.
    #[serde(flatten)]
    pub common: Common,
    /// Where what survives a reboot is.
    pub state_dir: PathBuf,
    /// Its image.
    pub layers: Layers,
    /// Its limits.
    pub resources: LinuxResources,
    /// Whether it sees its control groups.
    pub cgroup_mount: bool,
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
    /// What is mounted beside the file systems of every container, parents before children.
    #[serde(default)]
    pub mounts: Vec<MountSetup>,
    /// Parameters of its network namespace, `net.ipv4.…` to value.
    pub net_sysctls: BTreeMap<String, String>,
    /// For people who look here.
    pub labels: BTreeMap<String, String>,
}

/// The version of the setup's format, for both of its readers.
const SETUP_VERSION: u32 = 1;

impl Kept for Setup {
    const WHAT: &'static str = "the container's setup";
    const VERSION: u32 = SETUP_VERSION;
    const NEEDS: u32 = 0;
}

impl Kept for Common {
    const WHAT: &'static str = Setup::WHAT;
    const VERSION: u32 = SETUP_VERSION;
    const NEEDS: u32 = 0;
}

impl Kept for ProcessIdentity {
    const WHAT: &'static str = "the record of who supervises the container";
    const VERSION: u32 = 1;
    const NEEDS: u32 = 0;
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

/// Reads the setup of a run directory, or what of it is wanted.
///
/// # Errors
/// [`Failure::OtherVersion`] when a newer program has written it so that it is not understood.
pub fn read<T: Kept>(run_dir: &Path) -> Result<T, Failure> {
    let bytes = fs::read(run_dir.join(SETUP_FILE));
    let bytes = bytes.map_err(|e| Failure::other("reading the setup", &e))?;
    Ok(file::from_bytes(&bytes)?)
}

impl Common {
    /// Where its root file system is mounted, in the supervisor's namespace.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.run_dir.join(ROOTFS_DIR)
    }
}
