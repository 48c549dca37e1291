//! Manifests, indexes and configurations: read, bounded, and made unambiguous.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use shoal_types::image_ref::Digest;

use super::limits::Limits;

/// Why a manifest, an index or a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not the JSON of an image.
    #[error("the {what} cannot be read")]
    Json {
        /// Manifest, index or configuration.
        what: &'static str,
        /// Where it breaks.
        #[source]
        source: serde_json::Error,
    },
    /// Docker's format from before 2016.
    #[error("the manifest has the schema version {0}, only 2 is supported")]
    SchemaVersion(u64),
    /// Both an image and an index, or neither (OCI image specification, GHSA-77vh-xpmg-72qh).
    #[error("the manifest is neither an image nor an index of images")]
    Ambiguous,
    /// An index that leads to an index, and so on.
    #[error("the index leads through more than {limit} indexes")]
    IndexDepth {
        /// Indexes accepted.
        limit: usize,
    },
    /// An index of indexes without an image for this host.
    #[error("the index leads to more than {limit} documents")]
    IndexDocuments {
        /// Documents accepted.
        limit: usize,
    },
    /// Something else that registries keep: charts, signatures, modules.
    #[error("it is no container image: it has a layer of the type {media_type:?}")]
    NotAnImage {
        /// The layer's media type.
        media_type: String,
    },
    /// A digest other than sha256.
    #[error("the digest {digest:?} is not supported, only sha256 is")]
    Digest {
        /// The digest as written.
        digest: String,
    },
    /// More layers than accepted.
    #[error("the image has {count} layers, at most {limit} are accepted")]
    TooManyLayers {
        /// Layers of the image.
        count: usize,
        /// Layers accepted.
        limit: usize,
    },
    /// Manifest and configuration disagree.
    #[error("the manifest has {layers} layers and the configuration {diff_ids}")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// Layers of the configuration.
        diff_ids: usize,
    },
}

/// What a registry keeps under a tag.
#[derive(Debug)]
pub(super) enum Document {
    Image(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u64>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
}

/// Tells images and indexes apart by what they hold; a document that could be both would be
/// different images to different readers.
pub(super) fn parse(bytes: &[u8]) -> Result<Document, ManifestError> {
    let json = |what| move |source| ManifestError::Json { what, source };
    let probe: Probe = serde_json::from_slice(bytes).map_err(json("manifest"))?;
    match probe.schema_version {
        Some(2) | None => {}
        Some(other) => return Err(ManifestError::SchemaVersion(other)),
    }
    let is_image = probe.layers.is_some() || probe.config.is_some();
    match (is_image, probe.manifests.is_some()) {
        (true, false) => {
            read_with(bytes, &["layers"]).map(Document::Image).map_err(json("manifest"))
        }
        (false, true) => serde_json::from_slice(bytes).map(Document::Index).map_err(json("index")),
        _ => Err(ManifestError::Ambiguous),
    }
}

/// A descriptor's digest as the one kind we verify.
pub(super) fn digest(descriptor: &Descriptor) -> Result<Digest, ManifestError> {
    let text = descriptor.digest().to_string();
    text.parse().map_err(|_| ManifestError::Digest { digest: text })
}

/// One layer as the manifest and the configuration describe it together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerSpec {
    /// Digest of the packed bytes; an archive may not know it.
    pub blob: Option<Digest>,
    /// Length of the packed bytes.
    pub size: u64,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Identifies the layer together with all beneath it (OCI image specification, "ChainID").
    pub chain: Digest,
}

/// The layers of an image, lowest first.
pub(super) fn layers(
    manifest: &ImageManifest,
    config: &ImageConfiguration,
    limits: &Limits,
) -> Result<Vec<LayerSpec>, ManifestError> {
    let descriptors = manifest.layers();
    if descriptors.len() > limits.layers {
        let count = descriptors.len();
        return Err(ManifestError::TooManyLayers { count, limit: limits.layers });
    }
    check_types(manifest)?;
    let diff_ids = diff_ids(config)?;
    if descriptors.len() != diff_ids.len() {
        let (layers, diff_ids) = (descriptors.len(), diff_ids.len());
        return Err(ManifestError::LayerCount { layers, diff_ids });
    }
    descriptors
        .iter()
        .zip(chains(&diff_ids))
        .map(|(descriptor, (diff_id, chain))| {
            Ok(LayerSpec {
                blob: Some(digest(descriptor)?),
                size: descriptor.size(),
                diff_id,
                chain,
            })
        })
        .collect()
}

/// Refuses what is no container image before anything is fetched.
pub(super) fn check_types(manifest: &ImageManifest) -> Result<(), ManifestError> {
    let types = manifest.layers().iter().map(|layer| layer.media_type().to_string());
    match types.into_iter().find(|media_type| !is_layer(media_type)) {
        Some(media_type) => Err(ManifestError::NotAnImage { media_type }),
        None => Ok(()),
    }
}

/// `…image.layer…v1.tar`, `…image.rootfs.diff.tar` and their packed forms; not encrypted ones.
fn is_layer(media_type: &str) -> bool {
    (media_type.contains(".image.layer.") || media_type.contains(".image.rootfs."))
        && media_type.contains(".tar")
        && !media_type.ends_with("+encrypted")
}

pub(super) fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration, ManifestError> {
    read_with(bytes, &["rootfs", "diff_ids"])
        .map_err(|source| ManifestError::Json { what: "image configuration", source })
}

/// Reads a document whose list at `path` may be absent or `null` when it is empty: that is how Docker
/// and BuildKit write an image without layers.
fn read_with<T: DeserializeOwned>(bytes: &[u8], path: &[&str]) -> Result<T, serde_json::Error> {
    let strict = serde_json::from_slice(bytes);
    if strict.is_ok() {
        return strict;
    }
    let mut document: Value = serde_json::from_slice(bytes)?;
    let (last, parents) = path.split_last().unwrap_or((&"", &[]));
    let parent = parents.iter().try_fold(&mut document, |value, key| value.get_mut(*key));
    let Some(parent) = parent.and_then(Value::as_object_mut) else { return strict };
    if parent.get(*last).is_some_and(|list| !list.is_null()) {
        return strict;
    }
    parent.insert((*last).to_owned(), Value::Array(Vec::new()));
    serde_json::from_value(document)
}

/// The digests of the uncompressed layers, lowest first.
pub(super) fn diff_ids(config: &ImageConfiguration) -> Result<Vec<Digest>, ManifestError> {
    let parse =
        |text: &String| text.parse().map_err(|_| ManifestError::Digest { digest: text.clone() });
    config.rootfs().diff_ids().iter().map(parse).collect()
}

/// Each diff id with its chain id: the digest of `<chain id beneath> <diff id>`.
pub(super) fn chains(diff_ids: &[Digest]) -> Vec<(Digest, Digest)> {
    let mut below: Option<Digest> = None;
    diff_ids
        .iter()
        .map(|diff_id| {
            let chain = match below {
                None => *diff_id,
                Some(below) => {
                    Digest::from_bytes(Sha256::digest(format!("{below} {diff_id}")).into())
                }
            };
            below = Some(chain);
            (*diff_id, chain)
        })
        .collect()
}

/// How an image says its health is checked: Docker's extension of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageHealthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    #[serde(default)]
    pub test: Vec<String>,
    /// Nanoseconds between checks; 0 means the default.
    #[serde(default)]
    pub interval: i64,
    /// Nanoseconds a check may take; 0 means the default.
    #[serde(default)]
    pub timeout: i64,
    /// Nanoseconds in which failures do not count; 0 means none.
    #[serde(default)]
    pub start_period: i64,
    /// Nanoseconds between checks in the start period; 0 means the default.
    #[serde(default)]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy; 0 means the default.
    #[serde(default)]
    pub retries: i64,
}

/// The health check of a configuration, which the OCI specification does not know.
pub(super) fn healthcheck(config: &[u8]) -> Option<ImageHealthcheck> {
    #[derive(Deserialize)]
    struct Outer {
        config: Option<Inner>,
    }
    #[derive(Deserialize)]
    struct Inner {
        #[serde(rename = "Healthcheck")]
        healthcheck: Option<ImageHealthcheck>,
    }
    serde_json::from_slice::<Outer>(config).ok()?.config?.healthcheck
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", "1".repeat(64)), "size": 9})
    }

    fn image(layer_type: &str, layers: usize) -> ImageManifest {
        let value = json!({
            "schemaVersion": 2,
            "config": descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": vec![descriptor(layer_type); layers],
        });
        match parse(value.to_string().as_bytes()).unwrap() {
            Document::Image(manifest) => *manifest,
            Document::Index(_) => panic!("an index"),
        }
    }

    fn config(diff_ids: usize) -> ImageConfiguration {
        let ids = vec![format!("sha256:{}", "2".repeat(64)); diff_ids];
        let value = json!({
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids},
        });
        parse_config(value.to_string().as_bytes()).unwrap()
    }

    const GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    #[test]
    fn layers_of_both_families_are_accepted() {
        for media_type in [
            GZIP,
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.diff.tar.zstd",
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ] {
            let specs = layers(&image(media_type, 2), &config(2), &Limits::default()).unwrap();
            assert_eq!(specs[0].chain, specs[0].diff_id);
            assert_ne!(specs[1].chain, specs[1].diff_id);
        }
    }

    #[test]
    fn what_is_no_image_is_refused_with_a_reason() {
        let few = Limits { layers: 1, ..Limits::default() };
        let usual = Limits::default();
        let helm = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
        let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        for (manifest, config, limits, expected) in [
            (image(GZIP, 2), config(1), &usual, "2 layers and the configuration 1"),
            (image(GZIP, 2), config(2), &few, "at most 1 are accepted"),
            (image(helm, 1), config(1), &usual, "helm"),
            (image(encrypted, 1), config(1), &usual, "encrypted"),
        ] {
            let error = layers(&manifest, &config, limits).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        for (text, expected) in [
            ("{\"schemaVersion\":1}", "schema version 1"),
            ("{\"schemaVersion\":2}", "neither"),
            ("{\"schemaVersion\":2,\"layers\":[],\"manifests\":[]}", "neither"),
            ("[", "cannot be read"),
            ("{\"schemaVersion\":2,\"layers\":[]}", "cannot be read"),
            ("{\"schemaVersion\":2,\"layers\":7,\"config\":{}}", "cannot be read"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn an_image_may_have_no_layers() {
        for (layers, rootfs) in [
            ("[]", r#"{"type":"layers","diff_ids":[]}"#),
            ("null", r#"{"type":"layers","diff_ids":null}"#),
            ("null", r#"{"type":"layers"}"#),
        ] {
            let manifest = format!(
                r#"{{"schemaVersion":2,"layers":{layers},"config":{{"mediaType":
                "application/vnd.oci.image.config.v1+json","digest":"{}","size":2}}}}"#,
                Digest::from_bytes([1; 32])
            );
            let Document::Image(manifest) = parse(manifest.as_bytes()).unwrap() else { panic!() };
            let config = format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{rootfs}}}"#);
            let config = parse_config(config.as_bytes()).unwrap();
            assert_eq!(super::layers(&manifest, &config, &Limits::default()).unwrap(), []);
        }
    }

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let ids = [Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32])];
        let all = chains(&ids);
        assert_eq!(all[0].1, ids[0]);
        let text = format!("{} {}", ids[0], ids[1]);
        assert_eq!(all[1].1.as_bytes()[..], Sha256::digest(text)[..]);
    }

    #[test]
    fn a_health_check_is_found() {
        let text = br#"{"config":{"Healthcheck":{"Test":["CMD","x"],"Interval":5,"Retries":3}}}"#;
        let check = healthcheck(text).unwrap();
        assert_eq!((check.test.len(), check.interval, check.retries), (2, 5, 3));
        assert_eq!(healthcheck(b"{\"config\":null}"), None);
    }
}
