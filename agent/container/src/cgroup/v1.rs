//! The older hierarchies: the kernel's Documentation/admin-guide/cgroup-v1.

use oci_spec::runtime::{LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::{Cgroup, CgroupError, Dir, keyed};
use crate::ContainerStats;

/// What an unlimited group shows, rounded down to pages by the kernel.
const UNLIMITED: u64 = i64::MAX.unsigned_abs() / 4096 * 4096;

pub(super) fn apply(group: &Cgroup, resources: &LinuxResources) -> Result<(), CgroupError> {
    if let (Some(dir), Some(memory)) = (group.with("memory"), resources.memory()) {
        if let Some(limit) = memory.limit() {
            dir.write("memory.limit_in_bytes", &limit.to_string())?;
        }
        if let Some(swap) = memory.swap() {
            // Absent where the kernel does not account for swap.
            if dir.number("memory.memsw.limit_in_bytes").is_some() {
                dir.write("memory.memsw.limit_in_bytes", &swap.to_string())?;
            }
        }
        if let Some(reservation) = memory.reservation() {
            dir.write("memory.soft_limit_in_bytes", &reservation.to_string())?;
        }
    }
    if let (Some(dir), Some(rules)) = (group.with("devices"), resources.devices()) {
        rules.iter().try_for_each(|rule| device(dir, rule))?;
    }
    Ok(())
}

pub(super) fn limit_cpu(group: &Cgroup, resources: &LinuxResources) -> Result<(), CgroupError> {
    let Some(dir) = group.with("cpu") else { return Ok(()) };
    let cpu = resources.cpu().as_ref();
    if let Some(shares) = cpu.and_then(LinuxCpu::shares) {
        dir.write("cpu.shares", &shares.to_string())?;
    }
    if let Some(period) = cpu.and_then(LinuxCpu::period) {
        dir.write("cpu.cfs_period_us", &period.to_string())?;
    }
    if let Some(quota) = cpu.and_then(LinuxCpu::quota) {
        dir.write("cpu.cfs_quota_us", &quota.to_string())?;
    }
    Ok(())
}

fn device(dir: &Dir, rule: &LinuxDeviceCgroup) -> Result<(), CgroupError> {
    let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => return dir.write(file, "a"),
        Some(LinuxDeviceType::B) => "b",
        Some(LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::P) => "c",
    };
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or("*".to_owned(), |n| n.to_string());
    let access = rule.access().as_deref().unwrap_or("rwm");
    dir.write(file, &format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor())))
}

/// Frozen, nothing can fork away from the list of processes.
pub(super) fn kill(group: &Cgroup) {
    let freezer = group.with("freezer");
    if let Some(dir) = freezer {
        let _ = dir.write("freezer.state", "FROZEN");
    }
    group.kill_each();
    if let Some(dir) = freezer {
        let _ = dir.write("freezer.state", "THAWED");
    }
}

pub(super) fn stats(group: &Cgroup) -> ContainerStats {
    let memory = group.with("memory");
    let number = |controller: &str, file: &str| group.with(controller).and_then(|d| d.number(file));
    let stat = memory.and_then(|d| d.read("memory.stat").ok()).unwrap_or_default();
    // A child of the hierarchy may be limited from above as well.
    let hierarchical = keyed(&stat, "hierarchical_memory_limit");
    ContainerStats {
        cpu_nanos: number("cpuacct", "cpuacct.usage").unwrap_or(0),
        memory_bytes: number("memory", "memory.usage_in_bytes").unwrap_or(0),
        inactive_file_bytes: keyed(&stat, "total_inactive_file").unwrap_or(0),
        memory_limit: hierarchical.filter(|l| *l < UNLIMITED),
        pids: number("pids", "pids.current").unwrap_or(0),
        network: group.network(),
    }
}
