//! The way of a process into its groups.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};

use super::CgroupError;

/// The groups that a new process is to be in.
#[derive(Debug)]
pub struct Entry {
    unified: bool,
    dirs: Vec<OwnedFd>,
}

impl Entry {
    pub(super) fn new<'a>(
        unified: bool,
        dirs: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> io::Result<Self> {
        let dirs = dirs.map(|dir| dir.try_clone_to_owned()).collect::<io::Result<_>>()?;
        Ok(Self { unified, dirs })
    }

    /// For a fork straight into the group, where the kernel offers it (version 2).
    #[must_use]
    pub fn fork_target(&self) -> Option<BorrowedFd<'_>> {
        self.dirs.first().filter(|_| self.unified).map(AsFd::as_fd)
    }

    /// Moves this process, which must have only one thread, into the groups, unless it has been
    /// forked into them.
    ///
    /// A container's first process does this last of all before it is confined. On a busy host,
    /// whoever comes into a new group waits for its turn there; so nothing is made from inside.
    ///
    /// # Errors
    /// [`CgroupError::Write`].
    pub fn join(&self) -> Result<(), CgroupError> {
        if self.unified {
            return Ok(());
        }
        // Moving one's own single thread spares the kernel a system-wide lock, and us its grace
        // period, which is milliseconds for every hierarchy.
        let write = |dir: &OwnedFd| -> io::Result<()> {
            let fd = openat(dir, "tasks", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(fd, b"0")?;
            Ok(())
        };
        self.dirs.iter().try_for_each(write).map_err(|source| CgroupError::Write {
            group: "of the container".to_owned(),
            file: "tasks".to_owned(),
            value: "0".to_owned(),
            source,
        })
    }
}
