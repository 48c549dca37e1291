//! What can go wrong with images.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use shoal_registry::RegistryError;
use shoal_types::image_ref::Digest;

use super::load::LoadError;
use super::manifest::ManifestError;
use super::platform::WrongPlatform;
use super::unpack::{UnpackError, is_full};

/// What can go wrong with images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The registry does not know the tag or digest.
    #[error("image {reference} does not exist in its registry")]
    NotFound {
        /// The image asked for.
        reference: String,
        /// The registry's words.
        #[source]
        source: RegistryError,
    },
    /// The pull failed.
    #[error("cannot pull image {reference}")]
    Pull {
        /// The image asked for.
        reference: String,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// The manifest or configuration is not one we accept.
    #[error("image {reference} is refused")]
    Manifest {
        /// The image, or the archive it comes from.
        reference: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The image does not run on this host.
    #[error("image {reference} does not run on this host")]
    Platform {
        /// The image, or the archive it comes from.
        reference: String,
        /// What there is.
        #[source]
        source: WrongPlatform,
    },
    /// A layer could not be had. Shared by everybody who waited for it.
    #[error("cannot get layer {layer} of image {reference}")]
    Layer {
        /// The image, or the archive it comes from.
        reference: String,
        /// Digest of the packed layer if known, else of the unpacked one.
        layer: Digest,
        /// Why.
        #[source]
        source: Arc<LayerError>,
    },
    /// An archive or layout could not be read.
    #[error("cannot load images from {}", path.display())]
    Load {
        /// What was to be loaded.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<LoadError>,
    },
    /// Somebody needs the image that is to be removed.
    #[error("image {id} is in use: a task of this node is made from it, or it is being pulled")]
    InUse {
        /// The image.
        id: Digest,
    },
    /// The store's own files.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The image store's own files cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the store.
    #[error("the image store {} is used by another process", path.display())]
    InUse {
        /// The store's directory.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The disk is full.
    #[error("no space left on the image store's disk for {}", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file of the store cannot be read or written.
    #[error(transparent)]
    File(#[from] shoal_durable::FileError),
    /// An image that was just completed lacks a part: somebody else deletes files of the store.
    #[error("image {image} is incomplete right after it was stored")]
    Vanished {
        /// The image's id.
        image: Digest,
    },
    /// A piece of work on a thread of its own did not come back.
    #[error("a worker thread of the image store was lost")]
    Worker,
}

impl StoreError {
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| {
            if is_full(&source) {
                return Self::NoSpace { path, source };
            }
            Self::Io { action, path, source }
        }
    }
}

/// Why a layer could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The download failed.
    #[error("the download failed")]
    Download(#[source] RegistryError),
    /// The packed bytes are not those the manifest names.
    #[error("the layer's bytes have the digest {actual} instead of {expected}")]
    BlobDigest {
        /// The digest in the manifest.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The unpacked archive is not the one the configuration names.
    #[error("the unpacked layer has the digest {actual} instead of {expected}")]
    DiffId {
        /// The digest in the configuration.
        expected: Digest,
        /// The digest of what came out.
        actual: Digest,
    },
    /// Unpacking failed.
    #[error("cannot unpack it")]
    Unpack(#[source] UnpackError),
    /// The archive it comes from cannot be read.
    #[error("cannot read it from the archive")]
    Archive(#[source] LoadError),
    /// The store's own files.
    #[error("cannot store it")]
    Store(#[source] StoreError),
    /// The layer beneath failed, and so this one is of no use.
    #[error("the layer beneath it failed")]
    Beneath(#[source] Arc<LayerError>),
}

impl ImageError {
    /// Whether the same request may succeed later without anybody changing anything: the registry
    /// was not reachable, or said that it is busy.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Pull { source, .. } | Self::NotFound { source, .. } => source.is_transient(),
            Self::Layer { source, .. } => source.is_transient(),
            Self::Manifest { .. }
            | Self::Platform { .. }
            | Self::Load { .. }
            | Self::InUse { .. }
            | Self::Store(_) => false,
        }
    }
}

impl LayerError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Download(error) => error.is_transient(),
            Self::Beneath(error) => error.is_transient(),
            Self::BlobDigest { .. }
            | Self::DiffId { .. }
            | Self::Unpack(_)
            | Self::Archive(_)
            | Self::Store(_) => false,
        }
    }
}
