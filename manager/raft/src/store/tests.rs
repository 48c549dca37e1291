//! What the log keeps across restarts, power cuts and rot.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _};
use openraft::{CommittedLeaderId, RaftLogReader as _};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;

use super::disk::{Disk, Operation, power_cut};
use super::redb_kv::RedbKv;
use super::{LogStoreError, frame, kv::Change, kv::Kv as _};
use crate::types::{Batch, Entry, LogId, Payload, Vote};

type LogStore = super::LogStore<()>;

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let command = Bytes::from(vec![(index % 251) as u8; bytes]);
    let payload = Payload::Commands(Batch::new(vec![command]));
    Entry { log_id: log_id(term, index), payload }
}

/// What a store must hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    async fn of(store: &LogStore) -> Self {
        let mut store = store.clone();
        let state = store.get_log_state().await.unwrap();
        Self {
            vote: store.read_vote().await.unwrap(),
            purged: state.last_purged_log_id,
            last: state.last_log_id,
            entries: store
                .try_get_log_entries(..)
                .await
                .unwrap()
                .into_iter()
                .map(|entry| (entry.log_id.index, entry))
                .collect(),
        }
    }

    /// Does one random legal operation on the store and on the model.
    async fn step(&mut self, store: &mut LogStore, random: &mut StdRng) {
        let term = self.vote.map_or(1, |vote| vote.leader_id.term);
        let next = self.last.map_or(0, |last| last.index + 1);
        match random.random_range(0..20) {
            0 | 1 => {
                let vote = Vote::new_committed(term + 1, 1);
                store.save_vote(&vote).await.unwrap();
                self.vote = Some(vote);
            }
            2 if self.entries.len() > 3 => {
                let from = *self.entries.keys().rev().nth(random.random_range(0..3)).unwrap();
                store.truncate(self.entries[&from].log_id).await.unwrap();
                self.entries.retain(|index, _| *index < from);
                self.last = self.entries.values().last().map(|e| e.log_id).or(self.purged);
            }
            3 if self.entries.len() > 40 => {
                let upto = self.entries.values().nth(20).unwrap().log_id;
                store.purge(upto).await.unwrap();
                self.entries.retain(|index, _| *index > upto.index);
                self.purged = Some(upto);
            }
            _ => {
                let count = random.random_range(1..4);
                let entries: Vec<_> = (next..next + count)
                    .map(|index| {
                        let large = random.random_range(0..10) == 0;
                        entry(term, index, random.random_range(0..if large { 90_000 } else { 600 }))
                    })
                    .collect();
                store.blocking_append(entries.clone()).await.unwrap();
                self.last = entries.last().map(|entry| entry.log_id);
                self.entries.extend(entries.into_iter().map(|e| (e.log_id.index, e)));
            }
        }
    }
}

/// Runs random operations on a log on a recorded disk, and hands every step to `check`: the disk
/// before and the operations of the step, the model before and after, the watermark before.
async fn run(seed: u64, steps: usize, mut check: impl AsyncFnMut(Step<'_>)) -> Files {
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::default();
    let mut store = open(dir.path(), &disk).unwrap();
    let mut model = Model::default();
    for _ in 0..steps {
        let (old, watermark) = (model.clone(), fs::read(dir.path().join("watermark")).unwrap());
        let (before, _) = disk.take();
        model.step(&mut store, &mut random).await;
        let operations = disk.operations();
        let step = Step { before, operations, old: &old, new: &model, watermark: &watermark };
        check(step).await;
    }
    store.close().await.unwrap();
    let watermark = fs::read(dir.path().join("watermark")).unwrap();
    drop(store);
    Files { database: disk.take().0, watermark, model }
}

struct Step<'a> {
    before: Vec<u8>,
    operations: Vec<Operation>,
    old: &'a Model,
    new: &'a Model,
    watermark: &'a [u8],
}

struct Files {
    database: Vec<u8>,
    watermark: Vec<u8>,
    model: Model,
}

fn open(dir: &Path, disk: &Disk) -> Result<LogStore, LogStoreError> {
    LogStore::on(dir, || RedbKv::on(disk.clone()))
}

/// Opens a copy of a disk after a crash.
fn reopen(database: Vec<u8>, watermark: &[u8]) -> Result<(TempDir, LogStore), LogStoreError> {
    // In memory where that is possible: a copy needs no barrier.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    fs::write(dir.path().join("watermark"), watermark).unwrap();
    let store = open(dir.path(), &Disk::with(database))?;
    Ok((dir, store))
}

#[tokio::test]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    const CUTS_PER_STEP: usize = 10;
    let mut random = StdRng::seed_from_u64(1);
    let (mut without_step, mut with_step) = (0, 0);
    for seed in 0..3 {
        run(seed, 60, async |step| {
            assert!(
                step.operations.contains(&Operation::Sync),
                "a write was acknowledged without a disk barrier"
            );
            for _ in 0..CUTS_PER_STEP {
                let at = random.random_range(0..=step.operations.len());
                let image = power_cut(&step.before, &step.operations[..at], &mut random);
                let (_dir, store) = reopen(image, step.watermark).unwrap();
                let found = Model::of(&store).await;
                if at == step.operations.len() || found == *step.new {
                    assert_eq!(found, *step.new);
                    with_step += 1;
                } else {
                    assert_eq!(found, *step.old);
                    without_step += 1;
                }
            }
        })
        .await;
    }
    // Both outcomes must have been met, or the cuts were not where they hurt.
    assert!(without_step > 100 && with_step > 100, "{without_step} {with_step}");
}

#[tokio::test]
async fn a_flipped_bit_is_refused_or_harmless() {
    let files = run(7, 120, async |_| {}).await;
    let mut random = StdRng::seed_from_u64(2);
    let (mut refused, mut harmless) = (0, 0);
    for round in 0..1000 {
        let mut image = files.database.clone();
        // Every eighth flip hits the header, where damage would do most.
        let limit = if round % 8 == 0 { 512 } else { image.len() };
        let at = random.random_range(0..limit);
        image[at] ^= 1 << random.random_range(0..8);
        match reopen(image, &files.watermark) {
            Ok((_dir, store)) => {
                assert_eq!(Model::of(&store).await, files.model, "byte {at}");
                harmless += 1;
            }
            Err(LogStoreError::Damaged { .. } | LogStoreError::Database(_)) => refused += 1,
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(refused > 50 && harmless > 50, "{refused} {harmless}");
}

#[tokio::test]
async fn a_store_that_lost_its_newest_batch_is_refused() {
    let mut previous = Vec::new();
    let files = run(3, 30, async |step| previous = step.before).await;
    let error = reopen(previous, &files.watermark).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("was acknowledged"), "{error}");
    let error = reopen(Vec::new(), &files.watermark).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("state record is missing"), "{error}");
    assert!(reopen(files.database, &files.watermark).is_ok());
}

#[tokio::test]
async fn a_failed_barrier_closes_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::default();
    let mut store = open(dir.path(), &disk).unwrap();
    store.blocking_append([entry(1, 0, 10)]).await.unwrap();
    let (acknowledged, _) = disk.take();
    disk.fail_syncs();
    assert!(store.blocking_append([entry(1, 1, 10)]).await.is_err());
    disk.heal();
    assert!(
        store.blocking_append([entry(1, 1, 10)]).await.is_err(),
        "retried after a failed fsync"
    );
    assert!(store.save_vote(&Vote::new(9, 9)).await.is_err());

    let watermark = fs::read(dir.path().join("watermark")).unwrap();
    let (_dir, store) = reopen(acknowledged, &watermark).unwrap();
    assert_eq!(Model::of(&store).await.last, Some(log_id(1, 0)));
}

#[tokio::test]
async fn everything_survives_a_restart_from_a_real_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(5);
    let mut model = Model::default();
    for _ in 0..5 {
        let mut store = LogStore::open(dir.path()).unwrap();
        assert_eq!(Model::of(&store).await, model);
        let second = LogStore::open(dir.path()).map(|_| ()).unwrap_err();
        assert!(matches!(second, LogStoreError::Database(_)), "opened twice");
        for _ in 0..40 {
            model.step(&mut store, &mut random).await;
        }
        let committed = model.last;
        store.save_committed(committed).await.unwrap();
        store.close().await.unwrap();
        assert!(matches!(store.close().await, Err(LogStoreError::Poisoned)));
        drop(store);
        let mut store = LogStore::open(dir.path()).unwrap();
        assert_eq!(store.read_committed().await.unwrap(), committed);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn one_barrier_per_append() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::default();
    let mut store = open(dir.path(), &disk).unwrap();
    for index in 0..100 {
        disk.take();
        store.blocking_append([entry(1, index, 300)]).await.unwrap();
        let syncs = disk.operations().iter().filter(|op| **op == Operation::Sync).count();
        assert_eq!(syncs, 1, "append {index}");
    }
}

#[tokio::test]
async fn a_power_cut_during_the_first_start_leaves_nothing_in_the_way() {
    let disk = Disk::default();
    drop(RedbKv::on(disk.clone()).unwrap());
    let (_, operations) = disk.take();
    let mut random = StdRng::seed_from_u64(4);
    let mut unusable = 0;
    for at in 0..=operations.len() {
        let image = power_cut(&[], &operations[..at], &mut random);
        unusable += usize::from(RedbKv::on(Disk::with(image.clone())).is_err());
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log.new"), image).unwrap();
        let store = LogStore::open(dir.path()).unwrap();
        assert!(store.is_pristine());
        store.close().await.unwrap();
        LogStore::open(dir.path()).unwrap().close().await.unwrap();
    }
    assert!(unusable > 0, "redb opens what is half made: the detour is not needed");
}

#[tokio::test]
async fn a_log_of_a_newer_version_is_refused_by_its_version_and_not_as_damage() {
    let files = run(3, 30, async |_| {}).await;
    let keys = [b"state".to_vec(), super::records::entry_key(files.model.last.unwrap().index)];
    for key in keys {
        let disk = Disk::with(files.database.clone());
        let kv = RedbKv::on(disk.clone()).unwrap();
        kv.commit(vec![Change::Put(key.clone(), frame::seal_as(2, &key, b"from the future"))])
            .unwrap();
        drop(kv);
        let error = reopen(disk.take().0, &files.watermark).map(|_| ()).unwrap_err();
        assert!(matches!(error, LogStoreError::Newer { version: 2, .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("newer version of shoal") && !text.contains("damaged"), "{text}");
        assert!(text.contains("has format 2, this version reads formats up to 1"), "{text}");
    }
}
