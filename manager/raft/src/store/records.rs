//! Keys and values of the log in the database.

use prost::Message as _;
use shoal_proto::v1;

use crate::convert;
use crate::types::{Entry, LogId, RaftId, Vote};

use super::frame::{self, Unreadable};

pub(crate) const STATE_KEY: &[u8] = b"state";
const ENTRY_PREFIX: u8 = b'e';

/// What is known beside the entries; written with every batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) sequence: u64,
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    pub(crate) first_index: u64,
    pub(crate) raft_id: RaftId,
}

impl LogState {
    /// The indexes of the entries in the log.
    pub(crate) fn indexes(&self) -> std::ops::Range<u64> {
        match self.last {
            Some(last) if self.purged != self.last => self.first_index..last.index + 1,
            _ => 0..0,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let id = |id: &Option<LogId>| id.as_ref().map(convert::log_id_to_proto);
        let message = v1::LogState {
            sequence: self.sequence,
            vote: self.vote.as_ref().map(convert::vote_to_proto),
            committed: id(&self.committed),
            purged: id(&self.purged),
            last: id(&self.last),
            first_index: self.first_index,
            raft_id: self.raft_id,
        };
        frame::seal(STATE_KEY, &message.encode_to_vec())
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Unreadable> {
        let payload = frame::open(STATE_KEY, value)?;
        let message = v1::LogState::decode(payload).map_err(|_| Unreadable::Damaged)?;
        let id = |id: Option<v1::LogId>| id.as_ref().map(convert::log_id_from_proto);
        Ok(Self {
            sequence: message.sequence,
            vote: message.vote.as_ref().map(convert::vote_from_proto),
            committed: id(message.committed),
            purged: id(message.purged),
            last: id(message.last),
            first_index: message.first_index,
            raft_id: message.raft_id,
        })
    }
}

pub(crate) fn entry_key(index: u64) -> Vec<u8> {
    let mut key = vec![ENTRY_PREFIX];
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// The index in an entry's key; `None` for other keys.
pub(crate) fn entry_index(key: &[u8]) -> Option<u64> {
    let (prefix, index) = key.split_first()?;
    (*prefix == ENTRY_PREFIX).then(|| index.try_into().ok().map(u64::from_be_bytes)).flatten()
}

pub(crate) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let payload = convert::entry_to_proto(entry).encode_to_vec();
    frame::seal(&entry_key(entry.log_id.index), &payload)
}

/// The entry at `index`.
pub(crate) fn decode_entry(index: u64, value: &[u8]) -> Result<Entry, Unreadable> {
    let payload = frame::open(&entry_key(index), value)?;
    let message = v1::LogEntry::decode(payload).map_err(|_| Unreadable::Damaged)?;
    let entry = convert::entry_from_proto(message).map_err(|_| Unreadable::Damaged)?;
    if entry.log_id.index == index { Ok(entry) } else { Err(Unreadable::Damaged) }
}
