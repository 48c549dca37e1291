//! Owners, modes, times and extended attributes.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, futimens, lsetxattr, utimensat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::super::tar_stream::{Member, Mtime, Xattr};
use super::error::UnpackError;

/// What an inode gets besides its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Mtime,
    pub xattrs: Vec<Xattr>,
}

impl Meta {
    /// What a directory gets that the archive does not mention and no layer beneath has.
    pub(super) fn implied() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() }
    }

    pub(super) fn of(member: &mut Member) -> Self {
        Self {
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime,
            xattrs: std::mem::take(&mut member.xattrs),
        }
    }

    /// Applies everything to an open file or directory. The order matters: a change of owner
    /// clears setuid and file capabilities, and the time comes last of all.
    pub(super) fn apply(&self, fd: impl AsFd, entry: &[u8]) -> Result<(), UnpackError> {
        let fd = fd.as_fd();
        let fail = |action| move |errno| UnpackError::write(action, entry, errno);
        // Most files belong to root, which is us: those need no call.
        if (self.uid, self.gid) != (geteuid().as_raw(), getegid().as_raw()) {
            fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
                .map_err(fail("set the owner of"))?;
        }
        fchmod(fd, Mode::from_raw_mode(self.mode)).map_err(fail("set the mode of"))?;
        for (name, value) in self.kept_xattrs() {
            let result = fsetxattr(fd, name, value, XattrFlags::empty());
            tolerate(name, result).map_err(fail("set an extended attribute of"))?;
        }
        futimens(fd, &self.times()).map_err(fail("set the time of"))
    }

    /// The same for what cannot be opened: links, devices, FIFOs. The mode of such an inode is set
    /// when it is made, except for the umask, hence `with_mode`.
    pub(super) fn apply_at(
        &self,
        parent: impl AsFd,
        name: &[u8],
        with_mode: bool,
        entry: &[u8],
    ) -> Result<(), UnpackError> {
        let parent = parent.as_fd();
        let fail = |action| move |errno| UnpackError::write(action, entry, errno);
        let owner = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        chownat(parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(fail("set the owner of"))?;
        if with_mode {
            // Without a flag this follows links, but the caller has just made a device or FIFO
            // here and nobody else writes into a layer that is being unpacked.
            let mode = Mode::from_raw_mode(self.mode);
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())
                .map_err(fail("set the mode of"))?;
        }
        for (key, value) in self.kept_xattrs() {
            // There is no lsetxattrat; the magic link leads to the parent directory itself and
            // `l` keeps the last element from being followed.
            let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            let result = lsetxattr(path.as_slice(), key, value, XattrFlags::empty());
            tolerate(key, result).map_err(fail("set an extended attribute of"))?;
        }
        utimensat(parent, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(fail("set the time of"))
    }

    fn kept_xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.xattrs
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
            .filter(|(name, _)| is_kept(name))
    }

    fn times(&self) -> Timestamps {
        Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec {
                tv_sec: self.mtime.seconds,
                tv_nsec: i64::from(self.mtime.nanoseconds),
            },
        }
    }
}

/// `trusted.*` and `user.overlay.*` steer overlayfs (redirects to any path of the layers beneath,
/// opaque marks) and are never an image's to set; `security.selinux` and the IMA family belong to
/// this host's policy. containerd drops the same.
pub(super) fn is_kept(name: &[u8]) -> bool {
    let accepted: [&[u8]; 3] = [b"user.", b"security.capability", b"system.posix_acl_"];
    accepted.iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with(b"user.overlay.")
}

/// A file system without `user.*` attributes or ACLs still runs the image, and the kernel refuses
/// `user.*` on links and devices; a lost file capability would change what a program may do.
fn tolerate(name: &[u8], result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOTSUP | Errno::PERM) if !name.starts_with(b"security.") => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_steer_the_host_are_dropped() {
        for (name, kept) in [
            ("user.x", true),
            ("security.capability", true),
            ("system.posix_acl_access", true),
            ("user.overlay.opaque", false),
            ("trusted.overlay.redirect", false),
            ("trusted.x", false),
            ("security.selinux", false),
            ("security.ima", false),
            ("", false),
        ] {
            assert_eq!(is_kept(name.as_bytes()), kept, "{name}");
        }
    }
}
