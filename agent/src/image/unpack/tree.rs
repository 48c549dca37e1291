//! The directory that a layer is unpacked into, written through file descriptors only.
//!
//! Every parent directory is opened with `openat2` below the layer's root, following no symbolic
//! link at all; the last element is then created by an `*at` call that follows none either. So no
//! entry, whatever it is called and whatever came before it, can touch anything outside.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags, fsetxattr, linkat,
    makedev, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::super::limits::Limits;
use super::error::{UnpackError, lossy};
use super::meta::Meta;
use super::path::{LayerPath, Meaning, meaning};

/// The mark of a directory that hides what lies beneath (kernel, overlayfs documentation).
pub(super) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// Bytes copied at a time.
const COPY_BYTES: usize = 128 * 1024;

/// How a directory's own properties are to be set in the end.
#[derive(Debug)]
enum DirMeta {
    /// The archive does not mention it: as in the layer beneath, if that has it.
    Implied,
    /// As the archive says.
    Explicit(Meta),
}

/// A layer being written.
pub(super) struct Tree {
    root: OwnedFd,
    limits: Limits,
    /// There is nothing beneath, so nothing to hide.
    lowest: bool,
    /// Directories get their mode and time when everything is in them.
    directories: BTreeMap<LayerPath, DirMeta>,
    directory_bytes: usize,
    /// The directory used last: entries come sorted by directory.
    recent: Option<(LayerPath, OwnedFd)>,
    buffer: Vec<u8>,
}

impl Tree {
    /// Writes into an existing empty directory.
    pub(super) fn open(dir: &Path, limits: &Limits, lowest: bool) -> Result<Self, UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = openat(CWD, dir, flags, Mode::empty()).map_err(|errno| {
            UnpackError::write("open", dir.as_os_str().as_encoded_bytes(), errno)
        })?;
        Ok(Self {
            root,
            limits: limits.clone(),
            lowest,
            directories: BTreeMap::from([(LayerPath::root(), DirMeta::Implied)]),
            directory_bytes: 0,
            recent: None,
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
    pub(super) fn directory(&mut self, path: LayerPath, meta: Meta) -> Result<(), UnpackError> {
        if !path.is_root() {
            let opaque = self.make_directory(&path)?;
            if opaque {
                self.opaque(&path)?;
            }
        }
        let xattrs: usize = meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.remember(path, DirMeta::Explicit(meta), xattrs)
    }

    /// Another name for a file of this layer.
    pub(super) fn hard_link(&mut self, path: &LayerPath, raw: &[u8]) -> Result<(), UnpackError> {
        let target = LayerPath::parse(raw, &self.limits)?;
        let missing = || UnpackError::LinkTarget { entry: lossy(path.bytes()), target: lossy(raw) };
        let Ok(Meaning::Entry(target)) = meaning(target) else { return Err(missing()) };
        if &target == path {
            return Ok(());
        }
        let from = match self.open_existing(&target.parent().unwrap_or_default()) {
            Ok(fd) => fd,
            Err(Errno::LOOP) => return Err(self.through_link(&target, path)),
            Err(_) => return Err(missing()),
        };
        match stat(&from, target.name()) {
            Ok(Some(stat)) if !is_directory(&stat) && !is_whiteout(&stat) => {}
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
        self.place(path, "create the device", |parent, name| {
            mknodat(parent, name, kind, Mode::from_raw_mode(0o600), makedev(device.0, device.1))
        })?;
        let parent = self.parent_of(path)?;
        meta.apply_at(parent, path.name(), true, path.bytes())
    }

    /// Hides a path of the layers beneath. What this layer itself has there stays, and a
    /// directory of this layer no longer merges with the one beneath.
    pub(super) fn whiteout(&mut self, path: &LayerPath) -> Result<(), UnpackError> {
        if self.lowest {
            return Ok(());
        }
        let parent = self.parent_of(path)?;
        let kind = FileType::CharacterDevice;
        match mknodat(parent, path.name(), kind, Mode::empty(), makedev(0, 0)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let found = stat(parent, path.name());
                let found = found.map_err(|e| UnpackError::write("look at", path.bytes(), e))?;
                if found.is_some_and(|stat| is_directory(&stat)) {
                    if let Some(meta @ DirMeta::Implied) = self.directories.get_mut(path) {
                        *meta = DirMeta::Explicit(Meta::implied());
                    }
                    self.opaque(path)?;
                }
                Ok(())
            }
            Err(errno) => Err(UnpackError::write("create the whiteout", path.bytes(), errno)),
        }
    }

    /// Hides everything that the layers beneath have in a directory.
    pub(super) fn opaque(&mut self, path: &LayerPath) -> Result<(), UnpackError> {
        if self.lowest {
            return Ok(());
        }
        let fd = self.directory_fd(path, path)?;
        fsetxattr(fd, OPAQUE_XATTR, b"y", XattrFlags::empty())
            .map_err(|errno| UnpackError::write("mark as opaque", path.bytes(), errno))
    }

    /// Sets the properties of all directories. Returns those the archive did not mention.
    pub(super) fn finish(mut self) -> Result<Vec<LayerPath>, UnpackError> {
        self.recent = None;
        let directories = std::mem::take(&mut self.directories);
        let mut implied = Vec::new();
        for (path, meta) in directories {
            let fd = self
                .open_existing(&path)
                .map_err(|errno| UnpackError::write("open", path.bytes(), errno))?;
            match meta {
                DirMeta::Explicit(meta) => meta.apply(&fd, path.bytes())?,
                DirMeta::Implied => {
                    Meta::implied().apply(&fd, path.bytes())?;
                    implied.push(path);
                }
            }
        }
        Ok(implied)
    }

    fn remember(
        &mut self,
        path: LayerPath,
        meta: DirMeta,
        extra: usize,
    ) -> Result<(), UnpackError> {
        self.directory_bytes += path.bytes().len() + extra;
        if self.directory_bytes > self.limits.directory_path_bytes {
            let limit = self.limits.directory_path_bytes as u64;
            return Err(UnpackError::TooLarge { what: "bytes of directory names", limit });
        }
        self.directories.insert(path, meta);
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

    /// Makes a directory unless it is there. Returns whether it took the place of a whiteout.
    fn make_directory(&mut self, path: &LayerPath) -> Result<bool, UnpackError> {
        let mode = Mode::from_raw_mode(0o700);
        let fail = |errno| UnpackError::write("create the directory", path.bytes(), errno);
        let parent = self.parent_of(path)?;
        match mkdirat(parent, path.name(), mode) {
            Ok(()) => return Ok(false),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let found = stat(parent, path.name()).map_err(fail)?;
        if found.as_ref().is_some_and(is_directory) {
            return Ok(false);
        }
        self.clear(path)?;
        let parent = self.parent_of(path)?;
        mkdirat(parent, path.name(), mode).map_err(fail)?;
        Ok(found.as_ref().is_some_and(is_whiteout))
    }

    /// Removes whatever has this name.
    fn clear(&mut self, path: &LayerPath) -> Result<(), UnpackError> {
        let parent = self.parent_of(path)?;
        remove(parent, path.name())
            .map_err(|errno| UnpackError::write("replace", path.bytes(), errno))?;
        self.directories.retain(|known, _| known != path && !known.is_below(path));
        if self.recent.as_ref().is_some_and(|(dir, _)| dir == path || dir.is_below(path)) {
            self.recent = None;
        }
        Ok(())
    }

    fn parent_of(&mut self, path: &LayerPath) -> Result<&OwnedFd, UnpackError> {
        let parent = path.parent().unwrap_or_default();
        self.directory_fd(&parent, path)
    }

    /// An open directory of the layer, made if it is missing.
    fn directory_fd(
        &mut self,
        path: &LayerPath,
        entry: &LayerPath,
    ) -> Result<&OwnedFd, UnpackError> {
        if path.is_root() {
            return Ok(&self.root);
        }
        if self.recent.as_ref().is_none_or(|(recent, _)| recent != path) {
            let fd = match self.open_existing(path) {
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    self.make_parents(path, entry)?;
                    self.open_existing(path)
                }
                other => other,
            };
            let fd = match fd {
                Ok(fd) => fd,
                Err(Errno::LOOP) => return Err(self.through_link(path, entry)),
                Err(errno) => return Err(UnpackError::write("open", path.bytes(), errno)),
            };
            self.recent = Some((path.clone(), fd));
        }
        Ok(self.recent.as_ref().map_or(&self.root, |(_, fd)| fd))
    }

    fn open_existing(&self, path: &LayerPath) -> Result<OwnedFd, Errno> {
        open_below(&self.root, path)
    }

    /// Makes the directories that lead to `path`, which the archive did not mention (yet).
    fn make_parents(&mut self, path: &LayerPath, entry: &LayerPath) -> Result<(), UnpackError> {
        let prefixes: Vec<LayerPath> = path.prefixes().collect();
        for prefix in prefixes {
            let fail = |errno| UnpackError::write("look at", prefix.bytes(), errno);
            let parent = self.open_existing(&prefix.parent().unwrap_or_default()).map_err(fail)?;
            let found = stat(&parent, prefix.name()).map_err(fail)?;
            match found {
                Some(stat) if is_directory(&stat) => {}
                Some(stat) if is_whiteout(&stat) => {
                    self.directory(prefix, Meta::implied())?;
                }
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                    return Err(UnpackError::ThroughLink {
                        entry: lossy(entry.bytes()),
                        link: lossy(prefix.bytes()),
                    });
                }
                Some(_) => {
                    return Err(UnpackError::ParentNotDirectory {
                        entry: lossy(entry.bytes()),
                        parent: lossy(prefix.bytes()),
                    });
                }
                None => {
                    mkdirat(&parent, prefix.name(), Mode::from_raw_mode(0o700)).map_err(
                        |errno| UnpackError::write("create the directory", prefix.bytes(), errno),
                    )?;
                    self.remember(prefix, DirMeta::Implied, 0)?;
                }
            }
        }
        Ok(())
    }

    /// Which element of `path` is the link that made the kernel refuse it.
    fn through_link(&self, path: &LayerPath, entry: &LayerPath) -> UnpackError {
        let link = path.prefixes().find(|prefix| {
            let parent = self.open_existing(&prefix.parent().unwrap_or_default());
            let found = parent.and_then(|parent| stat(&parent, prefix.name()));
            matches!(found, Ok(Some(stat))
                if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
        });
        UnpackError::ThroughLink {
            entry: lossy(entry.bytes()),
            link: lossy(link.as_ref().unwrap_or(path).bytes()),
        }
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
