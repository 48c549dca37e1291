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
//!
//! All that is asked about one directory is answered at once, layer by layer: what the layers
//! beneath do not have costs nothing in each of them, so the work is that of what is asked and of
//! what there is, and not one times the other.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT,
    XattrFlags, fgetxattr, flistxattr, fsetxattr, fstat, futimens, makedev, mkdirat, mknodat,
    openat, openat2,
};
use rustix::io::Errno;

use super::super::limits::Limits;
use super::super::tar_stream::Mtime;
use super::error::UnpackError;
use super::meta::{Meta, is_kept};
use super::path::LayerPath;
use super::tree::{Finished, Removal, is_directory, is_whiteout, open_below, stat};

/// The mark of a directory that hides what lies beneath (kernel, overlayfs documentation).
pub(super) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// Longest list of names, and longest value, that the kernel has (`XATTR_LIST_MAX`,
/// `XATTR_SIZE_MAX`), in bytes.
const XATTR_BYTES_MAX: usize = 65_536;

/// So few names are looked up one by one; more are looked for in the list of the directory.
const FEW: usize = 16;

/// Makes the layer at `dir` one that lies on `lowers` (lowest first).
pub(crate) fn settle(
    dir: &Path,
    finished: Finished,
    lowers: &[PathBuf],
    limits: &Limits,
) -> Result<(), UnpackError> {
    if lowers.is_empty() {
        // There is nothing to take away and nothing to take over.
        return Ok(());
    }
    let lowers = lowers.iter().rev().map(|lower| open_root(lower)).collect::<Result<_, _>>()?;
    let fail = |errno| UnpackError::write("look at", b"/", errno);
    let mut union = Union::new(open_root(dir)?, lowers).map_err(fail)?;
    let mut wants = wants(finished);
    let at_root = match wants.first() {
        Some(want) if want.path.is_root() => wants.remove(0),
        _ => Want::default(),
    };
    let opaque = at_root.removal != Removal::default();
    if opaque {
        let names = union.names_at_root(limits.directory_path_bytes)?.into_iter();
        let whole = Removal { whole: true, ..Removal::default() };
        let want = |name: Vec<u8>| LayerPath::root().join(&name);
        wants.extend(names.map(|name| Want { path: want(name), removal: whole, implied: false }));
        wants = in_order(wants);
    }
    if at_root.implied {
        union.take_over(&LayerPath::root(), 0)?;
    }
    union.walk(&wants)?;
    if opaque {
        // Not for overlayfs, but for the layers above: they need not look further down.
        union.mark_opaque(&LayerPath::root()).map_err(fail)?;
    }
    Ok(())
}

/// What depends on the layers beneath, at one path.
#[derive(Debug, Default)]
struct Want {
    path: LayerPath,
    removal: Removal,
    /// A directory that has the properties of the one beneath.
    implied: bool,
}

impl Want {
    /// The element of the path that begins after so many bytes.
    fn name_from(&self, before: usize) -> &[u8] {
        let rest = self.path.bytes().get(before..).unwrap_or_default();
        rest.split(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

fn wants(finished: Finished) -> Vec<Want> {
    let Finished { implied, removals } = finished;
    let removed =
        removals.into_iter().map(|(path, removal)| Want { path, removal, implied: false });
    let implied = implied.into_iter().map(|path| Want { path, implied: true, ..Want::default() });
    in_order(removed.chain(implied).collect())
}

/// Everything below a directory right behind it, and each path once.
fn in_order(mut wants: Vec<Want>) -> Vec<Want> {
    wants.sort_unstable_by(|a, b| a.path.elements().cmp(b.path.elements()));
    wants.dedup_by(|again, kept| {
        let same = again.path == kept.path;
        if same {
            kept.removal.whole |= again.removal.whole;
            kept.removal.content |= again.removal.content;
            kept.implied |= again.implied;
        }
        same
    });
    wants
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
    /// The directory that is looked at and those that lead to it; the first is the root.
    levels: Vec<Level>,
}

/// One directory of the union.
#[derive(Default)]
struct Level {
    path: LayerPath,
    /// The layer itself has it.
    own: bool,
    /// The layers beneath that show through, highest first. All have it as a directory.
    beneath: Vec<usize>,
}

/// A name in a directory about which, or below which, something is wanted.
struct Child<'a> {
    name: &'a [u8],
    /// What is wanted about itself.
    want: Option<&'a Want>,
    /// What is wanted below it.
    deeper: &'a [Want],
    /// The highest layer beneath that has it, if not as a whiteout, and whether as a directory.
    shown: Option<(usize, bool)>,
    /// The layers beneath that show through it.
    beneath: Vec<usize>,
    /// Layers further down do not matter.
    settled: bool,
}

impl<'a> Child<'a> {
    /// All children of a directory, by name; the paths have so many bytes before the names.
    fn all(wants: &'a [Want], before: usize) -> Vec<Self> {
        let child = |wants: &'a [Want]| {
            let (first, others) = wants.split_first()?;
            let name = first.name_from(before);
            let itself = first.path.bytes().len() == before + name.len();
            Some(Child {
                name,
                want: itself.then_some(first),
                deeper: if itself { others } else { wants },
                shown: None,
                beneath: Vec::new(),
                settled: false,
            })
        };
        let same = |a: &Want, b: &Want| a.name_from(before) == b.name_from(before);
        wants.chunk_by(same).filter_map(child).collect()
    }

    fn removal(&self) -> Removal {
        self.want.map(|want| want.removal).unwrap_or_default()
    }

    /// What one more layer beneath has here.
    fn see(&mut self, dir: &OwnedFd, index: usize) -> Result<(), Errno> {
        let Some(found) = stat(dir, self.name)? else { return Ok(()) };
        if is_whiteout(&found) {
            self.settled = true;
            return Ok(());
        }
        let directory = is_directory(&found);
        self.shown.get_or_insert((index, directory));
        self.settled = !directory;
        if directory && (self.removal().content || !self.deeper.is_empty()) {
            self.beneath.push(index);
            self.settled = is_opaque(open_below(dir, &LayerPath::root().join(self.name))?)?;
        } else {
            // The rest is about what is in it.
            self.settled = true;
        }
        Ok(())
    }
}

impl Union {
    fn new(top: OwnedFd, lowers: Vec<OwnedFd>) -> Result<Self, Errno> {
        let mut root = Level { own: true, ..Level::default() };
        for (index, lower) in lowers.iter().enumerate() {
            root.beneath.push(index);
            if is_opaque(lower)? {
                break;
            }
        }
        Ok(Self { top, lowers, levels: vec![root] })
    }

    /// overlayfs takes no notice of an opaque root: then everything in it is taken away one by one.
    fn names_at_root(&self, bytes_max: usize) -> Result<BTreeSet<Vec<u8>>, UnpackError> {
        let fail = |errno| UnpackError::write("list", b"/", errno);
        let mut names = BTreeSet::new();
        let mut bytes = 0;
        for index in self.levels.iter().flat_map(|root| &root.beneath) {
            for entry in Dir::read_from(&self.lowers[*index]).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." || !names.insert(name.to_vec()) {
                    continue;
                }
                bytes += name.len();
                if bytes > bytes_max {
                    let what = "bytes of the names that its opaque root takes away";
                    return Err(UnpackError::TooLarge { what, limit: bytes_max as u64 });
                }
            }
        }
        Ok(names)
    }

    /// Does what is wanted below the last level.
    fn walk(&mut self, wants: &[Want]) -> Result<(), UnpackError> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let before = if level.path.is_root() { 0 } else { level.path.bytes().len() + 1 };
        let mut children = Child::all(wants, before);
        self.look(&mut children)
            .map_err(|errno| UnpackError::write("look into", level.path.bytes(), errno))?;
        for child in children {
            self.act(child)?;
        }
        Ok(())
    }

    /// Finds out what the layers beneath have in the last level.
    fn look(&self, children: &mut [Child<'_>]) -> Result<(), Errno> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        for index in &level.beneath {
            let mut open: Vec<_> = children.iter_mut().filter(|child| !child.settled).collect();
            if open.is_empty() {
                break;
            }
            let dir = open_below(&self.lowers[*index], &level.path)?;
            match listed(&dir, &open)? {
                Some(found) => {
                    for at in found {
                        open[at].see(&dir, *index)?;
                    }
                }
                None => {
                    for child in open {
                        child.see(&dir, *index)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, child: Child<'_>) -> Result<(), UnpackError> {
        // Where there is nothing beneath, there is nothing to take away or to take over.
        let (Some((from, directory)), Some(parent)) = (child.shown, self.levels.last()) else {
            return Ok(());
        };
        let path = parent.path.join(child.name);
        let fail = |errno| UnpackError::write("take away", path.bytes(), errno);
        let own = if parent.own { stat_below(&self.top, &path).map_err(fail)? } else { None };
        let own = own.as_ref().map(is_directory);
        let Removal { whole, content } = child.removal();
        match own {
            // The layer has something else there, which hides what is beneath.
            Some(false) => return Ok(()),
            None if whole => return self.make().and_then(|()| self.whiteout(&path)),
            Some(true) if whole => {
                if directory {
                    self.mark_opaque(&path).map_err(fail)?;
                }
                return Ok(());
            }
            _ => {}
        }
        if own == Some(true) && directory && child.want.is_some_and(|want| want.implied) {
            self.take_over(&path, from)?;
        }
        if child.beneath.is_empty() {
            return Ok(());
        }
        self.levels.push(Level { path, own: own.is_some(), beneath: child.beneath });
        if content {
            self.make()?;
            let path = self.levels.last().map(|level| level.path.clone()).unwrap_or_default();
            let fail = |errno| UnpackError::write("take away", path.bytes(), errno);
            self.mark_opaque(&path).map_err(fail)?;
        } else {
            self.walk(child.deeper)?;
        }
        self.levels.pop();
        Ok(())
    }

    fn whiteout(&self, path: &LayerPath) -> Result<(), UnpackError> {
        let fail = |errno| UnpackError::write("take away", path.bytes(), errno);
        let parent = open_below(&self.top, &path.parent().unwrap_or_default()).map_err(fail)?;
        let (kind, device) = (FileType::CharacterDevice, makedev(0, 0));
        keeping_time(&parent, || mknodat(&parent, path.name(), kind, Mode::empty(), device))
            .map_err(fail)
    }

    fn mark_opaque(&self, path: &LayerPath) -> Result<(), Errno> {
        fsetxattr(open_below(&self.top, path)?, OPAQUE_XATTR, b"y", XattrFlags::empty())
    }

    /// Makes the directory of the last level, which the layers beneath have, with those that lead to
    /// it.
    fn make(&mut self) -> Result<(), UnpackError> {
        for n in 0..self.levels.len() {
            let Level { path, own, beneath } = &self.levels[n];
            if *own {
                continue;
            }
            let fail = |errno| UnpackError::write("create the directory", path.bytes(), errno);
            let parent = open_below(&self.top, &path.parent().unwrap_or_default()).map_err(fail)?;
            let mode = Mode::from_raw_mode(0o700);
            keeping_time(&parent, || mkdirat(&parent, path.name(), mode)).map_err(fail)?;
            if let Some(from) = beneath.first() {
                self.take_over(path, *from)?;
            }
            self.levels[n].own = true;
        }
        Ok(())
    }

    /// Gives a directory of this layer the properties of the one in a layer beneath.
    fn take_over(&self, path: &LayerPath, from: usize) -> Result<(), UnpackError> {
        let fail = |errno| UnpackError::write("take over the properties of", path.bytes(), errno);
        let meta = open_below(&self.lowers[from], path).and_then(|fd| meta_of(&fd));
        let fd = open_below(&self.top, path).map_err(fail)?;
        meta.map_err(fail)?.apply(&fd, path.bytes())
    }
}

/// Which of these children a directory has, judging by its list; nothing if it is cheaper to look
/// for each of them.
fn listed(dir: &OwnedFd, children: &[&mut Child<'_>]) -> Result<Option<Vec<usize>>, Errno> {
    if children.len() < FEW {
        return Ok(None);
    }
    let mut found = Vec::new();
    for (n, entry) in Dir::read_from(dir)?.enumerate() {
        if n > 2 * children.len() {
            return Ok(None);
        }
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        found.extend(children.binary_search_by(|child| child.name.cmp(name)));
    }
    Ok(Some(found))
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
