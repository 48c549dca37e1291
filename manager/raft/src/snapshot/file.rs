//! One snapshot file, open for reading.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use shoal_proto::v1;

use super::{FORMAT, MAX_DATA_BYTES, SnapshotError};
use crate::convert;
use crate::types::SnapshotMeta;

/// Followed by the version of the file as a digit.
const MAGIC: &[u8; 7] = b"shoalSS";
const VERSION: u8 = b'1';
const MAX_HEADER_BYTES: u32 = 1 << 20;
const DIGEST_BYTES: usize = 32;

/// A snapshot that was checked when it was opened. Stays readable when its file is removed.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    pub(super) header: v1::SnapshotHeader,
    pub(super) meta: SnapshotMeta,
    pub(super) data_offset: u64,
}

impl SnapshotFile {
    /// A handle to nothing, for the place of a snapshot that is still to come.
    pub(super) fn blank(file: File, path: PathBuf) -> Self {
        let (header, meta) = (v1::SnapshotHeader::default(), SnapshotMeta::default());
        Self { file: Arc::new(file), path, header, meta, data_offset: 0 }
    }

    /// Opens a file and checks all of it.
    pub(crate) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let io = |source| SnapshotError::Io { attempt: "read", path: path.to_owned(), source };
        let damaged = |what| SnapshotError::Damaged { path: path.to_owned(), what };
        let mut file = File::open(path).map_err(io)?;
        let mut start = [0; 12];
        file.read_exact(&mut start).map_err(io)?;
        let (magic, length) = start.split_at(MAGIC.len() + 1);
        if let Some(digit) = newer(magic) {
            return Err(SnapshotError::Version { path: path.to_owned(), found: digit });
        }
        let length = u32::from_be_bytes(length.try_into().map_err(|_| damaged("its length"))?);
        if !is_ours(magic) || length > MAX_HEADER_BYTES {
            return Err(damaged("it does not begin like a snapshot"));
        }
        let mut encoded = vec![0; length as usize];
        file.read_exact(&mut encoded).map_err(io)?;
        let mut digest = [0; DIGEST_BYTES];
        file.read_exact(&mut digest).map_err(io)?;
        if Sha256::new().chain_update(start).chain_update(&encoded).finalize()[..] != digest {
            return Err(damaged("its header is not what was written"));
        }
        let header = v1::SnapshotHeader::decode(encoded.as_slice())
            .map_err(|_| damaged("its header cannot be read"))?;
        if header.format != FORMAT {
            return Err(SnapshotError::Format { path: path.to_owned(), found: header.format });
        }
        let meta = convert::snapshot_meta_from_proto(&header)
            .map_err(|_| damaged("its header is incomplete"))?;
        let data_offset = (start.len() + encoded.len() + DIGEST_BYTES) as u64;
        let snapshot =
            Self { file: Arc::new(file), path: path.to_owned(), header, meta, data_offset };
        snapshot.check_data()?;
        Ok(snapshot)
    }

    /// What the snapshot is of.
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The header as it is sent to other members.
    pub(crate) fn header(&self) -> &v1::SnapshotHeader {
        &self.header
    }

    /// Reads up to `max` bytes of data at this position; empty at the end.
    pub(crate) fn read_at(&self, position: u64, max: usize) -> Result<Vec<u8>, SnapshotError> {
        let left = self.header.data_bytes.saturating_sub(position);
        let mut data = vec![0; max.min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.file
            .read_exact_at(&mut data, self.data_offset + position)
            .map_err(|source| self.io(source))?;
        Ok(data)
    }

    /// All data, checked again.
    pub(crate) fn data(&self) -> Result<Vec<u8>, SnapshotError> {
        let data = self.read_at(0, usize::MAX)?;
        if Sha256::digest(&data)[..] != self.header.data_sha256 {
            return Err(self.data_damaged());
        }
        Ok(data)
    }

    fn check_data(&self) -> Result<(), SnapshotError> {
        const PIECE: usize = 1 << 20;
        let length = self.file.metadata().map_err(|source| self.io(source))?.len();
        if self.header.data_bytes > MAX_DATA_BYTES
            || length != self.data_offset + self.header.data_bytes
        {
            return Err(self.data_damaged());
        }
        let mut hasher = Sha256::new();
        let mut position = 0;
        while position < self.header.data_bytes {
            let piece = self.read_at(position, PIECE)?;
            position += piece.len() as u64;
            hasher.update(&piece);
        }
        if hasher.finalize()[..] != self.header.data_sha256 {
            return Err(self.data_damaged());
        }
        Ok(())
    }

    fn io(&self, source: io::Error) -> SnapshotError {
        SnapshotError::Io { attempt: "read", path: self.path.clone(), source }
    }

    fn data_damaged(&self) -> SnapshotError {
        let what = "its data is not what was written";
        SnapshotError::Damaged { path: self.path.clone(), what }
    }
}

fn is_ours(start: &[u8]) -> bool {
    start.strip_prefix(MAGIC) == Some(&[VERSION])
}

/// The version of a file that begins like one of a newer program.
fn newer(start: &[u8]) -> Option<u8> {
    match start.strip_prefix(MAGIC) {
        Some([version]) if (VERSION + 1..=b'9').contains(version) => Some(version - b'0'),
        _ => None,
    }
}

/// The bytes before the data.
pub(super) fn preamble(header: &v1::SnapshotHeader) -> Vec<u8> {
    let encoded = header.encode_to_vec();
    let mut bytes = MAGIC.to_vec();
    bytes.push(VERSION);
    bytes.extend_from_slice(&(encoded.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&encoded);
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    bytes
}
