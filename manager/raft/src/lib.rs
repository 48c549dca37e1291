//! Consensus among the managers: log, snapshots, network and life cycle, all on openraft.
//!
//! Commands and snapshots are bytes here, and what a command is answered with is a type of the
//! [`Machine`]'s own: nothing of the cluster's state is known. openraft's types stay in this crate.

mod config;
mod convert;
mod group;
mod handover;
mod machine;
mod network;
mod node;
mod propose;
mod service;
mod snapshot;
mod store;
mod supervise;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod types;

pub use config::RaftConfig;
pub use machine::{BoxError, Machine, SnapshotEncoder};
pub use network::PeerConnector;
pub use node::{Leader, LeaderState, MemberStatus, OpenError, RaftCallError, RaftNode};
pub use propose::{ProposeConfig, ProposeError, Proposer};
pub use service::RaftService;
pub use snapshot::{SnapshotError, SnapshotFile};
pub use store::{LogStoreError, RaiseTermError, raise_term};
pub use types::{Answer, Batch, Member, RaftId};

#[cfg(test)]
mod golden;
#[cfg(test)]
mod members;
#[cfg(test)]
mod tests;
