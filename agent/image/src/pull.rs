//! From a reference to an image that is here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::try_join_all;
use oci_spec::image::{ImageConfiguration, ImageManifest};
use shoal_registry::{RawManifest, RegistryAuth, RegistryError, Session};
use shoal_types::image_ref::{Digest, ImageReference};
use tokio::sync::watch;

use super::error::{ImageError, LayerError};
use super::index::Record;
use shoal_agent_planning::image::{Lookup, PullPolicy};

use super::layers::{LayerFuture, LayerSource, Wanted};
use super::manifest::{self, Document, LayerSpec, ManifestError};
use super::platform;
use super::search::Search;
use super::store::{Held, Image, ImageStore, Inner, now};

/// How far a pull is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PullProgress {
    /// Layers of the image; 0 until the manifest is known.
    pub layers: usize,
    /// Layers that are here.
    pub layers_done: usize,
    /// Packed bytes of all layers.
    pub bytes: u64,
    /// Packed bytes that are here.
    pub bytes_done: u64,
    /// Why something is tried again, from the failure until something arrives; for people.
    pub trouble: Option<String>,
}

/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// A manifest that was fetched and picked, with its configuration.
struct Resolved {
    repo_digest: Digest,
    manifest_digest: Digest,
    manifest_bytes: Vec<u8>,
    manifest: ImageManifest,
    config_digest: Digest,
    config_bytes: Vec<u8>,
    config: ImageConfiguration,
}

/// An image whose parts are known and have to be brought together.
#[derive(Clone)]
pub(super) struct Parts {
    /// How the image is called in errors.
    pub name: String,
    pub record: Record,
    pub manifest_bytes: Option<Vec<u8>>,
    pub config_bytes: Vec<u8>,
    pub layers: Vec<(LayerSpec, LayerSource)>,
}

impl ImageStore {
    /// Makes sure that an image is here, pulling what is missing. May be repeated, and called for
    /// the same image at the same time: each layer is fetched once. Dropping the future gives the
    /// pull up and leaves nothing behind but layers that were complete.
    ///
    /// # Errors
    /// When the image is not here and cannot be had; see [`ImageError::is_transient`].
    pub async fn ensure(
        &self,
        reference: &ImageReference,
        policy: PullPolicy,
        auth: Option<RegistryAuth>,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<Held, ImageError> {
        let known = self.used(reference).await?;
        let session = || {
            let session = self.inner.registries.session(reference, auth);
            let session = session.map_err(|source| pull_error(reference, source))?;
            if let Some(progress) = progress.clone() {
                session.on_trouble(move |trouble| progress.send_modify(|p| p.trouble = trouble));
            }
            Ok::<_, ImageError>(session)
        };
        let lookup = policy.lookup(known.is_some(), reference.digest().is_some());
        let session = match (lookup, known) {
            (Lookup::Use, Some(held)) => return Ok(held),
            (Lookup::Compare, Some(held)) => {
                let session = session()?;
                if self.inner.is_current(&session, reference, &held.image).await? {
                    return Ok(held);
                }
                session
            }
            (Lookup::Fetch, _) | (_, None) => session()?,
        };
        let resolved = self.inner.resolve(&session, reference).await?;
        let parts = self.inner.parts(reference, resolved, &session)?;
        self.bring(parts, progress).await
    }

    async fn used(&self, reference: &ImageReference) -> Result<Option<Held>, ImageError> {
        let wanted = reference.clone();
        self.inner
            .blocking(move |inner| {
                inner.touch(&wanted);
                Ok(())
            })
            .await?;
        Ok(self.hold(reference))
    }

    /// Gets all layers and then lists the image: it is there whole or not at all.
    pub(super) async fn bring(
        &self,
        parts: Parts,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<Held, ImageError> {
        let inner = &self.inner;
        let pin = {
            // Under this lock, see `Inner::collect`.
            let _index = inner.index();
            let chains = parts.layers.iter().map(|(spec, _)| spec.chain);
            inner.pins.pin(chains.chain([parts.record.id]).chain(parts.record.manifest))
        };
        let (waits, reporter) = inner.start_layers(&parts, progress);
        let waiting = try_join_all(waits);
        match reporter {
            Some(reporter) => tokio::select! {
                biased;
                result = waiting => {
                    result?;
                    reporter.report();
                }
                () = reporter.run() => {}
            },
            None => {
                waiting.await?;
            }
        }
        let record = parts.record.clone();
        inner
            .blocking(move |inner| {
                inner.put_blob(&parts.record.id, &parts.config_bytes)?;
                if let Some((digest, bytes)) = parts.record.manifest.zip(parts.manifest_bytes) {
                    inner.put_blob(&digest, &bytes)?;
                }
                inner.index().put(parts.record)
            })
            .await?;
        let vanished = super::error::StoreError::Vanished { image: record.id };
        let image = inner.assemble(&record).ok_or(ImageError::Store(vanished))?;
        Ok(Held { image: Arc::new(image), pin: Arc::new(pin) })
    }
}

impl Inner {
    /// Whether the registry still means this image by the tag.
    async fn is_current(
        &self,
        session: &Session,
        reference: &ImageReference,
        image: &Image,
    ) -> Result<bool, ImageError> {
        let Some(tag) = reference.tag() else { return Ok(false) };
        let there =
            match session.head(tag).await {
                Ok(there) => there,
                // A registry that does not answer HEAD may well answer GET.
                Err(
                    RegistryError::Status { status, .. } | RegistryError::Elsewhere { status, .. },
                ) if status < 500 => None,
                Err(source) => return Err(pull_error(reference, source)),
            };
        Ok(there.is_some() && there == image.repo_digest)
    }

    /// Fetches manifest and configuration, through an index if there is one.
    async fn resolve(
        &self,
        session: &Session,
        reference: &ImageReference,
    ) -> Result<Resolved, ImageError> {
        let failed = |source| pull_error(reference, source);
        let refused = |source| ImageError::Manifest { reference: reference.to_string(), source };
        let limits = &self.config.limits;
        let pinned = reference.digest().map(|digest| digest.to_string());
        let wanted = pinned.as_deref().or(reference.tag()).unwrap_or_default();
        let top = session.manifest(wanted, limits.manifest_bytes).await.map_err(failed)?;
        let repo_digest = top.digest;
        let mut search = Search::new(&self.platform);
        let mut raw = top;
        let manifest = loop {
            match parse(&raw).map_err(refused)? {
                Document::Image(manifest) => break *manifest,
                Document::Index(index) => search.enter(index.manifests()).map_err(refused)?,
            }
            let Some(next) = search.next().map_err(refused)? else {
                return Err(platform_error(reference.to_string(), search.in_vain()));
            };
            let next = next.to_string();
            raw = session.manifest(&next, limits.manifest_bytes).await.map_err(failed)?;
        };
        manifest::check_types(&manifest).map_err(refused)?;
        let config_digest = manifest::digest(manifest.config()).map_err(refused)?;
        let config_bytes = match self.blob(&config_digest) {
            Some(bytes) => bytes,
            None => {
                let limit = limits.config_bytes;
                session.small_blob(config_digest, limit).await.map_err(failed)?
            }
        };
        let config = manifest::parse_config(&config_bytes).map_err(refused)?;
        platform::check(&config, &self.platform)
            .map_err(|source| platform_error(reference.to_string(), source))?;
        Ok(Resolved {
            repo_digest,
            manifest_digest: raw.digest,
            manifest_bytes: raw.bytes,
            manifest,
            config_digest,
            config_bytes,
            config,
        })
    }

    fn parts(
        &self,
        reference: &ImageReference,
        resolved: Resolved,
        session: &Arc<Session>,
    ) -> Result<Parts, ImageError> {
        let name = reference.to_string();
        let specs = manifest::layers(&resolved.manifest, &resolved.config, &self.config.limits)
            .map_err(|source| ImageError::Manifest { reference: name.clone(), source })?;
        let source = |spec| (spec, LayerSource::Registry(Arc::clone(session)));
        Ok(Parts {
            name,
            record: Record {
                reference: Some(reference.clone()),
                id: resolved.config_digest,
                repo_digest: Some(resolved.repo_digest),
                manifest: Some(resolved.manifest_digest),
                loaded: false,
                last_used: now(),
            },
            manifest_bytes: Some(resolved.manifest_bytes),
            config_bytes: resolved.config_bytes,
            layers: specs.into_iter().map(source).collect(),
        })
    }

    /// Starts (or joins) the work on each layer.
    fn start_layers(
        &self,
        parts: &Parts,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> (Vec<impl Future<Output = Result<(), ImageError>> + use<>>, Option<Reporter>) {
        let arrived = Arc::new(AtomicU64::new(0));
        let done = Arc::new(AtomicU64::new(0));
        let pull = self.layers.turns().pull();
        let mut beneath: Vec<Digest> = Vec::new();
        let mut below: Option<LayerFuture> = None;
        let mut waits = Vec::with_capacity(parts.layers.len());
        for (spec, source) in &parts.layers {
            let wanted = Wanted {
                pull: Arc::clone(&pull),
                spec: spec.clone(),
                source: source.clone(),
                beneath: beneath.clone(),
                arrived: Arc::clone(&arrived),
            };
            let future = self.layers.get(wanted, below.take());
            below = Some(future.clone());
            beneath.push(spec.chain);
            waits.push(wait(
                future,
                parts.name.clone(),
                spec.blob.unwrap_or(spec.diff_id),
                Arc::clone(&done),
            ));
        }
        let reporter = progress.map(|sender| Reporter {
            sender,
            layers: parts.layers.len(),
            bytes: parts.layers.iter().map(|(spec, _)| spec.size).sum(),
            arrived,
            done,
        });
        (waits, reporter)
    }
}

async fn wait(
    future: LayerFuture,
    reference: String,
    layer: Digest,
    done: Arc<AtomicU64>,
) -> Result<(), ImageError> {
    match future.await {
        Ok(()) => {
            done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Err(source) => {
            let source = root_cause(source);
            Err(ImageError::Layer { reference, layer, source })
        }
    }
}

/// A layer that failed because of the one beneath says nothing; that one does.
fn root_cause(mut error: Arc<LayerError>) -> Arc<LayerError> {
    while let LayerError::Beneath(beneath) = &*error {
        error = Arc::clone(beneath);
    }
    error
}

/// Tells a watcher how far a pull is.
struct Reporter {
    sender: watch::Sender<PullProgress>,
    layers: usize,
    bytes: u64,
    arrived: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
}

impl Reporter {
    fn report(&self) {
        let layers_done = usize::try_from(self.done.load(Ordering::Relaxed)).unwrap_or(self.layers);
        // Layers that were here already, or that somebody else fetches, count when they are done.
        let arrived = self.arrived.load(Ordering::Relaxed).min(self.bytes);
        let bytes_done = if layers_done == self.layers { self.bytes } else { arrived };
        self.sender.send_modify(|progress| {
            *progress = PullProgress {
                layers: self.layers,
                layers_done,
                bytes: self.bytes,
                bytes_done,
                trouble: progress.trouble.take(),
            };
        });
    }

    async fn run(&self) {
        loop {
            self.report();
            tokio::time::sleep(PROGRESS_INTERVAL).await;
        }
    }
}

fn parse(raw: &RawManifest) -> Result<Document, ManifestError> {
    // Docker's first format has a type of its own and need not say its schema version.
    let kind = raw.content_type.as_deref().unwrap_or_default();
    if kind.starts_with("application/vnd.docker.distribution.manifest.v1+") {
        return Err(ManifestError::SchemaVersion(1));
    }
    manifest::parse(&raw.bytes)
}

pub(super) fn platform_error(reference: String, source: platform::WrongPlatform) -> ImageError {
    ImageError::Platform { reference, source }
}

fn pull_error(reference: &ImageReference, source: RegistryError) -> ImageError {
    let reference = reference.to_string();
    match source {
        RegistryError::NotFound { .. } => ImageError::NotFound { reference, source },
        source => ImageError::Pull { reference, source },
    }
}
