//! Capability sets: Docker's default one, additions and removals. See capabilities(7).

use std::collections::BTreeSet;

use oci_spec::runtime::{Capabilities, Capability};
use shoal_types::capability;

/// Every capability with its name, in the kernel's order (its position is its number).
pub const ALL: [(&str, Capability); 41] = [
    ("CAP_CHOWN", Capability::Chown),
    ("CAP_DAC_OVERRIDE", Capability::DacOverride),
    ("CAP_DAC_READ_SEARCH", Capability::DacReadSearch),
    ("CAP_FOWNER", Capability::Fowner),
    ("CAP_FSETID", Capability::Fsetid),
    ("CAP_KILL", Capability::Kill),
    ("CAP_SETGID", Capability::Setgid),
    ("CAP_SETUID", Capability::Setuid),
    ("CAP_SETPCAP", Capability::Setpcap),
    ("CAP_LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("CAP_NET_BIND_SERVICE", Capability::NetBindService),
    ("CAP_NET_BROADCAST", Capability::NetBroadcast),
    ("CAP_NET_ADMIN", Capability::NetAdmin),
    ("CAP_NET_RAW", Capability::NetRaw),
    ("CAP_IPC_LOCK", Capability::IpcLock),
    ("CAP_IPC_OWNER", Capability::IpcOwner),
    ("CAP_SYS_MODULE", Capability::SysModule),
    ("CAP_SYS_RAWIO", Capability::SysRawio),
    ("CAP_SYS_CHROOT", Capability::SysChroot),
    ("CAP_SYS_PTRACE", Capability::SysPtrace),
    ("CAP_SYS_PACCT", Capability::SysPacct),
    ("CAP_SYS_ADMIN", Capability::SysAdmin),
    ("CAP_SYS_BOOT", Capability::SysBoot),
    ("CAP_SYS_NICE", Capability::SysNice),
    ("CAP_SYS_RESOURCE", Capability::SysResource),
    ("CAP_SYS_TIME", Capability::SysTime),
    ("CAP_SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("CAP_MKNOD", Capability::Mknod),
    ("CAP_LEASE", Capability::Lease),
    ("CAP_AUDIT_WRITE", Capability::AuditWrite),
    ("CAP_AUDIT_CONTROL", Capability::AuditControl),
    ("CAP_SETFCAP", Capability::Setfcap),
    ("CAP_MAC_OVERRIDE", Capability::MacOverride),
    ("CAP_MAC_ADMIN", Capability::MacAdmin),
    ("CAP_SYSLOG", Capability::Syslog),
    ("CAP_WAKE_ALARM", Capability::WakeAlarm),
    ("CAP_BLOCK_SUSPEND", Capability::BlockSuspend),
    ("CAP_AUDIT_READ", Capability::AuditRead),
    ("CAP_PERFMON", Capability::Perfmon),
    ("CAP_BPF", Capability::Bpf),
    ("CAP_CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// Docker's default set.
pub const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// A set of capabilities by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CapabilitySet(BTreeSet<u8>);

/// Not the name of a capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a capability: expected ALL or a name such as NET_ADMIN or CAP_NET_ADMIN")]
pub struct UnknownCapability {
    /// The refused name.
    pub name: String,
}

impl CapabilitySet {
    /// Whether it holds the capability of this full name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        ALL.iter().zip(0u8..).any(|((n, _), i)| *n == name && self.0.contains(&i))
    }

    /// As the kernel shows it in `/proc/<pid>/status`.
    #[must_use]
    pub fn mask(&self) -> u64 {
        self.0.iter().fold(0, |mask, bit| mask | 1 << bit)
    }

    /// As the OCI specification has it.
    #[must_use]
    pub fn to_oci(&self) -> Capabilities {
        self.0.iter().filter_map(|i| ALL.get(usize::from(*i)).map(|(_, cap)| *cap)).collect()
    }

    /// From the OCI specification's.
    #[must_use]
    pub fn from_oci(caps: &Capabilities) -> Self {
        Self(ALL.iter().zip(0u8..).filter(|((_, c), _)| caps.contains(c)).map(|(_, i)| i).collect())
    }
}

enum Named {
    All,
    One(u8),
}

fn named(name: &str) -> Result<Named, UnknownCapability> {
    let full = capability::full_name(name);
    if full == capability::ALL {
        return Ok(Named::All);
    }
    ALL.iter()
        .zip(0u8..)
        .find(|((n, _), _)| *n == full)
        .map(|(_, i)| Named::One(i))
        .ok_or_else(|| UnknownCapability { name: name.to_owned() })
}

/// Docker's rule: start with the default set; `drop` takes away, `add` adds; `add: ALL` starts with
/// everything, `drop: ALL` with nothing.
///
/// # Errors
/// The first unknown name, and the field it stands in.
pub fn effective(
    add: &[String],
    drop: &[String],
) -> Result<CapabilitySet, (&'static str, UnknownCapability)> {
    let parse = |field, names: &[String]| -> Result<(bool, BTreeSet<u8>), _> {
        let mut all = false;
        let mut set = BTreeSet::new();
        for name in names {
            match named(name).map_err(|e| (field, e))? {
                Named::All => all = true,
                Named::One(i) => {
                    set.insert(i);
                }
            }
        }
        Ok((all, set))
    };
    let (add_all, add) = parse("cap_add", add)?;
    let (drop_all, drop) = parse("cap_drop", drop)?;
    let default =
        || ALL.iter().zip(0u8..).filter(|((n, _), _)| DEFAULT.contains(n)).map(|(_, i)| i);
    let mut set: BTreeSet<u8> = match (add_all, drop_all) {
        (true, _) => (0u8..).take(ALL.len()).collect(),
        (false, true) => BTreeSet::new(),
        (false, false) => default().collect(),
    };
    set.retain(|i| !drop.contains(i));
    set.extend(add);
    Ok(CapabilitySet(set))
}
