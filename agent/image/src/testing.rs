//! What tests of other crates need.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::limits::Limits;
pub use super::load::testing::{Listed, list};
use super::unpack::{UnpackError, settle, unpack_layer};

/// What was in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of all files.
    pub content_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
}

/// Unpacks the stream `packed` into the empty directory `dir` and lays it on the layers `beneath`,
/// lowest first, as a pull does, without the digests that a manifest asks for.
///
/// # Errors
/// As a pull.
pub fn unpack(
    packed: impl Read,
    dir: &Path,
    beneath: &[PathBuf],
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let layer = unpack_layer(packed, dir, limits).layer?;
    settle(dir, layer.finished, beneath, limits)?;
    Ok(Unpacked { content_bytes: layer.content_bytes, entries: layer.entries })
}
