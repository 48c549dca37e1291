//! Switches of the kernel, in the agent's own network namespace.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::NetworkError;

/// Switches IPv6 off on what has come and will come into the network namespace of the calling
/// thread, but for its loopback and what is to have it (`v6`): an interface that listens to
/// router advertisements takes its routes from whoever sends some.
pub(super) fn no_ipv6_in_container(v6: &BTreeSet<String>) -> Result<(), NetworkError> {
    let all = path("ipv6/conf");
    let Ok(entries) = fs::read_dir(&all) else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(|source| NetworkError::Sysctl { path: all.clone(), source })?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if v6.contains(&name) {
            ipv6_in_container(&name)?;
        } else if name != "all" && name != "lo" {
            set(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
        }
    }
    Ok(())
}

/// Switches IPv6 on for an interface in the network namespace of the calling thread. What it is and where its ways
/// go is given, and nothing of it is learned from others; it is good at once.
pub(super) fn ipv6_in_container(ifname: &str) -> Result<(), NetworkError> {
    for (name, value) in
        [("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0"), ("disable_ipv6", "0")]
    {
        set(&format!("ipv6/conf/{ifname}/{name}"), value)?;
    }
    Ok(())
}

/// A setting as it is; `None` where the kernel does not have it.
pub(super) fn get(name: &str) -> Option<String> {
    fs::read_to_string(path(name)).ok().map(|text| text.trim().to_owned())
}

/// Every interface that has IPv4 settings, `default` included and `all` not.
pub(super) fn interfaces() -> Vec<String> {
    let entries = fs::read_dir(path("ipv4/conf")).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).filter(|name| name != "all").collect()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(name)
}

/// Changes a setting if the kernel has it: it may have been built without IPv6, and an interface may be
/// gone.
pub(super) fn set_if_there(name: &str, value: &str) -> Result<(), NetworkError> {
    if path(name).exists() { set(name, value) } else { Ok(()) }
}

/// Changes a setting. Writes only where it changes something, so that a read-only `/proc/sys` with the right values
/// is good enough.
fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = path(name);
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| NetworkError::Sysctl { path, source })
}
