//! Resource limits that this host does not give, found before libcontainer would only say that setting
//! them was not permitted.

use std::fs;

use libcontainer::oci_spec::runtime::{PosixRlimit, PosixRlimitType, Process};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::protocol::Failure;

/// Raises this process's hard limits to those that are wanted, where they are lower: what can be
/// raised here can be set in the container.
///
/// # Errors
/// [`Failure::Other`] naming the limit, the value, and what the host allows.
pub fn check(process: &Process) -> Result<(), Failure> {
    process.rlimits().iter().flatten().try_for_each(raise)
}

fn raise(wanted: &PosixRlimit) -> Result<(), Failure> {
    let (name, resource) = resource(wanted.typ());
    let now = getrlimit(resource);
    // No limit at all is the kernel's highest number, and the rustix crate's `None`.
    let hard = Some(wanted.hard()).filter(|n| *n != u64::MAX);
    let is_higher = match (hard, now.maximum) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(hard), Some(most)) => hard > most,
    };
    if !is_higher {
        return Ok(());
    }
    setrlimit(resource, Rlimit { current: now.current, maximum: hard }).map_err(|e| {
        let asked = hard.map_or("unlimited".to_owned(), |n| n.to_string());
        // Who may raise limits at all is stopped only by the kernel's own bound on open files.
        let may = capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
        let nr_open = fs::read_to_string("/proc/sys/fs/nr_open").ok();
        let most = match nr_open.filter(|_| may && name == "nofile") {
            Some(most) => format!("{} (fs.nr_open)", most.trim()),
            None => now.maximum.map_or("unlimited".to_owned(), |n| n.to_string()),
        };
        Failure::Other {
            stage: format!("setting ulimit {name} to {asked}"),
            reason: format!("this host allows at most {most}: {e}"),
        }
    })
}

fn resource(kind: PosixRlimitType) -> (&'static str, Resource) {
    match kind {
        PosixRlimitType::RlimitAs => ("as", Resource::As),
        PosixRlimitType::RlimitCore => ("core", Resource::Core),
        PosixRlimitType::RlimitCpu => ("cpu", Resource::Cpu),
        PosixRlimitType::RlimitData => ("data", Resource::Data),
        PosixRlimitType::RlimitFsize => ("fsize", Resource::Fsize),
        PosixRlimitType::RlimitLocks => ("locks", Resource::Locks),
        PosixRlimitType::RlimitMemlock => ("memlock", Resource::Memlock),
        PosixRlimitType::RlimitMsgqueue => ("msgqueue", Resource::Msgqueue),
        PosixRlimitType::RlimitNice => ("nice", Resource::Nice),
        PosixRlimitType::RlimitNofile => ("nofile", Resource::Nofile),
        PosixRlimitType::RlimitNproc => ("nproc", Resource::Nproc),
        PosixRlimitType::RlimitRss => ("rss", Resource::Rss),
        PosixRlimitType::RlimitRtprio => ("rtprio", Resource::Rtprio),
        PosixRlimitType::RlimitRttime => ("rttime", Resource::Rttime),
        PosixRlimitType::RlimitSigpending => ("sigpending", Resource::Sigpending),
        PosixRlimitType::RlimitStack => ("stack", Resource::Stack),
    }
}
