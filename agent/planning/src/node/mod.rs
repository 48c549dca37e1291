//! The node as one reconciled whole: (assigned, observed) -> ordered actions.
//!
//! What a node should be follows from what is assigned to it, and what it is can be seen; everything
//! that is done to it is the difference. Two planners share the work, since two parts of the agent can
//! see and do different things:
//!
//! - [`holdings`]: which containers, connections, networks, volumes and files belong to tasks, and
//!   which to nobody. Carried out by the worker.
//! - [`host`]: bridges, addresses, routes, routing rules, nftables tables and settings of the kernel,
//!   derived from the book of leases. Carried out by the network driver.
//!
//! [`fencing`] says whose word counts.
//!
//! Both run after every change, after whatever the kernel tells ([`look`] says which part of the host
//! a message is about) and now and then by themselves. Performing a plan makes the host what it should
//! be, planning again plans nothing, and nothing that is not the agent's own is ever touched.

pub mod fencing;
pub mod holdings;
pub mod host;
pub mod look;
