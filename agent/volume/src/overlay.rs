//! The merged files of an image's layers, without leaving a mount anywhere.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::files::names_in;
use super::{ImageFiles, VolumeError};

/// Mount points of layers, in the scratch directory, with a number behind.
const MERGED: &str = "merged";

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Opens the directory of the image at which the volume will be mounted; `None` when the image
/// has none there.
///
/// The layers are mounted as a read-only overlay, opened, and unmounted lazily at once: what stays
/// is a descriptor, with which the mount ends. Links of the image lead around inside it only, as
/// the layers are not trusted.
///
/// # Errors
/// A layer is not there, or the kernel refuses.
pub(super) fn open_target(
    image: &ImageFiles,
    scratch: &Path,
) -> Result<Option<OwnedFd>, VolumeError> {
    if image.layers.is_empty() {
        return Ok(None);
    }
    let root = merged(&image.layers, scratch)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(&root, &image.target, flags, Mode::empty(), resolve) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(VolumeError::file("open the image's files at", &image.target)(errno)),
    }
}

fn merged(layers: &[PathBuf], scratch: &Path) -> Result<File, VolumeError> {
    let mut lower = Vec::new();
    for layer in layers {
        lower.push(File::open(layer).map_err(VolumeError::file("open layer", layer))?);
    }
    // An overlay without an upper layer wants two lower ones, so there is always an empty one
    // below. Each mount has a place of its own: nobody waits for another's.
    let empty = scratch.join("empty");
    let at = scratch.join(format!("{MERGED}{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    for dir in [&empty, &at] {
        fs::create_dir_all(dir).map_err(VolumeError::file("create", dir))?;
    }
    lower.push(File::open(&empty).map_err(VolumeError::file("open", &empty))?);
    let mounted = mount_and_open(&lower, &at);
    let removed = fs::remove_dir(&at);
    let mounted = mounted.map_err(VolumeError::file("mount the image's layers on", &at))?;
    removed.map_err(VolumeError::file("remove", &at))?;
    Ok(mounted)
}

fn mount_and_open(lower: &[File], at: &Path) -> io::Result<File> {
    // Through descriptors the option is short, whatever the paths are: it must fit one page.
    let lower: Vec<String> =
        lower.iter().map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd())).collect();
    let data = CString::new(format!("lowerdir={}", lower.join(":")))?;
    mount("overlay", at, "overlay", MountFlags::RDONLY, data.as_c_str())?;
    let opened = File::open(at);
    let unmounted = unmount(at, UnmountFlags::DETACH);
    let root = opened?;
    unmounted?;
    Ok(root)
}

/// Ends what a process that was killed between mounting and unmounting left behind.
pub(super) fn clean_scratch(scratch: &Path) -> Result<(), VolumeError> {
    let names = match names_in(scratch) {
        Err(VolumeError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(());
        }
        names => names?,
    };
    for name in names.iter().filter(|name| name.starts_with(MERGED)) {
        let at = scratch.join(name);
        loop {
            match unmount(&at, UnmountFlags::DETACH) {
                Ok(()) => {}
                // Not a mount point.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(VolumeError::file("unmount", &at)(errno)),
            }
        }
        fs::remove_dir(&at).map_err(VolumeError::file("remove", &at))?;
    }
    Ok(())
}

/// Whether something is mounted right there.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let path = CString::new(path.as_os_str().as_bytes())?;
    let stat = statx(CWD, &path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
