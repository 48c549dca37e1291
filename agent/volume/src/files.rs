//! Files and directories of volumes.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use super::VolumeError;

/// Makes a directory with exactly this mode, whatever the umask.
pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
    let make = || {
        DirBuilder::new().recursive(true).mode(mode).create(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    };
    make().map_err(VolumeError::file("create", path))
}

/// What is in a directory, by names that volumes may have.
pub(super) fn names_in(dir: &Path) -> Result<Vec<String>, VolumeError> {
    let read = || {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // Volumes have ASCII names.
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok::<_, io::Error>(names)
    };
    read().map_err(VolumeError::file("list", dir))
}

/// Removes what is in a directory.
pub(super) fn clear(dir: &Path) -> Result<(), VolumeError> {
    let read = || fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>();
    for entry in read().map_err(VolumeError::file("list", dir))? {
        remove_tree(&entry.path())?;
    }
    Ok(())
}

/// Removes whatever it is; fine if it is not there.
pub(super) fn remove_tree(path: &Path) -> Result<(), VolumeError> {
    let remove = || match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match remove() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(VolumeError::file("remove", path)),
    }
}

/// Fine if it is not there.
pub(super) fn remove_file(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(VolumeError::file("remove", path)),
    }
}
