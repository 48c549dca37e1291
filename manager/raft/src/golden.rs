//! What the log, the snapshots and the watermark of version 1 look like, byte by byte. The files are kept
//! for ever: if this fails, a manager of today cannot read what an earlier one has written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use bytes::Bytes;
use openraft::CommittedLeaderId;

use super::snapshot::{SnapshotDir, SnapshotFile};
use super::store::records::{LogState, decode_entry, encode_entry};
use super::store::watermark::{Reading, Watermark};
use super::types::{
    Batch, Entry, LogId, Member, Membership, Payload, SnapshotMeta, StoredMembership, Vote,
};

/// The bytes in a golden file, which are those of `today`.
#[track_caller]
fn golden(name: &str, today: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/golden/{name}.hex"));
    let today = hex::encode(today);
    let text = fs::read_to_string(&path);
    let text = text.unwrap_or_else(|e| panic!("{}: {e}; to be in it:\n{today}", path.display()));
    assert_eq!(text.trim(), today, "{}", path.display());
    hex::decode(text.trim()).unwrap()
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(3, u64::MAX), index)
}

fn membership() -> Membership {
    let member = |node: u128, address: &str| Member { node: node.into(), address: address.into() };
    let members = BTreeMap::from([(7, member(70, "10.0.0.1:4242")), (9, member(90, "b:2"))]);
    Membership::new(vec![BTreeSet::from([7]), BTreeSet::from([7, 9])], members)
}

#[test]
fn entries_of_every_kind() {
    let batch = Batch::new(vec![Bytes::from_static(b"one"), Bytes::new()]);
    let entries = [
        ("entry_blank.v1", Payload::Blank),
        ("entry_commands.v1", Payload::Commands(batch)),
        ("entry_membership.v1", Payload::Membership(membership())),
    ];
    for (name, payload) in entries {
        let entry = Entry { log_id: log_id(12), payload };
        let bytes = golden(name, &encode_entry(&entry));
        assert_eq!(decode_entry(12, &bytes), Ok(entry), "{name}");
    }
}

#[test]
fn the_state_of_the_log() {
    let state = LogState {
        sequence: 5,
        vote: Some(Vote::new_committed(3, 9)),
        committed: Some(log_id(11)),
        purged: Some(log_id(4)),
        last: Some(log_id(12)),
        first_index: 5,
        raft_id: 7,
    };
    let bytes = golden("state.v1", &state.encode());
    assert_eq!(LogState::decode(&bytes), Ok(state));
}

#[test]
fn a_snapshot_file() {
    let dir = tempfile::tempdir().unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(12)),
        last_membership: StoredMembership::new(Some(log_id(2)), membership()),
        snapshot_id: "3-12-0000abcd".to_owned(),
    };
    SnapshotDir::open(dir.path()).unwrap().write(&meta, b"some state").unwrap();
    let path = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let bytes = golden("snapshot.v1", &fs::read(&path).unwrap());
    fs::write(&path, bytes).unwrap();
    let read = SnapshotFile::open(&path).unwrap();
    assert_eq!((read.meta(), read.data().unwrap()), (&meta, b"some state".to_vec()));
}

#[test]
fn the_watermark() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("watermark");
    Watermark::create(&path, 7).unwrap();
    let bytes = golden("watermark.v1", &fs::read(&path).unwrap()[..20]);
    fs::write(&path, bytes).unwrap();
    assert_eq!(Watermark::read(&path).unwrap(), Reading::AtLeast(7));
}
