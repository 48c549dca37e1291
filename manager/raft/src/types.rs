//! The types that openraft is instantiated with.

use std::cmp::Ordering as Order;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use openraft::entry::{FromAppData, RaftEntry, RaftPayload};
use openraft::log_id::RaftLogId;
use openraft::{RaftTypeConfig, TokioRuntime};
use shoal_types::id::NodeId;

use super::snapshot::SnapshotFile;

/// Raft's own id of a member. Random, never used twice: a member that lost its log is a new member.
pub type RaftId = u64;

/// What the membership says about a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node that it runs on: whoever answers for it proves to be that node.
    pub node: NodeId,
    /// Host and port where the other managers reach it.
    pub address: String,
}

/// openraft wants one where nothing is known; no message has it.
impl Default for Member {
    fn default() -> Self {
        Self { node: NodeId::from(0), address: String::new() }
    }
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

/// What a state machine answers to a command, handed to its proposer as it is.
pub trait Answer: Send + Sync + 'static {}

impl<T: Send + Sync + 'static> Answer for T {}

/// openraft, instantiated for a state machine with these answers.
pub(crate) struct TypeConfig<A>(PhantomData<fn() -> A>);

impl<A: Answer> RaftTypeConfig for TypeConfig<A> {
    type D = Batch;
    type R = Vec<A>;
    type NodeId = RaftId;
    type Node = Member;
    type Entry = Entry;
    type SnapshotData = SnapshotFile;
    type AsyncRuntime = TokioRuntime;
    type Responder = openraft::impls::OneshotResponder<Self>;
}

// openraft wants all of these of a type that has no values; deriving them would ask them of `A`.
impl<A> fmt::Debug for TypeConfig<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}
impl<A> Clone for TypeConfig<A> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<A> Copy for TypeConfig<A> {}
impl<A> Default for TypeConfig<A> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<A> PartialEq for TypeConfig<A> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<A> Eq for TypeConfig<A> {}
impl<A> PartialOrd for TypeConfig<A> {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}
impl<A> Ord for TypeConfig<A> {
    fn cmp(&self, _: &Self) -> Order {
        Order::Equal
    }
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) log_id: LogId,
    pub(crate) payload: Payload,
}

/// What an entry brings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Payload {
    /// Nothing: a new leader commits with it what came before.
    Blank,
    /// Commands for the state machine.
    Commands(Batch),
    /// Who belongs to the group from now on.
    Membership(Membership),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.payload {
            Payload::Blank => write!(f, "{}: blank", self.log_id),
            Payload::Commands(batch) => {
                write!(f, "{}: {} commands", self.log_id, batch.commands().len())
            }
            Payload::Membership(membership) => write!(f, "{}: {membership}", self.log_id),
        }
    }
}

impl RaftPayload<RaftId, Member> for Entry {
    fn is_blank(&self) -> bool {
        self.payload == Payload::Blank
    }

    fn get_membership(&self) -> Option<&Membership> {
        match &self.payload {
            Payload::Membership(membership) => Some(membership),
            Payload::Blank | Payload::Commands(_) => None,
        }
    }
}

impl RaftLogId<RaftId> for Entry {
    fn get_log_id(&self) -> &LogId {
        &self.log_id
    }

    fn set_log_id(&mut self, log_id: &LogId) {
        self.log_id = *log_id;
    }
}

impl RaftEntry<RaftId, Member> for Entry {
    fn new_blank(log_id: LogId) -> Self {
        Self { log_id, payload: Payload::Blank }
    }

    fn new_membership(log_id: LogId, membership: Membership) -> Self {
        Self { log_id, payload: Payload::Membership(membership) }
    }
}

impl FromAppData<Batch> for Entry {
    fn from_app_data(batch: Batch) -> Self {
        Self { log_id: LogId::default(), payload: Payload::Commands(batch) }
    }
}

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
pub(crate) type Raft<A> = openraft::Raft<TypeConfig<A>>;
pub(crate) type StorageError = openraft::StorageError<RaftId>;
