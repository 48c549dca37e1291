//! Test hosts, simulation and the suites of shoal.

pub mod cluster;
pub mod eventually;
pub mod host;
pub mod image;
pub mod invariants;
pub mod sim;
pub mod skip;
