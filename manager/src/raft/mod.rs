//! Consensus among the managers: log, snapshots, network and life cycle, all on openraft.
//!
//! openraft's types stay in this module.

pub mod codec;
mod config;
mod convert;
mod machine;
mod network;
mod node;
mod propose;
mod service;
mod snapshot;
mod store;
#[cfg(feature = "testing")]
pub mod stored;
mod supervise;
mod types;

pub use config::RaftConfig;
pub use machine::{BoxError, Machine, SnapshotEncoder};
pub use network::PeerConnector;
pub use node::{Leader, LeaderState, MemberStatus, OpenError, RaftCallError, RaftNode};
pub use propose::{ProposeConfig, ProposeError, Proposer};
pub use service::RaftService;
pub use snapshot::{SnapshotError, SnapshotFile};
pub use store::LogStoreError;
pub use types::{Answer, Batch, Member, RaftId};

#[cfg(test)]
mod golden;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
