//! Directories that a layer needs but does not mention.
//!
//! A layer that changes `etc/app/conf` need not say anything about `etc`. In its overlay
//! directory there is an `etc` all the same, and overlayfs shows the uppermost one: so it gets
//! the properties of the one beneath. This is the one thing about an unpacked layer that depends
//! on what lies below, and why layers are kept by chain and not by content alone.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, openat};
use rustix::io::Errno;

use super::super::tar_stream::Mtime;
use super::error::UnpackError;
use super::meta::{Meta, is_kept};
use super::path::LayerPath;
use super::tree::{OPAQUE_XATTR, is_directory, open_below, stat};

/// Longest list of names, and longest value, that the kernel has (`XATTR_LIST_MAX`,
/// `XATTR_SIZE_MAX`), in bytes.
const XATTR_BYTES_MAX: usize = 65_536;

/// Gives the implied directories of the layer at `dir` the properties they have in `lowers`
/// (lowest first).
pub(in crate::image) fn adopt(
    dir: &Path,
    implied: &[LayerPath],
    lowers: &[PathBuf],
) -> Result<(), UnpackError> {
    if implied.is_empty() || lowers.is_empty() {
        return Ok(());
    }
    let top = open_root(dir)?;
    let lowers: Vec<OwnedFd> =
        lowers.iter().rev().map(|lower| open_root(lower)).collect::<Result<_, _>>()?;
    for path in implied {
        let fail = |errno| UnpackError::write("take over the properties of", path.bytes(), errno);
        if let Some(meta) = find(path, &lowers).map_err(fail)? {
            let fd = open_below(&top, path).map_err(fail)?;
            meta.apply(&fd, path.bytes())?;
        }
    }
    Ok(())
}

fn open_root(dir: &Path) -> Result<OwnedFd, UnpackError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, dir, flags, Mode::empty())
        .map_err(|errno| UnpackError::write("open", dir.as_os_str().as_encoded_bytes(), errno))
}

/// The directory as the topmost of `lowers` (highest first) shows it, unless it is hidden.
fn find(path: &LayerPath, lowers: &[OwnedFd]) -> Result<Option<Meta>, Errno> {
    for lower in lowers {
        match look(path, lower)? {
            Sight::Found(meta) => return Ok(Some(meta)),
            Sight::Hidden => return Ok(None),
            Sight::Absent => {}
        }
    }
    Ok(None)
}

enum Sight {
    Found(Meta),
    /// A whiteout, a file or an opaque directory on the way.
    Hidden,
    Absent,
}

fn look(path: &LayerPath, lower: &OwnedFd) -> Result<Sight, Errno> {
    let mut opaque = false;
    for prefix in path.prefixes() {
        let parent = open_below(lower, &prefix.parent().unwrap_or_default())?;
        match stat(&parent, prefix.name())? {
            None => return Ok(if opaque { Sight::Hidden } else { Sight::Absent }),
            Some(stat) if is_directory(&stat) => {
                opaque |= is_opaque(open_below(lower, &prefix)?)?;
            }
            Some(_) => return Ok(Sight::Hidden),
        }
    }
    let fd = open_below(lower, path)?;
    Ok(Sight::Found(meta_of(&fd)?))
}

fn is_opaque(fd: impl AsFd) -> Result<bool, Errno> {
    let mut value = [0_u8; 1];
    match fgetxattr(fd, OPAQUE_XATTR, &mut value) {
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn meta_of(fd: &OwnedFd) -> Result<Meta, Errno> {
    let stat: Stat = fstat(fd)?;
    let mut names = vec![0_u8; XATTR_BYTES_MAX];
    let length = match flistxattr(fd, names.as_mut_slice()) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut xattrs = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| is_kept(name)) {
        let mut value = vec![0_u8; XATTR_BYTES_MAX];
        let length = fgetxattr(fd, name, value.as_mut_slice())?;
        value.truncate(length);
        xattrs.push((name.to_vec(), value));
    }
    Ok(Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Mtime {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        },
        xattrs,
    })
}
