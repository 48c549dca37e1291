//! The images of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_agent_image::{Image, ImageError, ImageStore};
use shoal_proto::v1::ImageSummary;
use shoal_types::error_chain::chain;
use shoal_types::image_ref::{Digest, ImageReference};
use tonic::Status;

use super::archive::Archive;
use super::internal;

/// Removing an image says nothing against the others: none of them is unused for so long.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Fewer digits of an id are no reference to it.
const MIN_PREFIX: usize = 4;

pub(super) async fn load(
    store: &ImageStore,
    archive: &Archive,
) -> Result<Vec<ImageSummary>, Status> {
    let images = store.load(archive.path(), None).await.map_err(|error| of_load(&error))?;
    Ok(summaries(&images))
}

/// The file that was loaded is ours: its name says nothing to the caller.
fn of_load(error: &ImageError) -> Status {
    let (code, message) = match error {
        ImageError::Load { source, .. } => (tonic::Code::InvalidArgument, chain(source)),
        ImageError::Manifest { .. } | ImageError::Platform { .. } | ImageError::Layer { .. } => {
            (tonic::Code::InvalidArgument, chain(error))
        }
        ImageError::NotFound { .. }
        | ImageError::Pull { .. }
        | ImageError::InUse { .. }
        | ImageError::Store(_) => (tonic::Code::Internal, chain(error)),
    };
    Status::new(code, format!("cannot load the archive: {message}"))
}

pub(super) fn list(store: &ImageStore) -> Vec<ImageSummary> {
    summaries(&store.list())
}

/// One for each image, with all its names.
fn summaries(images: &[Image]) -> Vec<ImageSummary> {
    let mut by_id: BTreeMap<Digest, ImageSummary> = BTreeMap::new();
    for image in images {
        let summary = by_id.entry(image.id).or_insert_with(|| ImageSummary {
            id: image.id.to_string(),
            references: Vec::new(),
            size_bytes: image.size,
            created_at: image.config.created().as_deref().map_or(0, nanos),
        });
        summary.references.extend(image.reference.as_ref().map(ToString::to_string));
    }
    by_id.into_values().collect()
}

/// Nanoseconds since the Unix epoch of a date of RFC 3339; 0 if it is none, or before that.
fn nanos(date: &str) -> u64 {
    let parsed: Result<jiff::Timestamp, _> = date.parse();
    parsed.ok().and_then(|at| u64::try_from(at.as_nanosecond()).ok()).unwrap_or(0)
}

/// What a text means.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// One of an image's names.
    Reference(ImageReference, Digest),
    /// An image as a whole.
    Image(Digest),
}

pub(super) async fn remove(store: &ImageStore, text: &str) -> Result<Vec<String>, Status> {
    let target = find(&store.list(), text)?;
    let (Target::Reference(_, id) | Target::Image(id)) = &target;
    let id = *id;
    let mut removed: Vec<String> = match target {
        Target::Reference(reference, _) => {
            store.remove(&reference).await.map_err(|error| of_removal(&error))?;
            vec![reference.to_string()]
        }
        Target::Image(id) => {
            let names = store.remove_image(id).await.map_err(|error| of_removal(&error))?;
            names.iter().map(ToString::to_string).collect()
        }
    };
    if !store.list().iter().any(|image| image.id == id) {
        removed.push(id.to_string());
    }
    let report = store.collect_garbage(NEVER).await.map_err(|error| internal(&error))?;
    for error in &report.errors {
        tracing::warn!(error = %chain(error), "something of a removed image is left for later");
    }
    Ok(removed)
}

fn of_removal(error: &ImageError) -> Status {
    match error {
        ImageError::InUse { .. } => Status::failed_precondition(chain(error).to_string()),
        _ => internal(error),
    }
}

/// Whole id, name, or unique prefix of an id, in this order.
fn find(images: &[Image], text: &str) -> Result<Target, Status> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if let Some(id) = Digest::from_hex(hex)
        && images.iter().any(|image| image.id == id)
    {
        return Ok(Target::Image(id));
    }
    let reference: Result<ImageReference, _> = text.parse();
    if let Ok(reference) = &reference
        && let Some(image) = images.iter().find(|image| image.reference.as_ref() == Some(reference))
    {
        return Ok(Target::Reference(reference.clone(), image.id));
    }
    let is_prefix = hex.len() >= MIN_PREFIX && hex.bytes().all(|b| b.is_ascii_hexdigit());
    let matches: BTreeSet<Digest> = images
        .iter()
        .map(|image| image.id)
        .filter(|id| is_prefix && id.hex().starts_with(hex))
        .collect();
    match (matches.first(), matches.len(), reference) {
        (Some(id), 1, _) => Ok(Target::Image(*id)),
        (_, 2.., _) => {
            let why = format!("{text} is the beginning of {} images' ids", matches.len());
            Err(Status::invalid_argument(why))
        }
        (_, _, Err(error)) => Err(Status::invalid_argument(chain(&error).to_string())),
        (_, _, Ok(_)) => Err(Status::not_found(format!("there is no image {text} on this node"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(byte: u8, name: Option<&str>) -> Image {
        Image {
            id: Digest::from_bytes([byte; 32]),
            reference: name.map(|name| name.parse().expect("reference")),
            repo_digest: None,
            config: oci_spec::image::ImageConfiguration::default(),
            healthcheck: None,
            layers: Vec::new(),
            size: 1,
        }
    }

    #[test]
    fn an_image_is_found_by_name_id_and_prefix() {
        let images = [image(0x11, Some("web:1")), image(0x11, Some("web:2")), image(0x12, None)];
        let (one, two) = (images[0].id, images[2].id);
        let name: ImageReference = "docker.io/library/web:1".parse().expect("reference");
        let found = |text: &str| find(&images, text).map_err(|status| status.code());
        assert_eq!(found("web:1"), Ok(Target::Reference(name, one)));
        assert_eq!(found(&one.to_string()), Ok(Target::Image(one)));
        assert_eq!(found(&two.hex()), Ok(Target::Image(two)));
        assert_eq!(found("12121"), Ok(Target::Image(two)));
        assert_eq!(found("1"), Err(tonic::Code::NotFound));
        assert_eq!(found("other"), Err(tonic::Code::NotFound));
        assert_eq!(found("no spaces"), Err(tonic::Code::InvalidArgument));
        let both = [image(0x11, None), image(0x11, None)];
        assert_eq!(find(&both, "1111").map_err(|s| s.code()), Ok(Target::Image(one)));
        let summaries = summaries(&images);
        let references: Vec<_> = summaries.iter().map(|s| s.references.len()).collect();
        assert_eq!(references, [2, 0]);
    }

    #[test]
    fn dates_of_images_are_read() {
        let table = [
            ("1970-01-01T00:00:01Z", 1_000_000_000),
            ("1970-01-01T02:00:00.5+02:00", 500_000_000),
            ("0001-01-01T00:00:00Z", 0),
            ("yesterday", 0),
        ];
        for (text, expected) in table {
            assert_eq!(nanos(text), expected, "{text}");
        }
    }
}
