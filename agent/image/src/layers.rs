//! Unpacked layers on disk, each fetched once however many ask for it.
//!
//! `layers/<chain id>/fs` is an overlayfs lower directory, `layers/<chain id>/layer.json` says
//! what it holds. A layer is made in `tmp/`, made durable and renamed, so one that is there is
//! whole. Layers of an image are fetched and unpacked in parallel, but take their place from the
//! lowest up: see `unpack/union.rs`.
//!
//! Only who wants a layer from the same place waits for the same download: that one registry claims
//! to have a layer is no reason to wait for it when another has it, too.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use serde::{Deserialize, Serialize};
use shoal_agent_ground::blocking::{STORE, UNPACK};
use shoal_durable::{Fields, Format, Lasting};
use shoal_registry::Session;
use shoal_types::image_ref::Digest;

use super::error::{LayerError, StoreError};
use super::feed;
use super::files::{GroupSync, Scratch, sync_parent};
use super::limits::Limits;
use super::load::ArchiveBlob;
use super::manifest::LayerSpec;
use super::turns::{Parallel, Pull, Turns};
use super::unpack::{Outcome, Unpacked, settle, unpack_layer};

/// The outcome of getting one layer, to be awaited by any number of callers. When all of them are
/// gone the work stops.
pub(super) type LayerFuture = Shared<BoxFuture<'static, Result<(), Arc<LayerError>>>>;
type Waiting = WeakShared<BoxFuture<'static, Result<(), Arc<LayerError>>>>;

/// One layer from one place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    chain: Digest,
    blob: Option<Digest>,
    origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Origin {
    Repository(String, String),
    Archive(PathBuf, u64),
}

/// Where the packed bytes are.
#[derive(Clone)]
pub(super) enum LayerSource {
    Registry(Arc<Session>),
    Archive(Arc<ArchiveBlob>),
}

impl LayerSource {
    fn origin(&self) -> Origin {
        match self {
            Self::Registry(session) => {
                Origin::Repository(session.registry().to_owned(), session.repository().to_owned())
            }
            Self::Archive(blob) => {
                let (path, offset) = blob.place();
                Origin::Archive(path.to_owned(), offset)
            }
        }
    }
}

/// A layer that somebody wants.
pub(super) struct Wanted {
    pub spec: LayerSpec,
    pub source: LayerSource,
    /// Chain ids of the layers beneath, lowest first.
    pub beneath: Vec<Digest>,
    /// The turns of the pull that wanted it first.
    pub pull: Arc<Pull>,
    /// Counts packed bytes as they arrive.
    pub arrived: Arc<AtomicU64>,
}

/// What is noted beside an unpacked layer.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    diff_id: Digest,
    content_bytes: u64,
    entries: u64,
}

const NOTE: &str = "layer.json";

/// The file that it is noted in.
enum NoteFile {}

impl Format for NoteFile {
    type Content = Note;
    const NAME: &'static str = "layer";
    const VERSION: u32 = 1;

    /// Version 0 had no version and the same fields.
    fn upgrade(from: u32, fields: Fields) -> Option<Fields> {
        (from == 0).then_some(fields)
    }
}

/// All layers of a store.
pub(super) struct Layers {
    dir: PathBuf,
    tmp: PathBuf,
    limits: Limits,
    turns: Turns,
    sync: GroupSync,
    in_flight: Mutex<HashMap<Key, Waiting>>,
}

impl Layers {
    pub(super) fn open(
        dir: PathBuf,
        tmp: PathBuf,
        limits: Limits,
        parallel: Parallel,
    ) -> Result<Self, StoreError> {
        let sync = GroupSync::new(&dir)?;
        let turns = Turns::new(parallel);
        Ok(Self { dir, tmp, limits, turns, sync, in_flight: Mutex::default() })
    }

    pub(super) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// The overlayfs lower directory of a layer.
    pub(super) fn fs(&self, chain: &Digest) -> PathBuf {
        self.home(chain).join("fs")
    }

    pub(super) fn home(&self, chain: &Digest) -> PathBuf {
        self.dir.join(chain.hex())
    }

    /// Bytes of the files of a layer that is here; nothing when it is not (whole).
    pub(super) fn content_bytes(&self, chain: &Digest) -> Option<u64> {
        let note = shoal_durable::read::<NoteFile>(&self.home(chain).join(NOTE)).ok()??;
        Some(note.content_bytes)
    }

    /// The chain ids of all layers here.
    pub(super) fn all(&self) -> Result<Vec<Digest>, StoreError> {
        let fail = || StoreError::io("list", &self.dir);
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(fail())? {
            let entry = entry.map_err(fail())?;
            all.extend(entry.file_name().to_str().and_then(Digest::from_hex));
        }
        Ok(all)
    }

    /// Gets a layer, or joins those who wait for it from the same place already. `beneath` is the layer below, which
    /// has to be there first.
    pub(super) fn get(
        self: &Arc<Self>,
        wanted: Wanted,
        beneath: Option<LayerFuture>,
    ) -> LayerFuture {
        let LayerSpec { chain, blob, .. } = wanted.spec;
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        // First, as it may have come from elsewhere in the meantime.
        if self.content_bytes(&chain).is_some() {
            return futures::future::ready(Ok(())).boxed().shared();
        }
        let key = Key { chain, blob, origin: wanted.source.origin() };
        if let Some(known) = in_flight.get(&key).and_then(Waiting::upgrade) {
            return known;
        }
        let layers = Arc::clone(self);
        let own = key.clone();
        let work = async move {
            let result = layers.make(wanted, beneath).await.map_err(Arc::new);
            layers.forget(&own);
            result
        };
        let future = work.boxed().shared();
        in_flight.retain(|_, waiting| waiting.upgrade().is_some());
        in_flight.extend(future.downgrade().map(|waiting| (key, waiting)));
        future
    }

    fn forget(&self, key: &Key) {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    async fn make(
        self: &Arc<Self>,
        wanted: Wanted,
        beneath: Option<LayerFuture>,
    ) -> Result<(), LayerError> {
        let (scratch, unpacked) = self.unpack(&wanted).await?;
        if let Some(beneath) = beneath {
            beneath.await.map_err(LayerError::Beneath)?;
        }
        let lost = |_| LayerError::Store(StoreError::Worker);
        let slot = self.turns.slot(&wanted.pull).taken().await;
        let layers = Arc::clone(self);
        let settle = move || {
            let _slot = slot;
            layers.settle(&wanted, scratch, unpacked)
        };
        let (note, scratch, home) = UNPACK.run(settle).await.map_err(lost)??;
        let layers = Arc::clone(self);
        let finish = move || layers.finish(&note, scratch, &home).map_err(LayerError::Store);
        STORE.run(finish).await.map_err(lost)?
    }

    /// Fetches and unpacks into a new directory, and verifies both digests.
    async fn unpack(self: &Arc<Self>, wanted: &Wanted) -> Result<(Scratch, Unpacked), LayerError> {
        let spec = &wanted.spec;
        let (scratch, outcome) = match &wanted.source {
            LayerSource::Archive(blob) => {
                let (blob, layers) = (Arc::clone(blob), Arc::clone(self));
                let arrived = Arc::clone(&wanted.arrived);
                let slot = self.turns.slot(&wanted.pull).taken().await;
                let work = move || {
                    let _slot = slot;
                    let reader = blob.open().map_err(LayerError::Archive)?;
                    layers.unpack_from(Counting { inner: reader, arrived })
                };
                UNPACK.run(work).await.map_err(|_| LayerError::Store(StoreError::Worker))??
            }
            LayerSource::Registry(session) => self.download(session, wanted).await?,
        };
        if let (Some((actual, _)), Some(expected)) = (outcome.blob, spec.blob)
            && actual != expected
        {
            return Err(LayerError::BlobDigest { expected, actual });
        }
        let unpacked = outcome.layer.map_err(LayerError::Unpack)?;
        if unpacked.diff_id != spec.diff_id {
            let (expected, actual) = (spec.diff_id, unpacked.diff_id);
            return Err(LayerError::DiffId { expected, actual });
        }
        Ok((scratch, unpacked))
    }

    /// Downloads on this task while a thread unpacks.
    async fn download(
        self: &Arc<Self>,
        session: &Arc<Session>,
        wanted: &Wanted,
    ) -> Result<(Scratch, Outcome), LayerError> {
        // Without a digest there is nothing to ask a registry for; manifests always have one.
        let digest = wanted.spec.blob.unwrap_or(wanted.spec.diff_id);
        let leave = self.turns.download(&wanted.pull, session.registry()).await;
        let (feeder, fed) = feed::channel(self.turns.slot(&wanted.pull));
        let layers = Arc::clone(self);
        let unpacking = UNPACK.run(move || {
            // Who has downloaded faster than it is unpacked does not begin with the next.
            let _leave = leave;
            layers.unpack_from(fed)
        });
        // Runs whether or not it is asked about.
        let unpacking = tokio::spawn(unpacking);
        let mut blob = session.blob(digest, wanted.spec.size);
        let download = async {
            while let Some(chunk) = blob.chunk().await? {
                wanted.arrived.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                if !feeder.send(chunk).await {
                    return Ok(());
                }
            }
            feeder.end().await;
            Ok(())
        };
        let downloaded = download.await;
        let unpacked = unpacking.await.map_err(|_| LayerError::Store(StoreError::Worker))?;
        let unpacked = unpacked.map_err(|_| LayerError::Store(StoreError::Worker))?;
        downloaded.map_err(LayerError::Download)?;
        unpacked
    }

    fn unpack_from(&self, packed: impl std::io::Read) -> Result<(Scratch, Outcome), LayerError> {
        let scratch = Scratch::create(&self.tmp).map_err(LayerError::Store)?;
        let fs = scratch.path().join("fs");
        std::fs::create_dir(&fs)
            .map_err(StoreError::io("create", &fs))
            .map_err(LayerError::Store)?;
        let outcome = unpack_layer(packed, &fs, &self.limits);
        Ok((scratch, outcome))
    }

    /// Makes an unpacked layer one that lies on those beneath, and says what to note of it and where
    /// it belongs.
    fn settle(
        &self,
        wanted: &Wanted,
        scratch: Scratch,
        unpacked: Unpacked,
    ) -> Result<(Note, Scratch, PathBuf), LayerError> {
        let beneath: Vec<PathBuf> = wanted.beneath.iter().map(|chain| self.fs(chain)).collect();
        let note = Note {
            diff_id: unpacked.diff_id,
            content_bytes: unpacked.content_bytes,
            entries: unpacked.entries,
        };
        settle(&scratch.path().join("fs"), unpacked.finished, &beneath, &self.limits)
            .map_err(LayerError::Unpack)?;
        Ok((note, scratch, self.home(&wanted.spec.chain)))
    }

    /// Gives a layer its place, durably.
    fn finish(&self, note: &Note, scratch: Scratch, home: &Path) -> Result<(), StoreError> {
        // Made durable with the rest of the layer.
        let path = scratch.path().join(NOTE);
        shoal_durable::write::<NoteFile>(&path, note, 0o600, Lasting::Crash)?;
        self.sync.sync().map_err(StoreError::io("make durable", &self.dir))?;
        scratch.keep_as(home)?;
        sync_parent(home)
    }

    /// Moves a layer out of the way; what is left is to delete the returned directory.
    pub(super) fn retire(&self, chain: &Digest) -> Result<PathBuf, StoreError> {
        let home = self.home(chain);
        let retired = Scratch::name(&self.tmp);
        std::fs::rename(&home, &retired).map_err(StoreError::io("retire", &home))?;
        Ok(retired)
    }
}

/// Counts the bytes that are read from an archive.
struct Counting<R> {
    inner: R,
    arrived: Arc<AtomicU64>,
}

impl<R: std::io::Read> std::io::Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.arrived.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_every_version_are_read() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/golden");
        let note = Note { diff_id: Digest::from_bytes([7; 32]), content_bytes: 4096, entries: 3 };
        shoal_durable::testing::check_golden::<NoteFile>(&golden, &note);
    }
}
