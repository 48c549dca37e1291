//! Copying a tree of files as it is: owners, modes, times, extended attributes, hard links.
//!
//! Everything is done by directory descriptors, and no link is followed, so that whoever writes
//! into one of the trees at the same time cannot lead the copy elsewhere.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Timespec, Timestamps,
    Uid, XattrFlags, chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens,
    linkat, mkdirat, mknodat, openat, openat2, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

/// How deep directories may be nested.
pub(super) const DEPTH_MAX: usize = 128;
/// Longest list of names and longest value of extended attributes (xattr(7)), in bytes.
const XATTR_MAX: usize = 64 << 10;

/// Why a copy ended early.
#[derive(Debug)]
pub(super) enum CopyError {
    /// Deeper than [`DEPTH_MAX`].
    TooDeep,
    /// The file system refused.
    Io(io::Error),
}

impl From<Errno> for CopyError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Whether a directory has no entries.
pub(super) fn is_empty(directory: impl AsFd) -> io::Result<bool> {
    for entry in Dir::read_from(directory)? {
        if !is_dots(entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies everything in one directory into another, which is empty and takes over the metadata of
/// the first.
pub(super) fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), CopyError> {
    let mut copier = Copier { root: to.try_clone_to_owned()?, links: BTreeMap::new() };
    copier.directory(from, to, Path::new(""), 0)
}

struct Copier {
    root: OwnedFd,
    /// Where the first copy of a file with several names is, below the root.
    links: BTreeMap<(u64, u64), PathBuf>,
}

impl Copier {
    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        path: &Path,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > DEPTH_MAX {
            return Err(CopyError::TooDeep);
        }
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if !is_dots(name) {
                self.entry(from, to, path, name, depth)?;
            }
        }
        apply(from, to)?;
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        path: &Path,
        name: &CStr,
        depth: usize,
    ) -> Result<(), CopyError> {
        use std::os::unix::ffi::OsStrExt as _;
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let path = path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let kind = FileType::from_raw_mode(stat.st_mode as RawMode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return Ok(self.link(first, to, name)?);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        let nofollow = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match kind {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | nofollow;
                let inner = openat(from, name, flags, Mode::empty())?;
                mkdirat(to, name, Mode::RWXU)?;
                let outer = openat(to, name, flags, Mode::empty())?;
                self.directory(inner.as_fd(), outer.as_fd(), &path, depth + 1)?;
            }
            FileType::RegularFile => {
                let source = openat(from, name, OFlags::RDONLY | nofollow, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | nofollow;
                let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                let (mut source, mut target) = (File::from(source), File::from(target));
                // By copy_file_range or sendfile where the file systems can.
                io::copy(&mut source, &mut target)?;
                apply(source.as_fd(), target.as_fd())?;
            }
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
                apply_to_name(&stat, to, name)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                let mode = Mode::from_raw_mode(stat.st_mode as RawMode);
                mknodat(to, name, kind, mode, stat.st_rdev)?;
                apply_to_name(&stat, to, name)?;
                rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
            }
            // A socket is nothing without the process that made it.
            FileType::Socket | FileType::Unknown => {}
        }
        Ok(())
    }

    fn link(&self, first: &Path, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // The file itself may be a link: its last part is not followed.
        let parent = first.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = match parent {
            Some(parent) => Some(openat2(&self.root, parent, flags, Mode::empty(), resolve)?),
            None => None,
        };
        let directory = opened.as_ref().unwrap_or(&self.root);
        let last = first.file_name().unwrap_or_default();
        linkat(directory, last, to, name, AtFlags::empty())
    }
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Gives one open file the metadata of another. The owner first: changing it clears bits of the
/// mode and capabilities.
fn apply(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = fstat(from)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode as RawMode))?;
    copy_xattrs(from, to)?;
    futimens(to, &times(&stat))
}

fn apply_to_name(stat: &Stat, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec.cast_signed()),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
    }
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut list = vec![MaybeUninit::<u8>::uninit(); XATTR_MAX];
    let (names, _) = match flistxattr(from, list.as_mut_slice()) {
        // A file system without them.
        Err(Errno::NOTSUP) => return Ok(()),
        result => result?,
    };
    let names: Vec<CString> = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| CString::new(name).ok())
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut value = vec![MaybeUninit::<u8>::uninit(); XATTR_MAX];
    for name in names {
        let (value, _) = fgetxattr(from, &name, value.as_mut_slice())?;
        match fsetxattr(to, &name, value, XattrFlags::empty()) {
            // A program without its capability would fail later and stranger; the rest is a
            // nicety that not every file system has.
            Err(Errno::NOTSUP) if name.as_bytes() != b"security.capability" => {}
            result => result?,
        }
    }
    Ok(())
}
