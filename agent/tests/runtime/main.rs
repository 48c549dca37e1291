//! The runtime with real containers. Needs root and a static busybox; says so when it skips.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test may fail by panicking, and says why it skips"
)]

mod commands;
mod dead;
mod host;
mod other_version;
mod root_confinement;
mod root_ends;
mod root_exec;
mod root_faults;
mod root_lifecycle;
mod root_limits;
mod root_mounts;
mod root_mute;
mod root_outside;
mod root_upgrade;
