//! `docker save` archives: `manifest.json` lists configurations, names and layers.

use std::sync::Arc;

use serde::Deserialize;
use shoal_types::image_ref::{Digest, ImageReference};

use super::super::hashing::digest_of;
use super::super::index::Record;
use super::super::layers::LayerSource;
use super::super::limits::Limits;
use super::super::manifest::{self, LayerSpec, ManifestError};
use super::super::platform::{self, Platform};
use super::super::pull::Parts;
use super::super::store::now;
use super::container::Container;
use super::{Found, LoadError};

/// The file that lists the images.
pub(super) const LIST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn find(
    container: &Arc<Container>,
    limits: &Limits,
    host: &Platform,
) -> Result<Vec<Found>, LoadError> {
    let bytes = container.document(LIST, limits.manifest_bytes)?;
    let entries: Vec<Entry> = serde_json::from_slice(&bytes)
        .map_err(|source| LoadError::Json { name: LIST.to_owned(), source })?;
    entries.iter().map(|entry| image(container, entry, limits, host)).collect()
}

fn image(
    container: &Arc<Container>,
    entry: &Entry,
    limits: &Limits,
    host: &Platform,
) -> Result<Found, LoadError> {
    let config_bytes = container.document(&entry.config, limits.config_bytes)?;
    let config = manifest::parse_config(&config_bytes).map_err(LoadError::Manifest)?;
    platform::check(&config, host).map_err(LoadError::Platform)?;
    let diff_ids = manifest::diff_ids(&config).map_err(LoadError::Manifest)?;
    let (count, limit) = (entry.layers.len(), limits.layers);
    if count > limit {
        return Err(LoadError::Manifest(ManifestError::TooManyLayers { count, limit }));
    }
    if count != diff_ids.len() {
        let error = ManifestError::LayerCount { layers: count, diff_ids: diff_ids.len() };
        return Err(LoadError::Manifest(error));
    }
    let mut layers = Vec::with_capacity(count);
    for (name, (diff_id, chain)) in entry.layers.iter().zip(manifest::chains(&diff_ids)) {
        let blob = container.find(name)?;
        let spec = LayerSpec { blob: digest_in(name), size: blob.length, diff_id, chain };
        layers.push((spec, LayerSource::Archive(Arc::new(blob))));
    }
    let names = entry.repo_tags.iter().flatten();
    let names: Result<Vec<ImageReference>, _> = names.map(|name| name.parse()).collect();
    let id = digest_of(&config_bytes);
    let record = Record {
        reference: None,
        id,
        repo_digest: None,
        manifest: None,
        loaded: true,
        last_used: now(),
    };
    let parts = Parts { name: id.to_string(), record, manifest_bytes: None, config_bytes, layers };
    Ok(Found { names: names.map_err(LoadError::Reference)?, parts })
}

/// Newer archives keep layers by digest.
fn digest_in(name: &str) -> Option<Digest> {
    name.strip_prefix("blobs/sha256/").and_then(Digest::from_hex)
}
