//! The image store of one host: what there is, what it means, and what may go.
//!
//! ```text
//! <dir>/lock                    held while a process uses the store
//! <dir>/images.json             which references mean which images
//! <dir>/blobs/sha256/<hex>      manifests and configurations
//! <dir>/layers/<chain id>/fs    unpacked layers: overlayfs lower directories
//! <dir>/tmp/                    work under way; emptied when the store is opened
//! ```
//!
//! Packed layers are not kept: they would double the space for something a registry has.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci_spec::image::ImageConfiguration;
use shoal_agent_planning::image::{ImageUse, keeps};
use shoal_agent_planning::prune::{ImageOnDisk, takes_image};
use shoal_registry::{Registries, RegistryConfig};
use shoal_types::image_ref::{Digest, ImageReference};
use shoal_types::question::ImagePrune;

use super::error::{ImageError, StoreError};
use super::files::write_atomically;
use super::hashing::digest_of;
use super::index::{Index, Record};
use super::layers::Layers;
use super::limits::Limits;
use super::manifest::{self, ImageHealthcheck};
use super::pins::{Pin, Pins};
use super::platform::Platform;
use super::turns::Parallel;

/// Uses closer together than this are not written down.
const TOUCH_SECONDS: u64 = 3600;

/// How a store works.
#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// How registries are spoken to.
    pub registries: RegistryConfig,
    /// What an image may cost.
    pub limits: Limits,
    /// What is downloaded and unpacked at the same time.
    pub parallel: Parallel,
}

/// An image that is here, whole and unpacked.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Digest of the configuration.
    pub id: Digest,
    /// The reference it is known by; nothing for an image loaded without a name.
    pub reference: Option<ImageReference>,
    /// What a registry keeps under the reference: the digest of an index or a manifest. Nothing
    /// for images from a `docker save` archive, which have neither.
    pub repo_digest: Option<Digest>,
    /// Entrypoint, command, environment, user and so on.
    pub config: ImageConfiguration,
    /// The health check of the image, which the OCI specification does not know.
    pub healthcheck: Option<ImageHealthcheck>,
    /// overlayfs lower directories, lowest first.
    pub layers: Vec<PathBuf>,
    /// Bytes of all files of all layers; shared layers count in every image.
    pub size: u64,
}

/// An image that stays for as long as somebody has this.
#[derive(Debug, Clone)]
pub struct Held {
    /// The image.
    pub image: Arc<Image>,
    /// What keeps it.
    pub pin: Arc<Pin>,
}

/// What was collected.
#[derive(Debug, Default)]
pub struct GarbageReport {
    /// Images that are no longer listed.
    pub images: Vec<Digest>,
    /// Their names, or their ids if they have none.
    pub names: Vec<String>,
    /// Layers that are gone.
    pub layers: usize,
    /// Bytes of the files in those layers.
    pub bytes: u64,
    /// What could not be removed; the next collection tries again.
    pub errors: Vec<StoreError>,
}

/// A handle on the image store; clones share it.
#[derive(Clone)]
pub struct ImageStore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) config: StoreConfig,
    pub(super) registries: Registries,
    pub(super) platform: Platform,
    pub(super) layers: Arc<Layers>,
    pub(super) pins: Pins,
    index: Mutex<Index>,
    /// Released with the last handle.
    _lock: File,
}

impl ImageStore {
    /// Opens or makes the store in `dir`. What an earlier process left half-done is removed.
    ///
    /// Blocks for as long as that takes; call it before the runtime is busy.
    ///
    /// # Errors
    /// When another process uses the store, or the disk refuses.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, StoreError> {
        let tmp = dir.join("tmp");
        let layers = dir.join("layers");
        for path in [dir, &tmp, &layers, &dir.join("blobs/sha256")] {
            fs::create_dir_all(path).map_err(StoreError::io("create", path))?;
        }
        // Images may hold what not every user of the host is to read, setuid programs included.
        restrict(dir)?;
        let lock = lock(dir)?;
        clear(&tmp)?;
        let index = Index::open(dir.join("images.json"))?;
        let layers = Layers::open(layers, tmp, config.limits.clone(), config.parallel)?;
        let inner = Inner {
            dir: dir.to_owned(),
            registries: Registries::new(config.registries.clone()),
            platform: Platform::host(),
            config,
            layers: Arc::new(layers),
            pins: Pins::default(),
            index: Mutex::new(index),
            _lock: lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The image that a reference means, if it is here and whole.
    #[must_use]
    pub fn hold(&self, reference: &ImageReference) -> Option<Held> {
        let (record, pin) = {
            let index = self.inner.index();
            let record = index.find(reference)?.clone();
            let pin = self.inner.pins.pin([record.id]);
            (record, pin)
        };
        let image = self.inner.assemble(&record)?;
        Some(Held { image: Arc::new(image), pin: Arc::new(pin) })
    }

    /// Keeps an image, whether it is still listed or not.
    #[must_use]
    pub fn pin(&self, id: Digest) -> Pin {
        let _index = self.inner.index();
        self.inner.pins.pin([id])
    }

    /// All images that are here and whole.
    #[must_use]
    pub fn list(&self) -> Vec<Image> {
        let records = self.inner.index().records().to_vec();
        records.iter().filter_map(|record| self.inner.assemble(record)).collect()
    }

    /// Takes a reference away; `false` if it was not there. The space is freed by the next
    /// [`ImageStore::collect_garbage`].
    ///
    /// # Errors
    /// [`ImageError::InUse`]; when the list cannot be written.
    pub async fn remove(&self, reference: &ImageReference) -> Result<bool, ImageError> {
        let reference = reference.clone();
        let remove = move |inner: &Inner| {
            let mut index = inner.index();
            let Some(id) = index.find(&reference).map(|record| record.id) else {
                return Ok(Ok(false));
            };
            Ok(match inner.unused(id) {
                Ok(()) => Ok(index.remove(&reference)?),
                Err(in_use) => Err(in_use),
            })
        };
        self.inner.blocking(remove).await?
    }

    /// Takes an image away under all its references, which are returned; nothing if it was not
    /// there. The space is freed by the next [`ImageStore::collect_garbage`].
    ///
    /// # Errors
    /// [`ImageError::InUse`]; when the list cannot be written.
    pub async fn remove_image(&self, id: Digest) -> Result<Vec<ImageReference>, ImageError> {
        let remove = move |inner: &Inner| {
            let mut index = inner.index();
            Ok(match inner.unused(id) {
                Ok(()) => Ok(index.retain(|record| record.id != id)?),
                Err(in_use) => Err(in_use),
            })
        };
        let removed = self.inner.blocking(remove).await??;
        Ok(removed.into_iter().filter_map(|record| record.reference).collect())
    }

    /// Removes images that were pulled, are held by nobody and were not used for `unused_for`, then
    /// everything that no image needs. Pulls under way and tasks are not disturbed.
    ///
    /// # Errors
    /// When the list cannot be written. What could not be deleted is in the report.
    pub async fn collect_garbage(&self, unused_for: Duration) -> Result<GarbageReport, ImageError> {
        let drop = move |record: &Record, in_use: bool, now: u64| {
            let image =
                ImageUse { in_use, loaded: record.loaded, last_used_secs: record.last_used };
            !keeps(image, now, unused_for)
        };
        Ok(self.inner.blocking(move |inner| inner.collect(drop)).await?)
    }

    /// Removes images that nobody holds, then everything that no image needs, as
    /// [`ImageStore::collect_garbage`] does.
    ///
    /// # Errors
    /// When the list cannot be written.
    pub async fn prune(&self, prune: ImagePrune) -> Result<GarbageReport, ImageError> {
        let drop = move |record: &Record, in_use: bool, _: u64| {
            // By a digest alone is known what had a tag that means another image now.
            let tagged = record.reference.as_ref().is_some_and(|name| name.digest().is_none());
            takes_image(in_use, tagged, prune)
        };
        Ok(self.inner.blocking(move |inner| inner.collect(drop)).await?)
    }

    /// What the images take.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn on_disk(&self) -> Result<Vec<ImageOnDisk>, ImageError> {
        Ok(self.inner.blocking(|inner| Ok(inner.on_disk())).await?)
    }
}

impl Inner {
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(self);
        super::files::blocking(move || work(&inner)).await
    }

    /// Keeps a manifest or configuration.
    pub(super) fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        if self.blob(digest).is_some() {
            return Ok(());
        }
        write_atomically(&self.tmp(), &path, bytes)
    }

    /// A manifest or configuration, if it is here and what it claims to be.
    pub(super) fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).ok()?;
        if digest_of(&bytes) == *digest {
            return Some(bytes);
        }
        tracing::warn!(path = %path.display(), "a stored image document is damaged");
        None
    }

    /// Notes that an image was asked for. Losing the note costs nothing.
    pub(super) fn touch(&self, reference: &ImageReference) {
        if let Err(error) = self.index().touch(reference, now(), TOUCH_SECONDS) {
            tracing::warn!(%error, "cannot note the use of an image");
        }
    }

    /// An image from its record, or nothing when a part is missing: then it is pulled again.
    pub(super) fn assemble(&self, record: &Record) -> Option<Image> {
        let bytes = self.blob(&record.id)?;
        let config = manifest::parse_config(&bytes).ok()?;
        let chains = manifest::chains(&manifest::diff_ids(&config).ok()?);
        let mut size = 0_u64;
        let mut layers = Vec::with_capacity(chains.len());
        for (_, chain) in &chains {
            size += self.layers.content_bytes(chain)?;
            layers.push(self.layers.fs(chain));
        }
        Some(Image {
            id: record.id,
            reference: record.reference.clone(),
            repo_digest: record.repo_digest,
            config,
            healthcheck: manifest::healthcheck(&bytes),
            layers,
            size,
        })
    }

    /// Refuses when somebody needs the image. To be asked with the index locked, under which whoever
    /// is going to need it says so.
    fn unused(&self, id: Digest) -> Result<(), ImageError> {
        match self.pins.all().contains(&id) {
            true => Err(ImageError::InUse { id }),
            false => Ok(()),
        }
    }

    fn on_disk(&self) -> Vec<ImageOnDisk> {
        let (ids, pinned) = {
            let index = self.index();
            let ids: BTreeSet<Digest> = index.records().iter().map(|record| record.id).collect();
            (ids, self.pins.all())
        };
        let one = |id: &Digest| {
            let chains = self.chains_of(id).into_iter();
            let layers = chains.filter_map(|c| Some((c, self.layers.content_bytes(&c)?))).collect();
            ImageOnDisk { in_use: pinned.contains(id), layers }
        };
        ids.iter().map(one).collect()
    }

    /// `drop` says of a record whether it goes, by whether its image is in use and what time it is.
    fn collect(
        &self,
        drop: impl Fn(&Record, bool, u64) -> bool,
    ) -> Result<GarbageReport, StoreError> {
        let mut report = GarbageReport::default();
        let now = now();
        let mut retired = Vec::new();
        {
            // Whoever pulls or holds an image pins it under the same lock, so what is found unneeded
            // here stays so until it has its new name.
            let mut index = self.index();
            let pinned = self.pins.all();
            // Unused is counted from when the last task let go of it.
            index.touch_all(&pinned, now, TOUCH_SECONDS)?;
            let dropped = index.retain(|record| !drop(record, pinned.contains(&record.id), now))?;
            report.names = dropped.iter().map(Record::name).collect();
            report.images = dropped.into_iter().map(|record| record.id).collect();
            let mut blobs = index.blobs();
            blobs.extend(&pinned);
            let mut needed = pinned;
            needed.extend(blobs.iter().flat_map(|blob| self.chains_of(blob)));
            for chain in self.layers.all()?.into_iter().filter(|chain| !needed.contains(chain)) {
                let bytes = self.layers.content_bytes(&chain).unwrap_or(0);
                match self.layers.retire(&chain) {
                    Ok(path) => {
                        report.layers += 1;
                        report.bytes += bytes;
                        retired.push(path);
                    }
                    Err(error) => report.errors.push(error),
                }
            }
            self.remove_blobs(&blobs, &mut report.errors);
        }
        for path in retired {
            if let Err(error) = fs::remove_dir_all(&path) {
                report.errors.push(StoreError::io("remove", path)(error));
            }
        }
        Ok(report)
    }

    /// The layers that a configuration names; nothing for other blobs.
    fn chains_of(&self, blob: &Digest) -> Vec<Digest> {
        self.blob(blob)
            .and_then(|bytes| manifest::parse_config(&bytes).ok())
            .and_then(|config| manifest::diff_ids(&config).ok())
            .map(|diff_ids| {
                manifest::chains(&diff_ids).into_iter().map(|(_, chain)| chain).collect()
            })
            .unwrap_or_default()
    }

    fn remove_blobs(&self, needed: &BTreeSet<Digest>, errors: &mut Vec<StoreError>) {
        let dir = self.dir.join("blobs/sha256");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) => return errors.push(StoreError::io("list", dir)(error)),
        };
        for entry in entries.flatten() {
            let digest = entry.file_name().to_str().and_then(Digest::from_hex);
            if digest.is_none_or(|digest| !needed.contains(&digest))
                && let Err(error) = fs::remove_file(entry.path())
            {
                errors.push(StoreError::io("remove", entry.path())(error));
            }
        }
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn restrict(dir: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
        .map_err(StoreError::io("set the mode of", dir))
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    use rustix::fs::{FlockOperation, flock};
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse { path: dir.to_owned() }),
        Err(errno) => Err(StoreError::io("lock", path)(errno.into())),
    }
}

/// Removes what an earlier process left. Each entry gets its chance.
fn clear(tmp: &Path) -> Result<(), StoreError> {
    let mut first = None;
    for entry in fs::read_dir(tmp).map_err(StoreError::io("list", tmp))?.flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed {
            first = first.or(Some(StoreError::io("remove", path)(error)));
        }
    }
    first.map_or(Ok(()), Err)
}
