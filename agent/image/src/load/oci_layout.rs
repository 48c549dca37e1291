//! OCI layouts: `index.json` leads to manifests, those to configurations and layers
//! (OCI image specification, "Image Layout").

use std::collections::BTreeMap;
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use shoal_types::image_ref::{Digest, ImageReference};

use super::super::index::Record;
use super::super::layers::LayerSource;
use super::super::limits::Limits;
use super::super::manifest::{self, Document};
use super::super::platform::{self, Platform};
use super::super::pull::Parts;
use super::super::search::Search;
use super::super::store::now;
use super::container::{Container, blob_name};
use super::{Found, LoadError};

/// The file that lists the images.
pub(super) const LIST: &str = "index.json";

/// Annotations that name an image: containerd's has the whole name, the specification's own may
/// be a tag only.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

pub(super) fn find(
    container: &Arc<Container>,
    limits: &Limits,
    host: &Platform,
) -> Result<Vec<Found>, LoadError> {
    let bytes = container.document(LIST, limits.manifest_bytes)?;
    let index: ImageIndex = serde_json::from_slice(&bytes)
        .map_err(|source| LoadError::Json { name: LIST.to_owned(), source })?;
    // Descriptors of one name are one image for several platforms.
    let mut groups: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
    for descriptor in index.manifests() {
        groups.entry(name_of(descriptor)).or_default().push(descriptor.clone());
    }
    groups
        .into_iter()
        .map(|(name, descriptors)| image(container, name.as_deref(), &descriptors, limits, host))
        .collect()
}

fn name_of(descriptor: &Descriptor) -> Option<String> {
    let annotations = descriptor.annotations().as_ref()?;
    NAMES.iter().find_map(|key| annotations.get(*key)).cloned()
}

fn image(
    container: &Arc<Container>,
    name: Option<&str>,
    descriptors: &[Descriptor],
    limits: &Limits,
    host: &Platform,
) -> Result<Found, LoadError> {
    let names: Vec<ImageReference> =
        name.map(str::parse).transpose().map_err(LoadError::Reference)?.into_iter().collect();
    let top = platform::pick(descriptors, host).map_err(LoadError::Platform)?;
    let repo_digest = manifest::digest(top).map_err(LoadError::Manifest)?;
    let (digest, bytes, manifest) = resolve(container, repo_digest, limits, host)?;
    manifest::check_types(&manifest).map_err(LoadError::Manifest)?;
    let id = manifest::digest(manifest.config()).map_err(LoadError::Manifest)?;
    let config_bytes = container.by_digest(id, limits.config_bytes)?;
    let config = manifest::parse_config(&config_bytes).map_err(LoadError::Manifest)?;
    platform::check(&config, host).map_err(LoadError::Platform)?;
    let specs = manifest::layers(&manifest, &config, limits).map_err(LoadError::Manifest)?;
    let mut layers = Vec::with_capacity(specs.len());
    for spec in specs {
        // `manifest::layers` takes every digest from the manifest.
        let blob = container.find(&blob_name(&spec.blob.unwrap_or(spec.diff_id)))?;
        layers.push((spec, LayerSource::Archive(Arc::new(blob))));
    }
    let record = Record {
        reference: None,
        id,
        repo_digest: Some(repo_digest),
        manifest: Some(digest),
        loaded: true,
        last_used: now(),
    };
    let name = id.to_string();
    let parts = Parts { name, record, manifest_bytes: Some(bytes), config_bytes, layers };
    Ok(Found { names, parts })
}

/// The manifest behind a digest, through indexes if need be.
fn resolve(
    container: &Arc<Container>,
    top: Digest,
    limits: &Limits,
    host: &Platform,
) -> Result<(Digest, Vec<u8>, ImageManifest), LoadError> {
    let mut search = Search::new(host);
    let mut digest = top;
    loop {
        let bytes = container.by_digest(digest, limits.manifest_bytes)?;
        match manifest::parse(&bytes).map_err(LoadError::Manifest)? {
            Document::Image(manifest) => return Ok((digest, bytes, *manifest)),
            Document::Index(index) => {
                search.enter(index.manifests()).map_err(LoadError::Manifest)?;
            }
        }
        let Some(next) = search.next().map_err(LoadError::Manifest)? else {
            return Err(LoadError::Platform(search.in_vain()));
        };
        digest = next;
    }
}
