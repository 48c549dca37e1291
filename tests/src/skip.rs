//! Whether whole hosts can be made here. In CI a skip is a failure.

use std::path::{Path, PathBuf};

/// What is missing to make hosts; `None` if nothing is.
#[must_use]
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root".to_owned());
    }
    let tools = ["ip", "nsenter", "unshare", "setsid", "nft", "docker-registry"];
    if let Some(tool) = tools.into_iter().find(|tool| on_path(tool).is_none()) {
        return Some(format!("the program {tool}"));
    }
    if busybox().is_none() {
        return Some("a static busybox".to_owned());
    }
    None
}

/// True if the test that asks cannot run; says why on standard error.
///
/// # Panics
/// When the environment has `CI`: there, a skip is a failure.
#[must_use]
#[expect(clippy::print_stderr, reason = "a test's voice")]
pub fn skip() -> bool {
    let Some(missing) = missing() else { return false };
    eprintln!("SKIPPED: whole hosts need {missing}");
    assert!(std::env::var_os("CI").is_none(), "needs {missing}; in CI a skip is a failure");
    true
}

/// A statically linked busybox of this machine, to make images of.
#[must_use]
pub fn busybox() -> Option<PathBuf> {
    ["/bin/busybox-static", "/bin/busybox"].map(PathBuf::from).into_iter().find(|p| p.exists())
}

fn on_path(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(tool)).find(|p| Path::exists(p))
}
