//! Opening the log: everything that is on disk is checked before anybody relies on it.

use std::fs;
use std::marker::PhantomData;
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock, mpsc};

use crate::types::{LogId, RaftId};

use super::LogStoreError;
use super::kv::{Change, Kv, KvError};
use super::log_store::{LogStore, Shared, View};
use super::records::{LogState, STATE_KEY, decode_entry, entry_index};
use super::redb_kv::RedbKv;
use super::tail::Tail;
use super::watermark::{Reading, Watermark};
use super::writer::Writer;

const WATERMARK_FILE: &str = "watermark";
pub(super) const DATABASE: &str = "log.redb";

impl<A> LogStore<A> {
    /// Opens the log in `dir`, creating it when there is none.
    ///
    /// # Errors
    ///
    /// Refuses a log that does not hold everything that was ever acknowledged.
    pub(crate) fn open(dir: &Path) -> Result<Self, LogStoreError> {
        create_dir(dir)?;
        Self::on(dir, || RedbKv::open(&dir.join(DATABASE)))
    }

    /// Opens the log in `dir` on the database that `open` gives.
    pub(super) fn on<K: Kv>(
        dir: &Path,
        open: impl FnOnce() -> Result<K, KvError>,
    ) -> Result<Self, LogStoreError> {
        // A database may panic on what damage has left.
        let checked = catch_unwind(AssertUnwindSafe(|| {
            let kv = open()?;
            load(dir, &kv).map(|loaded| (kv, loaded))
        }));
        let (kv, loaded) = checked.unwrap_or_else(|_| {
            Err(LogStoreError::Damaged {
                path: dir.to_owned(),
                what: "the database cannot be read".to_owned(),
            })
        })?;
        let watermark = Watermark::create(&dir.join(WATERMARK_FILE), loaded.state.sequence)
            .map_err(LogStoreError::Watermark)?;
        let shared = Arc::new(Shared {
            path: dir.to_owned(),
            kv: RwLock::new(Some(Box::new(kv))),
            view: Mutex::new(View { state: loaded.state, tail: Tail::default() }),
            appended_bytes: AtomicU64::new(loaded.bytes),
        });
        let (jobs, queue) = mpsc::channel();
        let writer = Writer { shared: Arc::clone(&shared), watermark };
        std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|source| LogStoreError::Prepare { path: dir.to_owned(), source })?;
        Ok(Self { shared, jobs, answers: PhantomData })
    }
}

/// Creates a directory that only its owner may enter, and makes its existence durable.
pub(crate) fn create_dir(dir: &Path) -> Result<(), LogStoreError> {
    let prepare = |source| LogStoreError::Prepare { path: dir.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(prepare)?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(prepare)?;
    }
    Ok(())
}

struct Loaded {
    state: LogState,
    bytes: u64,
}

/// Reads and checks the whole log, or starts a new one.
fn load(dir: &Path, kv: &dyn Kv) -> Result<Loaded, LogStoreError> {
    let path = dir.join(WATERMARK_FILE);
    let reading = Watermark::read(&path)
        .map_err(|source| LogStoreError::Prepare { path: path.clone(), source })?;
    let damaged = |what: String| LogStoreError::Damaged { path: dir.to_owned(), what };
    let survey = Survey::of(dir, kv)?;
    let state = match kv.get(STATE_KEY)? {
        Some(value) => LogState::decode(&value)
            .map_err(|why| LogStoreError::unreadable(dir, "its state record".to_owned(), why))?,
        None if reading == Reading::Absent && survey.count == 0 => {
            let raft_id = rand::random_range(1..=RaftId::MAX);
            let state = LogState { raft_id, ..LogState::default() };
            kv.commit(vec![Change::Put(STATE_KEY.to_vec(), state.encode())])?;
            return Ok(Loaded { state, bytes: 0 });
        }
        None => return Err(damaged("its state record is missing".to_owned())),
    };
    match reading {
        Reading::AtLeast(number) if number <= state.sequence => {}
        Reading::AtLeast(number) => {
            return Err(damaged(format!(
                "batch {number} was acknowledged, but the newest one present is {}",
                state.sequence
            )));
        }
        // The first batch is written before the first watermark.
        Reading::Absent | Reading::Damaged if state.sequence == 0 => {}
        Reading::Newer { version } => {
            let what = path.display().to_string();
            return Err(LogStoreError::Newer { path: dir.to_owned(), what, version });
        }
        Reading::Absent => return Err(damaged(format!("{} is missing", path.display()))),
        Reading::Damaged => return Err(damaged(format!("{} is damaged", path.display()))),
    }
    let bytes = survey.check(&state)?;
    Ok(Loaded { state, bytes })
}

/// What is in the database beside the state.
struct Survey<'a> {
    dir: &'a Path,
    count: u64,
    bytes: u64,
    first: Option<u64>,
    last: Option<LogId>,
    finding: Option<LogStoreError>,
}

impl<'a> Survey<'a> {
    fn of(dir: &'a Path, kv: &dyn Kv) -> Result<Self, KvError> {
        let mut survey = Self { dir, count: 0, bytes: 0, first: None, last: None, finding: None };
        kv.for_each(&mut |key, value| {
            if key != STATE_KEY && survey.finding.is_none() {
                survey.finding = survey.add(key, value).err();
            }
        })?;
        Ok(survey)
    }

    fn damaged(&self, what: String) -> LogStoreError {
        LogStoreError::Damaged { path: self.dir.to_owned(), what }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), LogStoreError> {
        let index =
            entry_index(key).ok_or_else(|| self.damaged(format!("unknown key {key:02x?}")))?;
        let entry = decode_entry(index, value)
            .map_err(|why| LogStoreError::unreadable(self.dir, format!("entry {index}"), why))?;
        if let Some(last) = self.last.filter(|last| last.index + 1 != index) {
            let what = format!("entries between {} and {index} are missing", last.index);
            return Err(self.damaged(what));
        }
        self.count += 1;
        self.bytes += value.len() as u64;
        self.first.get_or_insert(index);
        self.last = Some(entry.log_id);
        Ok(())
    }

    /// Compares with what the state says must be there; gives the bytes of all entries.
    fn check(self, state: &LogState) -> Result<u64, LogStoreError> {
        if let Some(finding) = self.finding {
            return Err(finding);
        }
        let expected = state.indexes();
        let found = self.first.map_or(0..0, |first| first..first + self.count);
        if found != expected {
            return Err(self.damaged(format!("entries {expected:?} are expected, found {found:?}")));
        }
        if self.last.is_some() && self.last != state.last {
            let what = "its last entry is of another term than was written".to_owned();
            return Err(self.damaged(what));
        }
        Ok(self.bytes)
    }
}
