//! The first half of a load, for tests of other crates.

use std::io::Read as _;
use std::path::Path;

use shoal_types::image_ref::{Digest, ImageReference};

use super::super::layers::LayerSource;
use super::super::limits::Limits;
use super::super::platform::Platform;
use super::{LoadError, find};

/// An image in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The names it has there.
    pub names: Vec<ImageReference>,
    /// Digest of its configuration.
    pub id: Digest,
    /// Its layers as they are there, packed or not, lowest first, each with the digest that it is to have
    /// unpacked.
    pub layers: Vec<(Digest, Vec<u8>)>,
}

/// Finds the images of an archive or a layout for a host of this platform as a load does, and reads their
/// layers. What is unpacked on the way is in `tmp` and gone afterwards.
///
/// # Errors
/// As a load, before anything is unpacked for good.
pub fn list(
    path: &Path,
    tmp: &Path,
    limits: &Limits,
    host: &Platform,
) -> Result<Vec<Listed>, LoadError> {
    let found = find(path, tmp, limits, host)?;
    let mut listed = Vec::new();
    for image in found {
        let mut layers = Vec::new();
        for (spec, source) in &image.parts.layers {
            let LayerSource::Archive(blob) = source else { continue };
            let mut bytes = Vec::new();
            blob.open()?.read_to_end(&mut bytes).map_err(LoadError::io("read it"))?;
            layers.push((spec.diff_id, bytes));
        }
        listed.push(Listed { names: image.names, id: image.parts.record.id, layers });
    }
    Ok(listed)
}
