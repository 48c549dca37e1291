//! The directory of one execution in its container's run directory.
//!
//! libcontainer puts a socket beside the container's state for each process that joins it, and leaves
//! it there. So it is shown the state in a directory of the execution's own, which goes with it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use super::setup::{Common, OCI_DIR};

/// Where libcontainer keeps the state of a container, in a directory named as the container.
const STATE_FILE: &str = "state.json";

/// Removed when dropped, with everything in it.
#[derive(Debug)]
pub(super) struct OwnDir {
    path: PathBuf,
}

impl OwnDir {
    /// Makes the one of this process, as nobody else's is called.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn new(setup: &Common) -> io::Result<Self> {
        let path = setup.run_dir.join(format!("join-{}", std::process::id()));
        // Of one that was killed, and whose number has come round.
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let own = Self { path };
        let container = own.path.join(setup.id.as_str());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&container)?;
        let state = setup.run_dir.join(OCI_DIR).join(setup.id.as_str()).join(STATE_FILE);
        symlink(state, container.join(STATE_FILE))?;
        Ok(own)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnDir {
    fn drop(&mut self) {
        // What stays goes with the run directory.
        let _ = fs::remove_dir_all(&self.path);
    }
}
