//! Mounts that are not attached to any path.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
    let attr = MountAttr { attr_set: MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the path is a NUL-terminated literal, `attr` is a live `struct mount_attr` whose exact
    // size is passed, and the descriptor is open for the whole call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(tree)
}
