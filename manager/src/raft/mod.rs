//! What managers agree on, in words of the cluster: [`codec`] is between commands and the bytes that
//! `shoal-manager-raft` carries and keeps.

pub mod codec;

pub use shoal_manager_raft::{
    BoxError, Leader, LeaderState, Machine, Member, MemberStatus, PeerConnector, ProposeConfig,
    ProposeError, Proposer, RaftCallError, RaftConfig, RaftNode, RaiseTermError, SnapshotEncoder,
    raise_term,
};
