//! The values of the Raft log, for tests of other crates: how they are read, and written again.

use super::store::frame;
use super::store::records::{LogState, decode_entry, encode_entry, entry_key};

/// The bytes of the entry at `index` in the log with this payload, sound or not.
#[must_use]
pub fn seal_entry(index: u64, payload: &[u8]) -> Vec<u8> {
    frame::seal(&entry_key(index), payload)
}

/// The payload of the entry at `index`, whatever it says.
#[must_use]
pub fn open_entry(index: u64, value: &[u8]) -> Option<&[u8]> {
    frame::open(&entry_key(index), value).ok()
}

/// Reads the entry at `index`, and writes it again.
///
/// # Errors
/// Why it cannot be read.
pub fn entry_again(index: u64, value: &[u8]) -> Result<Vec<u8>, String> {
    let entry = decode_entry(index, value).map_err(|why| format!("{why:?}"))?;
    Ok(encode_entry(&entry))
}

/// Reads what is known beside the entries, and writes it again.
///
/// # Errors
/// Why it cannot be read.
pub fn state_again(value: &[u8]) -> Result<Vec<u8>, String> {
    Ok(LogState::decode(value).map_err(|why| format!("{why:?}"))?.encode())
}
