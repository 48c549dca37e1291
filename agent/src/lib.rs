//! The agent of shoal: everything one host does.
//!
//! A shell crate: it receives, asks `shoal-agent-planning` what to do, does it and reports.

pub mod boot;
pub mod config;
pub mod description;
mod endpoint;
pub mod identity;
pub mod ledger;
pub mod local;
pub mod manager_child;
mod managing;
pub mod metrics;
pub mod node;
pub mod node_workload;
pub mod overlay;
pub mod program;
pub mod reporter;
pub mod session;
mod told;
mod upkeep;
pub mod worker;

// Tests share a module with those of agent/tests, which know this crate by its name.
#[cfg(test)]
extern crate self as shoal_agent;
#[cfg(test)]
mod testing;
