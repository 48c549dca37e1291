//! Unpacks one layer straight into an overlayfs lower directory.
//!
//! Whiteouts become character devices 0:0, opaque marks become `trusted.overlay.opaque`, owners
//! are numeric, and modes, times, file capabilities and user attributes are kept (OCI image
//! specification, "Image Layer Filesystem Changeset"; kernel, overlayfs documentation). Entries
//! with `..` are refused. An absolute path means the same path below the layer's root, and a path
//! through a symbolic link of the layer the place where the link leads in it, as Docker and
//! containerd have it.

use std::io::{BufReader, Read};
use std::path::Path;

use rustix::fs::FileType;
use shoal_types::image_ref::Digest;

use super::compression::decompress;
use super::hashing::{HashingReader, is_too_long};
use super::limits::Limits;
use super::tar_stream::{Member, MemberKind, TarError, TarStream};

mod error;
mod meta;
mod path;
mod tree;
mod union;

pub(super) use error::is_full;
pub use error::{NameFault, UnpackError};
use meta::Meta;
use path::{LayerPath, Meaning, meaning};
use tree::{Finished, Tree};
pub(super) use union::settle;

/// Bytes of the uncompressed archive read ahead, so that headers are not read one by one through
/// the decompressor.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// A layer that is unpacked.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Bytes of all files.
    pub content_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// What depends on the layers beneath, see [`settle`].
    pub finished: Finished,
}

/// What came of a packed layer.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Digest and length of the packed bytes, when all of them could be read.
    pub blob: Option<(Digest, u64)>,
    /// The layer, or why there is none.
    pub layer: Result<Unpacked, UnpackError>,
}

/// Unpacks the stream `packed` into the empty directory `dir`.
///
/// When the layer itself is at fault, the rest of the stream is read all the same: a wrong digest
/// explains more than the garbage that came of it.
pub(super) fn unpack_layer(packed: impl Read, dir: &Path, limits: &Limits) -> Outcome {
    let mut packed = HashingReader::new(packed, u64::MAX);
    let layer = unpack_stream(&mut packed, dir, limits);
    let drained = match &layer {
        Err(error) if !error.is_layers_fault() => return Outcome { blob: None, layer },
        _ => packed.drain(),
    };
    match (drained, layer) {
        (Ok(()), layer) => Outcome { blob: Some(packed.finish()), layer },
        (Err(error), Ok(_)) => Outcome { blob: None, layer: Err(UnpackError::Corrupt(error)) },
        (Err(_), layer) => Outcome { blob: None, layer },
    }
}

fn unpack_stream(
    packed: &mut impl Read,
    dir: &Path,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let (unpacked, _) = decompress(packed).map_err(UnpackError::Corrupt)?;
    let unpacked = HashingReader::new(unpacked, limits.layer_bytes);
    let buffered = BufReader::with_capacity(READ_AHEAD_BYTES, unpacked);
    let mut archive = TarStream::new(buffered, limits);
    let mut writer = Writer { tree: Tree::open(dir, limits)?, limits, content_bytes: 0 };
    let mut entries = 0;
    while let Some(member) = archive.next_member().map_err(archive_error)? {
        entries += 1;
        if entries > limits.layer_entries {
            let limit = limits.layer_entries;
            return Err(UnpackError::TooLarge { what: "entries", limit });
        }
        if member.size > limits.layer_bytes {
            let limit = limits.layer_bytes;
            return Err(UnpackError::TooLarge { what: "uncompressed bytes", limit });
        }
        writer.write(member, &mut archive)?;
    }
    let mut rest = archive.into_inner().into_inner();
    rest.drain().map_err(corrupt)?;
    let finished = writer.tree.finish()?;
    let (diff_id, _) = rest.finish();
    Ok(Unpacked { diff_id, content_bytes: writer.content_bytes, entries, finished })
}

fn archive_error(error: TarError) -> UnpackError {
    match error {
        TarError::Read(error) => corrupt(error),
        other => UnpackError::Archive(other),
    }
}

fn corrupt(error: std::io::Error) -> UnpackError {
    match is_too_long(&error) {
        Some(limit) => UnpackError::TooLarge { what: "uncompressed bytes", limit },
        None => UnpackError::Corrupt(error),
    }
}

/// Turns members into calls on the tree.
struct Writer<'a> {
    tree: Tree,
    limits: &'a Limits,
    content_bytes: u64,
}

impl Writer<'_> {
    fn write<R: Read>(
        &mut self,
        mut member: Member,
        archive: &mut TarStream<R>,
    ) -> Result<(), UnpackError> {
        let path = match meaning(LayerPath::parse(&member.path, self.limits)?)? {
            Meaning::Entry(path) => path,
            Meaning::Whiteout(path) => return self.tree.whiteout(&path),
            Meaning::Opaque(path) => return self.tree.opaque(&path),
            Meaning::Ignored => return Ok(()),
        };
        let meta = Meta::of(&mut member);
        match member.kind {
            MemberKind::File => self.file(&path, &meta, member.size, archive),
            MemberKind::Directory => self.tree.directory(&path, meta),
            MemberKind::HardLink => self.tree.hard_link(&path, &member.link),
            MemberKind::Symlink => {
                self.check_link(&path, &member.link)?;
                self.tree.symlink(&path, &member.link, &meta)
            }
            MemberKind::CharDevice { major, minor } => {
                self.tree.node(&path, FileType::CharacterDevice, (major, minor), &meta)
            }
            MemberKind::BlockDevice { major, minor } => {
                self.tree.node(&path, FileType::BlockDevice, (major, minor), &meta)
            }
            MemberKind::Fifo => self.tree.node(&path, FileType::Fifo, (0, 0), &meta),
        }
    }

    fn file<R: Read>(
        &mut self,
        path: &LayerPath,
        meta: &Meta,
        size: u64,
        archive: &mut TarStream<R>,
    ) -> Result<(), UnpackError> {
        let written = self.tree.file(path, meta, &mut archive.body());
        let written = written.map_err(|error| match error {
            UnpackError::Corrupt(error) => corrupt(error),
            other => other,
        })?;
        if written != size {
            let what = format!("the file {:?}", String::from_utf8_lossy(path.bytes()));
            return Err(UnpackError::Archive(TarError::Truncated { what }));
        }
        self.content_bytes += written;
        Ok(())
    }

    fn check_link(&self, path: &LayerPath, target: &[u8]) -> Result<(), UnpackError> {
        let fault = match target {
            [] => NameFault::Empty,
            _ if target.contains(&0) => NameFault::Nul,
            _ if target.len() > self.limits.path_bytes => {
                NameFault::TooLong(self.limits.path_bytes)
            }
            _ => return Ok(()),
        };
        let entry = String::from_utf8_lossy(path.bytes()).into_owned();
        Err(UnpackError::Name { entry, fault })
    }
}

#[cfg(test)]
mod growth_tests;
#[cfg(test)]
mod root_tests;
#[cfg(test)]
pub(super) mod testing;
