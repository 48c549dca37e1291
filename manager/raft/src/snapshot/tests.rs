use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use openraft::CommittedLeaderId;

use super::*;
use crate::types::{LogId, Member, Membership, SnapshotMeta, StoredMembership};

fn meta(index: u64) -> SnapshotMeta {
    let log_id = LogId::new(CommittedLeaderId::new(2, 1), index);
    let members = BTreeMap::from([(1, Member { node: 10.into(), address: "h:1".into() })]);
    let membership = Membership::new(vec![BTreeSet::from([1])], members);
    SnapshotMeta {
        last_log_id: Some(log_id),
        last_membership: StoredMembership::new(Some(log_id), membership),
        snapshot_id: format!("test-{index}"),
    }
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_newest_snapshot_replaces_the_older_ones() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::open(temp.path()).unwrap();
    assert!(dir.newest().unwrap().is_none());
    let first = dir.write(&meta(5), b"five").unwrap();
    dir.write(&meta(9), b"nine").unwrap();
    assert_eq!(names(temp.path()).len(), 1);
    let newest = SnapshotDir::open(temp.path()).unwrap().newest().unwrap().unwrap();
    assert_eq!((newest.meta(), newest.data().unwrap()), (&meta(9), b"nine".to_vec()));
    // Somebody who is still sending the old one can go on.
    assert_eq!(first.data().unwrap(), b"five");
}

#[test]
fn a_snapshot_cut_short_at_any_byte_is_not_used() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::open(temp.path()).unwrap();
    dir.write(&meta(5), b"some data").unwrap();
    let name = names(temp.path()).remove(0);
    let whole = fs::read(temp.path().join(&name)).unwrap();
    for length in 0..whole.len() {
        let copy = tempfile::tempdir().unwrap();
        fs::write(copy.path().join(&name), &whole[..length]).unwrap();
        fs::write(copy.path().join("x.partial"), b"left behind").unwrap();
        let dir = SnapshotDir::open(copy.path()).unwrap();
        assert!(dir.newest().unwrap().is_none(), "cut at {length}");
        assert!(names(copy.path()).iter().all(|name| name.ends_with(".damaged")));
    }
}

#[test]
fn every_flipped_byte_is_seen() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::open(temp.path()).unwrap();
    dir.write(&meta(5), &[7; 300]).unwrap();
    let path = temp.path().join(names(temp.path()).remove(0));
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&path, flipped).unwrap();
        assert!(SnapshotFile::open(&path).is_err(), "byte {at}");
    }
}

#[test]
fn a_received_snapshot_counts_only_when_it_is_whole_and_installed() {
    let (temp, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = SnapshotDir::open(temp.path()).unwrap().write(&meta(5), b"0123456789").unwrap();
    let dir = SnapshotDir::open(other.path()).unwrap();

    let mut incoming = dir.receive(source.header().clone()).unwrap();
    incoming.write(b"01234").unwrap();
    assert!(matches!(incoming.finish(), Err(SnapshotError::Damaged { .. })));
    assert!(names(other.path()).is_empty(), "an unfinished snapshot stays behind");

    let mut incoming = dir.receive(source.header().clone()).unwrap();
    incoming.write(b"01234").unwrap();
    assert!(matches!(incoming.write(b"567890"), Err(SnapshotError::TooLarge { .. })));
    drop(incoming);

    let mut incoming = dir.receive(source.header().clone()).unwrap();
    incoming.write(&source.read_at(0, 4).unwrap()).unwrap();
    incoming.write(&source.read_at(4, 100).unwrap()).unwrap();
    let snapshot = incoming.finish().unwrap();
    assert!(dir.newest().unwrap().is_none());
    dir.install(snapshot).unwrap();
    assert_eq!(dir.newest().unwrap().unwrap().data().unwrap(), b"0123456789");
}

#[test]
fn a_newer_format_is_refused_not_skipped() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::open(temp.path()).unwrap();
    let source = dir.write(&meta(5), b"x").unwrap();
    let header = shoal_proto::v1::SnapshotHeader { format: 2, ..source.header().clone() };
    let mut bytes = file::preamble(&header);
    bytes.extend_from_slice(b"x");
    fs::write(temp.path().join("1.snapshot"), bytes).unwrap();
    let error = dir.newest().unwrap_err();
    assert!(error.to_string().ends_with("has format 2, this program reads format 1"), "{error}");

    let mut bytes = file::preamble(source.header());
    bytes[7] = b'2';
    fs::write(temp.path().join("1.snapshot"), bytes).unwrap();
    let error = dir.newest().unwrap_err().to_string();
    assert!(error.contains("is a file of version 2") && error.contains("newer version"), "{error}");
    assert!(temp.path().join("1.snapshot").exists(), "it was set aside");
}
