//! The types that openraft is instantiated with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::snapshot::SnapshotFile;

/// Raft's own id of a member. Random, never used twice: a member that lost its log is a new member.
pub type RaftId = u64;

/// What the membership says about a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Host and port where the other managers reach it.
    pub address: String,
}

/// The commands of one log entry, in the order in which they are applied.
///
/// Each command is opaque to Raft. Commands that arrive together share an entry, and so one disk
/// barrier and one round of replication.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    commands: Arc<[Bytes]>,
    appended: AppendedFlag,
}

/// Tells a proposer whether its batch has ever reached this member's log. Not stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct AppendedFlag(Arc<AtomicBool>);

impl AppendedFlag {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Batch {
    /// A batch of these commands.
    pub fn new(commands: Vec<Bytes>) -> Self {
        Self { commands: commands.into(), appended: AppendedFlag::default() }
    }

    /// The commands, in order.
    pub fn commands(&self) -> &[Bytes] {
        &self.commands
    }

    pub(crate) fn appended(&self) -> &AppendedFlag {
        &self.appended
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.commands == other.commands
    }
}

openraft::declare_raft_types!(
    /// openraft, instantiated for the manager.
    pub TypeConfig:
        D = Batch,
        R = Vec<Bytes>,
        NodeId = RaftId,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotFile,
        AsyncRuntime = openraft::TokioRuntime,
);

/// An entry of the log.
pub(crate) type Entry = openraft::Entry<TypeConfig>;
/// The position of an entry, across all leaders.
pub(crate) type LogId = openraft::LogId<RaftId>;
/// Whom a member follows or asks to be followed by.
pub(crate) type Vote = openraft::Vote<RaftId>;
/// Who belongs to the group.
pub(crate) type Membership = openraft::Membership<RaftId, Member>;
/// A membership and the entry that brought it.
pub(crate) type StoredMembership = openraft::StoredMembership<RaftId, Member>;
/// What a snapshot is of.
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<RaftId, Member>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type StorageError = openraft::StorageError<RaftId>;
