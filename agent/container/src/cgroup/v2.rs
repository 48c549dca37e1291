//! Version 2: the kernel's Documentation/admin-guide/cgroup-v2.rst.

use oci_spec::runtime::{LinuxCpu, LinuxResources};

use super::{Cgroup, CgroupError, devices, keyed};
use crate::ContainerStats;
use crate::sys;

const WEIGHT_MAX: &str = "10000";
const WEIGHT_DEFAULT: u64 = 100;

pub(super) fn apply(group: &Cgroup, resources: &LinuxResources) -> Result<(), CgroupError> {
    let Some(dir) = group.dirs.first() else { return Ok(()) };
    if let Some(memory) = resources.memory() {
        if let Some(limit) = memory.limit() {
            dir.write("memory.max", &or_max(limit))?;
        }
        if let Some(swap) = memory.swap() {
            // OCI counts memory and swap together, the kernel swap alone. Absent without swap.
            let swap = if swap < 0 { -1 } else { swap - memory.limit().unwrap_or(0).max(0) };
            if dir.read("memory.swap.max").is_ok() {
                dir.write("memory.swap.max", &or_max(swap))?;
            }
        }
        if let Some(reservation) = memory.reservation() {
            dir.write("memory.low", &reservation.to_string())?;
        }
    }
    // Absent where the controller is not handed down.
    if dir.number("cpu.weight").is_some() {
        dir.write("cpu.weight", WEIGHT_MAX)?;
    }
    if let Some(rules) = resources.devices().as_ref().filter(|rules| !rules.is_empty()) {
        let program = devices::compile(rules)?;
        sys::bpf::restrict_devices(&dir.dir, &program)
            .map_err(|source| CgroupError::Devices { group: dir.name.clone(), source })?;
    }
    Ok(())
}

pub(super) fn limit_cpu(group: &Cgroup, resources: &LinuxResources) -> Result<(), CgroupError> {
    let Some(dir) = group.dirs.first() else { return Ok(()) };
    let cpu = resources.cpu().as_ref();
    let weight = cpu.and_then(LinuxCpu::shares).map_or(WEIGHT_DEFAULT, weight);
    dir.write("cpu.weight", &weight.to_string())?;
    if let Some(quota) = cpu.and_then(LinuxCpu::quota) {
        let period = cpu.and_then(LinuxCpu::period).unwrap_or(100_000);
        dir.write("cpu.max", &format!("{} {period}", or_max(quota)))?;
    }
    Ok(())
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// From 2..=262144 to 1..=10000, as crun and runc convert.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

pub(super) fn kill(group: &Cgroup) {
    let Some(dir) = group.dirs.first() else { return };
    // Since Linux 5.14; kills what forks meanwhile, too.
    if dir.write("cgroup.kill", "1").is_ok() {
        return;
    }
    let _ = dir.write("cgroup.freeze", "1");
    group.kill_each();
    let _ = dir.write("cgroup.freeze", "0");
}

pub(super) fn stats(group: &Cgroup) -> ContainerStats {
    let Some(dir) = group.dirs.first() else { return ContainerStats::default() };
    let cpu = dir.read("cpu.stat").unwrap_or_default();
    let memory = dir.read("memory.stat").unwrap_or_default();
    ContainerStats {
        cpu_nanos: keyed(&cpu, "usage_usec").unwrap_or(0).saturating_mul(1000),
        memory_bytes: dir.number("memory.current").unwrap_or(0),
        inactive_file_bytes: keyed(&memory, "inactive_file").unwrap_or(0),
        memory_limit: dir.number("memory.max"),
        pids: dir.number("pids.current").unwrap_or(0),
        network: group.network(),
    }
}

#[cfg(test)]
mod root_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(2, 1), (1024, 39), (262_144, 10_000), (0, 1)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }
}
