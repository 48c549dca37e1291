//! Test hosts, simulation and the suites of shoal.

#![allow(clippy::panic, reason = "what tests wait for in vain fails them")]

pub mod cluster;
pub mod eventually;
pub mod host;
pub mod image;
pub mod invariants;
pub mod sim;
pub mod skip;
