//! Between openraft's types and the messages of `storage.proto` and `raft.proto`.

use std::collections::{BTreeMap, BTreeSet};

use openraft::CommittedLeaderId;
use shoal_proto::v1;
use v1::log_entry::Payload as Wire;

use super::types::{
    Batch, Entry, LogId, Member, Membership, Payload, RaftId, SnapshotMeta, StoredMembership, Vote,
};

/// A message that lacks something that its sender always sets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` of a raft message is missing or makes no sense")]
pub(crate) struct InvalidRaftMessage {
    /// The field, with its message.
    pub(crate) field: &'static str,
}

fn missing(field: &'static str) -> InvalidRaftMessage {
    InvalidRaftMessage { field }
}

pub(crate) fn log_id_to_proto(id: &LogId) -> v1::LogId {
    v1::LogId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

pub(crate) fn log_id_from_proto(id: &v1::LogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, id.node_id), id.index)
}

pub(crate) fn vote_to_proto(vote: &Vote) -> v1::Vote {
    v1::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_proto(vote: &v1::Vote) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node_id)
    } else {
        Vote::new(vote.term, vote.node_id)
    }
}

/// A vote that every such message carries.
pub(crate) fn required_vote(
    vote: Option<&v1::Vote>,
    field: &'static str,
) -> Result<Vote, InvalidRaftMessage> {
    vote.map(vote_from_proto).ok_or_else(|| missing(field))
}

fn membership_to_proto(membership: &Membership) -> v1::Membership {
    v1::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| v1::VoterSet { ids: voters.iter().copied().collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, member)| v1::RaftMember {
                id: *id,
                address: member.address.clone(),
                node_id: member.node.to_string(),
            })
            .collect(),
    }
}

fn membership_from_proto(membership: v1::Membership) -> Result<Membership, InvalidRaftMessage> {
    let members: BTreeMap<RaftId, Member> = membership
        .members
        .into_iter()
        .map(|member| {
            let node = member.node_id.parse().map_err(|_| missing("RaftMember.node_id"))?;
            Ok((member.id, Member { node, address: member.address }))
        })
        .collect::<Result<_, InvalidRaftMessage>>()?;
    let configs: Vec<BTreeSet<RaftId>> =
        membership.configs.into_iter().map(|set| set.ids.into_iter().collect()).collect();
    if configs.iter().flatten().any(|id| !members.contains_key(id)) {
        return Err(missing("Membership.members"));
    }
    Ok(Membership::new(configs, members))
}

pub(crate) fn stored_membership_to_proto(stored: &StoredMembership) -> v1::StoredMembership {
    v1::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(stored.membership())),
    }
}

pub(crate) fn stored_membership_from_proto(
    stored: v1::StoredMembership,
) -> Result<StoredMembership, InvalidRaftMessage> {
    let membership = stored.membership.ok_or_else(|| missing("StoredMembership.membership"))?;
    Ok(StoredMembership::new(
        stored.log_id.as_ref().map(log_id_from_proto),
        membership_from_proto(membership)?,
    ))
}

pub(crate) fn entry_to_proto(entry: &Entry) -> v1::LogEntry {
    let payload = match &entry.payload {
        Payload::Blank => Wire::Blank(v1::BlankEntry {}),
        Payload::Commands(batch) => {
            Wire::Commands(v1::CommandBatch { commands: batch.commands().to_vec() })
        }
        Payload::Membership(membership) => Wire::Membership(membership_to_proto(membership)),
    };
    v1::LogEntry { log_id: Some(log_id_to_proto(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_from_proto(entry: v1::LogEntry) -> Result<Entry, InvalidRaftMessage> {
    let log_id = entry.log_id.ok_or_else(|| missing("LogEntry.log_id"))?;
    let payload = match entry.payload.ok_or_else(|| missing("LogEntry.payload"))? {
        Wire::Blank(v1::BlankEntry {}) => Payload::Blank,
        Wire::Commands(batch) => Payload::Commands(Batch::new(batch.commands)),
        Wire::Membership(membership) => Payload::Membership(membership_from_proto(membership)?),
    };
    Ok(Entry { log_id: log_id_from_proto(&log_id), payload })
}

pub(crate) fn snapshot_meta_from_proto(
    header: &v1::SnapshotHeader,
) -> Result<SnapshotMeta, InvalidRaftMessage> {
    let membership =
        header.last_membership.clone().ok_or_else(|| missing("SnapshotHeader.last_membership"))?;
    Ok(SnapshotMeta {
        last_log_id: header.last_log_id.as_ref().map(log_id_from_proto),
        last_membership: stored_membership_from_proto(membership)?,
        snapshot_id: header.snapshot_id.clone(),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;

    use super::*;

    fn log_id(term: u64, node: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, node), index)
    }

    #[test]
    fn entries_survive_encoding() {
        let members = BTreeMap::from([
            (7, Member { node: 70.into(), address: "a:1".into() }),
            (9, Member { node: 90.into(), address: "b:2".into() }),
        ]);
        let joint = Membership::new(vec![BTreeSet::from([7]), BTreeSet::from([7, 9])], members);
        let batch = Batch::new(vec![Bytes::from_static(b"x"), Bytes::new()]);
        let payloads = [Payload::Blank, Payload::Commands(batch), Payload::Membership(joint)];
        for payload in payloads {
            let entry = Entry { log_id: log_id(3, u64::MAX, 12), payload };
            let bytes = entry_to_proto(&entry).encode_to_vec();
            let message = v1::LogEntry::decode(bytes.as_slice()).unwrap();
            assert_eq!(entry_from_proto(message).unwrap(), entry);
        }
    }

    #[test]
    fn votes_survive_encoding() {
        for vote in [Vote::new(1, 2), Vote::new_committed(3, 4), Vote::default()] {
            assert_eq!(vote_from_proto(&vote_to_proto(&vote)), vote);
        }
    }

    #[test]
    fn a_member_without_its_node_is_refused() {
        let member = v1::RaftMember { id: 1, address: "a:1".to_owned(), node_id: String::new() };
        let message =
            v1::Membership { configs: vec![v1::VoterSet { ids: vec![1] }], members: vec![member] };
        assert_eq!(membership_from_proto(message), Err(missing("RaftMember.node_id")));
    }

    #[test]
    fn a_voter_without_an_address_is_refused() {
        let message =
            v1::Membership { configs: vec![v1::VoterSet { ids: vec![1] }], members: Vec::new() };
        assert_eq!(membership_from_proto(message), Err(missing("Membership.members")));
    }
}
