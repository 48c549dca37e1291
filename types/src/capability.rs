//! Names of capabilities (capabilities(7)).

/// Stands for every capability.
pub const ALL: &str = "ALL";

/// Every capability by its full name, in the kernel's order.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The full name of a capability however people write it: `net_admin` is `CAP_NET_ADMIN`. Does not
/// look whether there is such a capability.
#[must_use]
pub fn full_name(name: &str) -> String {
    let upper = name.trim().to_ascii_uppercase();
    if upper == ALL || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

/// Whether this is the name of a capability, or of all.
#[must_use]
pub fn is_known(name: &str) -> bool {
    let name = full_name(name);
    name == ALL || NAMES.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_people_write_them() {
        for name in ["ALL", "all", "NET_ADMIN", "net_admin", "CAP_NET_ADMIN", "cap_net_admin"] {
            assert!(is_known(name), "{name}");
        }
        for name in ["", "CAP_", "ADMIN", "CAP_ALL", "NET-ADMIN"] {
            assert!(!is_known(name), "{name}");
        }
        assert_eq!(full_name("net_admin"), "CAP_NET_ADMIN");
        assert_eq!(full_name("all"), ALL);
    }
}
