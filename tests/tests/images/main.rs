//! The image store against a real registry, real archives and a second implementation.
//!
//! Needs root (owners, devices, overlay mounts) and, from Debian, docker-registry, skopeo and
//! umoci.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod host;
mod root_load;
mod root_pull;
mod root_store;
mod root_umoci;
