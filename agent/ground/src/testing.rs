//! What tests of several crates need.

/// True if the test that asks cannot run; says why on standard error.
///
/// # Panics
/// When the environment has `CI`: there, a skip is a failure.
#[must_use]
#[expect(clippy::print_stderr, reason = "a test's voice")]
pub fn skip_without_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root, for owners, mounts and network namespaces");
        assert!(std::env::var_os("CI").is_none(), "needs root; in CI a skip is a failure");
    }
    !root
}
