//! A second, independent witness of how far the log was written.
//!
//! A database that finds its newest page damaged cannot tell a torn write from rot: it falls back
//! to the batch before, and an acknowledged write is gone without a word. So the number of the
//! newest durable batch is also written here, after the batch itself is on disk. A database that
//! opens with an older number than the watermark has lost something, and is refused.
//!
//! The watermark is not flushed with each batch. After a power cut it may therefore be behind the
//! database, never ahead of it, which is the safe side; without a power cut it is exact.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Two slots, a disk block apart, written in turn: a torn write spoils the older number at most.
const SLOT_BYTES: usize = 4096;
const MAGIC: &[u8; 7] = b"shoalWM";
/// What this program writes, and the newest that it reads, as a digit.
const VERSION: u8 = b'1';
const RECORD_BYTES: usize = 20;

/// The witness file, open for writing.
pub(crate) struct Watermark {
    file: File,
}

/// What the file said when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// There was no file.
    Absent,
    /// At least this many batches were durable.
    AtLeast(u64),
    /// A newer program has written it.
    Newer {
        /// The version that it has.
        version: u8,
    },
    /// Neither slot is intact.
    Damaged,
}

impl Watermark {
    /// Reads the file, without creating it.
    pub(crate) fn read(path: &Path) -> io::Result<Reading> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reading::Absent),
            Err(error) => return Err(error),
        };
        let slots = [read_slot(&file, 0)?, read_slot(&file, 1)?];
        if let Some(version) = slots.iter().flatten().map(|s| s.version).find(|v| *v > VERSION) {
            return Ok(Reading::Newer { version: version - b'0' });
        }
        let newest = slots.iter().flatten().map(|slot| slot.sequence).max();
        Ok(newest.map_or(Reading::Damaged, Reading::AtLeast))
    }

    /// Opens the file, creating it, with this number in both slots; durable when it returns.
    pub(crate) fn create(path: &Path, sequence: u64) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let watermark = Self { file };
        for slot in 0..2 {
            watermark.write_slot(slot, sequence)?;
            watermark.file.sync_all()?;
        }
        if let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(watermark)
    }

    /// Notes that batch `sequence` is durable.
    pub(crate) fn advance(&self, sequence: u64) -> io::Result<()> {
        self.write_slot(sequence % 2, sequence)
    }

    /// Flushes the mark, so that it is exact also after a power cut.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_slot(&self, slot: u64, sequence: u64) -> io::Result<()> {
        let mut record = Vec::with_capacity(SLOT_BYTES);
        record.extend_from_slice(MAGIC);
        record.push(VERSION);
        record.extend_from_slice(&sequence.to_be_bytes());
        let checksum = crc32fast::hash(&record);
        record.extend_from_slice(&checksum.to_be_bytes());
        self.file.write_all_at(&record, slot * SLOT_BYTES as u64)
    }
}

/// What is in an intact slot. Magic, version, number and checksum have their places in every version.
struct Slot {
    version: u8,
    sequence: u64,
}

fn read_slot(file: &File, slot: u64) -> io::Result<Option<Slot>> {
    let mut record = [0; RECORD_BYTES];
    match file.read_exact_at(&mut record, slot * SLOT_BYTES as u64) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (content, checksum) = record.split_at(RECORD_BYTES - 4);
    let (magic, content_of) = content.split_at(MAGIC.len());
    let version = content_of[0];
    let intact = magic == MAGIC
        && (VERSION..=b'9').contains(&version)
        && crc32fast::hash(content).to_be_bytes() == checksum;
    let mut number = [0; 8];
    number.copy_from_slice(&content_of[1..]);
    Ok(intact.then_some(Slot { version, sequence: u64::from_be_bytes(number) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_damage_is_noticed_or_lowers_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watermark");
        assert_eq!(Watermark::read(&path).unwrap(), Reading::Absent);
        let watermark = Watermark::create(&path, 6).unwrap();
        watermark.advance(7).unwrap();
        assert_eq!(Watermark::read(&path).unwrap(), Reading::AtLeast(7));

        let intact = std::fs::read(&path).unwrap();
        for byte in 0..intact.len() {
            let mut flipped = intact.clone();
            flipped[byte] ^= 0x10;
            std::fs::write(&path, &flipped).unwrap();
            let reading = Watermark::read(&path).unwrap();
            assert!(
                matches!(reading, Reading::AtLeast(6 | 7)),
                "byte {byte} flipped gives {reading:?}"
            );
        }
        let mut newer = intact.clone();
        for slot in [0, SLOT_BYTES] {
            newer[slot + MAGIC.len()] = b'2';
            let checksum = crc32fast::hash(&newer[slot..slot + RECORD_BYTES - 4]).to_be_bytes();
            newer[slot + RECORD_BYTES - 4..slot + RECORD_BYTES].copy_from_slice(&checksum);
        }
        std::fs::write(&path, newer).unwrap();
        assert_eq!(Watermark::read(&path).unwrap(), Reading::Newer { version: 2 });
        std::fs::write(&path, b"").unwrap();
        assert_eq!(Watermark::read(&path).unwrap(), Reading::Damaged);
    }
}
