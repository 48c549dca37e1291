//! Which directory of the layer a path means.
//!
//! A link of the layer on the way is followed as the container will follow it: `/` is the layer's
//! root and nothing leads above it. Docker and containerd do the same.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, mkdirat, openat, readlinkat};
use rustix::io::Errno;

use super::super::error::{NameFault, UnpackError, lossy};
use super::super::path::LayerPath;
use super::{Recent, Tree, open_below};

/// Links followed for one path, as many as the kernel does.
const LINKS_MAX: usize = 40;
/// Elements looked at for one path, with those of the links.
const STEPS_MAX: usize = 1024;
/// Elements looked at for all paths of a layer that lead through links: so many for each, and for
/// all together. A layer needs few, as its entries come sorted by directory.
const STEPS_PER_ENTRY: u64 = 64;
const STEPS_BEYOND: u64 = 100_000;

/// The paths of a layer that were looked for, and the elements that this took.
#[derive(Debug, Default)]
pub(super) struct Searches {
    paths: u64,
    steps: u64,
}

impl Searches {
    fn step(&mut self, steps: usize) -> Result<(), UnpackError> {
        self.steps += steps as u64;
        let limit = self.paths.saturating_mul(STEPS_PER_ENTRY).saturating_add(STEPS_BEYOND);
        if self.steps > limit {
            let what = "steps through symbolic links to its entries";
            return Err(UnpackError::TooLarge { what, limit });
        }
        Ok(())
    }
}

impl Tree {
    /// The path of an entry without links on the way. Directories that lead there are made.
    pub(super) fn locate(&mut self, path: &LayerPath) -> Result<LayerPath, UnpackError> {
        self.searches.paths += 1;
        let parent = path.parent().unwrap_or_default();
        if parent.is_root() {
            return Ok(path.clone());
        }
        if self.recent.as_ref().is_none_or(|recent| recent.asked != parent) {
            self.enter(parent, path)?;
        }
        match &self.recent {
            Some(recent) if recent.asked != recent.real => Ok(recent.real.join(path.name())),
            _ => Ok(path.clone()),
        }
    }

    fn enter(&mut self, dir: LayerPath, entry: &LayerPath) -> Result<(), UnpackError> {
        let fail = |errno| UnpackError::write("open", entry.bytes(), errno);
        let (real, fd) = match self.open_existing(&dir) {
            Ok(fd) => (dir.clone(), fd),
            // It is missing from the first element that is no directory on: no link before that.
            Err(Errno::NOENT) => (dir.clone(), self.make_all(&dir, entry)?),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let real = self.resolve(&dir, entry, true)?;
                let fd = self.open_existing(&real).map_err(fail)?;
                (real, fd)
            }
            Err(errno) => return Err(fail(errno)),
        };
        self.recent = Some(Recent { asked: dir, real, fd });
        Ok(())
    }

    /// The path of a directory without links on the way, whether it is there or not; nothing if
    /// something on the way is no directory. Makes nothing.
    pub(super) fn find(&mut self, dir: &LayerPath) -> Result<Option<LayerPath>, UnpackError> {
        self.searches.paths += 1;
        if dir.is_root() {
            return Ok(Some(LayerPath::root()));
        }
        if let Some(recent) = self.recent.as_ref().filter(|recent| recent.asked == *dir) {
            return Ok(Some(recent.real.clone()));
        }
        match self.open_existing(dir) {
            Ok(fd) => {
                self.recent = Some(Recent { asked: dir.clone(), real: dir.clone(), fd });
                Ok(Some(dir.clone()))
            }
            // As above.
            Err(Errno::NOENT) => Ok(Some(dir.clone())),
            Err(_) => match self.resolve(dir, dir, false) {
                Err(UnpackError::ParentNotDirectory { .. }) => Ok(None),
                other => other.map(Some),
            },
        }
    }

    /// An open directory, by its path without links.
    pub(super) fn parent_of(&mut self, path: &LayerPath) -> Result<&OwnedFd, UnpackError> {
        let parent = path.parent().unwrap_or_default();
        if parent.is_root() {
            return Ok(&self.root);
        }
        if self.recent.as_ref().is_none_or(|recent| recent.real != parent) {
            let fd = self.open_existing(&parent);
            let fd = fd.map_err(|errno| UnpackError::write("open", parent.bytes(), errno))?;
            self.recent = Some(Recent { asked: parent.clone(), real: parent, fd });
        }
        Ok(self.recent.as_ref().map_or(&self.root, |recent| &recent.fd))
    }

    pub(super) fn open_existing(&self, path: &LayerPath) -> Result<OwnedFd, Errno> {
        open_below(&self.root, path)
    }

    /// Walks to a directory element by element. What is missing on the way is made, or, without
    /// `make`, taken for what it would be.
    fn resolve(
        &mut self,
        path: &LayerPath,
        entry: &LayerPath,
        make: bool,
    ) -> Result<LayerPath, UnpackError> {
        let fail = |errno| UnpackError::write("look at", entry.bytes(), errno);
        let (mut real, mut dir) =
            (LayerPath::root(), self.open_existing(&LayerPath::root()).map_err(fail)?);
        let mut ahead = Ahead::default();
        let (mut links, mut steps) = (0, ahead.add(path.bytes()));
        self.searches.step(steps)?;
        while let Some(element) = ahead.pop() {
            if steps > STEPS_MAX || links > LINKS_MAX {
                return Err(UnpackError::TooManyLinks { entry: lossy(entry.bytes()) });
            }
            if element == b".." {
                real = real.parent().unwrap_or_default();
                self.searches.step(real.depth())?;
                dir = self.open_existing(&real).map_err(fail)?;
                continue;
            }
            let next = real.join(&element);
            match open_directory(&dir, &element) {
                Ok(fd) => (real, dir) = (next, fd),
                Err(Errno::NOENT) if ahead.ups > 0 => {
                    ahead.push(element);
                    ahead.cancel();
                }
                Err(Errno::NOENT) if !make => {
                    let left = ahead.elements.iter().rev();
                    return Ok(left.fold(next, |path, name| path.join(name)));
                }
                Err(Errno::NOENT) => {
                    dir = self.make_missing(&dir, &next, entry)?;
                    real = next;
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let Ok(target) = readlinkat(&dir, element.as_slice(), Vec::new()) else {
                        return Err(UnpackError::ParentNotDirectory {
                            entry: lossy(entry.bytes()),
                            parent: lossy(next.bytes()),
                        });
                    };
                    links += 1;
                    let target = target.as_bytes();
                    if target.starts_with(b"/") {
                        real = LayerPath::root();
                        dir = self.open_existing(&real).map_err(fail)?;
                    }
                    let more = ahead.add(target);
                    self.searches.step(more)?;
                    steps += more;
                }
                Err(errno) => return Err(fail(errno)),
            }
        }
        Ok(real)
    }

    /// Makes a directory of which only the first elements are there, none of them a link.
    fn make_all(&mut self, path: &LayerPath, entry: &LayerPath) -> Result<OwnedFd, UnpackError> {
        let mut missing = vec![path.clone()];
        let mut above = path.parent().unwrap_or_default();
        let mut dir = loop {
            match self.open_existing(&above) {
                Ok(fd) => break fd,
                Err(Errno::NOENT) if !above.is_root() => {
                    let next = above.parent().unwrap_or_default();
                    missing.push(std::mem::replace(&mut above, next));
                }
                Err(errno) => return Err(UnpackError::write("open", entry.bytes(), errno)),
            }
        };
        while let Some(next) = missing.pop() {
            dir = self.make_missing(&dir, &next, entry)?;
        }
        Ok(dir)
    }

    /// Makes a directory that the archive did not mention (yet).
    fn make_missing(
        &mut self,
        parent: &OwnedFd,
        path: &LayerPath,
        entry: &LayerPath,
    ) -> Result<OwnedFd, UnpackError> {
        let fail = |errno| UnpackError::write("create the directory", path.bytes(), errno);
        let (bytes, depth) = (self.limits.path_bytes, self.limits.path_depth);
        let fault = if path.bytes().len() > bytes {
            Some(NameFault::TooLong(bytes))
        } else {
            (path.depth() > depth).then_some(NameFault::TooDeep(depth))
        };
        if let Some(fault) = fault {
            return Err(UnpackError::Name { entry: lossy(entry.bytes()), fault });
        }
        mkdirat(parent, path.name(), Mode::from_raw_mode(0o700)).map_err(fail)?;
        self.remember(path.clone(), None)?;
        open_directory(parent, path.name()).map_err(fail)
    }
}

/// What is left of a path on the way.
#[derive(Default)]
struct Ahead {
    /// The next one last.
    elements: Vec<Vec<u8>>,
    /// How many of them are `..`.
    ups: usize,
}

impl Ahead {
    /// Puts the elements of a path that say something before the others; returns how many.
    fn add(&mut self, path: &[u8]) -> usize {
        let before = self.elements.len();
        for element in path.split(|byte| *byte == b'/').rev() {
            if !matches!(element, b"" | b".") {
                self.push(element.to_vec());
            }
        }
        self.elements.len() - before
    }

    fn push(&mut self, element: Vec<u8>) {
        self.ups += usize::from(element == b"..");
        self.elements.push(element);
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let element = self.elements.pop()?;
        self.ups -= usize::from(element == b"..");
        Some(element)
    }

    /// `missing/..` leads nowhere else, whatever is missing below it.
    fn cancel(&mut self) {
        let mut left = Vec::new();
        while let Some(element) = self.pop() {
            if element != b".." {
                left.push(element);
            } else if left.pop().is_some() && left.is_empty() {
                break;
            }
        }
        for element in left.into_iter().rev() {
            self.push(element);
        }
    }
}

fn open_directory(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}
