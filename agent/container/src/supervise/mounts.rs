//! What a container has mounted beside the file systems of every container.
//!
//! A mount is first made without a place, while paths still mean the host's, with its attributes on its
//! whole tree; then the container's first process puts it where it belongs, through its [`RootDir`].
//! libcontainer has no part in it: the mounts that it makes are those of the kernel's own file systems,
//! on directories that are none of the image's making.
//!
//! Nothing is put in place in the supervisor's own namespace: whoever looks for control groups there
//! would find those below a bind of the host's root, for one.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::fchdir;
use serde::{Deserialize, Serialize};

use super::protocol::Failure;
use super::root::{Missing, Place, RootDir};
use crate::sys;

/// Where the kernel's own file systems are, below which no image has a say.
pub const KERNEL_DIRS: [&str; 3] = ["dev", "proc", "sys"];

/// What a container may make of the copy of a file beyond twice the file's own size, in bytes.
const COPY_BYTES: usize = 64 * 1024;
/// Where the file system of a copy is for a moment, in the run directory.
const COPY_DIR: &str = "copy";

/// A mount as it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSetup {
    /// Absolute place in the container.
    pub at: PathBuf,
    /// What is there.
    pub source: MountSource,
    /// `MOUNT_ATTR_…` bits of mount_setattr(2), for the whole tree.
    pub attributes: u32,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A directory or file of the host, with what is mounted below it.
    Bind(PathBuf),
    /// A copy of a file of the host, in a little memory of its own.
    Copy(PathBuf),
    /// Memory, with options of tmpfs(5).
    Tmpfs(Vec<(String, String)>),
}

impl MountSetup {
    /// What is ours to mount; `None` for the file systems of every container, which are left to
    /// libcontainer.
    ///
    /// # Errors
    /// What cannot be honoured.
    pub fn of_spec(mount: &Mount) -> Result<Option<Self>, String> {
        let at = mount.destination().clone();
        let options = mount.options().iter().flatten().map(String::as_str);
        let mut attributes = MountAttrFlags::empty();
        let mut values = Vec::new();
        for option in options {
            match option {
                "ro" | "rro" => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
                "nosuid" => attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
                "nodev" => attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
                "noexec" => attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
                "rw" | "rbind" | "rprivate" => {}
                other => values.push(other.split_once('=').unwrap_or((other, ""))),
            }
        }
        let source = match mount.typ().as_deref() {
            Some("bind") => {
                if let Some((option, _)) = values.first() {
                    return Err(format!("option {option:?} of the bind mount at {}", at.display()));
                }
                MountSource::Bind(mount.source().clone().unwrap_or_default())
            }
            Some("copy") => MountSource::Copy(mount.source().clone().unwrap_or_default()),
            // Those of every container.
            Some("tmpfs") if ["/dev", "/dev/shm"].iter().all(|own| at != Path::new(own)) => {
                let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
                MountSource::Tmpfs(values.into_iter().map(text).collect())
            }
            _ => return Ok(None),
        };
        Ok(Some(Self { at, source, attributes: attributes.bits() }))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        let what = match &self.source {
            MountSource::Bind(source) => source.display().to_string(),
            MountSource::Copy(source) => format!("a copy of {}", source.display()),
            MountSource::Tmpfs(_) => "tmpfs".to_owned(),
        };
        Failure::other(&format!("mounting {what} on {}", self.at.display()), error)
    }

    fn open(&self) -> io::Result<HeldMount> {
        if let MountSource::Copy(source) = &self.source {
            let (mount, file) = copy_of(source, self.attributes)?;
            return Ok(HeldMount { setup: self.clone(), mount, file: Some(file) });
        }
        Ok(HeldMount { setup: self.clone(), mount: self.open_mount()?, file: None })
    }

    fn open_mount(&self) -> io::Result<OwnedFd> {
        let attributes = MountAttrFlags::from_bits_retain(self.attributes);
        match &self.source {
            MountSource::Bind(source) | MountSource::Copy(source) => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_RECURSIVE;
                let tree = open_tree(CWD, source, flags)?;
                // Private: what the host mounts below the source later does not come along.
                sys::mount::set_tree(tree.as_fd(), attributes.bits().into()).map_err(explain)?;
                Ok(tree)
            }
            MountSource::Tmpfs(options) => {
                let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
                fsconfig_set_string(fs.as_fd(), "source", "tmpfs")?;
                for (name, value) in options {
                    fsconfig_set_string(fs.as_fd(), name.as_str(), value.as_str())?;
                }
                fsconfig_create(fs.as_fd())?;
                Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
            }
        }
    }
}

/// Whether a path is at or below where the kernel's own file systems are.
fn is_kernels(path: &Path) -> bool {
    KERNEL_DIRS.iter().any(|dir| path.starts_with(Path::new("/").join(dir)))
}

fn explain(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) {
        let text = "this kernel cannot change the attributes of a mount with all that is below \
                    (mount_setattr, Linux 5.12)";
        return io::Error::new(io::ErrorKind::Unsupported, text);
    }
    error
}

/// A mount that has no place yet.
#[derive(Debug)]
pub struct HeldMount {
    setup: MountSetup,
    mount: OwnedFd,
    /// What a copy is written to.
    file: Option<fs::File>,
}

/// Makes all mounts, in the order in which they are to be placed.
///
/// # Errors
/// [`Failure::Other`] naming the mount.
pub fn hold(setups: &[MountSetup]) -> Result<Vec<HeldMount>, Failure> {
    let one = |setup: &MountSetup| setup.open().map_err(|e| setup.failed(&e));
    setups.iter().map(one).collect()
}

/// Brings the copies of files up to date, before anybody sees them.
///
/// # Errors
/// [`Failure::Other`] naming the mount.
pub fn refresh(held: &[HeldMount]) -> Result<(), Failure> {
    let one = |held: &HeldMount| match (&held.setup.source, &held.file) {
        (MountSource::Copy(source), Some(file)) => fill(file, &fs::read(source)?),
        _ => Ok(()),
    };
    held.iter().try_for_each(|held| one(held).map_err(|e| held.setup.failed(&e)))
}

/// A file of its own file system, with a mount of it that has no place, and the file to write to. The
/// file system is put in place for a moment, in this process's own mounts: one that was nowhere cannot
/// be shown in part.
fn copy_of(source: &Path, attributes: u32) -> io::Result<(OwnedFd, fs::File)> {
    let text = fs::read(source)?;
    let bytes = text.len().saturating_mul(2).saturating_add(COPY_BYTES);
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let size = bytes.to_string();
    for (name, value) in [("source", "tmpfs"), ("size", &size), ("nr_inodes", "4"), ("mode", "700")]
    {
        fsconfig_set_string(fs.as_fd(), name, value)?;
    }
    fsconfig_create(fs.as_fd())?;
    let nothing_else = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, nothing_else)?;
    match fs::create_dir(COPY_DIR) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    move_mount(mount.as_fd(), "", CWD, COPY_DIR, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let make = || -> io::Result<(OwnedFd, fs::File)> {
        let path = Path::new(COPY_DIR).join("file");
        let file = fs::File::options().write(true).create_new(true).open(&path)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        fill(&file, &text)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, &path, flags)?;
        let attributes = MountAttrFlags::from_bits_retain(attributes) | nothing_else;
        sys::mount::set_tree(tree.as_fd(), attributes.bits().into()).map_err(explain)?;
        Ok((tree, file))
    };
    let made = make();
    unmount(COPY_DIR, UnmountFlags::DETACH)?;
    made
}

fn fill(file: &fs::File, text: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all_at(text, 0)
}

/// Makes ready, in a root file system that nobody uses yet, for the kernel's file systems and for the
/// mounts, so that what cannot be mounted is known before anything starts.
///
/// # Errors
/// [`Failure::Other`] naming the mount or the directory.
pub fn make_ready(root: &Path, held: &[HeldMount]) -> Result<(), Failure> {
    let root = RootDir::open(root).map_err(|e| Failure::other("opening the root directory", &e))?;
    for name in KERNEL_DIRS {
        root.settle(name)
            .map_err(|e| Failure::other(&format!("using /{name} of the image"), &e))?;
    }
    let within = |at: &Path| held.iter().any(|h| h.setup.at != at && at.starts_with(&h.setup.at));
    for held in held.iter().filter(|h| !is_kernels(&h.setup.at) && !within(&h.setup.at)) {
        held.find(&root).map_err(|e| held.setup.failed(&e))?;
    }
    Ok(())
}

/// Puts the mounts in place, from inside of the container, and hides and protects anew what they have
/// covered.
///
/// # Errors
/// [`Failure::Other`] naming the mount or the path.
pub fn place(held: &[HeldMount], spec: &Spec) -> Result<(), Failure> {
    let failed = |stage: &str| {
        let stage = stage.to_owned();
        move |e: io::Error| Failure::other(&stage, &e)
    };
    let root = RootDir::open(Path::new("/")).map_err(failed("opening the root directory"))?;
    for held in held {
        held.attach(&root).map_err(|e| held.setup.failed(&e))?;
    }
    // Not what somebody has asked for by its very name.
    let covered = |path: &&String| {
        let path = Path::new(path);
        held.iter().any(|h| path != h.setup.at && path.starts_with(&h.setup.at))
    };
    let linux = spec.linux().as_ref();
    let protected = linux.and_then(|linux| linux.readonly_paths().as_ref());
    for path in protected.into_iter().flatten().filter(covered) {
        protect(Path::new(path)).map_err(failed(&format!("making {path} read-only")))?;
    }
    let masked = linux.and_then(|linux| linux.masked_paths().as_ref());
    for path in masked.into_iter().flatten().filter(covered) {
        mask(Path::new(path)).map_err(failed(&format!("hiding {path}")))?;
    }
    // The one there was may have been covered.
    let cwd = spec.process().as_ref().map_or(Path::new("/"), |process| process.cwd());
    // By what was found: the path could by now be a link, and one through a descriptor of this process.
    root.find(cwd, Missing::Directory)
        .and_then(|place| Ok(fchdir(&place.fd)?))
        .map_err(failed("entering the working directory"))
}

/// Makes the root directory of this process read-only, but nothing that is mounted below it.
///
/// # Errors
/// [`Failure::Other`].
pub fn protect_root() -> Result<(), Failure> {
    let protect = || -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, "/", flags, Mode::empty())?;
        sys::mount::set_read_only(root.as_fd())
    };
    protect().map_err(|e| Failure::other("making the root directory read-only", &e))
}

impl HeldMount {
    /// Finds its place, which fits it.
    fn find(&self, root: &RootDir) -> io::Result<Place> {
        let kind = FileType::from_raw_mode(fstat(&self.mount)?.st_mode);
        let missing = if kind == FileType::Directory { Missing::Directory } else { Missing::File };
        let place = root.find(&self.setup.at, missing)?;
        if is_kernels(&place.path) != is_kernels(&self.setup.at) || place.path == Path::new("/") {
            let text = format!("links lead from there to {}", place.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let found = FileType::from_raw_mode(fstat(&place.fd)?.st_mode);
        if (found == FileType::Directory) != (kind == FileType::Directory) {
            let text = match found {
                FileType::Directory => "a file cannot be mounted on a directory",
                _ => "a directory cannot be mounted on a file",
            };
            return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
        }
        Ok(place)
    }

    fn attach(&self, root: &RootDir) -> io::Result<()> {
        let at = self.find(root)?.fd;
        let by_fd =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(self.mount.as_fd(), "", at.as_fd(), "", by_fd)?)
    }
}

/// A copy of the mounts at a path; `None` when nothing is there.
fn copy(path: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    match open_tree(CWD, path, flags) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        other => Ok(Some(other?)),
    }
}

fn protect(path: &Path) -> io::Result<()> {
    let Some(tree) = copy(path)? else { return Ok(()) };
    sys::mount::set_tree(tree.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into())?;
    put(&tree, path)
}

fn mask(path: &Path) -> io::Result<()> {
    let Some(there) = copy(path)? else { return Ok(()) };
    let cover = if FileType::from_raw_mode(fstat(&there)?.st_mode) == FileType::Directory {
        let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(fs.as_fd())?;
        fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?
    } else {
        copy(Path::new("/dev/null"))?.ok_or(io::ErrorKind::NotFound)?
    };
    put(&cover, path)
}

/// Mounts over a path of this process's own root.
fn put(mount: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(mount.as_fd(), "", CWD, path.as_c_str(), from_fd)?)
}
