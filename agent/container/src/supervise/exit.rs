//! How a container ended, made durable.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::file::{Kept, Unreadable, from_bytes};
use super::setup::EXIT_FILE;
use crate::ExitStatus;

impl Kept for ExitStatus {
    const WHAT: &'static str = "the record of the container's end";
    const VERSION: u32 = 1;
    const NEEDS: u32 = 0;
}

/// Writes the exit record: on disk, whole, before this returns.
///
/// The name is changed before the one sync, which carries both to the disk on the file systems that
/// are used for this (a journal commits in order). A crash in between may leave a name without its
/// contents; nobody has been told then, and [`read`] takes it for no record.
///
/// # Errors
/// The kernel's answer.
pub fn write(state_dir: &Path, status: &ExitStatus) -> io::Result<()> {
    let next = state_dir.join("exit.json.next");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(&super::file::to_bytes(status)?)?;
    fs::rename(&next, state_dir.join(EXIT_FILE))?;
    file.sync_all()
}

/// For people: that processes were killed which were not the first one.
#[must_use]
pub fn starved(kills: u64) -> Option<String> {
    (kills > 0).then(|| format!("processes in it were killed for want of memory: {kills}"))
}

/// Reads the exit record, if there is a whole one. One that a newer program has written in a way that is
/// not known is still the record of an end.
///
/// # Errors
/// The kernel's answer other than "not found".
pub fn read(state_dir: &Path) -> io::Result<Option<ExitStatus>> {
    match fs::read(state_dir.join(EXIT_FILE)) {
        Ok(bytes) => match from_bytes(&bytes) {
            Ok(status) => Ok(Some(status)),
            Err(Unreadable::Garbled { .. }) => Ok(None),
            Err(e @ Unreadable::Newer { .. }) => {
                Ok(Some(ExitStatus { message: Some(e.to_string()), ..ExitStatus::default() }))
            }
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
