//! Loads images from OCI layouts (directory or tar) and `docker save` archives, packed or not.
//!
//! An archive is not extracted: its members are found by their place in the file.

use std::io;
use std::path::Path;
use std::sync::Arc;

use shoal_agent_ground::blocking::FOREIGN;
use shoal_types::image_ref::{Digest, ImageReference, InvalidImageReference};

use super::error::ImageError;
use super::limits::Limits;
use super::manifest::ManifestError;
use super::platform::{Platform, WrongPlatform};
use super::pull::Parts;
use super::store::{Image, ImageStore, Inner};
use super::tar_stream::TarError;

mod container;
mod docker_save;
mod oci_layout;
#[cfg(feature = "testing")]
pub(super) mod testing;

pub(super) use container::ArchiveBlob;
use container::Container;

/// Why an archive or layout cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file operation failed.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The kernel's (or the decompressor's) answer.
        #[source]
        source: io::Error,
    },
    /// Not a tar archive.
    #[error("it is no readable archive")]
    Tar(#[source] TarError),
    /// Neither format.
    #[error(
        "it is neither an OCI layout (index.json is missing) nor a docker save archive \
         (manifest.json is missing)"
    )]
    NotImages,
    /// A part that something refers to.
    #[error("{name} is missing in it")]
    Missing {
        /// Path inside.
        name: String,
    },
    /// A document beyond its limit.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// Path inside, or the archive.
        what: String,
        /// Bytes accepted.
        limit: u64,
    },
    /// Too many of something.
    #[error("it has more than {limit} {what}")]
    TooMany {
        /// Members or images.
        what: &'static str,
        /// How many are accepted.
        limit: usize,
    },
    /// A document that does not match the digest it is found by.
    #[error("{name} has the digest {actual} instead of {expected}")]
    DigestMismatch {
        /// Path inside.
        name: String,
        /// The digest it is found by.
        expected: Digest,
        /// The digest it has.
        actual: Digest,
    },
    /// A document that is not the JSON it should be.
    #[error("{name} in it cannot be read")]
    Json {
        /// Path inside.
        name: String,
        /// Where it breaks.
        #[source]
        source: serde_json::Error,
    },
    /// A name that is no image reference.
    #[error("an image in it has no usable name")]
    Reference(#[source] InvalidImageReference),
    /// One name for several images.
    #[error("it holds {count} images, so it cannot be loaded as {reference}")]
    Several {
        /// Images inside.
        count: usize,
        /// The name asked for.
        reference: ImageReference,
    },
    /// A manifest or configuration that we do not accept.
    #[error("an image in it is refused")]
    Manifest(#[source] ManifestError),
    /// An image that does not run here.
    #[error("an image in it does not run on this host")]
    Platform(#[source] WrongPlatform),
}

impl LoadError {
    pub(super) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// An image inside an archive, by the names it has there.
struct Found {
    names: Vec<ImageReference>,
    /// Without a reference yet.
    parts: Parts,
}

impl ImageStore {
    /// Loads every image of an OCI layout (a directory or a tar archive of one) or of a
    /// `docker save` archive; archives may be packed with gzip or zstd. `name` names the image
    /// of an archive that holds one; otherwise the names are those inside.
    ///
    /// # Errors
    /// When the archive cannot be read, or an image in it is refused. Images before that one stay.
    pub async fn load(
        &self,
        path: &Path,
        name: Option<&ImageReference>,
    ) -> Result<Vec<Image>, ImageError> {
        let inner = Arc::clone(&self.inner);
        let (owned, name) = (path.to_owned(), name.cloned());
        let find = move || {
            inner
                .find_images(&owned, name)
                .map_err(|source| ImageError::Load { path: owned, source: Box::new(source) })
        };
        // The user named it: it may never answer, and an archive takes its time.
        let found = FOREIGN.run(find).await.map_err(|_| super::error::StoreError::Worker)??;
        let mut images = Vec::new();
        for parts in found {
            images.push(Arc::unwrap_or_clone(self.bring(parts, None).await?.image));
        }
        Ok(images)
    }
}

impl Inner {
    fn find_images(
        &self,
        path: &Path,
        name: Option<ImageReference>,
    ) -> Result<Vec<Parts>, LoadError> {
        let found = find(path, &self.tmp(), &self.config.limits, &self.platform)?;
        match name {
            Some(reference) if found.len() != 1 => {
                Err(LoadError::Several { count: found.len(), reference })
            }
            Some(reference) => {
                Ok(found.into_iter().flat_map(|found| found.named(Some(&reference))).collect())
            }
            None => Ok(found.into_iter().flat_map(|found| found.named(None)).collect()),
        }
    }
}

/// The images of an archive or a layout. A packed archive is unpacked into `tmp`, for as long as
/// something of it is held.
fn find(
    path: &Path,
    tmp: &Path,
    limits: &Limits,
    host: &Platform,
) -> Result<Vec<Found>, LoadError> {
    let container = if path.is_dir() {
        Container::directory(path)
    } else {
        Container::archive(path, tmp, limits)?
    };
    let container = Arc::new(container);
    // `docker save` writes both today; its own list has the full names.
    let found = if container.has(docker_save::LIST) {
        docker_save::find(&container, limits, host)?
    } else if container.has(oci_layout::LIST) {
        oci_layout::find(&container, limits, host)?
    } else {
        return Err(LoadError::NotImages);
    };
    if found.len() > limits.archive_images {
        return Err(LoadError::TooMany { what: "images", limit: limits.archive_images });
    }
    Ok(found)
}

impl Found {
    /// One set of parts for each name.
    fn named(self, name: Option<&ImageReference>) -> Vec<Parts> {
        let names: Vec<Option<ImageReference>> = match name {
            Some(name) => vec![Some(name.clone())],
            None if self.names.is_empty() => vec![None],
            None => self.names.into_iter().map(Some).collect(),
        };
        names
            .into_iter()
            .map(|reference| {
                let mut parts = self.parts.clone();
                if let Some(reference) = &reference {
                    parts.name = reference.to_string();
                }
                parts.record.reference = reference;
                parts
            })
            .collect()
    }
}
