//! The worker with real containers on real networks, in a network namespace of its own. Needs root
//! and a static busybox; says so when it skips.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test may fail by panicking, and says why it skips"
)]

#[path = "../../src/testing/assigner.rs"]
#[allow(dead_code, reason = "shared with the tests over fake drivers")]
mod assigner;
#[path = "../runtime/host.rs"]
#[allow(dead_code, reason = "shared with the tests of the runtime")]
mod host;
mod node;
mod root_beside;
mod root_lives;
mod root_names;
mod root_order;
mod root_volumes;
mod stuck;
