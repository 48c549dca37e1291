//! What every container gets unless its description says otherwise: Docker's defaults.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, Mount};

/// The search path when neither image nor service sets one.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of `/dev/shm`.
pub const SHM_BYTES: u64 = 64 << 20;

/// Processes and threads of a container whose service sets no limit, at most. Docker has none; so many
/// are more than any sound program has, and keep one that is not from taking the host's last.
pub const PIDS: u64 = 16_384;

/// Parameters of a container's own network: any user may use low ports, and ping.
pub const NET_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// Hidden inside a container, because they tell about the host or reach into it.
pub const MASKED_PATHS: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/security",
];

/// Not writable inside a container.
pub const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The file systems of every container, in the order they are mounted.
#[must_use]
pub fn mounts(shm_bytes: u64) -> Vec<Mount> {
    let shm = format!("size={shm_bytes}");
    let table: [(&str, &str, &str, &[&str]); 7] = [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
    ];
    let mount = |(destination, typ, source, options): (&str, &str, &str, &[&str])| {
        let mut m = Mount::default();
        m.set_destination(PathBuf::from(destination))
            .set_typ(Some(typ.to_owned()))
            .set_source(Some(PathBuf::from(source)))
            .set_options(Some(options.iter().map(ToString::to_string).collect()));
        m
    };
    table.map(mount).to_vec()
}

/// Device access: nothing, except making nodes, and using those that every container has.
#[must_use]
pub fn device_rules() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{A, B, C};
    type Rule = (bool, LinuxDeviceType, Option<i64>, Option<i64>, &'static str);
    let table: [Rule; 12] = [
        (false, A, None, None, "rwm"),
        (true, C, None, None, "m"),
        (true, B, None, None, "m"),
        (true, C, Some(1), Some(3), "rwm"), // null
        (true, C, Some(1), Some(5), "rwm"), // zero
        (true, C, Some(1), Some(7), "rwm"), // full
        (true, C, Some(1), Some(8), "rwm"), // random
        (true, C, Some(1), Some(9), "rwm"), // urandom
        (true, C, Some(5), Some(0), "rwm"), // tty
        (true, C, Some(5), Some(1), "rwm"), // console
        (true, C, Some(5), Some(2), "rwm"), // ptmx
        (true, C, Some(136), None, "rwm"),  // pts
    ];
    let rule = |(allow, typ, major, minor, access): Rule| {
        let mut r = LinuxDeviceCgroup::default();
        r.set_allow(allow)
            .set_typ(Some(typ))
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.to_owned()));
        r
    };
    table.map(rule).to_vec()
}
