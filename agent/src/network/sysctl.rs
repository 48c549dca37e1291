//! Switches of the kernel, in the agent's own network namespace.

use std::fs;
use std::path::PathBuf;

use super::NetworkError;

/// Lets the host forward packets: without it neither masquerading nor published ports work.
pub(super) fn enable_forwarding() -> Result<(), NetworkError> {
    set("ipv4/ip_forward", "1")
}

/// Sets the switches of one bridge.
///
/// `route_localnet` lets the host reach ports published on 127.0.0.1: such a packet leaves for
/// the bridge with a loopback source until masquerading gives it the bridge's, and the kernel
/// otherwise calls it a martian. What else this would let in, the table's guard drops. IPv6 is
/// switched off on the bridge as the networks are IPv4 only: its link-local address would be a way
/// to the host past every rule.
pub(super) fn prepare_bridge(ifname: &str) -> Result<(), NetworkError> {
    set(&format!("ipv4/conf/{ifname}/route_localnet"), "1")?;
    let ipv6 = format!("ipv6/conf/{ifname}/disable_ipv6");
    // A kernel without IPv6 has no such file.
    if path(&ipv6).exists() { set(&ipv6, "1") } else { Ok(()) }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(name)
}

/// Writes only where it changes something, so that a read-only `/proc/sys` with the right values
/// is good enough.
fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = path(name);
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| NetworkError::Sysctl { path, source })
}
