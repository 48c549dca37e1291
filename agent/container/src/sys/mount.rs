//! Mounts that are not attached to any path.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mount::{OpenTreeFlags, open_tree};

use super::check;

const MOUNT_ATTR_RDONLY: u64 = 1;

/// The kernel's `struct mount_attr`, first version.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A file behind a read-only mount of its own that is nowhere in the tree. A program executed through
/// it cannot be overwritten by way of `/proc/<pid>/exe`, whatever the process behind it is allowed
/// to do (CVE-2019-5736).
///
/// # Errors
/// The kernel's answer; needs `CAP_SYS_ADMIN` and Linux 5.12.
pub fn read_only_view(file: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(file.as_os_str().as_bytes())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, path.as_c_str(), flags)?;
    set_read_only(tree.as_fd())?;
    Ok(tree)
}

/// Makes a mount read-only, but none of those below it.
///
/// # Errors
/// The kernel's answer; needs `CAP_SYS_ADMIN` and Linux 5.12.
pub fn set_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr { attr_set: MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    set(mount, 0, &attr)
}

/// Sets attributes (`MOUNT_ATTR_…`) of a mount and of all that are mounted below it, and lets none of
/// them pass on or take over what is mounted elsewhere.
///
/// # Errors
/// The kernel's answer; needs `CAP_SYS_ADMIN` and Linux 5.12.
pub fn set_tree(tree: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let propagation = libc::MS_PRIVATE;
    let attr = MountAttr { attr_set: attributes, attr_clr: 0, propagation, userns_fd: 0 };
    set(tree, libc::AT_RECURSIVE, &attr)
}

fn set(tree: BorrowedFd<'_>, flags: libc::c_int, attr: &MountAttr) -> io::Result<()> {
    // SAFETY: the path is a NUL-terminated literal, `attr` is a live `struct mount_attr` whose exact
    // size is passed, and the descriptor is open for the whole call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}
