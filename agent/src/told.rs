//! What this node was told of its overlay networks last, kept over a reboot of the host: its containers reach those
//! of other hosts again, and hear their names, before any manager answers.
//!
//! ```text
//! <ledger>/told/overlay.redb    a record for each endpoint, service and other node, and LedgerTold
//! ```
//!
//! It is stale from the beginning, and goes whole when managers have said everything. So nothing waits for it, and
//! whatever is wrong with it (a disk that is full, damage, a newer agent) costs what it is there for: it is left out
//! with a line in the log, and made anew. What changes is written by difference, in one transaction with one
//! barrier; what comes within [`PAUSE`] shares it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use prost::Message;
use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    TableDefinition,
};
use shoal_agent_planning::overlay::OverlayView;
use shoal_agent_planning::task::Boot;
use shoal_proto::convert::InvalidMessage;
use shoal_proto::convert::field::{self, Kind as _};
use shoal_proto::v1 as pb;
use shoal_types::assignment::NodeAssignment;
use shoal_types::error_chain::chain;
use shoal_types::id::{ClusterId, NetworkId, NodeId};
use shoal_types::object::Network;

/// How records are to be read: what is written, and the newest that is read.
const VERSION: u32 = 1;
const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("told");
/// Page cache, in bytes: written seldom, and read once.
const CACHE_BYTES: usize = 256 << 10;
/// Records that are kept at most. A node that is told of more waits for managers after a reboot.
const RECORDS_MAX: usize = 1 << 17;
/// Largest record that is kept, in bytes; an endpoint's has some hundred.
const RECORD_BYTES_MAX: usize = 256 << 10;
/// How long after one change the next is written at the earliest.
const PAUSE: Duration = Duration::from_secs(1);
/// First letters of keys. Behind them stands an id.
const ENDPOINT: char = 'e';
const VIPS: char = 'v';
const PEER: char = 'p';
const SOURCE: &[u8] = b"s";
const CHECKSUM_BYTES: usize = 4;

/// Why it cannot be kept, or not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToldError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("use the database")]
    Database(#[source] Box<redb::Error>),
    #[error("a record is damaged")]
    Damaged,
    #[error("decode a record")]
    Decode(#[from] prost::DecodeError),
    #[error("read a record")]
    Invalid(#[from] InvalidMessage),
    #[error("it has version {version}, this agent reads up to {VERSION}")]
    Newer { version: u32 },
    #[error("{records} records: at most {RECORDS_MAX} are kept, of {RECORD_BYTES_MAX} bytes each")]
    TooMuch { records: usize },
}

fn database(error: impl Into<redb::Error>) -> ToldError {
    ToldError::Database(Box::new(error.into()))
}

/// From whom something is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) cluster: ClusterId,
    /// Of its leader.
    pub(crate) term: u64,
    /// Of the stream of assignments of that leader: up to where.
    pub(crate) sequence: u64,
    /// The boot of the host in which it was told.
    pub(crate) boot: Boot,
}

impl Source {
    fn of_node(&self, node_id: NodeId) -> pb::LedgerTold {
        pb::LedgerTold {
            cluster_id: self.cluster.to_string(),
            node_id: node_id.to_string(),
            term: self.term,
            sequence: self.sequence,
            boot: self.boot.as_str().to_owned(),
            version: VERSION,
        }
    }
}

/// What was kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    pub(crate) source: Source,
    /// Without networks, which the ledger has.
    pub(crate) view: OverlayView,
}

impl Kept {
    /// What a node goes on with until managers have said everything, if it is of the cluster that the node is in, and
    /// not of this `boot`: then what follows from it is there, and newer.
    pub(crate) fn after_reboot(
        self,
        cluster: Option<ClusterId>,
        boot: &Boot,
        networks: &BTreeMap<NetworkId, Arc<Network>>,
    ) -> Option<OverlayView> {
        let Self { source, view } = self;
        if Some(source.cluster) != cluster || !source.boot.is_other_than(boot) {
            return None;
        }
        let assignment = NodeAssignment { networks: networks.clone(), ..NodeAssignment::default() };
        let networks = OverlayView::of(view.node_id, &assignment).networks;
        Some(OverlayView { networks, ..view })
    }
}

enum Work {
    Keep(Box<(Source, OverlayView)>),
    Forget,
}

#[derive(Default)]
struct Desk {
    /// The newest: what it replaces is not written.
    work: Option<Work>,
    ends: bool,
    #[cfg(test)]
    written: u64,
}

/// Has it written, in the background.
#[derive(Default)]
struct Slot {
    desk: Mutex<Desk>,
    news: Condvar,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps what is told. Dropping it has the last of it written.
pub(crate) struct Told {
    slot: Arc<Slot>,
    thread: Option<JoinHandle<()>>,
}

impl Told {
    /// Opens it in this directory, with what was kept there. Blocks.
    ///
    /// # Errors
    /// There can be no thread.
    pub(crate) fn open(dir: &Path) -> io::Result<(Self, Option<Kept>)> {
        let mut store = Store::new(dir);
        // The database may panic at what is damaged. That costs no more than what it was there for.
        let opened = catch_unwind(AssertUnwindSafe(|| store.open()));
        let kept = opened.unwrap_or(Err(ToldError::Damaged)).unwrap_or_else(|error| {
            store.complain(&error);
            None
        });
        let slot = Arc::<Slot>::default();
        let desk = Arc::clone(&slot);
        let thread = std::thread::Builder::new().name("told".to_owned());
        let thread = Some(thread.spawn(move || write_all(&desk, store))?);
        Ok((Self { slot, thread }, kept))
    }

    /// Keeps this in place of what was told before. Waits for nothing.
    pub(crate) fn keep(&self, source: Source, view: &OverlayView) {
        self.put(Work::Keep(Box::new((source, view.clone()))));
    }

    /// Keeps nothing: the node is in no cluster any more.
    pub(crate) fn forget(&self) {
        self.put(Work::Forget);
    }

    fn put(&self, work: Work) {
        self.slot.lock().work = Some(work);
        self.slot.news.notify_all();
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.slot.lock().ends = true;
        self.slot.news.notify_all();
        // What a panic in there has cost is in the log.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Until nobody can ask for more, and all is done.
fn write_all(slot: &Slot, mut store: Store) {
    loop {
        let work = {
            let idle = |desk: &mut Desk| desk.work.is_none() && !desk.ends;
            let desk = slot.news.wait_while(slot.lock(), idle);
            desk.unwrap_or_else(PoisonError::into_inner).work.take()
        };
        let done = match work {
            Some(Work::Keep(told)) => store.write(&told.0, &told.1),
            Some(Work::Forget) => store.remove().map(|()| 0),
            None => return,
        };
        match done {
            #[cfg(test)]
            Ok(records) => slot.lock().written += records as u64,
            #[cfg(not(test))]
            Ok(_) => {}
            Err(error) => {
                store.complain(&error);
                store.begin_anew();
            }
        }
        let paused = slot.news.wait_timeout_while(slot.lock(), PAUSE, |desk| !desk.ends);
        drop(paused);
    }
}

/// The database, and what is in it.
struct Store {
    dir: PathBuf,
    database: Option<Database>,
    written: Option<Kept>,
    /// What was complained of last: once is enough for what goes on.
    complained: String,
}

impl Store {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), database: None, written: None, complained: String::new() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("overlay.redb")
    }

    fn complain(&mut self, error: &ToldError) {
        let text = chain(error).to_string();
        if text != self.complained {
            tracing::warn!(
                error = text,
                "what was told of overlay networks is not kept over a reboot"
            );
            self.complained = text;
        }
    }

    /// Whatever is there is left: with the next change all is written again.
    fn begin_anew(&mut self) {
        if let Err(error) = self.remove() {
            self.complain(&error);
        }
    }

    fn remove(&mut self) -> Result<(), ToldError> {
        (self.database, self.written) = (None, None);
        let path = self.path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ToldError::Io { action: "remove", path, source: error })
            }
            _ => Ok(()),
        }
    }

    /// What is there, if there is anything.
    fn open(&mut self) -> Result<Option<Kept>, ToldError> {
        let path = self.path();
        if !path.is_file() {
            return Ok(None);
        }
        let database = builder().open(&path).map_err(database)?;
        self.written = read(&database)?;
        self.database = Some(database);
        Ok(self.written.clone())
    }

    fn database(&mut self) -> Result<&Database, ToldError> {
        if self.database.is_none() {
            // Also what could not be read. Half made, it is made anew.
            self.remove()?;
            let (dir, path) = (self.dir.clone(), self.path());
            let failed = |action, path: &Path| {
                let path = path.to_owned();
                move |source| ToldError::Io { action, path, source }
            };
            fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
            self.database = Some(builder().create(&path).map_err(database)?);
            let synced = fs::File::open(&dir).and_then(|dir| dir.sync_all());
            synced.map_err(failed("sync", &dir))?;
        }
        let missing = || ToldError::Io {
            action: "open",
            path: self.dir.clone(),
            source: io::ErrorKind::NotFound.into(),
        };
        self.database.as_ref().ok_or_else(missing)
    }

    /// Writes what has changed, and says how many records that were, beside the one that says from whom they are.
    fn write(&mut self, source: &Source, view: &OverlayView) -> Result<usize, ToldError> {
        let OverlayView { endpoints, vips, peers, node_id, .. } = view;
        let records = endpoints.len() + vips.len() + peers.len();
        let Some(node_id) = *node_id else { return self.remove().map(|()| 0) };
        if records > RECORDS_MAX {
            return Err(ToldError::TooMuch { records });
        }
        let before = self.written.take().map(|kept| kept.view).unwrap_or_default();
        let mut changes = Vec::new();
        differing(ENDPOINT, &before.endpoints, endpoints, &mut changes, |one| {
            pb::TaskEndpoint::from(one).encode_to_vec()
        });
        differing(VIPS, &before.vips, vips, &mut changes, |one| {
            pb::ServiceVips::from(one).encode_to_vec()
        });
        differing(PEER, &before.peers, peers, &mut changes, |one| {
            pb::Peer::from(one).encode_to_vec()
        });
        let too_large =
            |change: &Change| change.1.as_ref().is_some_and(|value| value.len() > RECORD_BYTES_MAX);
        if changes.iter().any(too_large) {
            return Err(ToldError::TooMuch { records });
        }
        let count = changes.len();
        changes.push((SOURCE.to_vec(), Some(source.of_node(node_id).encode_to_vec())));
        commit(self.database()?, &changes)?;
        let view = OverlayView { networks: OrdMap::new(), revision: 0, ..view.clone() };
        self.written = Some(Kept { source: source.clone(), view });
        Ok(count)
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// A key, and what is written there; nothing where it is removed.
type Change = (Vec<u8>, Option<Vec<u8>>);

fn key(kind: char, id: impl Display) -> Vec<u8> {
    format!("{kind}{id}").into_bytes()
}

fn differing<K: Ord + Clone + Display, T: PartialEq>(
    kind: char,
    before: &OrdMap<K, Arc<T>>,
    now: &OrdMap<K, Arc<T>>,
    changes: &mut Vec<Change>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    changes.extend(before.diff(now).map(|difference| match difference {
        DiffItem::Remove(id, _) => (key(kind, id), None),
        DiffItem::Add(id, new) | DiffItem::Update { new: (id, new), .. } => {
            (key(kind, id), Some(encode(new)))
        }
    }));
}

/// All of it or none, and durably.
fn commit(to: &Database, changes: &[Change]) -> Result<(), ToldError> {
    let transaction = to.begin_write().map_err(database)?;
    {
        let mut table = transaction.open_table(TABLE).map_err(database)?;
        for (key, value) in changes {
            match value {
                Some(value) => {
                    let framed = [checksum(key, value).as_slice(), value].concat();
                    table.insert(key.as_slice(), framed.as_slice()).map_err(database)?;
                }
                None => drop(table.remove(key.as_slice()).map_err(database)?),
            }
        }
    }
    transaction.commit().map_err(database)
}

/// The database itself looks at its own only after a power cut.
fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u64).to_be_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_be_bytes()
}

fn read(from: &Database) -> Result<Option<Kept>, ToldError> {
    let transaction = from.begin_read().map_err(database)?;
    let table = match transaction.open_table(TABLE) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table.map_err(database)?,
    };
    let records = usize::try_from(table.len().map_err(database)?).unwrap_or(usize::MAX);
    if records > RECORDS_MAX.saturating_add(1) {
        return Err(ToldError::TooMuch { records });
    }
    let value = |key: &[u8], framed: &[u8]| {
        let (sum, value) = framed.split_at_checked(CHECKSUM_BYTES).ok_or(ToldError::Damaged)?;
        if sum == checksum(key, value) { Ok(value.to_vec()) } else { Err(ToldError::Damaged) }
    };
    let Some(told) = table.get(SOURCE).map_err(database)? else { return Ok(None) };
    let told = pb::LedgerTold::decode(value(SOURCE, told.value())?.as_slice())?;
    if told.version > VERSION {
        return Err(ToldError::Newer { version: told.version });
    }
    let mut assignment = NodeAssignment::default();
    for item in table.iter().map_err(database)? {
        let (key, framed) = item.map_err(database)?;
        let value = value(key.value(), framed.value())?;
        take(&mut assignment, key.value(), &value)?;
    }
    let node: NodeId = field::Text::read("node_id", told.node_id)?;
    let source = Source {
        cluster: field::Text::read("cluster_id", told.cluster_id)?,
        term: told.term,
        sequence: told.sequence,
        boot: Boot::new(told.boot),
    };
    Ok(Some(Kept { source, view: OverlayView::of(Some(node), &assignment) }))
}

fn take(to: &mut NodeAssignment, key: &[u8], value: &[u8]) -> Result<(), ToldError> {
    match key.first().map(|kind| char::from(*kind)) {
        Some(ENDPOINT) => {
            let one = pb::TaskEndpoint::decode(value)?;
            let one: shoal_types::assignment::TaskEndpoint = one.try_into()?;
            to.endpoints.insert(one.task_id, Arc::new(one));
        }
        Some(VIPS) => {
            let one = pb::ServiceVips::decode(value)?;
            let one: shoal_types::assignment::ServiceVips = one.try_into()?;
            to.vips.insert(one.service_id, Arc::new(one));
        }
        Some(PEER) => {
            let one = pb::Peer::decode(value)?;
            let one: shoal_types::assignment::Peer = one.try_into()?;
            to.peers.insert(one.node_id, Arc::new(one));
        }
        // Who it is from; and what only newer agents know.
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
