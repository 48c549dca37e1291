//! The real programs on test hosts, from the command line to the container. Each file has a
//! cluster of its own and ends with a look for what is left behind.
//!
//! Needs root; see `shoal_tests::skip`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod anymanager;
mod beside;
mod connections;
mod departures;
mod deploy;
mod dual;
mod endings;
mod examples;
mod faults;
mod guests;
mod identities;
mod images;
mod joining;
mod keys;
mod managers;
mod names;
#[path = "../../../agent/tests/runtime/other_version.rs"]
mod other_version;
mod overlay;
mod patience;
mod published;
mod reboots;
mod refusals;
mod registries;
mod running;
mod secrets;
mod sharing;
mod subnets;
mod upgrades;
mod upkeep;
mod verify;
mod wide;
mod wire;
mod world;
