//! What about a layer depends on the layers beneath it, and why layers are kept by chain and not
//! by content alone.
//!
//! *Directories that it needs but does not mention.* A layer that changes `etc/app/conf` need not
//! say anything about `etc`. In its overlay directory there is an `etc` all the same, and overlayfs
//! shows the uppermost one: so it gets the properties of the one beneath.
//!
//! *What it takes away.* A whiteout is made only over something that is there, in a directory that
//! is there: overlayfs hides whiteouts where directories of several layers merge, and elsewhere
//! lists a name that nobody can open or remove; and the directories that lead to a whiteout would
//! bring back what another layer has taken away.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT,
    XattrFlags, fgetxattr, flistxattr, fsetxattr, fstat, futimens, makedev, mkdirat, mknodat,
    openat, openat2,
};
use rustix::io::Errno;

use super::super::tar_stream::Mtime;
use super::error::UnpackError;
use super::meta::{Meta, is_kept};
use super::path::LayerPath;
use super::tree::{Finished, Removal, is_directory, is_whiteout, open_below};

/// The mark of a directory that hides what lies beneath (kernel, overlayfs documentation).
pub(super) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// Longest list of names, and longest value, that the kernel has (`XATTR_LIST_MAX`,
/// `XATTR_SIZE_MAX`), in bytes.
const XATTR_BYTES_MAX: usize = 65_536;

/// Makes the layer at `dir` one that lies on `lowers` (lowest first).
pub(in crate::image) fn settle(
    dir: &Path,
    finished: &Finished,
    lowers: &[PathBuf],
) -> Result<(), UnpackError> {
    if lowers.is_empty() {
        // There is nothing to take away and nothing to take over.
        return Ok(());
    }
    let lowers = lowers.iter().rev().map(|lower| open_root(lower)).collect::<Result<_, _>>()?;
    let mut union = Union::new(open_root(dir)?, lowers);
    let mut new = Vec::new();
    let mut replaced = Vec::new();
    for (path, removal) in union.without_root(&finished.removals)? {
        let fail = |errno| UnpackError::write("take away", path.bytes(), errno);
        if removal.whole && union.whiteout(&path, &mut new).map_err(fail)? {
            replaced.push(path.clone());
        }
        if removal.content {
            union.opaque(&path, &mut new).map_err(fail)?;
        }
    }
    let mut implied: Vec<&LayerPath> = finished.implied.iter().chain(&new).collect();
    implied.sort_unstable();
    for path in implied {
        let fail = |errno| UnpackError::write("take over the properties of", path.bytes(), errno);
        if replaced.binary_search(path).is_ok() {
            continue;
        }
        if let Some(meta) = union.properties(path).map_err(fail)? {
            let fd = open_below(&union.top, path).map_err(fail)?;
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

/// A layer and those beneath it, as overlayfs will merge them.
struct Union {
    top: OwnedFd,
    /// Highest first.
    lowers: Vec<OwnedFd>,
    /// The directory looked at last and those that lead to it; the first is the root. Paths come
    /// sorted, so most of it serves the next one too.
    levels: Vec<Level>,
}

/// One directory of the union.
struct Level {
    path: LayerPath,
    /// The layer itself has it.
    own: bool,
    /// The layers beneath that show through, highest first. All have it as a directory.
    beneath: Vec<usize>,
}

/// What one layer has under a name.
enum Sight {
    Absent,
    Directory {
        opaque: bool,
    },
    /// Hides what is beneath, too.
    Other,
}

impl Union {
    fn new(top: OwnedFd, lowers: Vec<OwnedFd>) -> Self {
        let beneath = (0..lowers.len()).collect();
        let root = Level { path: LayerPath::root(), own: true, beneath };
        Self { top, lowers, levels: vec![root] }
    }

    /// overlayfs takes no notice of an opaque root: then everything in it is taken away one by one.
    fn without_root(
        &self,
        removals: &BTreeMap<LayerPath, Removal>,
    ) -> Result<BTreeMap<LayerPath, Removal>, UnpackError> {
        let root = LayerPath::root();
        let mut removals = removals.clone();
        if removals.remove(&root).is_none() {
            return Ok(removals);
        }
        for lower in &self.lowers {
            let fail = |errno| UnpackError::write("list", b"/", errno);
            for entry in Dir::read_from(lower).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    removals.entry(root.join(name)).or_default().whole = true;
                }
            }
        }
        Ok(removals)
    }

    /// The directory of this path, whether or not there is one.
    fn level(&mut self, path: &LayerPath) -> Result<&mut Level, Errno> {
        let above = |level: &Level| level.path == *path || path.is_below(&level.path);
        let shared = self.levels.iter().take_while(|level| above(level)).count();
        self.levels.truncate(shared.max(1));
        let known = self.levels.last().map_or(0, |level| level.path.depth());
        for prefix in path.prefixes().skip(known) {
            let level = self.enter(prefix)?;
            self.levels.push(level);
        }
        let last = self.levels.len() - 1;
        Ok(&mut self.levels[last])
    }

    /// The next level below the last one.
    fn enter(&self, path: LayerPath) -> Result<Level, Errno> {
        let (own, candidates) = self
            .levels
            .last()
            .map_or((false, &[][..]), |parent| (parent.own, parent.beneath.as_slice()));
        let mut level = Level { path, own: false, beneath: Vec::new() };
        if own {
            match look(&self.top, &level.path)? {
                Sight::Absent => {}
                Sight::Directory { opaque } => {
                    level.own = true;
                    if opaque {
                        return Ok(level);
                    }
                }
                Sight::Other => return Ok(level),
            }
        }
        for index in candidates {
            match look(&self.lowers[*index], &level.path)? {
                Sight::Absent => {}
                Sight::Directory { opaque } => {
                    level.beneath.push(*index);
                    if opaque {
                        break;
                    }
                }
                Sight::Other => break,
            }
        }
        Ok(level)
    }

    /// What the layers beneath show under a path, with the layer that it is from.
    fn beneath(&mut self, path: &LayerPath) -> Result<Option<(usize, Stat)>, Errno> {
        let parent = path.parent().unwrap_or_default();
        for index in self.level(&parent)?.beneath.clone() {
            if let Some(stat) = stat_below(&self.lowers[index], path)? {
                return Ok((!is_whiteout(&stat)).then_some((index, stat)));
            }
        }
        Ok(None)
    }

    /// Returns whether the layer has a directory of its own instead.
    fn whiteout(&mut self, path: &LayerPath, new: &mut Vec<LayerPath>) -> Result<bool, Errno> {
        let Some((_, hidden)) = self.beneath(path)? else { return Ok(false) };
        let parent = path.parent().unwrap_or_default();
        let own = if self.level(&parent)?.own { stat_below(&self.top, path)? } else { None };
        match own {
            Some(stat) if is_directory(&stat) => {
                if is_directory(&hidden) {
                    self.mark_opaque(path)?;
                }
                Ok(true)
            }
            Some(_) => Ok(false),
            None => {
                self.make(&parent, new)?;
                let parent = open_below(&self.top, &parent)?;
                let (kind, device) = (FileType::CharacterDevice, makedev(0, 0));
                keeping_time(&parent, || {
                    mknodat(&parent, path.name(), kind, Mode::empty(), device)
                })?;
                Ok(false)
            }
        }
    }

    fn opaque(&mut self, path: &LayerPath, new: &mut Vec<LayerPath>) -> Result<(), Errno> {
        if self.level(path)?.beneath.is_empty() {
            return Ok(());
        }
        self.make(path, new)?;
        self.mark_opaque(path)?;
        self.level(path)?.beneath.clear();
        Ok(())
    }

    fn mark_opaque(&self, path: &LayerPath) -> Result<(), Errno> {
        fsetxattr(open_below(&self.top, path)?, OPAQUE_XATTR, b"y", XattrFlags::empty())
    }

    /// Makes a directory that the layers beneath have, with those that lead to it.
    fn make(&mut self, path: &LayerPath, new: &mut Vec<LayerPath>) -> Result<(), Errno> {
        self.level(path)?;
        for level in self.levels.iter_mut().filter(|level| !level.own) {
            let parent = open_below(&self.top, &level.path.parent().unwrap_or_default())?;
            let mode = Mode::from_raw_mode(0o700);
            keeping_time(&parent, || mkdirat(&parent, level.path.name(), mode))?;
            level.own = true;
            new.push(level.path.clone());
        }
        Ok(())
    }

    /// The properties that the layers beneath show for a directory of this layer.
    fn properties(&mut self, path: &LayerPath) -> Result<Option<Meta>, Errno> {
        let index = match self.beneath(path)? {
            Some((index, stat)) if is_directory(&stat) => index,
            _ => return Ok(None),
        };
        meta_of(&open_below(&self.lowers[index], path)?).map(Some)
    }
}

fn look(layer: &OwnedFd, path: &LayerPath) -> Result<Sight, Errno> {
    match open_below(layer, path) {
        Ok(fd) => Ok(Sight::Directory { opaque: is_opaque(fd)? }),
        Err(Errno::NOENT) => Ok(Sight::Absent),
        Err(Errno::NOTDIR | Errno::LOOP) => Ok(Sight::Other),
        Err(errno) => Err(errno),
    }
}

/// What has this path, or nothing.
fn stat_below(layer: &OwnedFd, path: &LayerPath) -> Result<Option<Stat>, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(layer, path.for_kernel(), flags, Mode::empty(), resolve) {
        Ok(fd) => fstat(fd).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What is added to a directory here is not what the archive's time of it is about.
fn keeping_time(dir: &OwnedFd, act: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    let before = fstat(dir)?;
    act()?;
    let last_modification = Timespec {
        tv_sec: before.st_mtime,
        tv_nsec: before.st_mtime_nsec.try_into().unwrap_or_default(),
    };
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    futimens(dir, &Timestamps { last_access, last_modification })
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

#[cfg(test)]
mod root_tests;
