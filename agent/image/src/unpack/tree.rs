//! The directory that a layer is unpacked into, written through file descriptors only.
//!
//! Every parent directory is opened with `openat2` below the layer's root, following no symbolic
//! link at all; the last element is then created by an `*at` call that follows none either. So no
//! entry, whatever it is called and whatever came before it, can touch anything outside. Where a
//! path leads through a link of the layer, `tree/reach.rs` finds out which directory of the layer
//! is meant before anything is opened for writing.
//!
//! What an archive takes away from the layers beneath is only noted here: what is beneath is known
//! when all layers are there, see `union.rs`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, linkat, makedev, mkdirat,
    mknodat, openat, openat2, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::super::limits::Limits;
use super::error::{UnpackError, lossy};
use super::meta::Meta;
use super::path::{LayerPath, Meaning, meaning};

mod reach;

/// Bytes copied at a time.
const COPY_BYTES: usize = 128 * 1024;

/// A directory of the layer.
#[derive(Debug)]
struct Known {
    /// As the archive says; nothing when it does not mention it: then as in the layers beneath.
    meta: Option<Meta>,
    /// What it costs of [`Limits::directory_path_bytes`].
    bytes: usize,
}

/// What a layer takes away from those beneath, at one path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Removal {
    /// Whatever has this path.
    pub whole: bool,
    /// What is in the directory of this path.
    pub content: bool,
}

/// The directory used last: entries come sorted by directory.
#[derive(Debug)]
struct Recent {
    /// As the archive calls it.
    asked: LayerPath,
    /// Without links.
    real: LayerPath,
    fd: OwnedFd,
}

/// What is left to do once a layer is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Finished {
    /// Directories that the archive did not mention, sorted.
    pub implied: Vec<LayerPath>,
    /// What is taken away from the layers beneath.
    pub removals: BTreeMap<LayerPath, Removal>,
}

/// A layer being written.
pub(super) struct Tree {
    root: OwnedFd,
    limits: Limits,
    /// Directories get their mode and time when everything is in them.
    directories: BTreeMap<LayerPath, Known>,
    directory_bytes: usize,
    removals: BTreeMap<LayerPath, Removal>,
    removal_bytes: usize,
    recent: Option<Recent>,
    searches: reach::Searches,
    buffer: Vec<u8>,
}

impl Tree {
    /// Writes into an existing empty directory.
    pub(super) fn open(dir: &Path, limits: &Limits) -> Result<Self, UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = openat(CWD, dir, flags, Mode::empty()).map_err(|errno| {
            UnpackError::write("open", dir.as_os_str().as_encoded_bytes(), errno)
        })?;
        Ok(Self {
            root,
            limits: limits.clone(),
            directories: BTreeMap::from([(LayerPath::root(), Known { meta: None, bytes: 0 })]),
            directory_bytes: 0,
            removals: BTreeMap::new(),
            removal_bytes: 0,
            recent: None,
            searches: reach::Searches::default(),
            buffer: vec![0; COPY_BYTES],
        })
    }

    /// A regular file with the bytes of `body`; returns how many there were.
    pub(super) fn file(
        &mut self,
        path: &LayerPath,
        meta: &Meta,
        body: &mut impl Read,
    ) -> Result<u64, UnpackError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = &self.locate(path)?;
        let fd = self.place(path, "create", |parent, name| {
            openat(parent, name, flags, Mode::from_raw_mode(0o600))
        })?;
        let mut file = std::fs::File::from(fd);
        let mut total = 0;
        loop {
            let count = match body.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(UnpackError::Corrupt(error)),
            };
            file.write_all(&self.buffer[..count])
                .map_err(|error| UnpackError::from_io("write", path.bytes(), error))?;
            total += count as u64;
        }
        meta.apply(&file, path.bytes())?;
        Ok(total)
    }

    /// A directory; one that is there already only changes its properties.
    pub(super) fn directory(&mut self, path: &LayerPath, meta: Meta) -> Result<(), UnpackError> {
        let path = self.locate(path)?;
        if !path.is_root() {
            self.make_directory(&path)?;
        }
        self.remember(path, Some(meta))
    }

    /// Another name for a file of this layer.
    pub(super) fn hard_link(&mut self, path: &LayerPath, raw: &[u8]) -> Result<(), UnpackError> {
        let target = LayerPath::parse(raw, &self.limits)?;
        let missing = || UnpackError::LinkTarget { entry: lossy(path.bytes()), target: lossy(raw) };
        let Ok(Meaning::Entry(target)) = meaning(target) else { return Err(missing()) };
        let path = &self.locate(path)?;
        let found = self.find(&target.parent().unwrap_or_default()).ok().flatten();
        let Some(target) = found.map(|parent| parent.join(target.name())) else {
            return Err(missing());
        };
        if &target == path {
            return Ok(());
        }
        let from = self.open_existing(&target.parent().unwrap_or_default());
        let from = from.map_err(|_| missing())?;
        match stat(&from, target.name()) {
            Ok(Some(stat)) if !is_directory(&stat) => {}
            _ => return Err(missing()),
        }
        let result = self.place(path, "link", |parent, name| {
            linkat(&from, target.name(), parent, name, AtFlags::empty())
        });
        match result {
            Err(UnpackError::Write { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Err(missing())
            }
            other => other,
        }
    }

    /// A symbolic link; where it leads is the container's business.
    pub(super) fn symlink(
        &mut self,
        path: &LayerPath,
        target: &[u8],
        meta: &Meta,
    ) -> Result<(), UnpackError> {
        let path = &self.locate(path)?;
        self.place(path, "create the link", |parent, name| symlinkat(target, parent, name))?;
        let parent = self.parent_of(path)?;
        meta.apply_at(parent, path.name(), false, path.bytes())
    }

    /// A device or FIFO.
    pub(super) fn node(
        &mut self,
        path: &LayerPath,
        kind: FileType,
        device: (u32, u32),
        meta: &Meta,
    ) -> Result<(), UnpackError> {
        if kind == FileType::CharacterDevice && device == (0, 0) {
            // That is what a whiteout looks like on disk; tar of an overlay's upper directory
            // has them.
            return self.whiteout(path);
        }
        let path = &self.locate(path)?;
        self.place(path, "create the device", |parent, name| {
            mknodat(parent, name, kind, Mode::from_raw_mode(0o600), makedev(device.0, device.1))
        })?;
        let parent = self.parent_of(path)?;
        meta.apply_at(parent, path.name(), true, path.bytes())
    }

    /// Takes away what the layers beneath have at a path. What this layer itself has there stays,
    /// and a directory of this layer no longer merges with the one beneath.
    pub(super) fn whiteout(&mut self, path: &LayerPath) -> Result<(), UnpackError> {
        let Some(parent) = self.find(&path.parent().unwrap_or_default())? else { return Ok(()) };
        self.take_away(parent.join(path.name()), |removal| removal.whole = true)
    }

    /// Takes away everything that the layers beneath have in a directory.
    pub(super) fn opaque(&mut self, path: &LayerPath) -> Result<(), UnpackError> {
        let Some(path) = self.find(path)? else { return Ok(()) };
        self.take_away(path, |removal| removal.content = true)
    }

    fn take_away(
        &mut self,
        path: LayerPath,
        how: impl FnOnce(&mut Removal),
    ) -> Result<(), UnpackError> {
        let bytes = path.bytes().len();
        let removal = match self.removals.entry(path) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                self.removal_bytes += bytes;
                new.insert(Removal::default())
            }
        };
        how(removal);
        self.check_bytes(self.removal_bytes, "bytes of the names of whiteouts")
    }

    /// Sets the properties of all directories.
    pub(super) fn finish(mut self) -> Result<Finished, UnpackError> {
        self.recent = None;
        let directories = std::mem::take(&mut self.directories);
        let mut implied = Vec::new();
        for (path, known) in directories {
            let fd = self
                .open_existing(&path)
                .map_err(|errno| UnpackError::write("open", path.bytes(), errno))?;
            match known.meta {
                Some(meta) => meta.apply(&fd, path.bytes())?,
                None => {
                    Meta::implied().apply(&fd, path.bytes())?;
                    implied.push(path);
                }
            }
        }
        Ok(Finished { implied, removals: self.removals })
    }

    fn remember(&mut self, path: LayerPath, meta: Option<Meta>) -> Result<(), UnpackError> {
        let xattrs = meta.iter().flat_map(|meta| &meta.xattrs);
        let bytes = path.bytes().len()
            + xattrs.map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.directory_bytes += bytes;
        let before = self.directories.insert(path, Known { meta, bytes });
        self.directory_bytes -= before.map_or(0, |known| known.bytes);
        self.check_bytes(self.directory_bytes, "bytes of directory names")
    }

    fn check_bytes(&self, bytes: usize, what: &'static str) -> Result<(), UnpackError> {
        let limit = self.limits.directory_path_bytes;
        if bytes > limit {
            return Err(UnpackError::TooLarge { what, limit: limit as u64 });
        }
        Ok(())
    }

    /// Creates something; if the name is taken, what was there goes first (the later entry of an
    /// archive wins).
    fn place<T>(
        &mut self,
        path: &LayerPath,
        action: &'static str,
        create: impl Fn(&OwnedFd, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        if path.is_root() {
            // Only a directory can be the root.
            return Err(UnpackError::ParentNotDirectory { entry: "/".into(), parent: "/".into() });
        }
        let parent = self.parent_of(path)?;
        let result = match create(parent, path.name()) {
            Err(Errno::EXIST) => {
                self.clear(path)?;
                let parent = self.parent_of(path)?;
                create(parent, path.name())
            }
            other => other,
        };
        result.map_err(|errno| UnpackError::write(action, path.bytes(), errno))
    }

    /// Makes a directory unless it is there.
    fn make_directory(&mut self, path: &LayerPath) -> Result<(), UnpackError> {
        let mode = Mode::from_raw_mode(0o700);
        let fail = |errno| UnpackError::write("create the directory", path.bytes(), errno);
        let parent = self.parent_of(path)?;
        match mkdirat(parent, path.name(), mode) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let found = stat(parent, path.name()).map_err(fail)?;
        if found.as_ref().is_some_and(is_directory) {
            return Ok(());
        }
        self.clear(path)?;
        let parent = self.parent_of(path)?;
        mkdirat(parent, path.name(), mode).map_err(fail)
    }

    /// Removes whatever has this name. The work is that of what was made below it, each of which is
    /// removed once.
    fn clear(&mut self, path: &LayerPath) -> Result<(), UnpackError> {
        let parent = self.parent_of(path)?;
        remove(parent, path.name())
            .map_err(|errno| UnpackError::write("replace", path.bytes(), errno))?;
        let below = self.directories.range(path.below()).map(|(known, _)| known.clone());
        let gone: Vec<LayerPath> = below.chain([path.clone()]).collect();
        for path in gone {
            self.directory_bytes -= self.directories.remove(&path).map_or(0, |known| known.bytes);
        }
        // It may have been the link that led to the directory used last.
        self.recent.take_if(|recent| {
            recent.asked != recent.real || recent.real == *path || recent.real.is_below(path)
        });
        Ok(())
    }
}

/// Opens a directory below `root` without following any link.
pub(super) fn open_below(root: impl AsFd, path: &LayerPath) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    openat2(root, path.for_kernel(), flags, Mode::empty(), resolve)
}

/// What has this name, or nothing.
pub(super) fn stat(parent: impl AsFd, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// A character device 0:0 (kernel, overlayfs documentation).
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Removes a name and everything below it. The depth is bounded by [`Limits::path_depth`].
fn remove(parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(parent.as_fd(), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(parent.as_fd(), name, flags, Mode::empty())?;
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            remove(&dir, name)?;
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}
