//! Whether this host can hold a container to anything.

use std::os::fd::OwnedFd;
use std::path::Path;

use shoal_agent_planning::oci::{capabilities, seccomp as profile};

use super::RuntimeError;
use shoal_agent_container::cgroup::Layout;
use shoal_agent_container::seccomp;
use shoal_agent_container::supervise::protocol::chain;
use shoal_agent_container::sys;

/// Looks at everything that confinement needs: privileges, control groups that limit, seccomp with a
/// compilable default profile, overlayfs, read-only mounts of single files. Gives what was found: the
/// arrangement of control groups and the supervisor's program behind a read-only mount.
///
/// # Errors
/// [`RuntimeError::CannotConfine`] with the first thing that is missing.
pub fn probe(program: &Path) -> Result<(Layout, OwnedFd), RuntimeError> {
    let refuse = |reason: String| RuntimeError::CannotConfine { reason };
    if !rustix::process::geteuid().is_root() {
        return Err(refuse("the agent must run as root".to_owned()));
    }
    let layout = Layout::detect().map_err(|e| refuse(chain(&e)))?;
    if !sys::seccomp::available() {
        return Err(refuse("the kernel has no seccomp filters".to_owned()));
    }
    let caps = capabilities::effective(&[], &[]).map_err(|(_, e)| refuse(e.to_string()))?;
    seccomp::compile(&profile::profile(&caps)).map_err(|e| refuse(chain(&e)))?;
    // Loads the module where it is one.
    rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| refuse(format!("overlayfs is not available: {e}")))?;
    let view = sys::mount::read_only_view(program).map_err(|e| {
        refuse(format!("no read-only mount of {} (Linux 5.12 or later): {e}", program.display()))
    })?;
    Ok((layout, view))
}
